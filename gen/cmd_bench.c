#include "cmd.h"
#include "cmd_bench_case.h"
#include "plot.h"
#include "scan.h"

#include "../runtime/probe.h"

#include <stdlib.h>
#include <string.h>

enum { THREADS_MAX = 1024 };

struct bench_options {
  const char *target, *set, *kv_lens, *plot, *only;
  int backend, layout, suite, dtype;
  int64_t runs, threads, seed;
  bool json, csv, jit, ablate;
};

#define ROW(kind, field, ...) OPTION(kind, struct bench_options, field, __VA_ARGS__)
static const struct option_row rows[] = {
    ROW(OPT_CHOICE, suite, .name = "suite", .value = "hopper|cpu",
        .about = "instead of PROBLEM. hopper: the grid of the FlashAttention-3 paper (default target: sm90a); cpu: "
                 "prefill, decode and two threads beside what they are meant to reach"),
    ROW(OPT_TEXT, only, .name = "only", .value = "TEXT",
        .about = "of --suite cpu the rows whose problem or target contains TEXT"),
    ROW(OPT_CHOICE, dtype, .name = "dtype", .value = "bf16|f16", .about = "of --suite hopper (default: bf16)"),
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
    ROW(OPT_FLAG, ablate, .name = "ablate",
        .about = "time standard attention, then with one idea more in each row, until it is FlashAttention-3 (default "
                 "PROBLEM: d64:bf16:b1h8q4096k4096)"),
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

struct bench {
  const struct bench_options *opt;
  strobe_context *ctx;
  struct bench_case *cases;
  int n;
};

static uint64_t seed_of(const struct bench_options *o) { return o->seed == NO_SEED ? DEFAULT_SEED : (uint64_t)o->seed; }

static struct bench_case_options case_options(const struct bench_options *o) {
  return (struct bench_case_options){.target = o->target,
                                     .set = o->set,
                                     .backend = cmd_backend_name(o->backend),
                                     .kv_lens = o->kv_lens,
                                     .layout = o->layout ? (enum layout)(o->layout - 1) : LAYOUT_BNHD,
                                     .runs = o->runs,
                                     .threads = (int)o->threads,
                                     .seed = seed_of(o)};
}

// Rounds over all problems, so that a slow minute of the machine meets all of them.
static int measure(struct bench *b, struct error *err) {
  struct progress progress = cmd_progress_begin();
  int status = 0;
  for (int64_t run = 0; run < b->opt->runs && !status; run++)
    for (int i = 0; i < b->n && !status; i++) {
      cmd_progress(&progress, "round %lld of %lld, problem %d of %d", (long long)run + 1, (long long)b->opt->runs,
                   i + 1, b->n);
      status = bench_case_burst(&b->cases[i], err);
    }
  cmd_progress_end(&progress);
  return status;
}

// ---- reporting ----

static void add_json(struct json *j, const struct bench *b, const struct bench_case *c, const struct bench_summary *m,
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
  if (b->opt->kv_lens) json_string(j, "kv_lens", b->opt->kv_lens);
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

static void add_row(struct table *t, const struct bench_case *c, const struct bench_summary *m, const char *problem,
                    const char *kv_lens) {
  table_cell(t, CELL_PLAIN, "%s", problem);
  if (kv_lens) table_cell(t, CELL_PLAIN, "%s", kv_lens);
  table_cell(t, CELL_PLAIN, "%s", c->info.target);
  table_cell(t, CELL_PLAIN, "%s", c->info.config);
  table_cell(t, CELL_PLAIN, "%s", c->info.backend);
  table_cell(t, CELL_PLAIN, "%.4g", m->ms);
  table_cell(t, CELL_PLAIN, "%.1f", m->rate);
  table_cell(t, CELL_PLAIN, "%.1f", m->peak);
  table_cell(t, CELL_PLAIN, "%s", m->unit);
  table_cell(t, CELL_GOOD, "%.1f", m->percent);
  table_cell(t, CELL_FAINT, "%.1f", m->spread);
}

static int report(struct bench *b, struct error *err) {
  static const char *const header[] = {"problem", "target", "config", "backend", "ms",
                                       "rate",    "peak",   "unit",   "percent", "spread"},
                           *const with_lens[] = {"problem", "kv_lens", "target", "config",  "backend", "ms",
                                                 "rate",    "peak",    "unit",   "percent", "spread"};
  struct buf out = {0}, why = {0};
  struct table t;
  struct json j = {.out = &out};
  table_begin(&t, b->opt->kv_lens ? "lllllrrrlrr" : "llllrrrlrr", b->opt->kv_lens ? with_lens : header);
  if (b->opt->json) json_array(&j, NULL);
  for (int i = 0; i < b->n; i++) {
    struct bench_case *c = &b->cases[i];
    struct buf problem = {0};
    const struct bench_summary m = bench_case_summary(c);
    problem_print(&c->problem, &problem);
    out.failed |= problem.failed;
    if (!problem.failed && b->opt->json) add_json(&j, b, c, &m, problem.data);
    if (!problem.failed) add_row(&t, c, &m, problem.data, b->opt->kv_lens);
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
    const struct bench_summary m = bench_case_summary(c);
    bars[i] = (struct plot_bar){&c->problem, c->info.target, m.unit, m.rate};
  }
  const struct plot p = {.bars = bars, .n = b->n, .title = "Attention, forward"};
  const int status = plot_write(b->opt->plot, &p, err);
  free(bars);
  return status;
}

enum { SUITE_HOPPER = 1, SUITE_CPU };

static int check_operands(const struct command *c, const struct bench_options *o, struct error *err) {
  if (o->suite && c->n_operands)
    return fail(err, STROBE_INVALID, "bench: PROBLEM \"%s\" and --suite: only one of them is allowed",
                quote(slice_of(c->operands[0])).text);
  if (o->ablate && c->n_operands > 1)
    return fail(err, STROBE_INVALID, "--ablate with %d PROBLEMs: one is allowed", c->n_operands);
  if (!o->suite && !o->ablate && !c->n_operands)
    return fail(err, STROBE_INVALID,
                "bench: PROBLEM... is missing; usage: strobe bench PROBLEM... [OPTION]..., or strobe bench --suite "
                "hopper, or --suite cpu, or --ablate");
  if (o->dtype && o->suite != SUITE_HOPPER)
    return fail(err, STROBE_INVALID, "--dtype without --suite hopper: the dtype is part of the problem; leave it out");
  if (o->only && o->suite != SUITE_CPU)
    return fail(err, STROBE_INVALID, "--only without --suite cpu: there are no rows to choose from; leave it out");
  return 0;
}

// What the rows of --suite cpu say themselves.
static int check_cpu_suite(const struct bench_options *o, struct error *err) {
  const struct {
    const char *name;
    bool given;
  } refused[] = {{"--threads", o->threads != 1}, {"--kv-lens", o->kv_lens}, {"--jit", o->jit}};
  for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
    if (refused[i].given)
      return fail(err, STROBE_INVALID, "%s with --suite cpu: its rows are fixed; leave it out", refused[i].name);
  return 0;
}

static int check_flags(const struct bench_options *o, bool gpu, struct error *err) {
  if (o->json && o->csv) return fail(err, STROBE_INVALID, "--json and --csv: only one of them is allowed");
  if (o->jit && o->plot) return fail(err, STROBE_INVALID, "--jit and --plot: only one of them is allowed");
  if (o->jit && o->csv) return fail(err, STROBE_INVALID, "--jit prints a table or --json, no --csv");
  if (o->seed != NO_SEED && (o->jit || gpu))
    return fail(err, STROBE_INVALID, "--seed %lld with %s: %s; leave it out", (long long)o->seed,
                o->jit ? "--jit" : "a CUDA target", o->jit ? "no inputs are made" : "its inputs are always the same");
  const struct {
    const char *name;
    bool given;
  } of_cpus[] = {{"--threads", o->threads != 1}, {"--layout", o->layout}};
  for (size_t i = 0; i < sizeof of_cpus / sizeof *of_cpus; i++)
    if (of_cpus[i].given && (o->jit || gpu))
      return fail(err, STROBE_INVALID, "%s with %s: %s; leave it out", of_cpus[i].name,
                  o->jit ? "--jit" : "a CUDA target", o->jit ? "nothing is run" : "it is for CPUs");
  if (o->backend && gpu && strcmp(cmd_backend_name(o->backend), "cuda"))
    return fail(err, STROBE_INVALID, "--backend %s with a CUDA target: must be cuda; leave it out",
                cmd_backend_name(o->backend));
  if (o->kv_lens && (o->jit || gpu))
    return fail(err, STROBE_INVALID, "--kv-lens with %s: %s; leave it out", o->jit ? "--jit" : "a CUDA target",
                o->jit ? "nothing is run" : "its kernels have no lengths in this version");
  return 0;
}

static int run_cpu(char *const *problems, int n, const struct bench_options *o, struct error *err) {
  struct bench b = {.opt = o};
  const struct bench_case_options each = case_options(o);
  const struct strobe_context_options workers = {.size = sizeof workers, .n_workers = (int)o->threads};
  int status = cmd_api_error(strobe_context_create(&workers, &b.ctx), err);
  if (!status && !(b.cases = calloc((size_t)n, sizeof *b.cases)))
    status = fail(err, STROBE_NO_MEMORY, "no memory for %d problems", n);
  for (int i = 0; i < n && !status; i++) {
    b.n++;
    status = bench_case_open(b.ctx, problems[i], &each, &b.cases[i], err);
  }
  if (!status) status = measure(&b, err);
  if (!status && o->plot) status = draw(&b, err);
  if (!status) status = report(&b, err);
  for (int i = 0; i < b.n; i++) bench_case_close(&b.cases[i]);
  free(b.cases);
  strobe_context_destroy(b.ctx);
  return status;
}

static int run_problems(char *const *problems, int n, const struct bench_options *o, const struct target *gpu,
                        struct error *err) {
  const struct bench_jit_options jit = {o->target, o->set, cmd_backend_name(o->backend), o->runs, o->json};
  const struct bench_gpu_options on_gpu = {gpu, o->set, o->plot, (int)o->runs, o->json, o->csv};
  if (o->jit) return gpu ? bench_jit_gpu(problems, n, gpu, &jit, err) : bench_jit(problems, n, &jit, err);
  return gpu ? bench_gpu(problems, n, &on_gpu, err) : run_cpu(problems, n, o, err);
}

static int check_ablate(const struct bench_options *o, const struct target *gpu, struct error *err) {
  const struct {
    const char *name;
    bool given;
  } refused[] = {{"--suite", o->suite}, {"--jit", o->jit}, {"--plot", o->plot}};
  for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
    if (refused[i].given)
      return fail(err, STROBE_INVALID, "--ablate and %s: only one of them is allowed", refused[i].name);
  if (gpu) return fail(err, STROBE_INVALID, "--ablate with --target %s: algo is a field of CPU kernels", gpu->name);
  return 0;
}

static int run_hopper(const struct bench_options *o, const struct target *gpu, struct error *err) {
  struct bench_problems suite = {NULL, NULL, 0};
  int status = bench_suite(o->dtype == 2 ? "f16" : "bf16", &suite, err);
  if (!status) status = run_problems(suite.text, suite.n, o, gpu, err);
  bench_problems_free(&suite);
  return status;
}

static int run(const struct command *c, struct error *err) {
  const struct bench_options *o = c->options;
  const char *name = o->target ? o->target : o->suite == SUITE_HOPPER ? "sm90a" : NULL;
  const struct target *gpu = name ? target_find(name) : NULL;
  if (gpu && gpu->family != FAMILY_CUDA) gpu = NULL;
  int status = check_operands(c, o, err);
  if (!status) status = check_flags(o, gpu != NULL, err);
  if (!status && o->ablate) {
    const struct bench_ablate_options ablate = {case_options(o), o->json, o->csv};
    status = check_ablate(o, gpu, err);
    if (!status) status = bench_ablate(c->n_operands ? c->operands[0] : NULL, &ablate, err);
  } else if (!status && o->suite == SUITE_CPU) {
    const struct bench_cpu_options cpu = {case_options(o), o->only, o->plot, o->json, o->csv};
    status = check_cpu_suite(o, err);
    if (!status) status = bench_cpu(&cpu, err);
  } else if (!status) {
    status = o->suite ? run_hopper(o, gpu, err) : run_problems(c->operands, c->n_operands, o, gpu, err);
  }
  return status ? 2 : 0;
}

const struct verb verb_bench = {
    .name = "bench",
    .operands = "[PROBLEM]...",
    .about = "time kernels, each beside the peak that this machine reaches at that moment",
    .details = "The peak is a loop in registers: of multiply-adds (f32), of bf16 dot products, or of products of\n"
               "matrix tiles, over as many as a multiply-add of f16 or f32 takes; up to 16 query rows, of reads.\n"
               "Then the kernel takes copies of its tensors in turn, twice the last-level cache or 256 MB of them\n"
               "(512 at most, and a quarter of the memory), and the reads go over as much.\n"
               "percent is the median over runs of rate / peak beside it; spread is (slowest - fastest) / median.\n"
               "--suite cpu: resolve is what a row has to reach, aim what it ought to, on a core with AVX-512 and\n"
               "bf16 dot products; the peak is that of vectors, also where a plan takes matrix tiles.",
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
