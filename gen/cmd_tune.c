#include "cmd.h"
#include "heatmap.h"

#include "../runtime/cpu.h"
#include "../runtime/tune.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct tune_options {
  const char *target, *set, *budget, *plot, *db;
  int64_t top, threads, candidates;
  bool explain, json, deterministic, dry, exhaustive;
};

#define ROW(kind, field, ...) OPTION(kind, struct tune_options, field, __VA_ARGS__)
static const struct option_row rows[] = {
    ROW(OPT_TEXT, target, .name = "target", .letter = 't', .value = "T",
        .about = "default: the best that this CPU can run"),
    ROW(OPT_TEXT, set, .name = "set", .value = "CONFIG", .about = "fields that stay as given; the others are searched"),
    ROW(OPT_TEXT, budget, .name = "budget", .value = "TIME",
        .about = "for each problem, as in 30s or 2m (default: 12s)"),
    ROW(OPT_INT, top, .name = "top", .value = "N",
        .about = "rows of the table, and the best's and the default's (default: 10)", .least = 1, .most = 1000),
    ROW(OPT_INT, threads, .name = "threads", .value = "N", .about = "workers of a CPU (default: 1)", .least = 1,
        .most = 1024),
    ROW(OPT_INT, candidates, .name = "candidates", .value = "N",
        .about = "configs that are measured at most (default: as many as the budget allows, up to 96)", .least = 2,
        .most = 4000),
    ROW(OPT_FLAG, deterministic, .name = "deterministic",
        .about = "search only fields that change no bit of the result (not block_n, not exp)"),
    ROW(OPT_FLAG, exhaustive, .name = "exhaustive",
        .about =
            "time every config first (minutes), not the model's best; then a duel with the record, if there is one"),
    ROW(OPT_FLAG, explain, .name = "explain",
        .about = "the model's prediction beside each measurement, and what was pruned"),
    ROW(OPT_TEXT, plot, .name = "plot", .value = "FILE.svg", .about = "heat map of block_m x block_n"),
    ROW(OPT_TEXT, db, .name = "db", .value = "FILE",
        .about = "the database (default: $STROBE_DB, else the cache directory)"),
    ROW(OPT_FLAG, dry, .name = "dry", .about = "record nothing"),
    ROW(OPT_FLAG, json, .name = "json", .about = "print an array of results as JSON"),
};

static void defaults(void *options) {
  struct tune_options *o = options;
  o->top = 10;
  o->threads = 1;
}

// ---- input ----

static int parse_budget(const char *text, double *seconds, struct error *err) {
  char *end;
  if (!text) return *seconds = 12, 0;
  *seconds = strtod(text, &end);
  const double unit = !*end || !strcmp(end, "s") ? 1 : !strcmp(end, "m") ? 60 : !strcmp(end, "ms") ? 1e-3 : 0;
  *seconds *= unit;
  if (end == text || unit == 0 || !(*seconds >= 0.5 && *seconds <= 86400))
    return fail(err, STROBE_INVALID,
                "--budget \"%.40s\": must be a time from 0.5s to 24 hours such as 30s or 2m; 12s is the default", text);
  return 0;
}

static volatile sig_atomic_t interrupted;
static void on_interrupt(int signal) {
  (void)signal;
  interrupted = 1;
}

// One line on a terminal, written over; nothing elsewhere.
static bool progress(void *context, const struct tune_progress *p) {
  const char *problem = context;
  if (isatty(STDERR_FILENO))
    fprintf(stderr, "\r%s: %s, %d of %d, %.1f s, %.1f s left at most\033[K", problem, p->phase, p->done + 1, p->of,
            p->elapsed_s, p->budget_s > p->elapsed_s ? p->budget_s - p->elapsed_s : 0);
  return !interrupted;
}

// ---- output ----

// What differs from the default: "block_n=192 prefetch=8".
static void difference(const struct tune_candidate *c, const struct tune_candidate *base, const struct target *t,
                       struct buf *out) {
  struct config d = c->config;
  bool any = false;
  for (int i = 0; i < CFG_COUNT; i++) {
    any |= d.v[i] != base->config.v[i];
    if (d.v[i] == base->config.v[i]) d.v[i] = CONFIG_UNSET;
  }
  if (any)
    config_print(&d, t, out);
  else
    buf_str(out, "the default");
}

