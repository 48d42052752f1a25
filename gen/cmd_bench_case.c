#include "cmd_bench_case.h"

#include "../runtime/cpu.h"
#include "../runtime/probe.h"
#include "cmd.h"

#include <stdlib.h>
#include <string.h>

enum {
  DECODE_ROWS = 16, // up to this many query rows a kernel is held against reading
  MOST_COPIES = 512
};
static const double burst_s = 0.03, probe_ms = 10; // of a kernel, and of the probe on either side of it

// ---- work ----

// Bytes that must move at least: every tensor once.
static double least_bytes(const struct bench_case *c) {
  const struct problem *p = &c->problem;
  const struct spec *s = &p->spec;
  double keys = c->kv_lens ? 0 : (double)p->batch * (double)p->kv_len;
  for (int64_t b = 0; b < p->batch && c->kv_lens; b++) keys += (double)c->kv_lens[b];
  const double q = (double)(p->batch * p->heads) * (double)p->q_len, k = (double)p->heads_kv * keys;
  return q * (s->head_dim * dtype_table[s->q].bytes + s->head_dim_v * dtype_table[s->o].bytes) +
         k * (s->head_dim + s->head_dim_v) * dtype_table[s->kv].bytes;
}

static double work_of(const struct bench_case *c) { // GFLOP or GB of one execution, as the peak counts
  return 1e-9 * (c->readers ? least_bytes(c) : problem_flops_lens(&c->problem, c->kv_lens));
}

struct peak_call {
  const struct bench_case *c;
  double *rate; // of each thread
};

static void peak_body(void *arg, int64_t first, int64_t last, int worker) {
  const struct peak_call *p = arg;
  const struct bench_case *c = p->c;
  (void)worker;
  for (int64_t i = first; i < last; i++)
    p->rate[i] =
        c->readers ? probe_reader_run(c->readers[i], probe_ms) : probe_compute(&c->problem.spec, c->target, probe_ms);
}

// On the threads that run the kernel: others would have to come and go between the two.
static double peak_of(struct bench_case *c, double *rate) {
  double sum = 0;
  struct peak_call call = {c, rate};
  const struct parallel *parallel = &c->plan->context->parallel;
  parallel->run(parallel->context, c->threads, peak_body, &call);
  for (int i = 0; i < c->threads; i++) sum += rate[i];
  return sum;
}

static int execute(struct bench_case *c, int64_t repeats, double *seconds, struct error *err) {
  int status = STROBE_OK;
  const double start = probe_clock();
  for (int64_t i = 0; i < repeats && !status; i++) {
    const struct strobe_io io = cmd_io(&c->tensors[c->next].args, c->workspace);
    c->next = (c->next + 1) % c->copies;
    status = strobe_execute(c->plan, &io);
  }
  *seconds = (probe_clock() - start) / (double)repeats;
  return cmd_api_error((enum strobe_status)status, err);
}

// ---- setting up ----

// One after the other, in memory that is freed as a whole.
static void *arena_alloc(void *context, size_t bytes) {
  struct bench_case *c = context;
  const size_t rounded = (bytes + 63) / 64 * 64;
  if (rounded > c->arena_bytes - c->arena_used) return NULL;
  c->arena_used += rounded;
  return c->arena + c->arena_used - rounded;
}

static void arena_free(void *context, void *data, size_t bytes) { (void)context, (void)data, (void)bytes; }

static int make_arena(struct bench_case *c, struct error *err) {
  const struct problem *p = &c->problem;
  const struct spec *s = &p->spec;
  const double q = (double)(p->batch * p->heads) * (double)p->q_len,
               k = (double)(p->batch * p->heads_kv) * (double)p->kv_len;
  const double each = q * (s->head_dim * dtype_table[s->q].bytes + s->head_dim_v * dtype_table[s->o].bytes + 4) +
                      k * (s->head_dim + s->head_dim_v) * dtype_table[s->kv].bytes;
  const double all = (double)c->copies * (each + 64 * TENSOR_COUNT) + 4096;
  c->arena_bytes = all < 1e15 ? (size_t)all / 4096 * 4096 + 4096 : 0;
  c->arena = c->arena_bytes ? aligned_alloc(4096, c->arena_bytes) : NULL;
  return c->arena ? 0 : fail(err, STROBE_NO_MEMORY, "no memory for %lld copies of the tensors", (long long)c->copies);
}

static int make_readers(struct bench_case *c, struct error *err) {
  c->readers = calloc((size_t)c->threads, sizeof(struct probe_reader *));
  if (!c->readers) return fail(err, STROBE_NO_MEMORY, "no memory for the read probe");
  // The copies themselves: the same pages, and as much as the kernel reads in a turn of them. Very little, as much of
  // other memory.
  const size_t bytes = c->arena_used / (size_t)c->threads / 64 * 64, few = 1 << 18;
  int status = 0;
  for (int i = 0; i < c->threads && !status; i++)
    status = bytes < few ? probe_reader_create(bytes + 1, 2, &c->readers[i], err)
                         : probe_reader_over(c->arena + (size_t)i * bytes, bytes, 2, &c->readers[i], err);
  return status;
}

