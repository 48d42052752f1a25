// `bench --ablate`: what each idea of the FlashAttention papers buys on this machine, one after the other.
#include "cmd.h"
#include "cmd_bench_case.h"
#include "traffic.h"

#include <stdio.h>
#include <string.h>

// Rows are cumulative: each has what the row before it has, but for stages=2 where the target's default is 1.
static const struct idea {
  const char *name, *config; // config ends in exp=: the kind without a table, else the default one
  bool table, skips;         // skips: of a causal problem; diagonal=mask before
  const char *about;
} ideas[] = {
    {"standard", "algo=standard,prefetch=0,exp=", false, false, "S of all heads in memory"},
    {"fa1", "algo=fa1,prefetch=0,exp=", false, false, "online softmax; O goes to memory for every KV block"},
    {"fa2", "algo=fa2,prefetch=0,exp=", false, false, "tiles of queries outside; O is divided once"},
    {"+ pipelined stages", "algo=fa3,prefetch=0,exp=", false, false, "softmax of a block under QK of the next"},
    {"+ table exp", "prefetch=0,exp=", true, false, "exp2 from a table in registers"},
    {"+ diagonal kernel", "prefetch=0,exp=", true, true, "vectors of queries that see nothing of a key are skipped"},
    {"+ prefetch", "prefetch=8,exp=", true, true, "K and V 8 rows ahead"},
    {"+ matrix tiles", "kernel=tiles,exp=", true, true, "products by AMX, in place of vectors"},
};
enum { DIAGONAL = 5 }; // the row that a full problem has not
enum { IDEAS = sizeof ideas / sizeof *ideas, CONFIG_TEXT = 512 };

struct row {
  const struct idea *idea;
  struct bench_case timed;
  struct instance instance;
  bool is_default; // what a plan without a config has
};

struct session {
  const struct bench_ablate_options *o;
  const char *problem;
  strobe_context *ctx;
  struct row rows[IDEAS];
  int n;
  struct buf left_out;
};

// ---- rows ----

static const char *exp_of(const struct idea *i, const struct spec *s, const struct target *t) {
  const enum exp_kind normal = config_default_exp(s, t);
  if (i->table || !exp_table[normal].table) return exp_table[normal].name;
  return exp_table[normal].eps > 1e-6 ? "poly3" : "poly5"; // as accurate
}

static int check_problem(const struct session *s, struct problem *p, const struct target **t, struct error *err) {
  int status = problem_parse(s->problem, p, err);
  if (!status) status = problem_complete(p, err);
  if (!status) status = cmd_target_here(s->o->each.target, &p->spec, t, err);
  if (!status && decode_serves(&p->spec, *t, p))
    status = fail(err, STROBE_INVALID,
                  "--ablate \"%.100s\": so few rows are kernel=decode's, which has one algorithm; q_len %d is enough",
                  s->problem,
                  ((*t)->tiles && spec_pairs(&p->spec, *t) ? DECODE_TILES_Q_LEN_SERVED : DECODE_ROWS_SERVED) + 1);
  return status;
}

// False: this target can't, or the row is the one before it; one line says so.
static bool resolve(struct session *s, const struct idea *idea, const struct problem *p, const struct target *t,
                    char *text, struct instance *out) {
  struct error why = {0};
  const char *given = s->o->each.set ? s->o->each.set : "";
  if (idea == &ideas[DIAGONAL] && p->spec.mask == MASK_FULL) {
    buf_printf(&s->left_out, "left out: %s; no key is hidden from a query\n", idea->name);
    return false;
  }
  snprintf(text, CONFIG_TEXT, "%s%s%s%s%s", given, *given ? "," : "",
           idea->skips || p->spec.mask == MASK_FULL ? "" : "diagonal=mask,", idea->config, exp_of(idea, &p->spec, t));
  if (cmd_instance(p, t, text, out, &why)) {
    buf_printf(&s->left_out, "left out: %s; %s\n", idea->name, why.text);
    return false;
  }
  for (int i = 0; i < s->n; i++)
    if (!memcmp(&out->config, &s->rows[i].instance.config, sizeof out->config)) {
      buf_printf(&s->left_out, "left out: %s; on %s it is the config of row %s\n", idea->name, t->name,
                 s->rows[i].idea->name);
      return false;
    }
  return true;
}

static int open_rows(struct session *s, struct error *err) {
  struct problem p;
  const struct target *t;
  struct instance usual;
  int status = check_problem(s, &p, &t, err);
  if (!status) status = cmd_instance(&p, t, s->o->each.set, &usual, err);
  for (int i = 0; i < IDEAS && !status; i++) {
    char config[CONFIG_TEXT];
    struct row *r = &s->rows[s->n];
    struct bench_case_options each = s->o->each;
    if (!resolve(s, &ideas[i], &p, t, config, &r->instance)) continue;
    r->idea = &ideas[i];
    r->is_default = !memcmp(&usual.config, &r->instance.config, sizeof usual.config);
    each.set = config;
    s->n++;
    status = bench_case_open(s->ctx, s->problem, &each, &r->timed, err);
    const struct strobe_plan_info *info = &r->timed.info;
    if (!status && strcmp(info->backend, "code") && strcmp(info->backend, "scalar"))
      status = fail(err, STROBE_UNSUPPORTED, "--ablate needs kernels of its own, and backend \"%s\" has one config: %s",
                    info->backend, info->why);
  }
  if (!status && !s->n)
    status = fail(err, STROBE_INVALID, "--ablate: %s", s->left_out.len ? s->left_out.data : "no row");
  return status;
}

