// What the verbs of the command line share.
#ifndef STROBE_GEN_CMD_H
#define STROBE_GEN_CMD_H

#include "../runtime/kernel_abi.h"
#include "json.h"
#include "kernel.h"
#include "options.h"
#include "table.h"

extern const struct verb verb_emit, verb_run, verb_verify, verb_bench, verb_tune, verb_db, verb_list, verb_explain,
    verb_doctor;
extern const struct verb *const verbs[]; // in the order of --help
extern const int verb_count;

// The target of that name; unknown names are refused with the nearest.
int cmd_target(const char *name, const struct target **out, struct error *err);
// Same, and this CPU must have it. name NULL: the best for s.
int cmd_target_here(const char *name, const struct spec *s, const struct target **out, struct error *err);
// STROBE_MAX_TARGET, if it is set, must be the name of a CPU target: of another the library takes no notice.
int cmd_check_cap(struct error *err);

// Spec, target and config of an instance. `set` (--set) may be NULL; p gives sizes to the heuristic where it has them.
int cmd_instance(const struct problem *p, const struct target *t, const char *set, struct instance *out,
                 struct error *err);

// A plan for p; target, config and backend as in strobe_plan_options. scale NULL: the default.
struct cmd_plan {
  const struct problem *problem;
  const char *target, *config, *backend;
  const float *scale;
};
int cmd_plan(strobe_context *ctx, const struct cmd_plan *request, strobe_plan **out, struct strobe_plan_info *info,
             struct error *err);
// What a plan for p runs; of the reference, which has no config, target is NULL.
int cmd_plan_instance(const struct problem *p, const struct strobe_plan_info *info, struct instance *out,
                      struct error *err);
// What strobe_execute is called with for args; workspace may be NULL.
struct strobe_io cmd_io(const struct strobe_args *args, void *workspace);
// Lengths of sequences (--kv-lens): "a,b,c", or a .npy file of int32 or int64. *out: batch of them, for free(); NULL if
// text is NULL.
int cmd_kv_lens(const char *text, const struct problem *p, int64_t **out, struct error *err);
extern const char cmd_kv_lens_about[];
int cmd_api_error(enum strobe_status status, struct error *err); // strobe_error() of this thread

// Writes out to standard output and frees it. A failure (memory, a closed pipe) is an error.
int cmd_print(struct buf *out, struct error *err);
// A line on standard error that is written over, for work that takes more than a second; nothing if it is no terminal.
struct progress {
  double started;
  bool terminal, shown;
};
struct progress cmd_progress_begin(void);
void cmd_progress(struct progress *p, const char *format, ...) __attribute__((format(printf, 2, 3)));
void cmd_progress_end(struct progress *p); // wipes the line

bool cmd_colour(void); // standard output is a terminal, and NO_COLOR is not set

// `bench --jit`: medians of `runs` plans, each compiled afresh.
struct bench_jit_options {
  const char *target, *set, *backend;
  int64_t runs;
  bool json;
};
int bench_jit(char *const *problems, int n, const struct bench_jit_options *o, struct error *err);

// The same on a CUDA target: fresh and from the cache of cubins.
int bench_jit_gpu(char *const *problems, int n, const struct target *t, const struct bench_jit_options *o,
                  struct error *err);

// `bench` on a CUDA target: TFLOP/s and per cent of a matrix product.
struct bench_gpu_options {
  const struct target *target;
  const char *set, *plot; // plot: an SVG file; NULL: none
  int rounds;
  bool json, csv;
};
int bench_gpu(char *const *problems, int n, const struct bench_gpu_options *o, struct error *err);

// `bench --suite hopper`: its 36 problems.
struct bench_problems {
  char **text, *memory;
  int n;
};
int bench_suite(const char *dtype, struct bench_problems *out, struct error *err);
void bench_problems_free(struct bench_problems *p);

double cmd_median(double *values, int n); // sorts values; n >= 1

// One sentence on why the heuristic gives a field its value.
void cmd_reason(const struct problem *p, const struct instance *i, enum config_field field, struct buf *out);

// `explain`: a line or two on the tiles of a kernel, and of decode the work items, also as JSON.
void cmd_explain_tiles(const struct problem *p, const struct instance *i, struct buf *out);
void cmd_explain_tiles_json(const struct problem *p, const struct instance *i, struct json *j);

extern const char cmd_backends[];         // "code|scalar|builtin|reference": the words of --backend
const char *cmd_backend_name(int choice); // of an OPT_CHOICE; 0: NULL

#endif