static void print_table(const struct tune_result *r, const struct target *t, const struct tune_options *o,
                        struct buf *out) {
  static const char *const header[] = {"", "ms", "time / default", "predicted", "runs", "differs from the default in"};
  struct table table;
  table_begin(&table, "lrrrrl", header);
  for (int i = 0; i < r->n; i++) {
    const struct tune_candidate *c = &r->candidates[i];
    struct buf text = {0};
    if (c->ratio <= 0) break;
    if (i >= o->top && i != r->best && i != r->default_at) continue;
    difference(c, &r->candidates[r->default_at], t, &text);
    table_cell(&table, CELL_GOOD, "%s", c == &r->candidates[r->best] ? "best" : "");
    table_cell(&table, CELL_PLAIN, "%.4g", c->ratio * r->candidates[r->default_at].ms);
    table_cell(&table, CELL_PLAIN, "%.3f", c->ratio);
    if (o->explain)
      table_cell(&table, CELL_FAINT, "%.3f", c->predicted);
    else
      table_cell(&table, CELL_FAINT, "%s", "");
    table_cell(&table, CELL_FAINT, "%d", c->runs);
    table_cell(&table, c->is_default ? CELL_FAINT : CELL_PLAIN, "%s", text.failed ? "" : text.data);
    out->failed |= text.failed;
    buf_free(&text);
  }
  table_print(&table, cmd_colour(), out);
  table_free(&table);
}

static void print_explanation(const struct tune_result *r, struct buf *out) {
  int timed = 0;
  for (int i = 0; i < r->n; i++) timed += r->candidates[i].ratio > 0;
  buf_printf(out, "rank correlation of prediction and measurement: %.2f, over %d configs\n", r->rank_correlation,
             timed);
  for (int i = 0; i < CFG_COUNT; i++)
    if (r->pruned[i].count) buf_printf(out, "pruned %d, as in: %s\n", r->pruned[i].count, r->pruned[i].why);
  const struct tune_candidate *refused = NULL;
  int n = 0;
  for (int i = 0; i < r->n; i++)
    if (*r->candidates[i].refused && !n++) refused = &r->candidates[i];
  if (refused) buf_printf(out, "refused %d, as in: %s: %s\n", n, refused->text, refused->refused);
}

static void print_verdict(const struct tune_result *r, const char *path, struct buf *out) {
  if (r->best != r->default_at)
    buf_printf(out, "best: %s, %.1f %% less time than the default (at least %.1f %%, with 95 %% confidence)%s\n",
               r->candidates[r->best].text, 100 * (1 - r->candidates[r->best].ratio), 100 * (1 - r->gain_bound),
               r->stands ? "; it was recorded before, and stands" : "");
  else
    buf_printf(out, "%s\n",
               r->stopped ? r->candidates[0].runs ? "stopped before anything was decided; what was measured is kept"
                                                  : "stopped before anything was measured"
                          : "nothing is significantly better than the default");
  if (r->rival_ratio > 0)
    buf_printf(out, "the record takes %+.1f %% of its time longer (at most %.1f %%, with 95 %% confidence)\n",
               100 * (r->rival_ratio - 1), 100 * (r->rival_bound - 1));
  buf_printf(out, "noise %.1f %%; %d of %d configs are feasible, %d computed wrong; %.1f s\n", r->noise, r->feasible,
             r->enumerated, r->wrong, r->seconds);
  buf_printf(out, "%s%s\n", *path ? "recorded in " : "not recorded", path);
}

