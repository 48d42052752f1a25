#include "cmd.h"
#include "file.h"

#include "../runtime/npy.h"
#include "../runtime/probe.h"
#include "../runtime/reference.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct run_options {
  const char *q, *k, *v, *o, *lse, *target, *set, *kv_lens;
  struct option_number scale;
  int backend;
  int64_t threads;
  bool json;
};

#define ROW(kind, field, ...) OPTION(kind, struct run_options, field, __VA_ARGS__)
static const struct option_row rows[] = {
    ROW(OPT_TEXT, q, .name = "q", .value = "Q.npy", .about = "(batch, q_len, heads, head_dim)", .required = true),
    ROW(OPT_TEXT, k, .name = "k", .value = "K.npy", .about = "(batch, kv_len, heads_kv, head_dim)", .required = true),
    ROW(OPT_TEXT, v, .name = "v", .value = "V.npy", .about = "(batch, kv_len, heads_kv, head_dim_v)", .required = true),
    ROW(OPT_TEXT, o, .name = "output", .letter = 'o', .value = "O.npy",
        .about = "written: (batch, q_len, heads, head_dim_v)", .required = true),
    ROW(OPT_TEXT, lse, .name = "lse", .value = "L.npy",
        .about = "written: log-sum-exp, (batch, heads, q_len), float32"),
    ROW(OPT_NUMBER, scale, .name = "scale", .value = "S",
        .about = "of Q K^T before the softmax (default: 1/sqrt(head_dim))"),
    ROW(OPT_TEXT, kv_lens, .name = "kv-lens", .value = "LENGTHS", .about = cmd_kv_lens_about),
    ROW(OPT_TEXT, target, .name = "target", .letter = 't', .value = "T",
        .about = "default: the best that this CPU can run"),
    ROW(OPT_TEXT, set, .name = "set", .value = "CONFIG", .about = "fields of the config, as in block_n=128,stages=2"),
    ROW(OPT_CHOICE, backend, .name = "backend", .value = cmd_backends, .about = "default: the first that works"),
    ROW(OPT_INT, threads, .name = "threads", .value = "N",
        .about = "workers (default: OMP_NUM_THREADS, else as many as CPUs)", .least = 1, .most = 1024),
    ROW(OPT_FLAG, json, .name = "json", .about = "print the result line as JSON"),
};

enum { IN_Q, IN_K, IN_V, INPUTS };

struct run {
  const struct run_options *opt;
  struct problem problem;
  struct npy in[INPUTS];
  const char *in_path[INPUTS];
  void *o;
  float *lse;
  int64_t *kv_lens;
  double plan_ms, execute_ms;
};

// ---- inputs ----

static const unsigned accepted[DT_COUNT] = {[DT_F32] = 1u << NPY_F4, [DT_BF16] = 1u << NPY_U2, [DT_F16] = 1u << NPY_F2};

// A size of the problem against an axis of a file: takes it if the problem leaves it out.
static int match_axis(const char *file, const char *axis, int64_t have, const char *name, int64_t *size,
                      struct error *err) {
  if (*size < 0) *size = have;
  if (*size == have) return 0;
  return fail(err, STROBE_INVALID,
              "%.200s: %s %" PRId64 ", but %s is %" PRId64 " by the problem and the files before it; must be %" PRId64,
              file, axis, have, name, *size, *size);
}

static int match_file(struct run *r, int which, struct error *err) {
  static const char option[INPUTS][4] = {"--q", "--k", "--v"};
  struct problem *p = &r->problem;
  const struct npy *a = &r->in[which];
  const bool is_q = which == IN_Q;
  const enum dtype type = is_q ? p->spec.q : p->spec.kv;
  const int64_t any[4] = {-1, -1, -1, -1};
  char name[240];
  snprintf(name, sizeof name, "%s %.200s (%s)", option[which], r->in_path[which], dtype_table[type].name);
  int64_t dim = which == IN_V ? p->spec.head_dim_v : p->spec.head_dim;
  int status = npy_expect(a, name, accepted[type], 4, any, err);
  if (!status) status = match_axis(name, "axis 0 (batch)", a->shape[0], "batch", &p->batch, err);
  if (!status)
    status =
        match_axis(name, "axis 1 (seqlen)", a->shape[1], is_q ? "q_len" : "kv_len", is_q ? &p->q_len : &p->kv_len, err);
  if (!status)
    status = match_axis(name, "axis 2 (heads)", a->shape[2], is_q ? "heads" : "heads_kv",
                        is_q ? &p->heads : &p->heads_kv, err);
  if (!status)
    status = match_axis(name, "axis 3 (head_dim)", a->shape[3], which == IN_V ? "head_dim_v" : "head_dim", &dim, err);
  return status;
}

