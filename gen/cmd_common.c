#include "cmd.h"

#include "../runtime/cpu.h"
#include "../runtime/gpu.h"
#include "../runtime/kernel_abi.h"
#include "../runtime/probe.h"
#include "scan.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char cmd_backends[] = "code|scalar|builtin|reference|cuda";

const char *cmd_backend_name(int choice) {
  static const char *const names[] = {NULL, "code", "scalar", "builtin", "reference", "cuda"};
  return names[choice];
}

// ---- targets and instances ----

static int unknown_target(const char *what, const char *name, bool cuda, struct error *err) {
  struct buf known = {0};
  const char *names[64];
  int n = 0;
  for (int i = 0; i < target_count && n < 64; i++) {
    if (!cuda && target_table[i].family != FAMILY_CPU) continue;
    buf_printf(&known, "%s%s", n ? ", " : "", target_table[i].name);
    names[n++] = target_table[i].name;
  }
  const int status =
      fail(err, STROBE_INVALID, "%s \"%s\": must be one of %s; the nearest is %s", what, quote(slice_of(name)).text,
           known.failed ? "c99" : known.data, nearest_name(slice_of(name), names, n));
  buf_free(&known);
  return status;
}

int cmd_target(const char *name, const struct target **out, struct error *err) {
  *out = target_find(name);
  return *out ? 0 : unknown_target("--target", name, true, err);
}

int cmd_check_cap(struct error *err) {
  const char *name = getenv("STROBE_MAX_TARGET");
  const struct target *t = name ? target_find(name) : NULL;
  return !name || (t && t->family == FAMILY_CPU) ? 0 : unknown_target("STROBE_MAX_TARGET", name, false, err);
}

int cmd_target_here(const char *name, const struct spec *s, const struct target **out, struct error *err) {
  const struct target *best = s ? cpu_best_target(s) : NULL;
  int status = 0;
  *out = best;
  if (name) status = cmd_target(name, out, err);
  if (!status && !*out) status = spec_supported(s, target_find("c99"), err);
  struct error why = {0};
  if (!status && (*out)->family == FAMILY_CUDA && gpu_has_target(*out, &why))
    status = fail(err, why.status, "--target %s: %s", (*out)->name, why.text);
  else if (!status && (*out)->family == FAMILY_CPU && !cpu_has_target(*out))
    status = fail(err, STROBE_UNSUPPORTED, "--target %s: this CPU cannot run it; the best it can run is %s",
                  (*out)->name, best ? best->name : "c99");
  return status;
}

int cmd_instance(const struct problem *p, const struct target *t, const char *set, struct instance *out,
                 struct error *err) {
  *out = (struct instance){.spec = p->spec, .target = t};
  config_clear(&out->config);
  int status = problem_check(p, err);
  if (!status) status = spec_supported(&p->spec, t, err);
  if (!status && set) status = config_parse(set, &out->config, err);
  if (!status) status = config_resolve(&p->spec, t, p, &out->config, err);
  return status;
}

// ---- plans ----

int cmd_api_error(enum strobe_status status, struct error *err) {
  return status ? fail(err, status, "%s", strobe_error()) : 0;
}

int cmd_plan(strobe_context *ctx, const struct cmd_plan *request, strobe_plan **out, struct strobe_plan_info *info,
             struct error *err) {
  struct buf problem = {0};
  problem_print(request->problem, &problem);
  if (problem.failed) return fail(err, STROBE_NO_MEMORY, "no memory for a plan");
  const struct strobe_plan_options options = {.size = sizeof options,
                                              .target = request->target,
                                              .config = request->config,
                                              .backend = request->backend,
                                              .scale = request->scale ? *request->scale : 0,
                                              .has_scale = request->scale != NULL};
  int status = cmd_api_error(strobe_plan_create(ctx, problem.data, &options, out), err);
  buf_free(&problem);
  *info = (struct strobe_plan_info){.size = sizeof *info};
  if (!status) status = cmd_api_error(strobe_plan_describe(*out, info), err);
  return status;
}

int cmd_plan_instance(const struct problem *p, const struct strobe_plan_info *info, struct instance *out,
                      struct error *err) {
  *out = (struct instance){.spec = p->spec, .target = *info->config ? target_find(info->target) : NULL};
  config_clear(&out->config);
  return *info->config ? config_parse(info->config, &out->config, err) : 0;
}

static struct strobe_array array_of(const struct strobe_tensor *t) {
  return (struct strobe_array){t->data, t->batch_stride, t->row_stride, t->head_stride};
}

struct strobe_io cmd_io(const struct strobe_args *args, void *workspace) {
  return (struct strobe_io){.size = sizeof(struct strobe_io),
                            .q = array_of(&args->q),
                            .k = array_of(&args->k),
                            .v = array_of(&args->v),
                            .o = array_of(&args->o),
                            .lse = args->lse,
                            .workspace = workspace,
                            .kv_lens = args->kv_lens,
                            .kv_lens_bytes = (int)args->kv_lens_bytes};
}

// ---- output ----

int cmd_print(struct buf *out, struct error *err) {
  int status = out->failed ? fail(err, STROBE_NO_MEMORY, "no memory for the output") : 0;
  if (!status && ((out->len && fwrite(out->data, 1, out->len, stdout) != out->len) || fflush(stdout)))
    status = fail(err, STROBE_IO, "cannot write to standard output: %s", strerror(errno));
  buf_free(out);
  return status;
}

struct progress cmd_progress_begin(void) {
  return (struct progress){.started = probe_clock(), .terminal = isatty(STDERR_FILENO)};
}

void cmd_progress(struct progress *p, const char *format, ...) {
  if (!p->terminal || probe_clock() - p->started < 1) return;
  va_list ap;
  va_start(ap, format);
  fputs("\r\033[K", stderr);
  vfprintf(stderr, format, ap);
  va_end(ap);
  p->shown = true;
}

void cmd_progress_end(struct progress *p) {
  if (p->shown) fputs("\r\033[K", stderr);
  p->shown = false;
}

bool cmd_colour(void) {
  const char *off = getenv("NO_COLOR");
  return isatty(STDOUT_FILENO) && !(off && *off);
}

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double cmd_median(double *values, int n) {
  qsort(values, (size_t)n, sizeof *values, by_value);
  return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}