static void add_json(struct json *j, const char *problem, const struct tune_result *r, const char *path) {
  json_object(j, NULL);
  json_string(j, "problem", problem);
  json_string(j, "spec", r->key.spec);
  json_string(j, "bucket", r->key.bucket);
  json_string(j, "target", r->key.target);
  json_string(j, "machine", r->key.machine);
  json_string(j, "best", r->candidates[r->best].text);
  json_bool(j, "default_is_best", r->best == r->default_at);
  json_bool(j, "stands", r->stands);
  json_number(j, "ratio", r->candidates[r->best].ratio, 5);
  json_number(j, "ratio_upper_bound", r->gain_bound, 5);
  if (r->rival_ratio > 0) {
    json_number(j, "record_ratio", r->rival_ratio, 5);
    json_number(j, "record_ratio_upper_bound", r->rival_bound, 5);
  }
  json_number(j, "noise", r->noise, 4);
  json_number(j, "rank_correlation", r->rank_correlation, 4);
  json_integer(j, "enumerated", r->enumerated);
  json_integer(j, "feasible", r->feasible);
  json_integer(j, "wrong", r->wrong);
  json_number(j, "seconds", r->seconds, 4);
  json_bool(j, "stopped", r->stopped);
  json_bool(j, "recorded", *path);
  json_string(j, "db", path);
  json_array(j, "pruned");
  for (int i = 0; i < CFG_COUNT; i++) {
    if (!r->pruned[i].count) continue;
    json_object(j, NULL);
    json_integer(j, "count", r->pruned[i].count);
    json_string(j, "as_in", r->pruned[i].why);
    json_end(j);
  }
  json_end(j);
  json_array(j, "candidates");
  for (int i = 0; i < r->n; i++) {
    const struct tune_candidate *c = &r->candidates[i];
    json_object(j, NULL);
    json_string(j, "config", c->text);
    json_number(j, "predicted", c->predicted, 5);
    json_number(j, "ratio", c->ratio, 5);
    json_number(j, "ms", c->ms, 6);
    json_integer(j, "runs", c->runs);
    json_string(j, "refused", c->refused);
    json_end(j);
  }
  json_end(j);
  json_end(j);
}

// ---- the verb ----

struct tuning {
  const struct tune_options *opt;
  double budget_s;
  const char *path; // of the database; empty: nothing is recorded
  const char *db;   // that is read; empty: none
  struct buf out;
  struct json j;
  int done;               // problems whose result is in out
  int status;             // of the database
  struct error unwritten; // why the last search is not in the database
};

// A database that can't be written is no reason to lose what was found: it is printed, and ends the command after that.
static int record(struct tuning *t, const struct tune_result *r, bool *recorded) {
  struct tune_record *records = calloc((size_t)r->n + 1, sizeof *records);
  if (!records) return fail(&t->unwritten, STROBE_NO_MEMORY, "no memory for %d records", r->n);
  const int n = tune_records(r, records),
            status = n && *t->path ? tune_db_update(t->path, records, n, &t->unwritten) : 0;
  *recorded = n && *t->path && !status;
  free(records);
  return status;
}

static int request_of(const struct tuning *t, const char *text, struct tune_request *r, struct error *err) {
  const struct tune_options *o = t->opt;
  *r = (struct tune_request){.workers = (int)o->threads,
                             .budget_s = t->budget_s,
                             .most = (int)o->candidates,
                             .same_bits = o->deterministic,
                             .exhaustive = o->exhaustive,
                             .progress = progress};
  int status = problem_parse(text, &r->problem, err);
  if (!status) status = problem_complete(&r->problem, err);
  if (!status && problem_flops(&r->problem) <= 0)
    status = fail(err, STROBE_INVALID,
                  "\"%.100s\": no query sees a key, so there is nothing to tune; sizes must be 1 or more", text);
  if (!status) status = cmd_target_here(o->target, &r->problem.spec, &r->target, err);
  if (!status && r->target->family == FAMILY_CUDA) r->workers = 1; // --threads is for CPUs
  config_clear(&r->base);
  if (!status && o->set) status = config_parse(o->set, &r->base, err);
  struct config all = r->base;
  return status ? status : config_resolve(&r->problem.spec, r->target, &r->problem, &all, err);
}

