#include "cmd.h"
#include "scan.h"

#include "../runtime/cpu.h"
#include "../runtime/probe.h"
#include "../runtime/verify.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct verify_options {
  const char *target, *set, *kind;
  int backend, layout;
  int64_t seed;
  bool json;
};

#define ROW(kind_, field, ...) OPTION(kind_, struct verify_options, field, __VA_ARGS__)
static const struct option_row rows[] = {
    ROW(OPT_TEXT, target, .name = "target", .letter = 't', .value = "T",
        .about = "only this one (default: all that this CPU can run)"),
    ROW(OPT_CHOICE, backend, .name = "backend", .value = cmd_backends,
        .about = "only this one (default: code, scalar, builtin)"),
    ROW(OPT_TEXT, kind, .name = "kind", .value = "KIND",
        .about = "of inputs: all, quick (7 of them, the default), or one by name, such as normal"),
    ROW(OPT_CHOICE, layout, .name = "layout", .value = "bnhd|bhnd", .about = "only this one (default: both)"),
    ROW(OPT_TEXT, set, .name = "set", .value = "CONFIG", .about = "fields of the config, as in block_n=128,stages=2"),
    ROW(OPT_INT, seed, .name = "seed", .value = "N", .about = "of the random inputs (default: 1)", .least = 0,
        .most = INT64_MAX),
    ROW(OPT_FLAG, json, .name = "json", .about = "print an array of results as JSON"),
};

static void defaults(void *options) { ((struct verify_options *)options)->seed = 1; }

static const char *const quick[] = {"normal", "ramp-up", "spikes", "one-hot", "outliers", "nan", "inf"};
enum { N_QUICK = sizeof quick / sizeof *quick, PAD = 3 };

// A backend that runs plain loops would need minutes for what the others do in seconds: above this many floating-point
// operations it gets the first kind only, unless kinds or backends were asked for.
static const double slow_flops = 2e9;

// What one case is run on; target NULL: the backend has its own.
struct combination {
  const struct target *target;
  const char *backend;
};

struct session {
  const struct verify_options *opt;
  strobe_context *ctx;
  struct table table;
  struct buf json_text, failures, notes;
  struct json json;
  int done, failed, skipped;
  double started, worst_ratio;
  bool progress;
};

// ---- one case ----

static void reproducer(const struct session *s, const struct verify_case *c, const struct combination *on,
                       struct buf *out) {
  buf_str(out, "strobe verify ");
  problem_print(&c->problem, out);
  if (on->target) buf_printf(out, " --target %s", on->target->name);
  buf_printf(out, " --backend %s --kind %s --layout %s --seed %" PRIu64, on->backend, c->kind->name,
             layout_names[c->layout], c->seed);
  if (s->opt->set && on->target) buf_printf(out, " --set %s", s->opt->set);
}

static const struct verify_worst *nearer(const struct verify_result *r) {
  return r->lse_wanted && r->lse.batch >= 0 && r->lse.ratio > r->o.ratio ? &r->lse : &r->o;
}

static void report_json(struct session *s, const struct verify_case *c, const struct strobe_plan_info *info,
                        const struct verify_result *r, const char *problem, const char *why, const char *again) {
  struct json *j = &s->json;
  json_object(j, NULL);
  json_string(j, "problem", problem);
  json_string(j, "target", info->target);
  json_string(j, "config", info->config);
  json_string(j, "backend", info->backend);
  json_string(j, "kind", c->kind->name);
  json_string(j, "layout", layout_names[c->layout]);
  json_integer(j, "seed", (int64_t)c->seed);
  json_number(j, "err", r->o.err, 6);
  json_number(j, "bound", r->o.bound, 6);
  json_number(j, "ratio", nearer(r)->ratio, 6);
  json_number(j, "max_err", r->o.largest_err, 6);
  json_number(j, "lse_err", r->lse.err, 6);
  json_number(j, "lse_bound", r->lse.bound, 6);
  json_integer(j, "rows", r->rows);
  json_bool(j, "ok", r->ok);
  json_string(j, "why", why);
  json_string(j, "reproduce", again);
  json_end(j);
}

static void report_row(struct session *s, const struct verify_case *c, const struct strobe_plan_info *info,
                       const struct verify_result *r, const char *problem) {
  struct table *t = &s->table;
  const struct verify_worst *w = nearer(r);
  const bool compared = w->batch >= 0;
  table_cell(t, CELL_PLAIN, "%s", problem);
  table_cell(t, CELL_PLAIN, "%s", info->target);
  table_cell(t, CELL_PLAIN, "%s", info->backend);
  table_cell(t, CELL_PLAIN, "%s", c->kind->name);
  table_cell(t, CELL_PLAIN, "%s", layout_names[c->layout]);
  table_cell(t, CELL_PLAIN, compared ? "%.2e" : "-", w->err);
  table_cell(t, CELL_PLAIN, compared ? "%.2e" : "-", w->bound);
  table_cell(t, CELL_PLAIN, compared ? "%.3f" : "-", w->ratio);
  table_cell(t, r->ok ? CELL_GOOD : CELL_BAD, r->ok ? "PASS" : "FAIL");
}