static int make_tensors(struct bench_case *c, enum layout layout, uint64_t seed, struct error *err) {
  const bool cold = c->problem.q_len <= DECODE_ROWS;
  const double copies = cold ? probe_cold_bytes() / least_bytes(c) + 1 : 1;
  c->copies = copies > MOST_COPIES ? MOST_COPIES : (int64_t)copies;
  c->tensors = calloc((size_t)c->copies, sizeof *c->tensors);
  if (!c->tensors) return fail(err, STROBE_NO_MEMORY, "no memory for the tensors of a problem");
  const struct tensor_allocator from_arena = {arena_alloc, arena_free, c};
  int status = cold ? make_arena(c, err) : 0;
  for (int64_t i = 0; i < c->copies && !status; i++) {
    struct tensors *t = &c->tensors[i];
    status = tensors_create(&c->problem, layout, 0, default_scale(&c->problem.spec), cold ? &from_arena : NULL, t, err);
    t->args.kv_lens = c->kv_lens;
    t->args.kv_lens_bytes = sizeof *c->kv_lens;
    if (!status && !i) status = inputs_fill(&c->problem.spec, &t->args, input_kind_find("normal"), seed, err);
    for (int part = TENSOR_Q; part <= TENSOR_V && i && !status; part++)
      memcpy(t->memory[part], c->tensors->memory[part], t->bytes[part]);
  }
  return status;
}

static int make_plan(strobe_context *ctx, const char *text, const struct bench_case_options *o, struct bench_case *c,
                     struct error *err) {
  int status = problem_parse(text, &c->problem, err);
  if (!status) status = problem_complete(&c->problem, err);
  if (!status) status = cmd_kv_lens(o->kv_lens, &c->problem, &c->kv_lens, err);
  if (!status && problem_flops_lens(&c->problem, c->kv_lens) <= 0)
    status = fail(err, STROBE_INVALID,
                  "\"%.100s\": no query sees a key, so there is nothing to time; sizes must be 1 or more", text);
  if (!status) status = cmd_target_here(o->target, &c->problem.spec, &c->target, err);
  if (!status) status = spec_supported(&c->problem.spec, c->target, err);
  if (!status && o->peak) c->target = o->peak;
  const struct cmd_plan request = {
      .problem = &c->problem, .target = o->target, .config = o->set, .backend = o->backend};
  if (!status) status = cmd_plan(ctx, &request, &c->plan, &c->info, err);
  if (!status && c->target->tiles && !instance_by_tiles(&c->plan->instance))
    c->target = cpu_best_vector_target(&c->problem.spec);
  return status;
}

int bench_case_open(strobe_context *ctx, const char *text, const struct bench_case_options *o, struct bench_case *c,
                    struct error *err) {
  *c = (struct bench_case){.threads = o->threads};
  int status = make_plan(ctx, text, o, c, err);
  if (!status) status = make_tensors(c, o->layout, o->seed, err);
  if (status) return status;
  c->workspace = aligned_alloc(64, (strobe_workspace_bytes(c->plan) + 64) / 64 * 64);
  c->seconds = calloc((size_t)(3 * o->runs + o->threads), sizeof *c->seconds); // rates of the threads at the end
  if (!c->workspace || !c->seconds) return fail(err, STROBE_NO_MEMORY, "no memory for the measurements");
  c->peak = c->seconds + o->runs;
  c->ratio = c->peak + o->runs;
  c->rate = c->ratio + o->runs;
  if (c->problem.q_len <= DECODE_ROWS) status = make_readers(c, err);
  for (int64_t i = 0; i < c->copies && !status; i++) status = execute(c, 1, &c->once, err); // touches every page
  if (!status) status = execute(c, 1, &c->once, err);
  c->repeats = c->once < burst_s ? (int64_t)(burst_s / (c->once > 1e-7 ? c->once : 1e-7)) + 1 : 1;
  return status;
}

void bench_case_close(struct bench_case *c) {
  for (int t = 0; c->readers && t < c->threads; t++) probe_reader_free(c->readers[t]);
  free(c->readers);
  strobe_plan_destroy(c->plan);
  for (int64_t t = 0; c->tensors && t < c->copies; t++) tensors_free(&c->tensors[t]);
  free(c->tensors);
  free(c->arena);
  free(c->kv_lens);
  free(c->workspace);
  free(c->seconds);
}

// ---- measuring ----

int bench_case_burst(struct bench_case *c, struct error *err) {
  const int run = c->runs;
  const double before = peak_of(c, c->rate);
  const int status = execute(c, c->repeats, &c->seconds[run], err);
  if (status) return status;
  c->peak[run] = (before + peak_of(c, c->rate)) / 2;
  c->ratio[run] = work_of(c) / c->seconds[run] / c->peak[run];
  c->runs++;
  return 0;
}

struct bench_summary bench_case_summary(struct bench_case *c) {
  const int n = c->runs;
  const double seconds = cmd_median(c->seconds, n),
               gflops = 1e-9 * problem_flops_lens(&c->problem, c->kv_lens) / seconds,
               gbs = 1e-9 * least_bytes(c) / seconds;
  return (struct bench_summary){.ms = 1e3 * seconds,
                                .gflops = gflops,
                                .gbs = gbs,
                                .rate = c->readers ? gbs : gflops,
                                .peak = cmd_median(c->peak, n),
                                .percent = 100 * cmd_median(c->ratio, n),
                                .spread = 100 * (c->seconds[n - 1] - c->seconds[0]) / seconds,
                                .unit = c->readers ? "GB/s" : "GFLOP/s"};
}
