// `bench --suite cpu`: the problems that this generator is judged by on a CPU, each with what it is meant to reach.
#include "cmd.h"
#include "cmd_bench_case.h"
#include "plot.h"

#include "../runtime/cpu.h"

#include <stdlib.h>
#include <string.h>

// Per cent of the peak of vectors (or of reading), or how many times as fast as the same problem on one thread.
enum measure { OF_PEAK, TIMES_ONE_THREAD };
struct bar {
  const char *problem, *target; // target NULL: what a plan takes by itself
  int threads;
  enum measure as;
  double resolve, aim; // must, and ought to reach
};
static bool is_times(const struct bar *b) { return b->as == TIMES_ONE_THREAD; }

static const struct bar bars[] = {
    {"d128:f32:b1h8q512k512", NULL, 1, OF_PEAK, 90, 93},
    {"d128:f32:causal:b1h8q512k512", NULL, 1, OF_PEAK, 86, 89},
    {"d128:bf16:b1h8q512k512", NULL, 1, OF_PEAK, 89, 91},
    {"d128:bf16:causal:b1h8q512k512", NULL, 1, OF_PEAK, 82, 85},
    {"d64:f32:b1h8q2048k2048", NULL, 1, OF_PEAK, 90, 93},
    {"d64:f32:causal:b1h8q2048k2048", NULL, 1, OF_PEAK, 87, 91},
    {"d128:f32:b1h8q2048k2048", NULL, 1, OF_PEAK, 92, 95},
    {"d128:f32:causal:b1h8q2048k2048", NULL, 1, OF_PEAK, 88, 91},
    {"d64:bf16:b1h8q2048k2048", NULL, 1, OF_PEAK, 88, 92},
    {"d64:bf16:causal:b1h8q2048k2048", NULL, 1, OF_PEAK, 84, 89},
    {"d128:bf16:b1h8q2048k2048", NULL, 1, OF_PEAK, 90, 94},
    {"d128:bf16:causal:b1h8q2048k2048", NULL, 1, OF_PEAK, 86, 89},
    {"d128:f16:b1h8q2048k2048", NULL, 1, OF_PEAK, 85, 90},
    {"d128:f16:causal:b1h8q2048k2048", NULL, 1, OF_PEAK, 80, 85},
    {"d64:f32:b1h8q2048k2048", "avx2", 1, OF_PEAK, 84, 90},
    {"d64:f32:causal:b1h8q2048k2048", "avx2", 1, OF_PEAK, 76, 85},
    {"d128:f32:b1h8q2048k2048", "avx2", 1, OF_PEAK, 86, 90},
    {"d128:f32:causal:b1h8q2048k2048", "avx2", 1, OF_PEAK, 78, 85},
    {"d64:f32:b1h8q8192k8192", NULL, 1, OF_PEAK, 90, 93},
    {"d64:f32:causal:b1h8q8192k8192", NULL, 1, OF_PEAK, 90, 92},
    {"d128:f32:b1h8q8192k8192", NULL, 1, OF_PEAK, 92, 95},
    {"d128:f32:causal:b1h8q8192k8192", NULL, 1, OF_PEAK, 91, 93},
    {"d64:bf16:b1h8q8192k8192", NULL, 1, OF_PEAK, 88, 92},
    {"d64:bf16:causal:b1h8q8192k8192", NULL, 1, OF_PEAK, 88, 90},
    {"d128:bf16:b1h8q8192k8192", NULL, 1, OF_PEAK, 90, 94},
    {"d128:bf16:causal:b1h8q8192k8192", NULL, 1, OF_PEAK, 89, 92},
    {"d128:f32:b1h32/8q1k8192", NULL, 1, OF_PEAK, 70, 90},
    {"d128:f16:b1h32/8q1k8192", NULL, 1, OF_PEAK, 80, 90},
    {"d128:bf16:b1h32/8q1k8192", NULL, 1, OF_PEAK, 80, 90},
    {"d128:f32:b1h8q2048k2048", NULL, 2, TIMES_ONE_THREAD, 1.9, 1.9},
    {"d128:f32:causal:b1h8q2048k2048", NULL, 2, TIMES_ONE_THREAD, 1.9, 1.9},
    {"d128:bf16:b1h8q2048k2048", NULL, 2, TIMES_ONE_THREAD, 1.9, 1.9},
    {"d128:bf16:causal:b1h8q2048k2048", NULL, 2, TIMES_ONE_THREAD, 1.9, 1.9},
    {"d128:f32:b1h32/8q1k8192", NULL, 2, OF_PEAK, 70, 90},
    {"d128:bf16:b1h32/8q1k8192", NULL, 2, OF_PEAK, 80, 90},
};
enum { BARS = sizeof bars / sizeof *bars, THREADS = 2 };
static const double slow_s = 0.3; // an execution this long is measured in every second round

