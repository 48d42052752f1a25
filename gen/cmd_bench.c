#include "cmd.h"
#include "plot.h"
#include "scan.h"

#include "../runtime/cpu.h"
#include "../runtime/inputs.h"
#include "../runtime/plan.h"
#include "../runtime/probe.h"

#include <stdlib.h>
#include <string.h>

enum { THREADS_MAX = 1024 };

struct bench_options {
  const char *target, *set, *kv_lens, *plot;
  int backend, layout, suite, dtype;
  int64_t runs, threads, seed;
  bool json, csv, jit;
};

#define ROW(kind, field, ...) OPTION(kind, struct bench_options, field, __VA_ARGS__)
static const struct option_row rows[] = {
    ROW(OPT_CHOICE, suite, .name = "suite", .value = "hopper",
        .about = "the grid of the FlashAttention-3 paper, instead of PROBLEM (default target: sm90a)"),
    ROW(OPT_CHOICE, dtype, .name = "dtype", .value = "bf16|f16", .about = "of a suite (default: bf16)"),
    ROW(OPT_TEXT, target, .name = "target", .letter = 't', .value = "T",
        .about = "default: the best that this CPU can run"),
    ROW(OPT_TEXT, set, .name = "set", .value = "CONFIG", .about = "fields of the config, as in block_n=128,stages=2"),
    ROW(OPT_CHOICE, backend, .name = "backend", .value = cmd_backends, .about = "default: the first that works"),
    ROW(OPT_CHOICE, layout, .name = "layout", .value = "bnhd|bhnd", .about = "of all tensors (default: bnhd)"),
    ROW(OPT_TEXT, kv_lens, .name = "kv-lens", .value = "LENGTHS", .about = cmd_kv_lens_about),
    ROW(OPT_INT, runs, .name = "runs", .value = "N", .about = "rounds over all problems (default: 11)", .least = 1,
        .most = 10000),
    ROW(OPT_INT, threads, .name = "threads", .value = "N", .about = "workers, and threads of the peak (default: 1)",
        .least = 1, .most = THREADS_MAX),
    ROW(OPT_INT, seed, .name = "seed", .value = "N", .about = "of the random inputs (default: 1)", .least = 0,
        .most = INT64_MAX),
    ROW(OPT_FLAG, jit, .name = "jit", .about = "time the way from spec to function instead, --runs times"),
    ROW(OPT_FLAG, json, .name = "json", .about = "print an array of results as JSON"),
    ROW(OPT_FLAG, csv, .name = "csv", .about = "print the table as CSV"),
    ROW(OPT_TEXT, plot, .name = "plot", .value = "FILE", .about = "also draw the rates as bars, into an SVG file"),
};

enum { NO_SEED = -1, DEFAULT_SEED = 1 };

static void defaults(void *options) {
  struct bench_options *o = options;
  o->runs = 11;
  o->threads = 1;
  o->seed = NO_SEED;
}

enum {
  DECODE_ROWS = 16, // up to this many query rows a kernel is held against reading
  MOST_COPIES = 512
};
static const double cold_bytes = 256e6;            // read before a tensor is read again, if it is held against reading
static const double burst_s = 0.03, probe_ms = 10; // of a kernel, and of the probe on either side of it

// One problem: its tensors, plan, and what was measured.
struct bench_case {
  struct problem problem;
  int64_t *kv_lens;            // NULL: all kv_len
  const struct target *target; // what the peak is of
  struct tensors *tensors; // copies of one set, taken in turn: a decode step finds K and V in memory, not in a cache
  int64_t copies, next;
  strobe_plan *plan;
  struct strobe_plan_info info;
  void *workspace;
  struct probe_reader **readers;  // one per thread; NULL: held against arithmetic
  int64_t repeats;                // executions of a burst
  double *seconds, *peak, *ratio; // of each run; peak in GFLOP/s or GB/s
};

