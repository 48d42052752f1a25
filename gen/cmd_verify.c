#include "cmd_verify.h"
#include "scan.h"

#include "../runtime/cpu.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROW(kind_, field, ...) OPTION(kind_, struct verify_options, field, __VA_ARGS__)
static const struct option_row rows[] = {
    ROW(OPT_CHOICE, suite, .name = "suite", .value = "quick|full",
        .about = "the problems listed below, instead of PROBLEM"),
    ROW(OPT_TEXT, target, .name = "target", .letter = 't', .value = "T",
        .about = "only this one (default: all that this CPU can run)"),
    ROW(OPT_CHOICE, backend, .name = "backend", .value = cmd_backends,
        .about = "only this one (default: code, scalar, builtin)"),
    ROW(OPT_TEXT, kind, .name = "kind", .value = "KIND",
        .about = "of inputs: all (default of --suite full), quick (7 of them, the default), or one by name"),
    ROW(OPT_CHOICE, layout, .name = "layout", .value = "bnhd|bhnd", .about = "only this one (default: both)"),
    ROW(OPT_TEXT, kv_lens, .name = "kv-lens", .value = "LENGTHS", .about = cmd_kv_lens_about),
    ROW(OPT_TEXT, set, .name = "set", .value = "CONFIG", .about = "fields of the config, as in block_n=128,stages=2"),
    ROW(OPT_INT, seed, .name = "seed", .value = "N", .about = "of the random inputs (default: 1)", .least = 0,
        .most = INT64_MAX),
    ROW(OPT_FLAG, json, .name = "json", .about = "print an array of results as JSON"),
};

static void defaults(void *options) { ((struct verify_options *)options)->seed = 1; }

static const char *const quick[] = {"normal", "ramp-up", "spikes", "one-hot", "outliers", "nan", "inf"};
enum { N_QUICK = sizeof quick / sizeof *quick };
static const int64_t pads[] = {0, 3}; // elements after each row, in turn: without any, heads lie side by side

// A backend that runs plain loops would need minutes for what the others do in seconds: above this many floating-point
// operations it gets the first kind only, unless kinds or backends were asked for.
static const double slow_flops = 2e9, slow_flops_of_suite = 2e7;

// ---- one case ----

static int run_case(struct session *s, const struct verify_case *c, const struct combination *on,
                    const strobe_plan *plan, const struct strobe_plan_info *info, const struct instance *kernel,
                    struct error *err) {
  struct tensors t;
  struct verify_result r;
  cmd_progress(&s->progress, "%d done, %d failed: d%d %s, %s, %s", s->done, s->failed, c->problem.spec.head_dim,
               on->backend, c->kind->name, layout_names[c->layout]);
  int status = verify_create(c, NULL, &t, err);
  if (status) return status;
  const struct strobe_io io = cmd_io(&t.args, NULL);
  status = cmd_api_error(strobe_execute(plan, &io), err);
  if (!status) status = verify_tensors(c, kernel, &t, VERIFY_AUTO_ROWS, &r, err);
  if (!status) verify_report(s, c, on, info, &r);
  tensors_free(&t);
  return status;
}

// ---- the grid ----

static bool wants_kind(const struct session *s, const struct input_kind *k) {
  const char *asked = s->opt->kind;
  if (!asked && s->opt->suite == SUITE_FULL) return true;
  if (asked && strcmp(asked, "quick")) return !strcmp(asked, "all") || !strcmp(asked, k->name);
  for (int i = 0; i < N_QUICK; i++)
    if (!strcmp(quick[i], k->name)) return true;
  return false;
}

static int run_kinds(struct session *s, const struct problem *p, const struct combination *on, const strobe_plan *plan,
                     const struct strobe_plan_info *info, struct error *err) {
  struct instance kernel;
  int status = cmd_plan_instance(p, info, &kernel, err);
  const bool cut = strcmp(on->backend, "code") &&
                   problem_flops(p) > (s->opt->suite ? slow_flops_of_suite : slow_flops) && !s->opt->kind &&
                   !s->opt->backend;
  int kinds = 0;
  verify_group_begin(s);
  for (int k = 0; k < input_kind_count && !status; k++) {
    if (!wants_kind(s, &input_kinds[k])) continue;
    if (cut && kinds++) {
      s->skipped++;
      continue;
    }
    for (int layout = 0; layout < LAYOUT_COUNT && !status; layout++) {
      if (s->opt->layout && s->opt->layout - 1 != layout) continue;
      const struct verify_case c = {.problem = *p,
                                    .kind = &input_kinds[k],
                                    .seed = (uint64_t)s->opt->seed,
                                    .layout = (enum layout)layout,
                                    .pad = pads[(k + layout) % 2],
                                    .scale = default_scale(&p->spec),
                                    .whole_blocks = on->target && on->target->family == FAMILY_CUDA,
                                    .kv_lens = s->kv_lens};
      status = run_case(s, &c, on, plan, info, &kernel, err);
    }
  }
  if (!status) verify_group_end(s, p, info);
  return status;
}