struct row {
  const struct bar *bar;
  bool shown; // not only there to be compared with
  struct bench_case timed;
  double measured; // per cent, or times as fast
};

struct session {
  const struct bench_cpu_options *o;
  strobe_context *context[THREADS]; // of 1 and 2 workers
  struct row *rows;
  int n;
  struct buf left_out;
};

// ---- which rows ----

static bool wanted(const struct session *s, const struct bar *b) {
  const char *target = b->target ? b->target : s->o->each.target ? s->o->each.target : "";
  return !s->o->only || strstr(b->problem, s->o->only) || strstr(target, s->o->only);
}

static bool same_problem(const struct bar *a, const struct bar *b) {
  return !strcmp(a->problem, b->problem) && a->target == b->target;
}

// One line for all rows on a target, at the first of them.
static void leave_out(struct session *s, const struct bar *b, const char *why) {
  int rows = 0;
  for (const struct bar *x = bars; x < bars + BARS; x++) {
    if (!x->target || strcmp(x->target, b->target) || !wanted(s, x)) continue;
    if (!rows++ && x != b) return;
  }
  buf_printf(&s->left_out, "left out: %d row%s on %s; %s\n", rows, rows == 1 ? "" : "s", b->target, why);
}

// Whether this machine can run the row; if not, one line says why.
static bool can_run(struct session *s, const struct bar *b) {
  struct problem p;
  struct error why = {0};
  const struct target *t;
  if (b->threads > pool_default_workers()) {
    buf_printf(&s->left_out, "left out: %s on %d threads; this process may use %d\n", b->problem, b->threads,
               pool_default_workers());
    return false;
  }
  if (!b->target || problem_parse(b->problem, &p, &why) || !cmd_target_here(b->target, &p.spec, &t, &why)) return true;
  leave_out(s, b, why.text);
  return false;
}

static void choose(struct session *s) {
  for (int i = 0; i < BARS; i++) {
    bool needed = false, shown = wanted(s, &bars[i]);
    for (int k = 0; k < BARS && !is_times(&bars[i]) && bars[i].threads == 1; k++)
      needed |= is_times(&bars[k]) && wanted(s, &bars[k]) && same_problem(&bars[i], &bars[k]);
    if ((shown || needed) && can_run(s, &bars[i])) s->rows[s->n++] = (struct row){.bar = &bars[i], .shown = shown};
  }
}

// ---- measuring ----

static int open_row(struct session *s, struct row *r, struct error *err) {
  strobe_context **ctx = &s->context[r->bar->threads - 1];
  const struct strobe_context_options workers = {.size = sizeof workers, .n_workers = r->bar->threads};
  struct bench_case_options each = s->o->each;
  each.threads = r->bar->threads;
  struct problem p;
  int status = problem_parse(r->bar->problem, &p, err);
  if (r->bar->target) each.target = r->bar->target;
  const struct target *t = each.target ? target_find(each.target) : NULL;
  if (!status && (!t || t->tiles)) each.peak = cpu_best_vector_target(&p.spec);
  if (!status) status = *ctx ? 0 : cmd_api_error(strobe_context_create(&workers, ctx), err);
  return status ? status : bench_case_open(*ctx, r->bar->problem, &each, &r->timed, err);
}