static int read_inputs(struct run *r, struct error *err) {
  int status = 0;
  for (int i = 0; i < INPUTS && !status; i++) {
    status = npy_read(r->in_path[i], &r->in[i], err);
    if (!status) status = match_file(r, i, err);
  }
  return status ? status : problem_complete(&r->problem, err);
}

// ---- outputs ----

static int check_output(const struct run *r, const char *option, const char *path, struct error *err) {
  static const char *const names[INPUTS] = {"--q", "--k", "--v"};
  for (int i = 0; i < INPUTS; i++)
    if (file_same(path, r->in_path[i]))
      return fail(err, STROBE_INVALID, "%s \"%.200s\" is the file of %s: must be another file", option, path, names[i]);
  const char *slash = strrchr(path, '/');
  struct buf dir = {0};
  buf_add(&dir, slash ? path : ".", slash ? (size_t)(slash - path) + 1 : 1);
  int status = dir.failed ? fail(err, STROBE_NO_MEMORY, "no memory for a path") : 0;
  if (!status && access(dir.data, W_OK | X_OK))
    status = fail(err, STROBE_IO, "%s \"%.200s\": cannot write to its directory: %s", option, path, strerror(errno));
  buf_free(&dir);
  return status;
}

static int check_outputs(const struct run *r, struct error *err) {
  int status = check_output(r, "-o", r->opt->o, err);
  if (!status && r->opt->lse) status = check_output(r, "--lse", r->opt->lse, err);
  if (!status && r->opt->lse && file_same(r->opt->o, r->opt->lse))
    status = fail(err, STROBE_INVALID, "--lse \"%.200s\" is the file of -o: must be another file", r->opt->lse);
  return status;
}

static size_t o_elements(const struct problem *p) {
  return (size_t)(p->batch * p->q_len * p->heads) * (size_t)p->spec.head_dim_v;
}

static int allocate(struct run *r, struct error *err) {
  const struct problem *p = &r->problem;
  const size_t o_bytes = o_elements(p) * (size_t)dtype_table[p->spec.o].bytes;
  r->o = aligned_alloc(64, (o_bytes + 64) / 64 * 64);
  if (r->opt->lse) r->lse = calloc((size_t)(p->batch * p->heads * p->q_len) + 1, sizeof *r->lse);
  if (!r->o || (r->opt->lse && !r->lse))
    return fail(err, STROBE_NO_MEMORY, "no memory for an output of %zu bytes", o_bytes);
  return 0;
}

static int write_outputs(const struct run *r, struct error *err) {
  static const enum npy_type types[DT_COUNT] = {[DT_F32] = NPY_F4, [DT_BF16] = NPY_U2, [DT_F16] = NPY_F2};
  const struct problem *p = &r->problem;
  const int64_t o_shape[] = {p->batch, p->q_len, p->heads, p->spec.head_dim_v},
                lse_shape[] = {p->batch, p->heads, p->q_len};
  const struct npy_output files[] = {{r->opt->o, types[p->spec.o], 4, o_shape, r->o},
                                     {r->opt->lse, NPY_F4, 3, lse_shape, r->lse}};
  return npy_write_all(files, r->lse ? 2 : 1, err);
}

// ---- the run ----

static int execute(struct run *r, const strobe_plan *plan, struct error *err) {
  const struct strobe_io io = {.size = sizeof io,
                               .q = {.data = r->in[IN_Q].data},
                               .k = {.data = r->in[IN_K].data},
                               .v = {.data = r->in[IN_V].data},
                               .o = {.data = r->o},
                               .lse = r->lse,
                               .kv_lens = r->kv_lens,
                               .kv_lens_bytes = sizeof *r->kv_lens};
  const double start = probe_clock();
  const int status = cmd_api_error(strobe_execute(plan, &io), err);
  r->execute_ms = 1e3 * (probe_clock() - start);
  return status;
}

// The largest |o|, NaN if there is one: a plausibility check for eyes.
static double largest_output(const struct run *r) {
  double largest = 0;
  for (size_t i = 0, n = o_elements(&r->problem); i < n; i++) {
    const double x = fabs(dtype_load(r->problem.spec.o, r->o, (int64_t)i));
    if (isnan(x)) return NAN;
    if (x > largest) largest = x;
  }
  return largest;
}

