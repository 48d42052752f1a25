// make demo: attention of two trained models on real text, by C that is emitted and compiled, and by code that is
// compiled in process; both against stored float64 outputs, in one table.
#include "demo.h"

#include "../gen/table.h"
#include "../runtime/cpu.h"
#include "../runtime/probe.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RUNS = 21 };
enum { LONG = 2048, SHORT = 512 };                // sequences of the random tensors
static const double burst_s = 0.01, probe_ms = 3; // of a kernel, and of the peak on either side of it
static const double row_s = 3;                    // no further run of a row after this long: slow fallbacks

static const struct {
  const char *name;
  const char *problem; // with one %s for the dtype
} real[] = {
    {"minilm-l0", "d32:%s:b1h2q512k512"},
    {"smollm2-l0", "d64:%s:b1h6/2q128k128"},
    {"smollm2-l0", "d64:%s:causal:b1h6/2q128k128"},
};
static const char *const dtypes[] = {"f32", "bf16"};

typedef int make_kernel(const struct demo_tools *tools, const struct demo_case *c, struct demo_kernel *k,
                        struct error *err);
static const struct path {
  const char *name;
  make_kernel *make;
} paths[] = {{"emit+cc", demo_kernel_emit}, {"jit", demo_kernel_jit}};

struct demo {
  struct demo_tools tools;
  const char *data;
  struct table table;
  struct buf notes; // why the library did not take its first choice, each sentence once
  double oracle_gap, worst;
  int rows, beyond;
  bool fallback; // the library served something slower than vector code compiled in process
};