static int measure(struct session *s, struct error *err) {
  struct progress progress = cmd_progress_begin();
  int status = 0;
  for (int i = 0; i < s->n && !status; i++) {
    cmd_progress(&progress, "kernel %d of %d: %s", i + 1, s->n, s->rows[i].bar->problem);
    status = open_row(s, &s->rows[i], err);
  }
  const long long runs = (long long)s->o->each.runs;
  for (long long run = 0; run < runs && !status; run++)
    for (int i = 0; i < s->n && !status; i++) {
      struct bench_case *c = &s->rows[i].timed;
      if (run % 2 && c->once > slow_s) continue;
      cmd_progress(&progress, "round %lld of %lld, row %d of %d: %s", run + 1, runs, i + 1, s->n,
                   s->rows[i].bar->problem);
      status = bench_case_burst(c, err);
    }
  cmd_progress_end(&progress);
  return status;
}

static const struct bench_case *one_thread(const struct session *s, const struct row *r) {
  for (int i = 0; i < s->n; i++)
    if (s->rows[i].bar->threads == 1 && same_problem(s->rows[i].bar, r->bar)) return &s->rows[i].timed;
  return NULL;
}

// Median over rounds of how many times as fast; the peak is of the same threads, so that what they share does not count
// twice.
static int speed_up(const struct session *s, struct row *r, struct error *err) {
  const struct bench_case *one = one_thread(s, r);
  const int n = r->timed.runs;
  double *ratio = one && one->runs == n ? malloc((size_t)n * sizeof *ratio) : NULL;
  if (!ratio) return fail(err, one ? STROBE_NO_MEMORY : STROBE_INTERNAL, "no times of one thread to compare with");
  for (int i = 0; i < n; i++) ratio[i] = one->seconds[i] / r->timed.seconds[i];
  r->measured = cmd_median(ratio, n);
  free(ratio);
  return 0;
}

// ---- reporting ----

static const char *verdict(const struct row *r) {
  return r->measured >= r->bar->aim ? "aim" : r->measured >= r->bar->resolve ? "yes" : "no";
}

static void add_row(struct table *t, const struct row *r, const struct bench_summary *m, const char *problem) {
  const char *format = is_times(r->bar) ? "%.2f" : "%.1f";
  const enum cell_style style = r->measured >= r->bar->resolve ? CELL_GOOD : CELL_BAD;
  table_cell(t, CELL_PLAIN, "%s", problem);
  table_cell(t, CELL_PLAIN, "%s", r->timed.info.target);
  table_cell(t, CELL_PLAIN, "%d", r->bar->threads);
  table_cell(t, CELL_PLAIN, "%.4g", m->ms);
  table_cell(t, CELL_PLAIN, "%.1f", m->rate);
  table_cell(t, CELL_PLAIN, "%.1f", m->peak);
  table_cell(t, CELL_PLAIN, "%s", m->unit);
  table_cell(t, style, format, r->measured);
  table_cell(t, CELL_PLAIN, "%s", is_times(r->bar) ? "x 1 thread" : "% of peak");
  table_cell(t, CELL_PLAIN, "%g", r->bar->resolve);
  table_cell(t, CELL_PLAIN, "%g", r->bar->aim);
  table_cell(t, style, "%s", verdict(r));
  table_cell(t, CELL_FAINT, "%.1f", m->spread);
}

static void add_json(struct json *j, const struct row *r, const struct bench_summary *m, const char *problem) {
  json_object(j, NULL);
  json_string(j, "problem", problem);
  json_string(j, "target", r->timed.info.target);
  json_string(j, "config", r->timed.info.config);
  json_string(j, "backend", r->timed.info.backend);
  json_integer(j, "threads", r->bar->threads);
  json_integer(j, "runs", r->timed.runs);
  json_number(j, "ms", m->ms, 6);
  json_number(j, "rate", m->rate, 6);
  json_number(j, "peak", m->peak, 6);
  json_string(j, "unit", m->unit);
  json_number(j, "percent", m->percent, 5);
  json_number(j, "measured", r->measured, 5);
  json_string(j, "measured_as", is_times(r->bar) ? "times one thread" : "percent of peak");
  json_number(j, "resolve", r->bar->resolve, 5);
  json_number(j, "aim", r->bar->aim, 5);
  json_string(j, "reached", verdict(r));
  json_number(j, "spread", m->spread, 4);
  json_end(j);
}

