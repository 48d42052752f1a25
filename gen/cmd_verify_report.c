// What `strobe verify` prints: a table or JSON, and for every failure the command that repeats it.
#include "cmd_verify.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

void verify_begin(struct session *s) {
  static const char *const header[] = {"problem", "target", "backend", "kind",  "layout",
                                       "err",     "bound",  "ratio",   "result"};
  static const char *const suite_header[] = {"problem", "target", "backend", "cases",
                                             "err",     "bound",  "ratio",   "result"};
  if (s->opt->suite)
    table_begin(&s->table, "lllrrrrl", suite_header);
  else
    table_begin(&s->table, "lllllrrrl", header);
  s->json = (struct json){.out = &s->json_text};
  json_array(&s->json, NULL);
}

static void reproducer(const struct session *s, const struct verify_case *c, const struct combination *on,
                       struct buf *out) {
  buf_str(out, "strobe verify ");
  problem_print(&c->problem, out);
  if (on->target) buf_printf(out, " --target %s", on->target->name);
  buf_printf(out, " --backend %s --kind %s --layout %s --seed %" PRIu64, on->backend, c->kind->name,
             layout_names[c->layout], c->seed);
  if (s->opt->set && on->target) buf_printf(out, " --set %s", s->opt->set);
  if (s->opt->kv_lens) buf_printf(out, " --kv-lens %s", s->opt->kv_lens);
}

static const struct verify_worst *nearer(const struct verify_result *r) {
  return r->lse_wanted && r->lse.batch >= 0 && r->lse.ratio > r->o.ratio ? &r->lse : &r->o;
}

static void report_json(struct session *s, const struct verify_case *c, const struct strobe_plan_info *info,
                        const struct verify_result *r, const char *problem, const char *why, const char *again) {
  struct json *j = &s->json;
  const bool o = r->o.batch >= 0, lse = r->lse_wanted && r->lse.batch >= 0; // else nothing was compared by numbers
  json_object(j, NULL);
  json_string(j, "problem", problem);
  json_string(j, "target", info->target);
  json_string(j, "config", info->config);
  json_string(j, "backend", info->backend);
  json_string(j, "kind", c->kind->name);
  json_string(j, "layout", layout_names[c->layout]);
  json_integer(j, "seed", (int64_t)c->seed);
  json_number(j, "err", o ? r->o.err : NAN, 6);
  json_number(j, "bound", o ? r->o.bound : NAN, 6);
  json_number(j, "ratio", o || lse ? nearer(r)->ratio : NAN, 6);
  json_number(j, "max_err", o ? r->o.largest_err : NAN, 6);
  json_number(j, "lse_err", lse ? r->lse.err : NAN, 6);
  json_number(j, "lse_bound", lse ? r->lse.bound : NAN, 6);
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

// A suite has thousands of cases: its table has one line per problem, target and backend.
static void count_case(struct session *s, const struct verify_result *r) {
  const struct verify_worst *w = nearer(r);
  s->group.cases++;
  s->group.failed += !r->ok;
  if (w->batch >= 0 && (s->group.worst.batch < 0 || w->ratio > s->group.worst.ratio)) s->group.worst = *w;
}

void verify_group_begin(struct session *s) {
  memset(&s->group, 0, sizeof s->group);
  s->group.worst.batch = -1;
}

void verify_group_end(struct session *s, const struct problem *p, const struct strobe_plan_info *info) {
  struct table *t = &s->table;
  struct buf problem = {0};
  const struct verify_worst *w = &s->group.worst;
  if (!s->opt->suite || !s->group.cases) return;
  problem_print(p, &problem);
  s->failures.failed |= problem.failed;
  table_cell(t, CELL_PLAIN, "%s", problem.failed ? "" : problem.data);
  table_cell(t, CELL_PLAIN, "%s", info->target);
  table_cell(t, CELL_PLAIN, "%s", info->backend);
  table_cell(t, CELL_PLAIN, "%d", s->group.cases);
  table_cell(t, CELL_PLAIN, w->batch >= 0 ? "%.2e" : "-", w->err);
  table_cell(t, CELL_PLAIN, w->batch >= 0 ? "%.2e" : "-", w->bound);
  table_cell(t, CELL_PLAIN, w->batch >= 0 ? "%.3f" : "-", w->ratio);
  table_cell(t, s->group.failed ? CELL_BAD : CELL_GOOD, s->group.failed ? "FAIL" : "PASS");
  buf_free(&problem);
}

void verify_report(struct session *s, const struct verify_case *c, const struct combination *on,
                   const struct strobe_plan_info *info, const struct verify_result *r) {
  struct buf problem = {0}, why = {0}, again = {0};
  problem_print(&c->problem, &problem);
  reproducer(s, c, on, &again);
  buf_str(&why, "");
  verify_print(r, &why);
  if (problem.failed || why.failed || again.failed) {
    s->failures.failed = true;
  } else {
    if (s->opt->suite)
      count_case(s, r);
    else
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

int verify_session_print(struct session *s, struct error *err) {
  struct buf out = {0};
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