static void report(struct session *s, const struct verify_case *c, const struct combination *on,
                   const struct strobe_plan_info *info, const struct verify_result *r) {
  struct buf problem = {0}, why = {0}, again = {0};
  problem_print(&c->problem, &problem);
  reproducer(s, c, on, &again);
  buf_str(&why, "");
  verify_print(r, &why);
  if (problem.failed || why.failed || again.failed) {
    s->failures.failed = true;
  } else {
    report_row(s, c, info, r, problem.data);
    report_json(s, c, info, r, problem.data, why.data, again.data);
    if (!r->ok) buf_printf(&s->failures, "FAIL %s\n  %s\n", why.data, again.data);
  }
  s->done++;
  s->failed += !r->ok;
  const double ratio = nearer(r)->ratio;
  if (nearer(r)->batch >= 0 && ratio > s->worst_ratio) s->worst_ratio = ratio;
  buf_free(&problem);
  buf_free(&why);
  buf_free(&again);
}

static void show_progress(struct session *s, const struct verify_case *c, const char *backend) {
  if (!s->progress || probe_clock() - s->started < 1) return;
  fprintf(stderr, "\r\033[K%d done, %d failed: %s, %s, %s", s->done, s->failed, backend, c->kind->name,
          layout_names[c->layout]);
}

static int run_case(struct session *s, const struct verify_case *c, const struct combination *on,
                    const strobe_plan *plan, const struct strobe_plan_info *info, const struct config *config,
                    struct error *err) {
  struct tensors t;
  struct verify_result r;
  show_progress(s, c, on->backend);
  int status = verify_create(c, NULL, &t, err);
  if (status) return status;
  const struct strobe_io io = cmd_io(&t.args, NULL);
  status = cmd_api_error(strobe_execute(plan, &io), err);
  if (!status) status = verify_tensors(c, config, &t, VERIFY_AUTO_ROWS, &r, err);
  if (!status) report(s, c, on, info, &r);
  tensors_free(&t);
  return status;
}

// ---- the grid ----

static bool wants_kind(const struct session *s, const struct input_kind *k) {
  const char *asked = s->opt->kind;
  if (asked && strcmp(asked, "quick")) return !strcmp(asked, "all") || !strcmp(asked, k->name);
  for (int i = 0; i < N_QUICK; i++)
    if (!strcmp(quick[i], k->name)) return true;
  return false;
}

static int run_kinds(struct session *s, const struct problem *p, const struct combination *on, const strobe_plan *plan,
                     const struct strobe_plan_info *info, struct error *err) {
  struct config config;
  config_clear(&config);
  int status = *info->config ? config_parse(info->config, &config, err) : 0;
  const bool cut = strcmp(on->backend, "code") && problem_flops(p) > slow_flops && !s->opt->kind && !s->opt->backend;
  int kinds = 0;
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
                                    .pad = PAD,
                                    .scale = default_scale(&p->spec)};
      status = run_case(s, &c, on, plan, info, &config, err);
    }
  }
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

static int print_session(struct session *s, struct error *err) {
  struct buf out = {0};
  if (s->progress) fprintf(stderr, "\r\033[K");
  json_end(&s->json);
  if (s->opt->json) {
    if (s->notes.len) fputs(s->notes.data, stderr);
    buf_add(&out, s->json_text.data, s->json_text.len);
    out.failed |= s->json_text.failed;
    return cmd_print(&out, err);
  }
  table_print(&s->table, cmd_colour(), &out);
  buf_add(&out, s->notes.data ? s->notes.data : "", s->notes.len);
  if (s->skipped)
    buf_printf(
        &out,
        "not run: %d kinds of inputs on slow backends, as the problem is large; --kind quick or --kind all runs them\n",
        s->skipped);
  buf_add(&out, s->failures.data ? s->failures.data : "", s->failures.len);
  buf_printf(&out, "%d passed, %d failed, largest error / bound %.3f\n", s->done - s->failed, s->failed,
             s->worst_ratio);
  out.failed |= s->failures.failed || s->notes.failed;
  return cmd_print(&out, err);
}

static int run(const struct command *c, struct error *err) {
  static const char *const header[] = {"problem", "target", "backend", "kind",  "layout",
                                       "err",     "bound",  "ratio",   "result"};
  struct session s = {.opt = c->options, .started = probe_clock(), .progress = isatty(STDERR_FILENO)};
  const struct target *only = NULL;
  struct problem p;
  int status = check_kind(s.opt->kind, err);
  for (int i = 0; i < c->n_operands && !status; i++) { // all of them before the first is run
    status = problem_parse(c->operands[i], &p, err);
    if (!status) status = problem_complete(&p, err);
    if (!status) status = cmd_target_here(s.opt->target, &p.spec, &only, err);
  }
  if (!s.opt->target) only = NULL;
  if (!status) status = cmd_api_error(strobe_context_create(NULL, &s.ctx), err);
  table_begin(&s.table, "lllllrrrl", header);
  s.json = (struct json){.out = &s.json_text};
  json_array(&s.json, NULL);
  for (int i = 0; i < c->n_operands && !status; i++) {
    status = problem_parse(c->operands[i], &p, err);
    if (!status) status = problem_complete(&p, err);
    if (!status) status = run_problem(&s, &p, only, err);
  }
  if (!status && !s.done)
    status = fail(err, STROBE_UNSUPPORTED, "nothing was run: %s", s.notes.len ? s.notes.data : "no backend");
  if (!status) status = print_session(&s, err);
  strobe_context_destroy(s.ctx);
  table_free(&s.table);
  buf_free(&s.json_text);
  buf_free(&s.failures);
  buf_free(&s.notes);
  return status ? 2 : s.failed ? 1 : 0;
}

const struct verb verb_verify = {
    .name = "verify",
    .operands = "PROBLEM...",
    .about = "compare every kernel this CPU can run with a double-precision oracle",
    .details = "Inputs are random and adversarial, in both layouts, with NaN between the rows. err is the largest "
               "error in units of\n"
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
    .least_operands = 1,
    .most_operands = -1,
    .run = run,
};
