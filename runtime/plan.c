#include "plan.h"

#include "backend.h"
#include "cpu.h"
#include "gpu.h"
#include "inputs.h"
#include "reference_step.h"
#include "status.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64 };

// ---- options ----

static int find_backend(const char *name, const struct backend **out, struct error *err) {
  for (int i = 0; i < backend_count; i++)
    if (!strcmp(backend_table[i].name, name)) {
      *out = &backend_table[i];
      return STROBE_OK;
    }
  return fail(
      err, STROBE_INVALID,
      "plan_options.backend \"%.40s\": must be \"code\", \"scalar\", \"builtin\", \"reference\", \"cuda\" or NULL (the "
      "first that works)",
      name);
}

static int check_options(const struct strobe_plan_options *o, const struct backend **only, struct error *err) {
  if (!isfinite(o->scale)) return fail(err, STROBE_INVALID, "plan_options.scale %g: must be finite", (double)o->scale);
  if (o->has_scale != 0 && o->has_scale != 1)
    return fail(err, STROBE_INVALID, "plan_options.has_scale %d: must be 0 or 1", o->has_scale);
  if (o->same_bits != 0 && o->same_bits != 1)
    return fail(err, STROBE_INVALID, "plan_options.same_bits %d: must be 0 or 1", o->same_bits);
  if (o->effort != STROBE_ESTIMATE && o->effort != STROBE_MEASURE && o->effort != STROBE_PATIENT)
    return fail(err, STROBE_INVALID,
                "plan_options.effort %d: must be STROBE_ESTIMATE, STROBE_MEASURE or STROBE_PATIENT", (int)o->effort);
  if (!(o->budget_s >= 0 && o->budget_s <= 86400))
    return fail(err, STROBE_INVALID, "plan_options.budget_s %g: must be 0 (2 s, or 30 s for STROBE_PATIENT) to 86400",
                o->budget_s);
  *only = NULL;
  int status = o->backend ? find_backend(o->backend, only, err) : STROBE_OK;
  if (status || !*only || (*only)->configurable) return status;
  if (o->config && *o->config)
    return fail(err, STROBE_INVALID,
                "plan_options.config \"%.200s\": must be NULL with backend \"%s\", whose config is fixed", o->config,
                (*only)->name);
  if (o->target)
    return fail(err, STROBE_INVALID,
                "plan_options.target \"%.40s\": must be NULL with backend \"%s\", which has its own", o->target,
                (*only)->name);
  return status;
}

static int unknown_target(const char *name, struct error *err) {
  struct buf known = {0};
  for (int i = 0; i < target_count; i++)
    if (cpu_has_target(&target_table[i])) buf_printf(&known, "%s\"%s\"", known.len ? ", " : "", target_table[i].name);
  int status = fail(err, STROBE_INVALID, "plan_options.target \"%.40s\": no such target; this CPU runs %s", name,
                    known.failed ? "\"c99\"" : known.data);
  buf_free(&known);
  return status;
}

static int choose_target(const struct spec *s, const char *name, const struct target **out, struct error *err) {
  const struct target *best = cpu_best_target(s);
  const struct target *t = name ? target_find(name) : best;
  if (name && !t) return unknown_target(name, err);
  if (!t) {
    // No CPU target supports the spec: c99 supports the most, so its reason is the one to give.
    int status = spec_supported(s, target_find("c99"), err);
    return status ? status : fail(err, STROBE_INTERNAL, "no target was found for a spec that c99 supports");
  }
  if (t->family == FAMILY_CUDA) {
    int status = gpu_has_target(t, err);
    if (status) return status;
  } else if (!cpu_has_target(t))
    return fail(err, STROBE_UNSUPPORTED,
                "plan_options.target \"%s\": this CPU cannot run it; the best it can run is \"%s\"", t->name,
                best ? best->name : "c99");
  *out = t;
  return spec_supported(s, t, err);
}

// Target and config that the JIT is asked for. What the caller chose must work as given; the heuristic must too, but if
// it does not, that is no reason to have no plan: `*excuse` then holds the reason.
static int choose_instance(struct strobe_plan *p, const struct strobe_plan_options *o, struct error *excuse,
                           struct error *err) {
  struct instance *i = &p->instance;
  i->spec = p->problem.spec;
  config_clear(&i->config);
  int status = choose_target(&i->spec, o->target, &i->target, err);
  if (!status && o->config) status = config_parse(o->config, &i->config, err);
  if (!status && !o->config) plan_take_tuned(p, o);
  if (status) return status;
  const bool chosen = o->target || (o->config && *o->config);
  status = config_resolve(&i->spec, i->target, &p->problem, &i->config, chosen ? err : excuse);
  return chosen ? status : STROBE_OK;
}

