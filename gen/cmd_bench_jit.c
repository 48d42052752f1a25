// `strobe bench --jit`: how long a spec takes to become a function, split into its parts.
#include "cmd.h"

#include <stdlib.h>

enum { PARTS = 5 };
static const char *const part_names[PARTS] = {"render_ms", "encode_ms", "compile_ms", "load_ms", "total_ms"};

// Makes the plan `runs` times, each in a context of its own (so nothing is found in a table), and takes the medians.
static int measure(const struct problem *p, const struct bench_jit_options *o, double median[PARTS],
                   struct strobe_plan_info *info, struct buf *instance, struct error *err) {
  double *times = calloc((size_t)o->runs * PARTS, sizeof *times);
  if (!times) return fail(err, STROBE_NO_MEMORY, "no memory for %lld runs", (long long)o->runs);
  int status = 0;
  struct progress progress = cmd_progress_begin();
  for (int64_t i = 0; i < o->runs && !status; i++) {
    cmd_progress(&progress, "run %lld of %lld, d%d", (long long)i + 1, (long long)o->runs, p->spec.head_dim);
    const struct cmd_plan request = {p, o->target, o->set, o->backend, NULL};
    const struct strobe_context_options serial = {.size = sizeof serial, .n_workers = 1};
    strobe_context *ctx = NULL;
    strobe_plan *plan = NULL;
    status = cmd_api_error(strobe_context_create(&serial, &ctx), err);
    if (!status) status = cmd_plan(ctx, &request, &plan, info, err);
    if (!status) {
      const double parts[PARTS] = {info->render_ms, info->encode_ms, info->compile_ms, info->load_ms,
                                   info->render_ms + info->encode_ms + info->compile_ms + info->load_ms};
      for (int k = 0; k < PARTS; k++) times[k * o->runs + i] = parts[k];
      instance->len = 0;
      buf_str(instance, info->instance);
    }
    strobe_plan_destroy(plan);
    strobe_context_destroy(ctx);
  }
  cmd_progress_end(&progress);
  for (int k = 0; k < PARTS && !status; k++) median[k] = cmd_median(times + k * o->runs, (int)o->runs);
  free(times);
  return status;
}

int bench_jit(char *const *problems, int n, const struct bench_jit_options *o, struct error *err) {
  static const char *const header[] = {"problem",   "instance", "render ms", "encode ms",
                                       "libtcc ms", "load ms",  "total ms"};
  struct table t;
  struct buf out = {0}, instance = {0}, text = {0};
  struct json j = {.out = &out};
  int status = 0;
  table_begin(&t, "llrrrrr", header);
  json_array(&j, NULL);
  for (int i = 0; i < n && !status; i++) {
    struct problem p;
    struct strobe_plan_info info = {.size = sizeof info};
    double median[PARTS];
    if ((status = problem_parse(problems[i], &p, err)) || (status = problem_complete(&p, err))) break;
    if ((status = measure(&p, o, median, &info, &instance, err))) break;
    text.len = 0;
    problem_print(&p, &text);
    table_cell(&t, CELL_PLAIN, "%s", text.data);
    table_cell(&t, CELL_PLAIN, "%s", instance.data);
    json_object(&j, NULL);
    json_string(&j, "problem", text.data);
    json_string(&j, "instance", instance.data);
    for (int k = 0; k < PARTS; k++) {
      table_cell(&t, CELL_PLAIN, "%.2f", median[k]);
      json_number(&j, part_names[k], median[k], 4);
    }
    json_end(&j);
  }
  json_end(&j);
  if (!o->json) {
    buf_free(&out);
    table_print(&t, cmd_colour(), &out);
  }
  table_free(&t);
  buf_free(&instance);
  buf_free(&text);
  if (!status) return cmd_print(&out, err);
  buf_free(&out);
  return status;
}