static int print(const struct session *s, struct table *t, struct buf *json, struct error *err) {
  struct buf out = {0};
  if (s->o->json)
    buf_add(&out, json->data ? json->data : "", json->len);
  else if (s->o->csv)
    table_print_csv(t, &out);
  else
    table_print(t, cmd_colour(), &out), buf_add(&out, s->left_out.data ? s->left_out.data : "", s->left_out.len);
  out.failed |= json->failed || s->left_out.failed;
  return cmd_print(&out, err);
}

static int report(struct session *s, struct plot_bar *drawn, int *n_drawn, struct plot_line *peaks, struct error *err) {
  static const char *const header[] = {"problem", "target", "threads", "ms",  "rate",    "peak",  "unit",
                                       "got",     "as",     "resolve", "aim", "reached", "spread"};
  struct buf text = {0};
  struct json j = {.out = &text};
  struct table t;
  int status = 0;
  table_begin(&t, "llrrrrlrlrrlr", header);
  json_array(&j, NULL);
  for (int i = 0; i < s->n && !status; i++) // before times are sorted
    if (is_times(s->rows[i].bar)) status = speed_up(s, &s->rows[i], err);
  for (int i = 0; i < s->n && !status; i++) {
    struct row *r = &s->rows[i];
    const struct bench_summary m = bench_case_summary(&r->timed);
    struct buf problem = {0};
    problem_print(&r->timed.problem, &problem);
    if (!is_times(r->bar)) r->measured = m.percent;
    text.failed |= problem.failed;
    if (r->shown && !problem.failed) add_row(&t, r, &m, problem.data), add_json(&j, r, &m, problem.data);
    buf_free(&problem);
    if (!r->shown || r->timed.readers || r->bar->threads > 1) continue;
    drawn[(*n_drawn)++] = (struct plot_bar){&r->timed.problem, r->timed.info.target, m.unit, m.rate};
    static const char *const peak_names[] = {"f32 multiply-adds", "bf16 dot products"};
    const bool pairs = spec_pairs(&r->timed.problem.spec, r->timed.target);
    if (m.peak > peaks[pairs].value) peaks[pairs] = (struct plot_line){m.peak, peak_names[pairs]};
  }
  json_end(&j);
  if (!status) status = print(s, &t, &text, err);
  table_free(&t);
  buf_free(&text);
  return status;
}

static int draw(const struct session *s, const struct plot_bar *drawn, int n, const struct plot_line *peaks,
                struct error *err) {
  struct plot p = {.bars = drawn, .n = n, .title = "Attention, forward, one core"};
  memcpy(p.lines, peaks, sizeof p.lines);
  return plot_write(s->o->plot, &p, err);
}

int bench_cpu(const struct bench_cpu_options *o, struct error *err) {
  struct session s = {.o = o, .rows = calloc(BARS, sizeof *s.rows)};
  struct plot_bar drawn[BARS];
  struct plot_line peaks[2] = {{0, NULL}, {0, NULL}};
  int n_drawn = 0, status = s.rows ? 0 : fail(err, STROBE_NO_MEMORY, "no memory for the rows of a suite");
  if (!status) choose(&s);
  if (!status && !s.n)
    status = fail(err, STROBE_INVALID,
                  "--only \"%.60s\": no row of --suite cpu that this machine can run has it; d64, bf16, causal, q1k "
                  "and avx2 are some that do",
                  o->only ? o->only : "");
  if (!status) status = measure(&s, err);
  if (!status) status = report(&s, drawn, &n_drawn, peaks, err);
  if (!status && o->plot) status = draw(&s, drawn, n_drawn, peaks, err);
  for (int i = 0; i < s.n; i++) bench_case_close(&s.rows[i].timed);
  for (int i = 0; i < THREADS; i++) strobe_context_destroy(s.context[i]);
  free(s.rows);
  buf_free(&s.left_out);
  return status;
}