// ---- the ladder ----

static int climb(struct strobe_plan *p, const struct backend *only, const struct error *excuse, struct error *err) {
  const enum target_family family = p->instance.target ? p->instance.target->family : FAMILY_CPU;
  int status = STROBE_UNSUPPORTED;
  if (only && only->configurable && only->family != family)
    return fail(err, STROBE_INVALID, "plan_options.backend \"%s\": can't serve target \"%s\"", only->name,
                p->instance.target->name);
  for (int i = 0; i < backend_count && status; i++) {
    const struct backend *b = &backend_table[i];
    if (only ? b != only : b->family != family) continue;
    struct error why = {0};
    if (b->configurable && excuse->status) why = *excuse;
    status = why.status ? (int)why.status : b->prepare(p, b, &why);
    p->backend = b->name;
    if (!status) break;
    if (only) return fail(err, why.status, "backend \"%s\": %s", b->name, why.text);
    buf_printf(&p->why, "%s%s: %s", p->why.len ? "; " : "", b->name, why.text);
  }
  if (status && family == FAMILY_CUDA)
    return fail(err, (enum strobe_status)status, "%s", p->why.len ? p->why.data : "no memory for a plan");
  if (!status && p->compiled && p->compiled->note)
    buf_printf(&p->why, "%s%s", p->why.len ? "; " : "", p->compiled->note);
  return status;
}

// ---- memory ----

struct strobe_args plan_args(const struct strobe_plan *p) {
  return (struct strobe_args){.abi = STROBE_ABI,
                              .size = sizeof(struct strobe_args),
                              .batch = p->problem.batch,
                              .heads = p->problem.heads,
                              .heads_kv = p->problem.heads_kv,
                              .q_len = p->problem.q_len,
                              .kv_len = p->problem.kv_len,
                              .diagonal = problem_diagonal(&p->problem),
                              .diagonal_at_end = p->problem.spec.mask == MASK_CAUSAL,
                              .scale = p->scale,
                              .workers = (unsigned)p->context->parallel.n_workers};
}

static bool round_up(int64_t bytes, size_t *out) {
  *out = bytes < 0 || bytes > INT64_MAX / 2 ? 0 : ((size_t)bytes + ALIGN - 1) / ALIGN * ALIGN;
  return bytes >= 0 && bytes <= INT64_MAX / 2;
}

static int lay_out(struct strobe_plan *p, struct error *err) {
  const struct strobe_args args = plan_args(p);
  const int64_t shared = p->kernel && p->kernel->workspace_bytes ? p->kernel->workspace_bytes(&args) : 0;
  const int64_t scratch = p->gpu      ? 0
                          : p->kernel ? p->kernel->scratch_bytes
                                      : reference_step_bytes(&p->problem.spec, &args);
  size_t all;
  if (!round_up(shared, &p->shared_bytes) || !round_up(scratch, &p->scratch_bytes) ||
      __builtin_mul_overflow(p->scratch_bytes, (size_t)p->context->parallel.n_workers, &all) ||
      __builtin_add_overflow(all, p->shared_bytes, &p->workspace_bytes) || p->workspace_bytes > PTRDIFF_MAX)
    return fail(err, STROBE_UNSUPPORTED,
                "the workspace of this problem, %lld bytes and %lld for each of %d workers, is too large",
                (long long)shared, (long long)scratch, p->context->parallel.n_workers);
  return workspace_create(p->workspace_bytes, &p->workspace, err);
}

// By a cautious guess at what one thread does in a second: waking another takes 20 to 40 microseconds.
static bool is_small(const struct strobe_plan *p) {
  const double least_s = 50e-6, bytes_per_s = 20e9;
  const struct spec *s = &p->problem.spec;
  const struct target *t = p->instance.target;
  const double flops_per_s = !p->kernel ? 1e8 : !t->vregs ? 5e9 : 5e9 * t->lanes;
  const double keys = (double)p->problem.batch * (double)p->problem.heads_kv * (double)p->problem.kv_len;
  const double bytes = keys * (s->head_dim + s->head_dim_v) * dtype_table[s->kv].bytes;
  return problem_flops(&p->problem) / flops_per_s < least_s && bytes / bytes_per_s < least_s;
}

// As many threads as its largest step has work for: an execution then starts none.
static void start_threads(const struct strobe_plan *p) {
  const struct strobe_args args = plan_args(p);
  int64_t most = 0;
  if (p->gpu || !p->context->pool) return;
  for (unsigned i = 0; i < (p->kernel ? p->kernel->n_steps : 1); i++) {
    const int64_t n = p->kernel ? p->kernel->step[i].items(&args) : reference_step_items(&args);
    if (n > most) most = n;
  }
  pool_start(p->context->pool, most);
}