static int measure(struct session *s, struct error *err) {
  struct progress progress = cmd_progress_begin();
  int status = 0;
  for (int64_t run = 0; run < s->o->each.runs && !status; run++)
    for (int i = 0; i < s->n && !status; i++) {
      cmd_progress(&progress, "round %lld of %lld: %s", (long long)run + 1, (long long)s->o->each.runs,
                   s->rows[i].idea->name);
      status = bench_case_burst(&s->rows[i].timed, err);
    }
  cmd_progress_end(&progress);
  return status;
}

// ---- reporting ----

struct figures {
  struct bench_summary m;
  double moved, workspace, speed; // MB, MB; times as fast as the first row
};

static void add_row(struct table *t, const struct row *r, const struct figures *f) {
  table_cell(t, CELL_PLAIN, "%s%s", r->idea->name, r->is_default ? " (default)" : "");
  table_cell(t, CELL_PLAIN, "%.4g", f->m.ms);
  table_cell(t, CELL_PLAIN, "%.1f", f->m.gflops);
  table_cell(t, CELL_GOOD, "%.1f", f->m.percent);
  table_cell(t, CELL_PLAIN, "%.2f", f->speed);
  table_cell(t, CELL_PLAIN, "%.4g", f->moved);
  table_cell(t, CELL_PLAIN, "%.4g", f->workspace);
  table_cell(t, CELL_FAINT, "%.1f", f->m.spread);
  table_cell(t, CELL_FAINT, "%s", r->idea->about);
}

static void add_json(struct json *j, const struct session *s, const struct row *r, const struct figures *f) {
  struct buf problem = {0};
  problem_print(&r->timed.problem, &problem);
  json_object(j, NULL);
  json_string(j, "problem", problem.failed ? "" : problem.data);
  json_string(j, "idea", r->idea->name);
  json_string(j, "about", r->idea->about);
  json_string(j, "target", r->timed.info.target);
  json_string(j, "config", r->timed.info.config);
  json_string(j, "backend", r->timed.info.backend);
  json_bool(j, "default", r->is_default);
  json_integer(j, "threads", s->o->each.threads);
  json_integer(j, "runs", r->timed.runs);
  json_number(j, "ms", f->m.ms, 6);
  json_number(j, "gflops", f->m.gflops, 6);
  json_number(j, "peak", f->m.peak, 6);
  json_number(j, "percent", f->m.percent, 5);
  json_number(j, "times_first_row", f->speed, 5);
  json_number(j, "modelled_bytes", 1e6 * f->moved, 10);
  json_number(j, "workspace_bytes", 1e6 * f->workspace, 12);
  json_number(j, "spread", f->m.spread, 4);
  json_end(j);
  j->out->failed |= problem.failed;
  buf_free(&problem);
}

static int report(struct session *s, struct error *err) {
  static const char *const header[] = {"idea",     "ms",           "GFLOP/s", "% of peak", "times first",
                                       "moved MB", "workspace MB", "spread",  "what it is"};
  struct buf out = {0};
  struct json j = {.out = &out};
  struct table t;
  table_begin(&t, "lrrrrrrrl", header);
  if (s->o->json) json_array(&j, NULL);
  double first = 0;
  for (int i = 0; i < s->n; i++) {
    struct row *r = &s->rows[i];
    struct figures f = {.m = bench_case_summary(&r->timed),
                        .moved = 1e-6 * traffic_bytes(&r->timed.problem, &r->instance),
                        .workspace = 1e-6 * (double)strobe_workspace_bytes(r->timed.plan)};
    if (!i) first = f.m.ms;
    f.speed = first / f.m.ms;
    add_row(&t, r, &f);
    if (s->o->json) add_json(&j, s, r, &f);
  }
  if (s->o->json) {
    json_end(&j);
  } else if (s->o->csv) {
    table_print_csv(&t, &out);
  } else {
    buf_printf(&out, "%s on %s, %d thread%s; each row has what the row before it has\n\n", s->problem,
               s->rows[0].timed.info.target, s->o->each.threads, s->o->each.threads == 1 ? "" : "s");
    table_print(&t, cmd_colour(), &out);
    buf_str(
        &out,
        "\nmoved: a model of what goes between a tile's scratch memory and caches or memory; workspace: at its peak, "
        "packed K and V included\n");
    buf_add(&out, s->left_out.data ? s->left_out.data : "", s->left_out.len);
  }
  out.failed |= s->left_out.failed;
  table_free(&t);
  return cmd_print(&out, err);
}

int bench_ablate(const char *problem, const struct bench_ablate_options *o, struct error *err) {
  static const char usual[] = "d64:bf16:b1h8q4096k4096";
  static const struct session none;
  struct session s = none;
  const struct strobe_context_options workers = {.size = sizeof workers, .n_workers = o->each.threads};
  s.o = o, s.problem = problem ? problem : usual;
  int status = cmd_api_error(strobe_context_create(&workers, &s.ctx), err);
  if (!status) status = open_rows(&s, err);
  if (!status) status = measure(&s, err);
  if (!status) status = report(&s, err);
  for (int i = 0; i < s.n; i++) bench_case_close(&s.rows[i].timed);
  strobe_context_destroy(s.ctx);
  buf_free(&s.left_out);
  return status;
}
