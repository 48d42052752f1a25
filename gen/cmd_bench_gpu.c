// `bench --target sm90a`: TFLOP/s, and per cent of a matrix product measured in the same bursts.
#include "cmd.h"
#include "plot.h"
#include "table.h"

#include "../runtime/gpu_bench.h"

#include <stdlib.h>

struct gpu_session {
  const struct bench_gpu_options *o;
  struct gpu_case *cases;
  struct gpu_ceiling ceiling;
  struct progress progress;
  int n;
};

static int open_case(const char *text, const struct bench_gpu_options *o, struct gpu_case *c, struct error *err) {
  int status = problem_parse(text, &c->problem, err);
  if (!status) status = problem_complete(&c->problem, err);
  if (!status && problem_flops(&c->problem) <= 0)
    status = fail(err, STROBE_INVALID,
                  "\"%.100s\": no query sees a key, so there is nothing to time; sizes must be 1 or more", text);
  if (!status) status = cmd_instance(&c->problem, o->target, o->set, &c->instance, err);
  return status ? status : gpu_kernel_open(&c->instance, &c->kernel, err);
}

static double tflops(const struct gpu_case *c, double ms) { return problem_flops(&c->problem) / ms * 1e-9; }

static void add_json(struct json *j, const struct gpu_session *s, const struct gpu_case *c, const char *problem) {
  struct buf name = {0}, config = {0};
  instance_name(&c->instance, &name);
  config_print(&c->instance.config, c->instance.target, &config);
  json_object(j, NULL);
  json_string(j, "problem", problem);
  json_string(j, "instance", name.failed ? "" : name.data);
  json_string(j, "target", c->instance.target->name);
  json_string(j, "config", config.failed ? "" : config.data);
  json_integer(j, "runs", s->o->rounds);
  json_number(j, "median_ms", c->median_ms, 6);
  json_number(j, "p10_ms", c->p10_ms, 6);
  json_number(j, "p90_ms", c->p90_ms, 6);
  json_number(j, "best_ms", c->best_ms, 6);
  json_number(j, "tflops", tflops(c, c->median_ms), 6);
  json_number(j, "matmul_tflops", s->ceiling.tflops, 6);
  json_end(j);
  j->out->failed |= name.failed || config.failed;
  buf_free(&name);
  buf_free(&config);
}

static void add_row(struct table *t, const struct gpu_session *s, const struct gpu_case *c, const char *problem) {
  const double rate = tflops(c, c->median_ms);
  table_cell(t, CELL_PLAIN, "%s", problem);
  table_cell(t, CELL_PLAIN, "%s", c->instance.target->name);
  table_cell(t, CELL_PLAIN, "%.4f", c->median_ms);
  table_cell(t, CELL_FAINT, "%.4f", c->p10_ms);
  table_cell(t, CELL_FAINT, "%.4f", c->p90_ms);
  table_cell(t, CELL_GOOD, "%.0f", rate);
  table_cell(t, CELL_PLAIN, s->ceiling.tflops > 0 ? "%.0f" : "-",
             s->ceiling.tflops > 0 ? 100 * rate / s->ceiling.tflops : 0.0);
}

static void add_ceiling(const struct gpu_session *s, struct buf *out) {
  if (s->ceiling.tflops > 0)
    buf_printf(out, "\nmatmul: bf16 8192 x 8192 x 8192 by cuBLAS, %.0f TFLOP/s in the same bursts\n",
               s->ceiling.tflops);
  else
    buf_str(out, "\nno ceiling was measured: libcublas was not found on the loader's path or in /usr/local/cuda\n");
}

static int report(const struct gpu_session *s, struct error *err) {
  static const char *const header[] = {"problem", "target", "ms", "p10 ms", "p90 ms", "TFLOP/s", "% of matmul"};
  struct buf out = {0};
  struct json j = {.out = &out};
  struct table t;
  table_begin(&t, "llrrrrr", header);
  if (s->o->json) json_array(&j, NULL);
  for (int i = 0; i < s->n; i++) {
    struct buf problem = {0};
    problem_print(&s->cases[i].problem, &problem);
    out.failed |= problem.failed;
    if (!problem.failed && s->o->json) add_json(&j, s, &s->cases[i], problem.data);
    if (!problem.failed) add_row(&t, s, &s->cases[i], problem.data);
    buf_free(&problem);
  }
  if (s->o->json)
    json_end(&j);
  else if (s->o->csv)
    table_print_csv(&t, &out);
  else
    table_print(&t, cmd_colour(), &out), add_ceiling(s, &out);
  table_free(&t);
  return cmd_print(&out, err);
}

static int draw(const struct gpu_session *s, struct error *err) {
  struct plot_bar *bars = calloc((size_t)s->n + 1, sizeof *bars);
  if (!bars) return fail(err, STROBE_NO_MEMORY, "no memory for a plot");
  for (int i = 0; i < s->n; i++) {
    const struct gpu_case *c = &s->cases[i];
    bars[i] = (struct plot_bar){&c->problem, c->instance.target->name, "TFLOP/s", tflops(c, c->median_ms)};
  }
  const struct plot p = {
      bars, s->n, "Attention, forward", {{s->ceiling.tflops, "matrix product of cuBLAS, bf16 8192 cubed"}}};
  const int status = plot_write(s->o->plot, &p, err);
  free(bars);
  return status;
}

static void tell(void *context, int round, int of, int case_number) {
  struct gpu_session *s = context;
  cmd_progress(&s->progress, "round %d of %d, problem %d of %d", round, of, case_number + 1, s->n);
}

int bench_gpu(char *const *problems, int n, const struct bench_gpu_options *o, struct error *err) {
  struct gpu_session s = {.o = o, .n = n, .progress = cmd_progress_begin()};
  s.cases = calloc((size_t)n + 1, sizeof *s.cases);
  int status = s.cases ? gpu_has_target(o->target, err) : fail(err, STROBE_NO_MEMORY, "no memory for %d problems", n);
  for (int i = 0; i < n && !status; i++) {
    cmd_progress(&s.progress, "kernel %d of %d: %s", i + 1, n, problems[i]);
    status = open_case(problems[i], o, &s.cases[i], err);
  }
  const struct gpu_listener listener = {tell, &s};
  if (!status) status = gpu_bench(s.cases, n, o->rounds, &listener, &s.ceiling, err);
  cmd_progress_end(&s.progress);
  if (!status && o->plot) status = draw(&s, err);
  if (!status) status = report(&s, err);
  for (int i = 0; i < n && s.cases; i++) gpu_kernel_close(s.cases[i].kernel);
  free(s.cases);
  return status;
}