static void report_json(const struct run *r, const struct strobe_plan_info *info, const char *problem,
                        struct buf *out) {
  struct json j = {.out = out};
  json_object(&j, NULL);
  json_string(&j, "problem", problem);
  json_string(&j, "instance", info->instance);
  json_string(&j, "target", info->target);
  json_string(&j, "config", info->config);
  json_string(&j, "backend", info->backend);
  json_string(&j, "why", info->why);
  json_number(&j, "plan_ms", r->plan_ms, 6);
  json_number(&j, "render_ms", info->render_ms, 6);
  json_number(&j, "encode_ms", info->encode_ms, 6);
  json_number(&j, "compile_ms", info->compile_ms, 6);
  json_number(&j, "load_ms", info->load_ms, 6);
  json_number(&j, "ms", r->execute_ms, 6);
  json_number(&j, "gflops", problem_flops_lens(&r->problem, r->kv_lens) / r->execute_ms * 1e-6, 6);
  json_number(&j, "max_abs", largest_output(r), 9);
  json_end(&j);
}

static int report(const struct run *r, const struct strobe_plan_info *info, struct error *err) {
  struct buf out = {0}, problem = {0};
  problem_print(&r->problem, &problem);
  out.failed = problem.failed;
  if (!out.failed && r->opt->json)
    report_json(r, info, problem.data, &out);
  else if (!out.failed)
    buf_printf(&out, "%s: %s by %s%s%s%s, %.3f ms to plan, %.3f ms to run, max |o| %.6g\n", problem.data,
               info->instance, info->backend, *info->why ? " (" : "", info->why, *info->why ? ")" : "", r->plan_ms,
               r->execute_ms, largest_output(r));
  buf_free(&problem);
  return cmd_print(&out, err);
}

static int compute(struct run *r, struct error *err) {
  const struct run_options *o = r->opt;
  const float scale = (float)o->scale.value;
  const struct strobe_context_options workers = {.size = sizeof workers, .n_workers = (int)o->threads};
  const struct cmd_plan request = {.problem = &r->problem,
                                   .target = o->target,
                                   .config = o->set,
                                   .backend = cmd_backend_name(o->backend),
                                   .scale = o->scale.given ? &scale : NULL};
  strobe_context *ctx = NULL;
  strobe_plan *plan = NULL;
  struct strobe_plan_info info;
  int status = cmd_api_error(strobe_context_create(&workers, &ctx), err);
  const double start = probe_clock();
  if (!status) status = cmd_plan(ctx, &request, &plan, &info, err);
  r->plan_ms = 1e3 * (probe_clock() - start);
  if (!status) status = allocate(r, err);
  if (!status) status = execute(r, plan, err);
  if (!status) status = write_outputs(r, err);
  if (!status) status = report(r, &info, err);
  strobe_plan_destroy(plan);
  strobe_context_destroy(ctx);
  return status;
}

static int run(const struct command *c, struct error *err) {
  const struct run_options *o = c->options;
  struct run r = {.opt = o, .in_path = {o->q, o->k, o->v}};
  const struct target *t = NULL;
  int status = problem_parse(c->operands[0], &r.problem, err);
  if (!status && o->target) status = cmd_target_here(o->target, &r.problem.spec, &t, err);
  if (!status && t) status = spec_supported(&r.problem.spec, t, err);
  if (!status) status = check_outputs(&r, err);
  if (!status) status = read_inputs(&r, err);
  if (!status) status = cmd_kv_lens(o->kv_lens, &r.problem, &r.kv_lens, err);
  if (!status) status = compute(&r, err);
  for (int i = 0; i < INPUTS; i++) npy_free(&r.in[i]);
  free(r.o);
  free(r.lse);
  free(r.kv_lens);
  return status ? 2 : 0;
}

const struct verb verb_run = {
    .name = "run",
    .operands = "PROBLEM",
    .about = "compute attention on .npy files",
    .details = "Arrays are (batch, seqlen, heads, head_dim): float32, float16 (f16), or bf16 as uint16. Sizes that "
               "PROBLEM leaves\n"
               "out are those of the files. Outputs are written whole or not at all.",
    .example = "  $ strobe run d64:f32:causal --q q.npy --k k.npy --v v.npy -o o.npy --lse lse.npy\n"
               "  d64:f32:causal:b1h9/3q512k512: attn_fwd_d64_f32_causal_m64n128s2_avx512 by code, 6.204 ms to plan, "
               "2.310 ms to\n"
               "  run, max |o| 3.41216",
    .rows = rows,
    .n_rows = sizeof rows / sizeof *rows,
    .options_size = sizeof(struct run_options),
    .least_operands = 1,
    .most_operands = 1,
    .run = run,
};
