#include "tune_run.h"

#include "gpu_bench.h"
#include "probe.h"
#include "verify.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { COPIES_MAX = 64, HEADS_APART = 16, KEYS_LEAST = 4096, FILLED = 1 << 22 };
static const double cold_bytes = 128e6; // K and V of all copies: soon made; large last-level caches hold them in part
static const double kv_bytes_most = 256e6; // of one
const double tuner_run_s = 0.02;           // a run is made about this long at most

// A thread alone is timed by its own clock: what else runs on the machine costs it little. The budget is the caller's
// time.
static double now(const struct tuner *t) {
  struct timespec x;
  if (t->r->workers != 1 || clock_gettime(CLOCK_THREAD_CPUTIME_ID, &x)) return probe_clock();
  return (double)x.tv_sec + 1e-9 * (double)x.tv_nsec;
}

double tuner_elapsed(const struct tuner *t) { return probe_clock() - t->start - t->screened_s; }

bool tuner_go_on(struct tuner *t, const char *phase, int done, int of) {
  const struct tune_progress p = {phase, done, of, tuner_elapsed(t), t->r->budget_s};
  if (t->r->progress && !t->out->stopped && !t->r->progress(t->r->context, &p)) t->out->stopped = true;
  return !t->out->stopped && !t->broken;
}

// ---- problems ----

static double kv_bytes(const struct problem *p) {
  return (double)dtype_table[p->spec.kv].bytes * (double)p->batch * (double)p->heads_kv * (double)p->kv_len *
         (p->spec.head_dim + p->spec.head_dim_v);
}

// A run should take about tuner_run_s, at 20 GFLOP/s: fewer heads and batches first, then fewer query rows, then fewer
// keys. Decode streams K and V from memory, so what it reads stays larger than the caches; but not by much, as it must
// be made first.
struct problem tuner_smaller(const struct problem *p, const struct target *t) {
  struct problem s = *p;
  const int64_t group = p->heads / p->heads_kv;
  const double most = tuner_run_s * 20e9 * 5;
  if (t->family == FAMILY_CUDA) return s;
  if (p->q_len > 16) {
    if (problem_flops(&s) > most) s.batch = 1;
    if (problem_flops(&s) > most) s.heads_kv = 1, s.heads = group;
    if (problem_flops(&s) > most) s.heads = 1;
    while (problem_flops(&s) > most && s.q_len > 512) s.q_len = s.q_len / 2 / 64 * 64;
    while (problem_flops(&s) > most && s.kv_len >= 2 * KEYS_LEAST) s.kv_len = s.kv_len / 2 / 64 * 64;
  }
  while (kv_bytes(&s) > kv_bytes_most && s.batch > 1) s.batch = (s.batch + 1) / 2;
  for (; kv_bytes(&s) > kv_bytes_most && s.heads_kv > HEADS_APART; s.heads = s.heads_kv * group)
    s.heads_kv = (s.heads_kv + 1) / 2; // fewer take as much room: see left_out
  while (kv_bytes(&s) > kv_bytes_most && s.kv_len >= 2 * KEYS_LEAST) s.kv_len = s.kv_len / 2 / 64 * 64;
  return s;
}

// Small and ragged: two tiles and a bit in each direction.
static struct problem verified(const struct problem *p, const struct config *c) {
  struct problem s = *p;
  s.batch = 1, s.heads_kv = p->heads_kv > 1 ? 2 : 1, s.heads = s.heads_kv * (p->heads / p->heads_kv > 1 ? 2 : 1);
  const bool decode = config_kernel(c) == KERNEL_DECODE;
  const int64_t rows = decode ? p->q_len : c->v[CFG_BLOCK_M] + 3, keys = decode ? 700 : 2 * c->v[CFG_BLOCK_N] + 5;
  s.q_len = rows < p->q_len ? rows : p->q_len;
  s.kv_len = keys < p->kv_len ? keys : p->kv_len;
  return s;
}

// ---- one candidate ----