// ---- measuring ----

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *values, int n) {
  qsort(values, (size_t)n, sizeof *values, by_value);
  return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

// Medians of bursts with the peak on either side of each, so that a slow moment of the machine meets both.
static int measure(const struct demo_case *c, const struct demo_kernel *k, double first_s, double *gflops,
                   double *percent, struct error *err) {
  const double work = 1e-9 * problem_flops(&c->problem), start = probe_clock();
  double rate[RUNS], ratio[RUNS];
  int n = 0, status = 0;
  if (first_s < row_s) status = demo_kernel_run(k, c, err); // what the first result met for the first time is warm now
  const double warm = probe_clock() - start;
  const int repeats = first_s < row_s && warm < burst_s ? (int)(burst_s / (warm > 1e-6 ? warm : 1e-6)) + 1 : 1;
  do {
    const double before = probe_compute(&c->problem.spec, k->instance.target, probe_ms), t = probe_clock();
    for (int i = 0; i < repeats && !status; i++) status = demo_kernel_run(k, c, err);
    rate[n] = work * repeats / (probe_clock() - t);
    ratio[n] = 2 * rate[n] / (before + probe_compute(&c->problem.spec, k->instance.target, probe_ms));
    n++;
  } while (!status && n < RUNS && first_s + probe_clock() - start < row_s);
  *gflops = median(rate, n);
  *percent = 100 * median(ratio, n);
  return status;
}

// ---- rows ----

static void note(struct demo *d, const struct demo_kernel *k) {
  if (k->plan && strcmp(k->backend, "code")) d->fallback = true;
  if (!*k->why || (d->notes.data && strstr(d->notes.data, k->why))) return;
  buf_printf(&d->notes, "jit: %s served: %s\n", k->backend, k->why);
}

static void cell_error(struct table *t, double value, bool ok) {
  table_cell(t, ok ? CELL_PLAIN : CELL_BAD, "%.2g", value);
}

static void add_row(struct demo *d, const struct demo_case *c, const struct demo_kernel *k, const char *path,
                    const double measured[3], const struct demo_errors *e) {
  struct table *t = &d->table;
  struct buf problem = {0};
  problem_print(&c->problem, &problem);
  table_cell(t, CELL_PLAIN, "%s", c->name);
  table_cell(t, CELL_PLAIN, "%s", problem.failed ? "?" : problem.data);
  buf_free(&problem);
  const bool fallback = k->plan && strcmp(k->backend, "code");
  table_cell(t, CELL_PLAIN, fallback ? "%s: %s" : "%s", path, k->backend);
  table_cell(t, CELL_PLAIN, "%s", k->instance.target->name);
  table_cell(t, CELL_PLAIN, "%.1f", measured[0]);
  cell_error(t, e->o, e->o_ratio <= 1);
  cell_error(t, e->o_bound, true);
  table_cell(t, e->o_ratio <= 1 ? CELL_GOOD : CELL_BAD, "%.2f", e->o_ratio);
  cell_error(t, e->lse, e->lse_ratio <= 1);
  table_cell(t, e->lse_ratio <= 1 ? CELL_GOOD : CELL_BAD, "%.2f", e->lse_ratio);
  table_cell(t, CELL_PLAIN, isnan(e->stored) && !c->o.data ? "-" : "%.2g", e->stored);
  table_cell(t, CELL_PLAIN, "%.1f", measured[1]);
  table_cell(t, CELL_PLAIN, "%.1f", measured[2]);
  d->rows++;
  d->beyond += !e->ok;
  const double worst = e->o_ratio > e->lse_ratio ? e->o_ratio : e->lse_ratio;
  if (worst > d->worst) d->worst = worst;
}

// One line that the next one overwrites, on a terminal; text "": clears it.
static void progress(const char *text, const char *of) {
  if (isatty(STDERR_FILENO)) fprintf(stderr, "\r%s %s\033[K%s", text, of, *text ? "" : "\r");
}

static int run_path(struct demo *d, struct demo_case *c, const struct path *path, struct error *err) {
  struct demo_kernel k;
  double measured[3] = {0}; // ms to the first result, GFLOP/s, % of peak
  progress(path->name, c->name);
  tensors_poison(&c->tensors);
  const double start = probe_clock();
  int status = path->make(&d->tools, c, &k, err);
  const double made = probe_clock();
  if (!status) status = demo_kernel_run(&k, c, err);
  const double end = probe_clock();
  measured[0] = 1e3 * (end - start);
  if (!status) {
    const struct demo_errors e = demo_compare(c, &k.instance); // the first result; the later ones only give the time
    status = measure(c, &k, end - made, &measured[1], &measured[2], err);
    if (!status) add_row(d, c, &k, path->name, measured, &e);
    note(d, &k);
  }
  demo_kernel_free(&k);
  return status;
}

static int run_real(struct demo *d, struct error *err) {
  int status = 0;
  for (size_t t = 0; t < sizeof dtypes / sizeof *dtypes; t++)
    for (size_t i = 0; i < sizeof real / sizeof *real && !status; i++) {
      struct demo_case c;
      char problem[64];
      snprintf(problem, sizeof problem, real[i].problem, dtypes[t]);
      status = demo_case_read(d->data, real[i].name, problem, &c, err);
      for (size_t p = 0; p < sizeof paths / sizeof *paths && !status; p++) status = run_path(d, &c, &paths[p], err);
      if (c.oracle_gap > d->oracle_gap) d->oracle_gap = c.oracle_gap;
      demo_case_free(&c);
    }
  return status;
}

// The real tensors are short, so speed is also shown on long ones; bf16 only where the CPU has bf16 dot products. Plain
// C would take minutes for them.
static int run_random(struct demo *d, struct error *err) {
  int status = 0;
  for (size_t t = 0; t < sizeof dtypes / sizeof *dtypes && !status; t++) {
    struct demo_case c;
    char problem[64];
    const int n = d->fallback ? SHORT : LONG;
    snprintf(problem, sizeof problem, "d128:%s:b1h8q%dk%d", dtypes[t], n, n);
    status = demo_case_random(problem, &c, err);
    const struct target *best = status ? NULL : cpu_best_target(&c.problem.spec);
    if (best && (c.problem.spec.kv == DT_F32 || (best->vregs && best->bf16_dot)))
      status = run_path(d, &c, &paths[1], err);
    demo_case_free(&c);
  }
  return status;
}

// ---- printing ----

static void print_machine(void) {
  char cpu[64];
  cpu_name(cpu, sizeof cpu);
  printf("%s, %ld cores (one is used); best target:", cpu, sysconf(_SC_NPROCESSORS_ONLN));
  for (size_t t = 0; t < sizeof dtypes / sizeof *dtypes; t++) {
    struct problem p;
    char text[16];
    snprintf(text, sizeof text, "d64:%s", dtypes[t]);
    const struct target *best = problem_parse(text, &p, NULL) ? NULL : cpu_best_target(&p.spec);
    printf(" %s for %s%s", best ? best->name : "none", dtypes[t], t ? "\n\n" : ",");
  }
  fflush(stdout);
}

static void print_legend(const struct demo *d) {
  printf("\nemit+cc    %s emit SPEC --target T -o %s, then %s -O2 -shared -fPIC, dlopen\n", d->tools.strobe,
         d->tools.dir, d->tools.cc);
  printf(
      "jit        strobe_plan_create on the same spec in a new context: no compiler, no file\n"
      "first ms   from the spec to the first result, once\n"
      "max err    largest |o - want|; want: for f32 the stored float64 outputs, for bf16 and random the float64 oracle "
      "of the same inputs\n"
      "bound      derived error bound of that element; ratio: the largest error / bound of all elements of o, and of "
      "lse\n"
      "to stored  largest distance from the stored float64 outputs, of the inputs before they were rounded to bf16\n"
      "GFLOP/s    median of bursts; %% peak: of multiply-adds (bf16: dot products; AMX: tiles) in registers, timed "
      "beside each "
      "burst\n");
  if (d->notes.data) printf("%s", d->notes.data);
  if (d->fallback) printf("random: %d long in place of %d, as plain C is slow\n", SHORT, LONG);
  if (d->beyond)
    printf("%d of %d rows are NOT within their bounds", d->beyond, d->rows);
  else
    printf("all %d rows are within their bounds (worst error / bound %.2f)", d->rows, d->worst);
  printf("; the oracle agrees with the stored outputs to %.1g\n", d->oracle_gap);
}

static int print_table(const struct demo *d, struct error *err) {
  const char *off = getenv("NO_COLOR");
  struct buf out = {0};
  table_print(&d->table, isatty(STDOUT_FILENO) && !(off && *off), &out);
  if (out.failed || d->notes.failed) return fail(err, STROBE_NO_MEMORY, "no memory for the table");
  fputs(out.data, stdout);
  buf_free(&out);
  print_legend(d);
  return fflush(stdout) ? fail(err, STROBE_IO, "cannot write to standard output") : 0;
}

int main(int argc, char **argv) {
  static const char *const header[] = {"tensors", "spec",    "path",  "target",    "first ms", "max err", "bound",
                                       "ratio",   "lse err", "ratio", "to stored", "GFLOP/s",  "% peak"};
  if (argc != 4) return fputs("usage: demo STROBE OUTPUT_DIR DATA_DIR\n", stderr), 2;
  const char *cc = getenv("CC");
  struct demo d = {.tools = {.strobe = argv[1], .cc = cc && *cc ? cc : "cc", .dir = argv[2]}, .data = argv[3]};
  struct error err = {0};
  print_machine();
  table_begin(&d.table, "llllrrrrrrrrr", header);
  int status = run_real(&d, &err);
  if (!status) status = run_random(&d, &err);
  progress("", "");
  if (!status) status = print_table(&d, &err);
  if (status) fprintf(stderr, "demo: %s\n", err.text);
  const bool stored_differs = !(d.oracle_gap <= 1e-12); // the comparison itself would be worth nothing
  if (!status && stored_differs)
    fprintf(stderr, "demo: the oracle and the stored outputs differ by %g\n", d.oracle_gap);
  table_free(&d.table);
  buf_free(&d.notes);
  return status ? 2 : d.beyond || stored_differs;
}