struct bench {
  const struct bench_options *opt;
  strobe_context *ctx;
  struct bench_case *cases;
  int n;
};

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
static double peak_of(const struct bench_case *c, int threads) {
  double rate[THREADS_MAX], sum = 0;
  struct peak_call call = {c, rate};
  const struct parallel *parallel = &c->plan->context->parallel;
  parallel->run(parallel->context, threads, peak_body, &call);
  for (int i = 0; i < threads; i++) sum += rate[i];
  return sum;
}

static int burst(struct bench_case *c, int64_t repeats, double *seconds, struct error *err) {
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

static uint64_t seed_of(const struct bench_options *o) { return o->seed == NO_SEED ? DEFAULT_SEED : (uint64_t)o->seed; }

static int make_readers(struct bench_case *c, int threads, struct error *err) {
  c->readers = calloc((size_t)threads, sizeof(struct probe_reader *));
  if (!c->readers) return fail(err, STROBE_NO_MEMORY, "no memory for the read probe");
  // As much as the kernel reads in a turn of the copies, so that both find it in the same cache, or in none.
  const size_t bytes = (size_t)(least_bytes(c) * (double)c->copies / threads) + 1;
  int status = 0;
  for (int i = 0; i < threads && !status; i++) status = probe_reader_create(bytes, 2, &c->readers[i], err);
  return status;
}

static int make_tensors(struct bench_case *c, enum layout layout, uint64_t seed, struct error *err) {
  const bool cold = c->problem.q_len <= DECODE_ROWS;
  const double copies = cold ? cold_bytes / least_bytes(c) + 1 : 1;
  c->copies = copies > MOST_COPIES ? MOST_COPIES : (int64_t)copies;
  c->tensors = calloc((size_t)c->copies, sizeof *c->tensors);
  if (!c->tensors) return fail(err, STROBE_NO_MEMORY, "no memory for the tensors of a problem");
  int status = 0;
  for (int64_t i = 0; i < c->copies && !status; i++) {
    struct tensors *t = &c->tensors[i];
    status = tensors_create(&c->problem, layout, 0, default_scale(&c->problem.spec), NULL, t, err);
    t->args.kv_lens = c->kv_lens;
    t->args.kv_lens_bytes = sizeof *c->kv_lens;
    if (!status && !i) status = inputs_fill(&c->problem.spec, &t->args, input_kind_find("normal"), seed, err);
    for (int part = TENSOR_Q; part <= TENSOR_V && i && !status; part++)
      memcpy(t->memory[part], c->tensors->memory[part], t->bytes[part]);
  }
  return status;
}

static int set_up(struct bench *b, struct bench_case *c, const char *text, struct error *err) {
  const struct bench_options *o = b->opt;
  int status = problem_parse(text, &c->problem, err);
  if (!status) status = problem_complete(&c->problem, err);
  if (!status) status = cmd_kv_lens(o->kv_lens, &c->problem, &c->kv_lens, err);
  if (!status && problem_flops_lens(&c->problem, c->kv_lens) <= 0)
    status = fail(err, STROBE_INVALID,
                  "\"%.100s\": no query sees a key, so there is nothing to time; sizes must be 1 or more", text);
  if (!status) status = cmd_target_here(o->target, &c->problem.spec, &c->target, err);
  if (!status) status = spec_supported(&c->problem.spec, c->target, err);
  const struct cmd_plan request = {
      .problem = &c->problem, .target = o->target, .config = o->set, .backend = cmd_backend_name(o->backend)};
  if (!status) status = cmd_plan(b->ctx, &request, &c->plan, &c->info, err);
  const enum layout layout = o->layout ? (enum layout)(o->layout - 1) : LAYOUT_BNHD;
  if (!status) status = make_tensors(c, layout, seed_of(o), err);
  if (status) return status;
  c->workspace = aligned_alloc(64, (strobe_workspace_bytes(c->plan) + 64) / 64 * 64);
  c->seconds = calloc((size_t)o->runs, 3 * sizeof *c->seconds);
  if (!c->workspace || !c->seconds) return fail(err, STROBE_NO_MEMORY, "no memory for the measurements");
  c->peak = c->seconds + o->runs;
  c->ratio = c->peak + o->runs;
  if (c->problem.q_len <= DECODE_ROWS) status = make_readers(c, (int)o->threads, err);
  double once = 0;
  for (int64_t i = 0; i < c->copies && !status; i++) status = burst(c, 1, &once, err); // touches every page
  if (!status) status = burst(c, 1, &once, err);
  c->repeats = once < burst_s ? (int64_t)(burst_s / (once > 1e-7 ? once : 1e-7)) + 1 : 1;
  return status;
}

static void tear_down(struct bench *b) {
  for (int i = 0; i < b->n; i++) {
    struct bench_case *c = &b->cases[i];
    for (int64_t t = 0; c->readers && t < b->opt->threads; t++) probe_reader_free(c->readers[t]);
    free(c->readers);
    strobe_plan_destroy(c->plan);
    for (int64_t t = 0; c->tensors && t < c->copies; t++) tensors_free(&c->tensors[t]);
    free(c->tensors);
    free(c->kv_lens);
    free(c->workspace);
    free(c->seconds);
  }
  free(b->cases);
  strobe_context_destroy(b->ctx);
}

// ---- measuring ----

// Rounds over all problems, so that a slow minute of the machine meets all of them; the peak is taken before and after
// each burst.
static int measure(struct bench *b, struct error *err) {
  const int threads = (int)b->opt->threads;
  struct progress progress = cmd_progress_begin();
  int status = 0;
  for (int64_t run = 0; run < b->opt->runs && !status; run++)
    for (int i = 0; i < b->n && !status; i++) {
      struct bench_case *c = &b->cases[i];
      cmd_progress(&progress, "round %lld of %lld, problem %d of %d", (long long)run + 1, (long long)b->opt->runs,
                   i + 1, b->n);
      const double before = peak_of(c, threads);
      status = burst(c, c->repeats, &c->seconds[run], err);
      c->peak[run] = (before + peak_of(c, threads)) / 2;
      c->ratio[run] = work_of(c) / c->seconds[run] / c->peak[run];
    }
  cmd_progress_end(&progress);
  return status;
}

struct summary {
  double ms, gflops, gbs, peak, percent, spread; // spread: (slowest - fastest) / median time, per cent
  const char *unit;
};

static struct summary summarise(struct bench_case *c, int n) {
  const double seconds = cmd_median(c->seconds, n); // sorts
  return (struct summary){.ms = 1e3 * seconds,
                          .gflops = 1e-9 * problem_flops_lens(&c->problem, c->kv_lens) / seconds,
                          .gbs = 1e-9 * least_bytes(c) / seconds,
                          .peak = cmd_median(c->peak, n),
                          .percent = 100 * cmd_median(c->ratio, n),
                          .spread = 100 * (c->seconds[n - 1] - c->seconds[0]) / seconds,
                          .unit = c->readers ? "GB/s" : "GFLOP/s"};
}

// ---- reporting ----

static void add_json(struct json *j, const struct bench *b, const struct bench_case *c, const struct summary *m,
                     const char *problem) {
  json_object(j, NULL);
  json_string(j, "problem", problem);
  json_string(j, "instance", c->info.instance);
  json_string(j, "target", c->info.target);
  json_string(j, "config", c->info.config);
  json_string(j, "backend", c->info.backend);
  json_string(j, "why", c->info.why);
  json_string(j, "layout", layout_names[b->opt->layout ? b->opt->layout - 1 : LAYOUT_BNHD]);
  json_integer(j, "threads", b->opt->threads);
  json_integer(j, "runs", b->opt->runs);
  json_integer(j, "seed", (int64_t)seed_of(b->opt));
  json_number(j, "ms", m->ms, 6);
  json_number(j, "gflops", m->gflops, 6);
  json_number(j, "gbs", m->gbs, 6);
  json_number(j, "peak", m->peak, 6);
  json_string(j, "peak_unit", m->unit);
  json_string(j, "peak_of", c->readers ? probe_reader_best(c->readers[0]) : "multiply-adds in registers");
  json_number(j, "percent", m->percent, 5);
  json_number(j, "spread", m->spread, 4);
  json_end(j);
}

static void add_row(struct table *t, const struct bench_case *c, const struct summary *m, const char *problem) {
  table_cell(t, CELL_PLAIN, "%s", problem);
  table_cell(t, CELL_PLAIN, "%s", c->info.target);
  table_cell(t, CELL_PLAIN, "%s", c->info.config);
  table_cell(t, CELL_PLAIN, "%s", c->info.backend);
  table_cell(t, CELL_PLAIN, "%.4g", m->ms);
  table_cell(t, CELL_PLAIN, "%.1f", c->readers ? m->gbs : m->gflops);
  table_cell(t, CELL_PLAIN, "%.1f", m->peak);
  table_cell(t, CELL_PLAIN, "%s", m->unit);
  table_cell(t, CELL_GOOD, "%.1f", m->percent);
  table_cell(t, CELL_FAINT, "%.1f", m->spread);
}

static int report(struct bench *b, struct error *err) {
  static const char *const header[] = {"problem", "target", "config", "backend", "ms",
                                       "rate",    "peak",   "unit",   "percent", "spread"};
  struct buf out = {0}, why = {0};
  struct table t;
  struct json j = {.out = &out};
  table_begin(&t, "llllrrrlrr", header);
  if (b->opt->json) json_array(&j, NULL);
  for (int i = 0; i < b->n; i++) {
    struct bench_case *c = &b->cases[i];
    struct buf problem = {0};
    const struct summary m = summarise(c, (int)b->opt->runs);
    problem_print(&c->problem, &problem);
    out.failed |= problem.failed;
    if (!problem.failed && b->opt->json) add_json(&j, b, c, &m, problem.data);
    if (!problem.failed) add_row(&t, c, &m, problem.data);
    if (!problem.failed && *c->info.why) buf_printf(&why, "%s: %s\n", problem.data, c->info.why);
    buf_free(&problem);
  }
  if (b->opt->json)
    json_end(&j);
  else if (b->opt->csv)
    table_print_csv(&t, &out);
  else
    table_print(&t, cmd_colour(), &out), buf_add(&out, why.data ? why.data : "", why.len);
  table_free(&t);
  buf_free(&why);
  return cmd_print(&out, err);
}

static int draw(const struct bench *b, struct error *err) {
  struct plot_bar *bars = calloc((size_t)b->n + 1, sizeof *bars);
  if (!bars) return fail(err, STROBE_NO_MEMORY, "no memory for a plot");
  for (int i = 0; i < b->n; i++) {
    struct bench_case *c = &b->cases[i];
    const struct summary m = summarise(c, (int)b->opt->runs);
    bars[i] = (struct plot_bar){&c->problem, c->info.target, m.unit, c->readers ? m.gbs : m.gflops};
  }
  const struct plot p = {.bars = bars, .n = b->n, .title = "Attention, forward"};
  const int status = plot_write(b->opt->plot, &p, err);
  free(bars);
  return status;
}

static int check_operands(const struct command *c, const struct bench_options *o, struct error *err) {
  if (o->suite && c->n_operands)
    return fail(err, STROBE_INVALID, "bench: PROBLEM \"%s\" and --suite: only one of them is allowed",
                quote(slice_of(c->operands[0])).text);
  if (!o->suite && !c->n_operands)
    return fail(
        err, STROBE_INVALID,
        "bench: PROBLEM... is missing; usage: strobe bench PROBLEM... [OPTION]..., or strobe bench --suite hopper");
  if (o->dtype && !o->suite)
    return fail(err, STROBE_INVALID, "--dtype without --suite: the dtype is part of PROBLEM; leave it out");
  return 0;
}

static int check_flags(const struct bench_options *o, bool gpu, struct error *err) {
  if (o->json && o->csv) return fail(err, STROBE_INVALID, "--json and --csv: only one of them is allowed");
  if (o->jit && o->plot) return fail(err, STROBE_INVALID, "--jit and --plot: only one of them is allowed");
  if (o->jit && o->csv) return fail(err, STROBE_INVALID, "--jit prints a table or --json, no --csv");
  if (o->seed != NO_SEED && (o->jit || gpu))
    return fail(err, STROBE_INVALID, "--seed %lld with %s: %s; leave it out", (long long)o->seed,
                o->jit ? "--jit" : "a CUDA target", o->jit ? "no inputs are made" : "its inputs are always the same");
  if (o->kv_lens && (o->jit || gpu))
    return fail(err, STROBE_INVALID, "--kv-lens with %s: %s; leave it out", o->jit ? "--jit" : "a CUDA target",
                o->jit ? "nothing is run" : "its kernels have no lengths in this version");
  return 0;
}

static int run_cpu(char *const *problems, int n, const struct bench_options *o, struct error *err) {
  struct bench b = {.opt = o};
  const struct strobe_context_options workers = {.size = sizeof workers, .n_workers = (int)o->threads};
  int status = cmd_api_error(strobe_context_create(&workers, &b.ctx), err);
  if (!status && !(b.cases = calloc((size_t)n, sizeof *b.cases)))
    status = fail(err, STROBE_NO_MEMORY, "no memory for %d problems", n);
  for (int i = 0; i < n && !status; i++) {
    b.n++;
    status = set_up(&b, &b.cases[i], problems[i], err);
  }
  if (!status) status = measure(&b, err);
  if (!status && o->plot) status = draw(&b, err);
  if (!status) status = report(&b, err);
  tear_down(&b);
  return status;
}

static int run_problems(char *const *problems, int n, const struct bench_options *o, const struct target *gpu,
                        struct error *err) {
  const struct bench_jit_options jit = {o->target, o->set, cmd_backend_name(o->backend), o->runs, o->json};
  const struct bench_gpu_options on_gpu = {gpu, o->set, o->plot, (int)o->runs, o->json, o->csv};
  if (o->jit) return gpu ? bench_jit_gpu(problems, n, gpu, &jit, err) : bench_jit(problems, n, &jit, err);
  return gpu ? bench_gpu(problems, n, &on_gpu, err) : run_cpu(problems, n, o, err);
}

static int run(const struct command *c, struct error *err) {
  const struct bench_options *o = c->options;
  const char *name = o->target ? o->target : o->suite ? "sm90a" : NULL;
  const struct target *gpu = name ? target_find(name) : NULL;
  struct bench_problems suite = {NULL, NULL, 0};
  if (gpu && gpu->family != FAMILY_CUDA) gpu = NULL;
  int status = check_operands(c, o, err);
  if (!status) status = check_flags(o, gpu != NULL, err);
  if (!status && o->suite) status = bench_suite(o->dtype == 2 ? "f16" : "bf16", &suite, err);
  if (!status)
    status = run_problems(o->suite ? suite.text : c->operands, o->suite ? suite.n : c->n_operands, o, gpu, err);
  bench_problems_free(&suite);
  return status ? 2 : 0;
}

const struct verb verb_bench = {
    .name = "bench",
    .operands = "[PROBLEM]...",
    .about = "time kernels, each beside the peak that this machine reaches at that moment",
    .details = "The peak is a loop of multiply-adds (f32) or bf16 dot products in registers; up to 16 query rows, "
               "of reads. Then the\n"
               "kernel takes copies of its tensors in turn, 256 MB of them, and the reads go over as much. percent is "
               "the median\n"
               "over runs of rate / peak beside it; spread is (slowest - fastest) / median.",
    .example = "  $ strobe bench d128:bf16:b1h8q2048k2048 d64:f32:causal:b1h8q2048k2048 --json > bench.json\n"
               "  $ strobe bench d128:bf16:b1h8q2048k2048\n"
               "  problem                   target      config   ...     ms   rate   peak  unit     percent  spread\n"
               "  d128:bf16:b1h8q2048k2048  avx512bf16  block_m= ...  43.12  398.4  447.0  GFLOP/s     89.1     1.2",
    .rows = rows,
    .n_rows = sizeof rows / sizeof *rows,
    .options_size = sizeof(struct bench_options),
    .defaults = defaults,
    .most_operands = -1,
    .run = run,
};