int tuner_plan(struct tuner *t, const struct problem *p, const char *config, strobe_plan **out) {
  struct buf text = {0};
  problem_print(p, &text);
  if (text.failed) return fail(t->err, STROBE_NO_MEMORY, "no memory for a plan");
  const struct strobe_plan_options o = {
      .size = sizeof o, .target = t->r->target->name, .config = config, .backend = t->backend};
  const enum strobe_status status = strobe_plan_create(t->ctx, text.data, &o, out);
  buf_free(&text);
  return status;
}

static struct strobe_array array_of(const struct strobe_tensor *x) {
  return (struct strobe_array){x->data, x->batch_stride, x->row_stride, x->head_stride};
}

static enum strobe_status execute(const strobe_plan *plan, const struct strobe_args *a, void *workspace) {
  const struct strobe_io io = {.size = sizeof io,
                               .q = array_of(&a->q),
                               .k = array_of(&a->k),
                               .v = array_of(&a->v),
                               .o = array_of(&a->o),
                               .lse = a->lse,
                               .workspace = workspace};
  return strobe_execute(plan, &io);
}

static void refuse(struct tune_candidate *c, const char *why) {
  snprintf(c->refused, sizeof c->refused, "%.*s", (int)sizeof c->refused - 1, why);
}

// The kernel of this config computes the right thing.
static int check(struct tuner *t, struct tune_candidate *c) {
  struct verify_case v = {.problem = verified(&t->r->problem, &c->config),
                          .kind = input_kind_find("normal"),
                          .seed = 1,
                          .layout = LAYOUT_BNHD,
                          .scale = default_scale(&t->r->problem.spec)};
  struct tensors x = {0};
  struct verify_result result;
  strobe_plan *plan = NULL;
  int status = verify_create(&v, NULL, &x, t->err);
  if (status) return status;
  if (tuner_plan(t, &v.problem, c->text, &plan) || execute(plan, &x.args, NULL)) {
    refuse(c, strobe_error());
  } else {
    status = verify_tensors(&v, &plan->instance, &x, VERIFY_AUTO_ROWS, &result, t->err);
    c->verified = !status && result.ok;
    if (!status && !result.ok) {
      struct buf why = {0};
      verify_print(&result, &why);
      refuse(c, why.failed ? "wrong" : why.data);
      buf_free(&why);
      t->out->wrong++;
    }
  }
  strobe_plan_destroy(plan);
  tensors_free(&x);
  return status;
}

int tuner_workspace(struct tuner *t, const strobe_plan *plan) {
  const size_t bytes = strobe_workspace_bytes(plan);
  if (bytes <= t->workspace_bytes) return 0;
  free(t->workspace);
  t->workspace_bytes = (bytes + 63) / 64 * 64;
  t->workspace = aligned_alloc(64, t->workspace_bytes);
  return t->workspace ? 0 : fail(t->err, STROBE_NO_MEMORY, "no memory for a workspace of %zu bytes", bytes);
}

int tuner_prepare(struct tuner *t, struct tune_candidate *c, struct runner *r) {
  int status = check(t, c);
  if (status || !c->verified) return status;
  if (tuner_plan(t, &t->out->timed, c->text, &r->plan)) return refuse(c, strobe_error()), 0;
  if (!status && r->plan->gpu && !t->stage) status = gpu_stage_open(r->plan->gpu, &t->out->timed, &t->stage, t->err);
  return status ? status : tuner_workspace(t, r->plan);
}

static double run_on_gpu(struct tuner *t, const struct runner *r) {
  double ms = 0;
  if (!t->broken) t->broken = gpu_stage_time(t->stage, r->plan->gpu, t->repeats, &ms, t->err);
  return t->broken ? 1 : 1e-3 * ms; // the search ends
}

static double run_on_cpu(struct tuner *t, const struct runner *r) {
  const double start = now(t);
  for (int64_t i = 0; i < t->repeats; i++, t->next = (t->next + 1) % t->copies)
    execute(r->plan, &t->tensors[t->next].args, t->workspace);
  return (now(t) - start) / (double)t->repeats;
}

