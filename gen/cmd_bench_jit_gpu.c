// `bench --jit --target sm90a`: from spec to first launch, through NVRTC and from the cache of cubins.
#include "cmd.h"
#include "table.h"

#include "../runtime/gpu_bench.h"

#include <stdlib.h>

enum { RENDER, NVRTC, CACHE, LOAD, LAUNCH, FRESH, CACHED, PARTS };
static const char *const part_names[PARTS] = {"render_ms", "nvrtc_ms", "cache_ms", "load_ms",
                                              "launch_ms", "fresh_ms", "cached_ms"};

// One run: compiled without the cache; then opened, from the cache if that could be written, and launched once.
static int run_once(const struct instance *i, const struct problem *p, double part[PARTS], struct error *err) {
  struct gpu_kernel_info fresh, opened;
  struct gpu_kernel *k = NULL;
  int status = gpu_kernel_compile(i, &fresh, err);
  if (!status) status = gpu_kernel_open(i, &k, err);
  if (!status) status = gpu_first_launch(k, p, &part[LAUNCH], err);
  if (!status) {
    opened = gpu_kernel_info(k);
    if (!opened.cached)
      status = fail(err, STROBE_IO, "the cache of cubins can't be written: set XDG_CACHE_HOME to a directory that can");
    part[RENDER] = fresh.render_ms, part[NVRTC] = fresh.compile_ms;
    part[CACHE] = opened.compile_ms, part[LOAD] = opened.load_ms;
    part[FRESH] = fresh.render_ms + fresh.compile_ms + opened.load_ms + part[LAUNCH];
    part[CACHED] = opened.render_ms + opened.compile_ms + opened.load_ms + part[LAUNCH];
  }
  gpu_kernel_close(k);
  return status;
}

// Medians. A kernel that stays open keeps the context, and fills the cache.
static int measure(const char *text, const struct bench_jit_options *o, const struct target *t, struct instance *i,
                   struct problem *p, double median[PARTS], struct error *err) {
  struct gpu_kernel *held = NULL;
  double *times = calloc((size_t)o->runs * PARTS, sizeof *times);
  int status = times ? problem_parse(text, p, err) : fail(err, STROBE_NO_MEMORY, "no memory for times");
  if (!status) status = problem_complete(p, err);
  if (!status) status = cmd_instance(p, t, o->set, i, err);
  if (!status) status = gpu_kernel_open(i, &held, err);
  for (int64_t run = 0; run < o->runs && !status; run++) {
    double part[PARTS] = {0};
    status = run_once(i, p, part, err);
    for (int k = 0; k < PARTS; k++) times[k * o->runs + run] = part[k];
  }
  for (int k = 0; k < PARTS && !status; k++) median[k] = cmd_median(times + k * o->runs, (int)o->runs);
  gpu_kernel_close(held);
  free(times);
  return status;
}

static void add(struct table *t, struct json *j, const struct problem *p, const struct instance *i,
                const double median[PARTS]) {
  struct buf problem = {0}, name = {0};
  problem_print(p, &problem);
  instance_name(i, &name);
  j->out->failed |= problem.failed || name.failed;
  if (!j->out->failed) {
    table_cell(t, CELL_PLAIN, "%s", problem.data);
    table_cell(t, CELL_PLAIN, "%s", name.data);
    json_object(j, NULL);
    json_string(j, "problem", problem.data);
    json_string(j, "instance", name.data);
    for (int k = 0; k < PARTS; k++) {
      table_cell(t, k < FRESH ? CELL_PLAIN : CELL_GOOD, "%.2f", median[k]);
      json_number(j, part_names[k], median[k], 4);
    }
    json_end(j);
  }
  buf_free(&problem);
  buf_free(&name);
}

int bench_jit_gpu(char *const *problems, int n, const struct target *target, const struct bench_jit_options *o,
                  struct error *err) {
  static const char *const header[] = {"problem", "instance",  "render ms", "nvrtc ms", "cache ms",
                                       "load ms", "launch ms", "fresh ms",  "cached ms"};
  struct table t;
  struct buf out = {0};
  struct json j = {.out = &out};
  struct progress progress = cmd_progress_begin();
  setenv("CUDA_CACHE_DISABLE", "1", 1); // NVRTC of CUDA 13 keeps what it compiled in ~/.nv: fresh is without that
  int status = gpu_has_target(target, err);
  table_begin(&t, "llrrrrrrr", header);
  json_array(&j, NULL);
  for (int i = 0; i < n && !status; i++) {
    struct instance instance;
    struct problem p;
    double median[PARTS];
    cmd_progress(&progress, "problem %d of %d: %s", i + 1, n, problems[i]);
    status = measure(problems[i], o, target, &instance, &p, median, err);
    if (!status) add(&t, &j, &p, &instance, median);
  }
  cmd_progress_end(&progress);
  json_end(&j);
  if (!o->json) {
    out.len = 0;
    table_print(&t, cmd_colour(), &out);
    buf_str(
        &out,
        "\nfresh: render + nvrtc + load + launch; cached: render + cache + load + launch; without making a context\n");
  }
  table_free(&t);
  if (!status) return cmd_print(&out, err);
  buf_free(&out);
  return status;
}