// A backend that is not there (no JIT in this build, no compiled-in kernel for the spec) is a note, unless it was asked
// for.
static int run_combination(struct session *s, const struct problem *p, const struct combination *on,
                           struct error *err) {
  const struct cmd_plan request = {.problem = p,
                                   .target = on->target ? on->target->name : NULL,
                                   .config = on->target ? s->opt->set : NULL,
                                   .backend = on->backend};
  strobe_plan *plan = NULL;
  struct strobe_plan_info info;
  struct error why = {0};
  int status = cmd_plan(s->ctx, &request, &plan, &info, &why);
  if (!status) {
    status = run_kinds(s, p, on, plan, &info, err);
  } else if (status == STROBE_UNSUPPORTED && !s->opt->backend) {
    if (on->target)
      buf_printf(&s->notes, "not run: %s on %s: %s\n", on->backend, on->target->name, why.text);
    else
      buf_printf(&s->notes, "not run: %s\n", why.text);
    status = 0;
  } else {
    fail(err, why.status, "%s", why.text);
  }
  strobe_plan_destroy(plan);
  return status;
}

static bool wants_backend(const struct session *s, const char *name) {
  const char *asked = cmd_backend_name(s->opt->backend);
  return asked ? !strcmp(asked, name) : strcmp(name, "reference") != 0;
}

static int run_problem(struct session *s, const struct problem *p, const struct target *only, struct error *err) {
  static const char *const compiled[] = {"code", "scalar"}, *const own[] = {"builtin", "reference"};
  int status = only ? spec_supported(&p->spec, only, err) : 0;
  for (int t = 0; t < target_count && !status; t++) {
    const struct target *target = &target_table[t];
    if (only ? target != only : !cpu_has_target(target) || spec_supported(&p->spec, target, NULL)) continue;
    if (target->family == FAMILY_CUDA) {
      if (s->kv_lens && !only) continue; // its kernels have no lengths
      if (wants_backend(s, "cuda")) status = run_combination(s, p, &(struct combination){target, "cuda"}, err);
      continue;
    }
    for (int b = 0; b < 2 && !status; b++) {
      const bool has_code = target->vregs > 0; // c99 has no instructions to encode
      if (!wants_backend(s, compiled[b]) || (!b && !has_code && !(only && s->opt->backend))) continue;
      status = run_combination(s, p, &(struct combination){target, compiled[b]}, err);
    }
  }
  for (int b = 0; b < 2 && !status && !only; b++)
    if (wants_backend(s, own[b])) status = run_combination(s, p, &(struct combination){NULL, own[b]}, err);
  return status;
}

// ---- the verb ----

static int check_kind(const char *name, struct error *err) {
  if (!name || !strcmp(name, "quick") || !strcmp(name, "all") || input_kind_find(name)) return 0;
  const char *names[64] = {"quick", "all"};
  int n = 2;
  struct buf list = {0};
  for (int i = 0; i < input_kind_count && n < 64; i++) {
    names[n++] = input_kinds[i].name;
    buf_printf(&list, ", %s", input_kinds[i].name);
  }
  const int status =
      fail(err, STROBE_INVALID, "--kind \"%s\": must be one of quick, all%s; the nearest is %s",
           quote(slice_of(name)).text, list.failed ? "" : list.data, nearest_name(slice_of(name), names, n));
  buf_free(&list);
  return status;
}

// Every problem that is to be run, in order; NULL after the last.
static const char *problem_at(const struct session *s, const struct command *c, int i) {
  if (!s->opt->suite) return i < c->n_operands ? c->operands[i] : NULL;
  for (int r = 0; r < suite_count; r++)
    if ((int)suite_rows[r].from <= s->opt->suite && !i--) return suite_rows[r].problem;
  return NULL;
}

static int complete(const char *text, struct problem *p, struct error *err) {
  const int status = problem_parse(text, p, err);
  return status ? status : problem_complete(p, err);
}

// Compiled-in kernels and the reference come as they are.
static int check_backend(const struct verify_options *o, struct error *err) {
  const char *name = cmd_backend_name(o->backend);
  const bool own = name && (!strcmp(name, "builtin") || !strcmp(name, "reference"));
  if (own && (o->target || o->set))
    return fail(err, STROBE_INVALID, "--%s \"%s\" with --backend %s: it has its own; leave it out",
                o->target ? "target" : "set", quote(slice_of(o->target ? o->target : o->set)).text, name);
  return 0;
}