double tuner_run(struct tuner *t, struct runner *r) {
  const double seconds = r->plan->gpu ? run_on_gpu(t, r) : run_on_cpu(t, r);
  if (r->n < RUNS_MAX) r->seconds[r->n++] = seconds;
  return seconds;
}

// ---- what it computes on ----

// Elements after each row that stand for heads left out: rows of K and V lie as far apart as those of the request.
static int64_t left_out(const struct tuner *t) {
  const struct problem *asked = &t->r->problem, *p = &t->out->timed;
  const int64_t heads = asked->heads_kv < HEADS_APART ? asked->heads_kv : HEADS_APART;
  return heads > p->heads_kv ? (heads / p->heads_kv - 1) * p->spec.head_dim : 0;
}

// Rows from `from` on are those before them, again and again.
static void repeat_rows(const struct strobe_tensor *x, int bytes, int64_t batch, int64_t heads, int64_t width,
                        int64_t from, int64_t n) {
  const size_t len = (size_t)((heads - 1) * x->head_stride + width) * (size_t)bytes;
  for (int64_t b = 0; b < batch; b++)
    for (int64_t i = from; i < n; i++) {
      char *const to = (char *)x->data + (b * x->batch_stride + i * x->row_stride) * bytes;
      memcpy(to, to - from * x->row_stride * bytes, len);
    }
}

// Random numbers take 50 times as long as a copy: the first rows are some, a few million of them.
static int fill(const struct problem *p, const struct tensors *t, struct error *err) {
  const struct spec *s = &p->spec;
  const struct strobe_args *a = &t->args;
  struct strobe_args some = *a;
  const int64_t wide = s->head_dim > s->head_dim_v ? s->head_dim : s->head_dim_v, rows = FILLED / wide / p->heads,
                each = rows / p->batch > 1 ? rows / p->batch : 1;
  if (some.q_len > each) some.q_len = each;
  if (some.kv_len > each) some.kv_len = each;
  const int status = inputs_fill(s, &some, input_kind_find("normal"), 1, err);
  if (status) return status;
  repeat_rows(&a->q, dtype_table[s->q].bytes, p->batch, p->heads, s->head_dim, some.q_len, a->q_len);
  repeat_rows(&a->k, dtype_table[s->kv].bytes, p->batch, p->heads_kv, s->head_dim, some.kv_len, a->kv_len);
  repeat_rows(&a->v, dtype_table[s->kv].bytes, p->batch, p->heads_kv, s->head_dim_v, some.kv_len, a->kv_len);
  return 0;
}

int tuner_tensors(struct tuner *t) {
  const struct problem *p = &t->out->timed;
  const double bytes = kv_bytes(p);
  t->copies = p->q_len > 16 || t->r->target->family == FAMILY_CUDA ? 1
              : bytes > cold_bytes / COPIES_MAX                    ? (int64_t)(cold_bytes / bytes) + 1
                                                                   : COPIES_MAX;
  if (t->r->target->family == FAMILY_CUDA) return 0; // on the device, once there is a kernel
  t->tensors = calloc((size_t)t->copies, sizeof *t->tensors);
  if (!t->tensors) return fail(t->err, STROBE_NO_MEMORY, "no memory for the tensors of a problem");
  int status = 0;
  for (int64_t i = 0; i < t->copies && !status; i++) {
    status = tensors_create(p, LAYOUT_BNHD, left_out(t), default_scale(&p->spec), NULL, &t->tensors[i], t->err);
    if (!status && !i) status = fill(p, t->tensors, t->err);
    for (int part = TENSOR_Q; part <= TENSOR_V && i && !status; part++)
      memcpy(t->tensors[i].memory[part], t->tensors->memory[part], t->tensors[i].bytes[part]);
  }
  return status;
}

int tuner_context(struct tuner *t) {
  const struct strobe_context_options o = {.size = sizeof o, .n_workers = t->r->workers};
  t->ctx = NULL;
  const enum strobe_status status = strobe_context_create(&o, &t->ctx);
  return status ? fail(t->err, status, "%s", strobe_error()) : 0;
}