static int tune_one(struct tuning *t, const char *text, struct error *err) {
  const struct tune_options *o = t->opt;
  struct tune_request r;
  struct tune_result result = {0};
  struct buf problem = {0};
  int status = request_of(t, text, &r, err);
  if (status) return status;
  problem_print(&r.problem, &problem);
  if (problem.failed) return fail(err, STROBE_NO_MEMORY, "no memory for a problem");
  r.context = problem.data;
  struct tune_key key;
  struct tune_record recorded;
  tune_key_of(&r.problem, r.target, r.workers, &key);
  if (*t->path) status = tune_db_update(t->path, NULL, 0, err); // else a search would be for nothing
  if (!status && *t->db && tune_db_lookup(t->db, &key, &recorded)) r.recorded = recorded.config;
  if (!status) status = tune(&r, &result, err);
  if (isatty(STDERR_FILENO)) fputs("\r\033[K", stderr);
  bool written = false;
  if (!status) t->status = record(t, &result, &written);
  const char *path = written ? t->path : "";
  if (!status && o->json)
    add_json(&t->j, problem.data, &result, path);
  else if (!status) {
    buf_printf(&t->out, "%s%s on %s, bucket %s\n\n", t->out.len ? "\n" : "", problem.data, r.target->name,
               result.key.bucket);
    print_table(&result, r.target, o, &t->out);
    buf_char(&t->out, '\n');
    if (o->explain) print_explanation(&result, &t->out);
    print_verdict(&result, path, &t->out);
  }
  t->done += !status;
  if (!status && o->plot) status = heatmap_write(o->plot, problem.data, &result, err);
  tune_result_free(&result);
  buf_free(&problem);
  return status;
}

static int run(const struct command *c, struct error *err) {
  struct tuning t = {.opt = c->options};
  struct buf path = {0};
  int status = parse_budget(t.opt->budget, &t.budget_s, err);
  if (!status && t.opt->plot && c->n_operands > 1)
    status =
        fail(err, STROBE_INVALID, "--plot %.100s: one problem at a time, %d are given", t.opt->plot, c->n_operands);
  tune_db_path(t.opt->db, &path);
  if (path.failed) status = fail(err, STROBE_NO_MEMORY, "no memory for a path");
  t.db = path.data ? path.data : "";
  t.path = t.opt->dry ? "" : t.db;
  if (!status && !t.opt->dry && !*t.path)
    status = fail(err, STROBE_INVALID,
                  "tune: there is no HOME and no STROBE_DB; --db FILE names the database, --dry records nothing");
  t.j.out = &t.out;
  struct tune_request r; // what is wrong with the last problem is said before the first is tuned
  for (int i = 0; i < c->n_operands && !status; i++) status = request_of(&t, c->operands[i], &r, err);
  struct sigaction old, act = {.sa_handler = on_interrupt};
  sigaction(SIGINT, &act, &old);
  if (t.opt->json) json_array(&t.j, NULL);
  for (int i = 0; i < c->n_operands && !status && !t.status && !interrupted; i++)
    status = tune_one(&t, c->operands[i], err);
  if (t.opt->json) json_end(&t.j);
  sigaction(SIGINT, &old, NULL);
  const int printed = !status || t.done ? cmd_print(&t.out, err) : 0;
  if (!status) status = printed;
  if (!status && t.status) status = fail(err, t.status, "the result was not recorded: %.400s", t.unwritten.text);
  buf_free(&t.out);
  buf_free(&path);
  return status ? 2 : interrupted ? 1 : 0;
}

const struct verb verb_tune = {
    .name = "tune",
    .operands = "PROBLEM...",
    .about = "find the fastest config on this machine, and remember it",
    .details =
        "Every candidate is verified before it is timed; all are timed in turn, the default among them, and only what "
        "is\n"
        "significantly better than it is recorded as best. Plans made later for problems of the same bucket take it.\n"
        "What was recorded before is measured again: it stands unless another is better or it is slower than the\n"
        "default now. Ctrl-C keeps what was measured.",
    .example = "  $ strobe tune d128:f32:b1h8q2048k2048 --explain --plot map.svg\n"
               "  d128:f32:b1h8/8q2048k2048 on avx512bf16, bucket q4096k4096g1\n"
               "        ms     time / default  predicted  runs  differs from the default in\n"
               "  best  18.31           0.981      1.004    21  block_n=192",
    .rows = rows,
    .n_rows = sizeof rows / sizeof *rows,
    .options_size = sizeof(struct tune_options),
    .defaults = defaults,
    .least_operands = 1,
    .most_operands = -1,
    .run = run,
};
