// `bench --target sm90a`: TFLOP/s, and per cent of a matrix product measured in the same bursts.
#include "cmd.h"
#include "table.h"

#include "../runtime/gpu_bench.h"

#include <stdlib.h>

static int open_case(const char *text, const char *set, const struct target *t, struct gpu_case *c, struct error *err) {
  struct instance i;
  int status = problem_parse(text, &c->problem, err);
  if (!status) status = problem_complete(&c->problem, err);
  if (!status) status = cmd_instance(&c->problem, t, set, &i, err);
  return status ? status : gpu_kernel_open(&i, &c->kernel, err);
}

static void add_json(struct json *j, const struct gpu_case *c, const char *problem, double tflops,
                     const struct gpu_ceiling *ceiling) {
  json_object(j, NULL);
  json_string(j, "problem", problem);
  json_string(j, "target", "sm90a");
  json_number(j, "median_ms", c->median_ms, 6);
  json_number(j, "best_ms", c->best_ms, 6);
  json_number(j, "tflops", tflops, 6);
  json_number(j, "matmul_tflops", ceiling->tflops, 6);
  json_end(j);
}

static int report(const struct gpu_case *cases, int n, const struct gpu_ceiling *ceiling, bool as_json,
                  struct error *err) {
  static const char *const header[] = {"problem", "target", "ms", "TFLOP/s", "best", "% of matmul"};
  struct buf out = {0};
  struct json j = {.out = &out};
  struct table t;
  table_begin(&t, "llrrrr", header);
  if (as_json) json_array(&j, NULL);
  for (int i = 0; i < n; i++) {
    struct buf problem = {0};
    const double flops = problem_flops(&cases[i].problem), tflops = flops / cases[i].median_ms * 1e-9;
    problem_print(&cases[i].problem, &problem);
    out.failed |= problem.failed;
    if (!problem.failed && as_json) add_json(&j, &cases[i], problem.data, tflops, ceiling);
    table_cell(&t, CELL_PLAIN, "%s", problem.failed ? "" : problem.data);
    table_cell(&t, CELL_PLAIN, "sm90a");
    table_cell(&t, CELL_PLAIN, "%.4f", cases[i].median_ms);
    table_cell(&t, CELL_PLAIN, "%.0f", tflops);
    table_cell(&t, CELL_PLAIN, "%.0f", flops / cases[i].best_ms * 1e-9);
    table_cell(&t, CELL_PLAIN, ceiling->tflops > 0 ? "%.0f" : "-",
               ceiling->tflops > 0 ? 100 * tflops / ceiling->tflops : 0.0);
    buf_free(&problem);
  }
  if (as_json) json_end(&j);
  struct buf text = {0};
  table_print(&t, cmd_colour(), &text);
  if (!as_json) {
    buf_add(&out, text.data ? text.data : "", text.len);
    if (ceiling->tflops > 0)
      buf_printf(&out, "\nmatmul: bf16 8192 x 8192 x 8192 by cuBLAS, %.0f TFLOP/s in the same bursts\n",
                 ceiling->tflops);
    else
      buf_str(&out, "\nno ceiling was measured: libcublas was not found on the loader's path or in /usr/local/cuda\n");
    out.failed |= text.failed;
  }
  table_free(&t);
  buf_free(&text);
  return cmd_print(&out, err);
}

int bench_gpu(char *const *problems, int n, const struct target *t, const char *set, int rounds, bool as_json,
              struct error *err) {
  struct gpu_case *cases = calloc((size_t)n + 1, sizeof *cases);
  struct gpu_ceiling ceiling = {0};
  int status = cases ? gpu_has_target(t, err) : fail(err, STROBE_NO_MEMORY, "no memory for %d problems", n);
  for (int i = 0; i < n && !status; i++) status = open_case(problems[i], set, t, &cases[i], err);
  if (!status) status = gpu_bench(cases, n, rounds, &ceiling, err);
  if (!status) status = report(cases, n, &ceiling, as_json, err);
  for (int i = 0; i < n && cases; i++) gpu_kernel_close(cases[i].kernel);
  free(cases);
  return status;
}