static int describe(struct strobe_plan *p, struct error *err) {
  if (p->instance.target) {
    instance_name(&p->instance, &p->name);
    config_print(&p->instance.config, p->instance.target, &p->config);
  } else {
    buf_str(&p->name, "reference");
    buf_str(&p->config, "");
  }
  buf_str(&p->why, "");
  buf_str(&p->tuned, "");
  if (p->name.failed || p->config.failed || p->why.failed || p->tuned.failed)
    return fail(err, STROBE_NO_MEMORY, "no memory for a plan");
  return STROBE_OK;
}

// ---- the API ----

static int set_up(struct strobe_plan *p, const char *problem, const struct strobe_plan_options *options,
                  struct error *err) {
  struct strobe_plan_options o = {0};
  const struct backend *only = NULL;
  struct error excuse = {0};
  int status = options ? sized_read(&o, sizeof o, sizeof o, options, "plan_options", err) : STROBE_OK;
  if (!status) status = check_options(&o, &only, err);
  if (!status) status = problem_parse(problem, &p->problem, err);
  if (!status) status = problem_complete(&p->problem, err);
  if (status) return status;
  p->scale = o.has_scale || o.scale != 0 ? o.scale : default_scale(&p->problem.spec);
  if (!only || only->configurable) status = choose_instance(p, &o, &excuse, err);
  if (!status) status = climb(p, only, &excuse, err);
  if (!status) status = lay_out(p, err);
  if (!status) status = describe(p, err);
  if (!status) start_threads(p);
  if (!status) p->small = is_small(p);
  return status;
}

enum strobe_status strobe_plan_create(strobe_context *ctx, const char *problem,
                                      const struct strobe_plan_options *options, strobe_plan **out) {
  struct error err = {0};
  if (out) *out = NULL;
  if (!ctx || !problem || !out) {
    fail(&err, STROBE_INVALID, "%s NULL: must be given", !ctx ? "ctx" : !problem ? "problem" : "out");
    return status_report(&err);
  }
  struct strobe_plan *p = calloc(1, sizeof *p);
  if (!p) {
    fail(&err, STROBE_NO_MEMORY, "no memory for a plan");
    return status_report(&err);
  }
  p->context = ctx;
  if (set_up(p, problem, options, &err)) {
    strobe_plan_destroy(p);
    p = NULL;
  }
  *out = p;
  return status_report(&err);
}

void strobe_plan_destroy(strobe_plan *plan) {
  if (!plan) return;
  gpu_kernel_close(plan->gpu);
  workspace_free(plan->workspace);
  buf_free(&plan->name);
  buf_free(&plan->config);
  buf_free(&plan->why);
  buf_free(&plan->tuned);
  free(plan);
}

size_t strobe_workspace_bytes(const strobe_plan *plan) { return plan ? plan->workspace_bytes : 0; }

enum strobe_status strobe_plan_describe(const strobe_plan *plan, struct strobe_plan_info *info) {
  struct error err = {0};
  if (!plan || !info) {
    fail(&err, STROBE_INVALID, "%s NULL: must be given", !plan ? "plan" : "info");
    return status_report(&err);
  }
  const struct compiled_kernel *c = plan->compiled, none = {0}, *timed = plan->fresh ? c : &none;
  struct compiled_kernel gpu = {0};
  if (plan->gpu) {
    const struct gpu_kernel_info g = gpu_kernel_info(plan->gpu);
    gpu = (struct compiled_kernel){.render_ms = g.render_ms, .compile_ms = g.compile_ms, .load_ms = g.load_ms};
    timed = &gpu;
  }
  const struct strobe_plan_info all = {.size = sizeof all,
                                       .instance = plan->name.data,
                                       .target = plan->instance.target ? plan->instance.target->name : "c99",
                                       .config = plan->config.data,
                                       .backend = plan->backend,
                                       .why = plan->why.data,
                                       .tuned = plan->tuned.data,
                                       .source = plan->gpu ? gpu_kernel_info(plan->gpu).source
                                                 : c       ? c->source
                                                           : "",
                                       .render_ms = timed->render_ms,
                                       .encode_ms = timed->encode_ms,
                                       .compile_ms = timed->compile_ms,
                                       .load_ms = timed->load_ms};
  sized_write(info, sizeof all, sizeof all, &all, "plan_info", &err);
  return status_report(&err);
}