// All of them before the first is run. What a suite asks of this machine in vain is a note.
static int check_problems(struct session *s, const struct command *c, const struct target **only, struct error *err) {
  struct problem p;
  const char *text;
  int status = check_kind(s->opt->kind, err);
  if (!status) status = check_backend(s->opt, err);
  if (!status && s->opt->suite && c->n_operands)
    status = fail(err, STROBE_INVALID, "verify: PROBLEM \"%s\" and --suite: only one of them is allowed",
                  quote(slice_of(c->operands[0])).text);
  if (!status && s->opt->suite && s->opt->kv_lens)
    status = fail(err, STROBE_INVALID, "--kv-lens and --suite: only one of them is allowed; name a PROBLEM");
  if (!status && !s->opt->suite && !c->n_operands)
    status =
        fail(err, STROBE_INVALID,
             "verify: PROBLEM... is missing; usage: strobe verify PROBLEM... [OPTION]..., or strobe verify --suite "
             "quick");
  if (!status && s->opt->suite && s->opt->target) status = cmd_target_here(s->opt->target, NULL, only, err);
  for (int i = 0; !status && (text = problem_at(s, c, i)); i++) {
    status = complete(text, &p, err);
    int64_t *lens = NULL;
    if (!status) status = cmd_kv_lens(s->opt->kv_lens, &p, &lens, err);
    free(lens);
    if (!status && !s->opt->suite) status = cmd_target_here(s->opt->target, &p.spec, only, err);
  }
  if (!s->opt->target) *only = NULL;
  return status;
}

static int run_problems(struct session *s, const struct command *c, const struct target *only, struct error *err) {
  struct problem p;
  const char *text;
  int status = 0;
  for (int i = 0; !status && (text = problem_at(s, c, i)); i++) {
    struct error why = {0};
    const int before = s->done;
    status = complete(text, &p, err);
    if (status) return status;
    status = cmd_kv_lens(s->opt->kv_lens, &p, &s->kv_lens, &why);
    if (!status) status = run_problem(s, &p, only, &why);
    free(s->kv_lens);
    s->kv_lens = NULL;
    if (status == STROBE_UNSUPPORTED && s->opt->suite && s->done == before)
      buf_printf(&s->notes, "not run: %s: %s\n", text, why.text), status = 0;
    else if (status)
      fail(err, why.status, "%s", why.text);
    else if (s->opt->suite && s->done == before)
      buf_printf(&s->notes, "not run: %s: no target of this machine can serve it\n", text);
  }
  return status;
}

static int nothing_was_run(const struct session *s, struct error *err) {
  if (s->notes.len) return fail(err, STROBE_UNSUPPORTED, "nothing was run: %s", s->notes.data);
  const char *backend = cmd_backend_name(s->opt->backend);
  return fail(err, STROBE_UNSUPPORTED, "--backend %s: %s%s can't use it; leave one of them out", backend ? backend : "",
              s->opt->target ? "--target " : "a target of this machine", s->opt->target ? s->opt->target : "");
}

static int run(const struct command *c, struct error *err) {
  struct session s = {.opt = c->options, .progress = cmd_progress_begin()};
  const struct target *only = NULL;
  int status = check_problems(&s, c, &only, err);
  if (!status) status = cmd_api_error(strobe_context_create(NULL, &s.ctx), err);
  verify_begin(&s);
  if (!status) status = run_problems(&s, c, only, err);
  cmd_progress_end(&s.progress);
  if (!status && !s.done) status = nothing_was_run(&s, err);
  if (!status) status = verify_session_print(&s, err);
  strobe_context_destroy(s.ctx);
  table_free(&s.table);
  buf_free(&s.json_text);
  buf_free(&s.failures);
  buf_free(&s.notes);
  return status ? 2 : s.failed ? 1 : 0;
}

const struct verb verb_verify = {
    .name = "verify",
    .operands = "[PROBLEM]...",
    .about = "compare every kernel this CPU can run with a double-precision oracle",
    .details = "Inputs are random and adversarial, in both layouts, every other time with NaN between the rows. "
               "err is the largest error in units of\n"
               "its bound, which is derived, not fitted. Sizes that a PROBLEM leaves out: batch 1, 1 head, q_len 1024, "
               "kv_len = q_len.",
    .example = "  $ strobe verify d64:f32:causal:b2h4/2q100k100\n"
               "  problem                        target  backend  kind    layout       err     bound  ratio  result\n"
               "  d64:f32:causal:b2h4/2q100k100  avx512  code     normal  bnhd    4.21e-07  5.10e-06  0.083  PASS\n"
               "  ...\n"
               "  42 passed, 0 failed, largest error / bound 0.412",
    .rows = rows,
    .n_rows = sizeof rows / sizeof *rows,
    .options_size = sizeof(struct verify_options),
    .defaults = defaults,
    .more = suite_help,
    .most_operands = -1,
    .run = run,
};
