#include "tune.h"

#include "inputs.h"
#include "plan.h"
#include "probe.h"
#include "tune_stats.h"
#include "verify.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  MOST_DEFAULT = 96, // candidates, if the budget allows
  RUNS_MAX = 200,    // of one candidate
  DUEL_PAIRS = 30,
  FINALISTS = 4
};
static const double run_s = 0.02;        // a run is made about this long at most
static const double prepare_share = 0.3; // of the budget, to compile and verify
static const double duel_share = 0.25;   // for the duel

struct runner {
  strobe_plan *plan;
  double seconds[RUNS_MAX], ratio[RUNS_MAX]; // of each run; over the default's of the same round
  int n;
};

struct tuner {
  const struct tune_request *r;
  struct tune_result *out;
  struct tune_space space;
  strobe_context *ctx;
  struct tensors tensors; // what is timed
  void *workspace;
  size_t workspace_bytes;
  struct runner *runners; // beside out->candidates
  int64_t repeats;        // executions of a run
  double start;
  struct error *err;
};

static double elapsed(const struct tuner *t) { return probe_clock() - t->start; }

static bool go_on(struct tuner *t, const char *phase, int done, int of) {
  const struct tune_progress p = {phase, done, of, elapsed(t), t->r->budget_s};
  if (t->r->progress && !t->out->stopped && !t->r->progress(t->r->context, &p)) t->out->stopped = true;
  return !t->out->stopped;
}

// ---- problems ----

// A run should take about run_s, at 20 GFLOP/s: fewer heads and batches first, then fewer query rows. Decode streams K
// and V from memory, so what it reads stays larger than the caches.
static struct problem smaller(const struct problem *p) {
  struct problem s = *p;
  const int64_t group = p->heads / p->heads_kv;
  const double most = run_s * 20e9 * 5;
  if (p->q_len <= 16) return s;
  if (problem_flops(&s) > most) s.batch = 1;
  if (problem_flops(&s) > most) s.heads_kv = 1, s.heads = group;
  if (problem_flops(&s) > most) s.heads = 1;
  while (problem_flops(&s) > most && s.q_len > 512) s.q_len = s.q_len / 2 / 64 * 64;
  return s;
}

// Small and ragged: two tiles and a bit in each direction.
static struct problem verified(const struct problem *p, const struct config *c) {
  struct problem s = *p;
  s.batch = 1, s.heads_kv = p->heads_kv > 1 ? 2 : 1, s.heads = s.heads_kv * (p->heads / p->heads_kv > 1 ? 2 : 1);
  const int64_t rows = config_is_decode(c) ? p->q_len : c->v[CFG_BLOCK_M] + 3,
                keys = config_is_decode(c) ? 700 : 2 * c->v[CFG_BLOCK_N] + 5;
  s.q_len = rows < p->q_len ? rows : p->q_len;
  s.kv_len = keys < p->kv_len ? keys : p->kv_len;
  return s;
}

// ---- one candidate ----

static int plan_for(struct tuner *t, const struct problem *p, const char *config, strobe_plan **out) {
  struct buf text = {0};
  problem_print(p, &text);
  if (text.failed) return fail(t->err, STROBE_NO_MEMORY, "no memory for a plan");
  const struct strobe_plan_options o = {.size = sizeof o, .target = t->r->target->name, .config = config};
  const enum strobe_status status = strobe_plan_create(t->ctx, text.data, &o, out);
  buf_free(&text);
  return status;
}

static struct strobe_array array_of(const struct strobe_tensor *x) {
  return (struct strobe_array){x->data, x->batch_stride, x->row_stride, x->head_stride};
}

static enum strobe_status execute(const strobe_plan *plan, const struct strobe_args *a, void *workspace) {
  const struct strobe_io io = {.size = sizeof io,
                               .q = array_of(&a->q),
                               .k = array_of(&a->k),
                               .v = array_of(&a->v),
                               .o = array_of(&a->o),
                               .lse = a->lse,
                               .workspace = workspace};
  return strobe_execute(plan, &io);
}

static void refuse(struct tune_candidate *c, const char *why) {
  snprintf(c->refused, sizeof c->refused, "%.*s", (int)sizeof c->refused - 1, why);
}

// The kernel of this config computes the right thing.
static int check(struct tuner *t, struct tune_candidate *c) {
  struct verify_case v = {.problem = verified(&t->r->problem, &c->config),
                          .kind = input_kind_find("normal"),
                          .seed = 1,
                          .layout = LAYOUT_BNHD,
                          .scale = default_scale(&t->r->problem.spec)};
  struct tensors x = {0};
  struct verify_result result;
  strobe_plan *plan = NULL;
  int status = verify_create(&v, NULL, &x, t->err);
  if (status) return status;
  if (plan_for(t, &v.problem, c->text, &plan) || execute(plan, &x.args, NULL)) {
    refuse(c, strobe_error());
  } else {
    status = verify_tensors(&v, &c->config, &x, VERIFY_AUTO_ROWS, &result, t->err);
    c->verified = !status && result.ok;
    if (!status && !result.ok) {
      struct buf why = {0};
      verify_print(&result, &why);
      refuse(c, why.failed ? "wrong" : why.data);
      buf_free(&why);
      t->out->wrong++;
    }
  }
  strobe_plan_destroy(plan);
  tensors_free(&x);
  return status;
}

static int prepare(struct tuner *t, struct tune_candidate *c, struct runner *r) {
  int status = check(t, c);
  if (status || !c->verified) return status;
  if (plan_for(t, &t->out->timed, c->text, &r->plan)) return refuse(c, strobe_error()), 0;
  const size_t bytes = strobe_workspace_bytes(r->plan);
  if (bytes > t->workspace_bytes) {
    free(t->workspace);
    t->workspace_bytes = (bytes + 63) / 64 * 64;
    t->workspace = aligned_alloc(64, t->workspace_bytes);
    if (!t->workspace) return fail(t->err, STROBE_NO_MEMORY, "no memory for a workspace of %zu bytes", bytes);
  }
  return 0;
}

static double run(struct tuner *t, struct runner *r) {
  const double start = probe_clock();
  for (int64_t i = 0; i < t->repeats; i++) execute(r->plan, &t->tensors.args, t->workspace);
  const double seconds = (probe_clock() - start) / (double)t->repeats;
  if (r->n < RUNS_MAX) r->seconds[r->n++] = seconds;
  return seconds;
}

// ---- phases ----

static int set_up(struct tuner *t) {
  const struct tune_request *r = t->r;
  struct tune_result *o = t->out;
  const struct strobe_context_options workers = {.size = sizeof workers, .n_workers = r->workers};
  tune_key_of(&r->problem, r->target, r->workers, &o->key);
  o->timed = smaller(&r->problem);
  int status = tune_space_make(&r->problem.spec, r->target, &r->problem, &r->base, r->same_bits, &t->space, t->err);
  if (!status && strobe_context_create(&workers, &t->ctx))
    status = fail(t->err, STROBE_NO_MEMORY, "%s", strobe_error());
  if (!status)
    status = tensors_create(&o->timed, LAYOUT_BNHD, 0, default_scale(&o->timed.spec), NULL, &t->tensors, t->err);
  if (!status) status = inputs_fill(&o->timed.spec, &t->tensors.args, input_kind_find("normal"), 1, t->err);
  if (status) return status;
  o->enumerated = t->space.enumerated;
  o->infeasible = t->space.infeasible;
  o->feasible = t->space.n;
  memcpy(o->pruned, t->space.pruned, sizeof o->pruned);
  const int most = r->most > 0 ? r->most : MOST_DEFAULT;
  const int room = (most < t->space.n ? most : t->space.n) + 1;
  o->candidates = calloc((size_t)room, sizeof *o->candidates);
  t->runners = calloc((size_t)room, sizeof *t->runners);
  return o->candidates && t->runners ? 0 : fail(t->err, STROBE_NO_MEMORY, "no memory for %d candidates", room);
}

static int add_candidate(struct tuner *t, const struct tune_point *point) {
  struct tune_candidate *c = &t->out->candidates[t->out->n];
  struct buf text = {0};
  c->config = point->config;
  c->predicted = point->cost / t->space.points[t->space.default_point].cost;
  config_print(&point->config, t->r->target, &text);
  snprintf(c->text, sizeof c->text, "%s", text.failed ? "" : text.data);
  buf_free(&text);
  return prepare(t, c, &t->runners[t->out->n++]);
}

// The default first, then the model's order, while time and room last.
static int prepare_all(struct tuner *t) {
  struct tune_result *o = t->out;
  const int most = t->r->most > 0 ? t->r->most : MOST_DEFAULT, of = most < t->space.n ? most : t->space.n;
  int status = add_candidate(t, &t->space.points[t->space.default_point]);
  if (status) return status;
  o->candidates[0].is_default = true;
  if (!o->candidates[0].verified || !t->runners[0].plan)
    return fail(t->err, STROBE_INTERNAL, "the default config %.150s: %.150s", o->candidates[0].text,
                o->candidates[0].refused);
  t->repeats = 1;
  run(t, &t->runners[0]); // touches every page
  t->runners[0].n = 0;
  const double once = run(t, &t->runners[0]);
  t->runners[0].n = 0;
  t->repeats = once < run_s / 4 ? (int64_t)(run_s / 4 / once) + 1 : 1;
  for (int i = 0; i < t->space.n && o->n < of && !status; i++) {
    if (i == t->space.default_point) continue;
    if (!go_on(t, "compile and verify", o->n, of) || elapsed(t) > prepare_share * t->r->budget_s) break;
    status = add_candidate(t, &t->space.points[i]);
  }
  return status;
}

// One run of each that is still in the race, the default first: ratios are taken beside it.
static void one_round(struct tuner *t, const int *alive, int n) {
  const double base = run(t, &t->runners[0]);
  for (int i = 0; i < n; i++) {
    struct runner *r = &t->runners[alive[i]];
    if (r->n == RUNS_MAX) continue;
    const double seconds = alive[i] ? run(t, r) : base;
    if (r->n) r->ratio[r->n - 1] = seconds / base;
  }
}

// Halves the field while time lasts; alive[] is ordered by median ratio afterwards. The default is never dropped.
static int race(struct tuner *t, int *alive, int n) {
  const double end = (1 - duel_share) * t->r->budget_s;
  for (int level = 0; n > 1; level++) {
    char phase[48];
    const int rounds = level < 3 ? 2 + level : 6;
    for (int i = 0; i < rounds; i++) {
      snprintf(phase, sizeof phase, "race, %d left", n);
      if (!go_on(t, phase, i, rounds) || elapsed(t) > end) break;
      one_round(t, alive, n);
    }
    for (int i = 1; i < n; i++) // by median; few enough for insertion
      for (int j = i; j > 0 && tune_median(t->runners[alive[j]].ratio, t->runners[alive[j]].n) <
                                   tune_median(t->runners[alive[j - 1]].ratio, t->runners[alive[j - 1]].n);
           j--) {
        const int swap = alive[j];
        alive[j] = alive[j - 1];
        alive[j - 1] = swap;
      }
    if (t->out->stopped || elapsed(t) > end || n <= FINALISTS) break;
    n = n / 2 > FINALISTS ? n / 2 : FINALISTS;
  }
  return n;
}

// Pairs of the winner and the default, in alternating order.
static void duel(struct tuner *t, int winner) {
  double ratio[DUEL_PAIRS];
  int n = 0;
  t->out->gain_bound = 1;
  if (winner == 0 || t->out->stopped) return;
  for (; n < DUEL_PAIRS; n++) {
    if (!go_on(t, "duel with the default", n, DUEL_PAIRS)) return;
    if (n >= 8 && elapsed(t) > t->r->budget_s) break;
    double a = 0, b = 0;
    if (n % 2) a = run(t, &t->runners[winner]);
    b = run(t, &t->runners[0]);
    if (n % 2 == 0) a = run(t, &t->runners[winner]);
    ratio[n] = a / b;
  }
  const double bound = tune_upper_bound(ratio, n);
  if (bound >= 1) return;
  t->out->best = winner;
  t->out->gain_bound = bound;
  t->out->candidates[winner].ratio = tune_median(ratio, n);
}

// ---- results ----

static void summarise(struct tuner *t) {
  struct tune_result *o = t->out;
  for (int i = 0; i < o->n; i++) {
    struct runner *r = &t->runners[i];
    struct tune_candidate *c = &o->candidates[i];
    c->runs = r->n;
    if (!r->n) continue;
    if (i != o->best || o->best == 0) c->ratio = i ? tune_median(r->ratio, r->n) : 1;
    c->ms = 1e3 * tune_median(r->seconds, r->n);
  }
  o->noise = tune_noise(t->runners[0].seconds, t->runners[0].n);
  o->rank_correlation = tune_rank_correlation(o->candidates, o->n);
}

static int by_ratio(const void *a, const void *b) {
  const struct tune_candidate *x = a, *y = b;
  if ((x->ratio > 0) != (y->ratio > 0)) return x->ratio > 0 ? -1 : 1;
  if (x->ratio != y->ratio) return (x->ratio > y->ratio) - (x->ratio < y->ratio);
  return strcmp(x->text, y->text);
}

static void sort_candidates(struct tune_result *o) {
  char best[sizeof o->candidates->text];
  memcpy(best, o->candidates[o->best].text, sizeof best);
  qsort(o->candidates, (size_t)o->n, sizeof *o->candidates, by_ratio);
  for (int i = 0; i < o->n; i++) {
    if (!strcmp(o->candidates[i].text, best)) o->best = i;
    if (o->candidates[i].is_default) o->default_at = i;
  }
}

int tune(const struct tune_request *r, struct tune_result *out, struct error *err) {
  *out = (struct tune_result){.gain_bound = 1};
  struct tuner t = {.r = r, .out = out, .start = probe_clock(), .err = err};
  int status = set_up(&t);
  if (!status) status = prepare_all(&t);
  if (!status) {
    int *alive = calloc((size_t)out->n, sizeof *alive), n = 0;
    for (int i = 0; i < out->n && alive; i++)
      if (t.runners[i].plan) alive[n++] = i;
    if (alive) {
      race(&t, alive, n);
      duel(&t, alive[0]);
      summarise(&t);
      sort_candidates(out);
    } else
      status = fail(err, STROBE_NO_MEMORY, "no memory for %d candidates", out->n);
    free(alive);
  }
  for (int i = 0; i < out->n && t.runners; i++) strobe_plan_destroy(t.runners[i].plan);
  free(t.runners);
  free(t.workspace);
  tensors_free(&t.tensors);
  strobe_context_destroy(t.ctx);
  tune_space_free(&t.space);
  out->seconds = elapsed(&t);
  if (status) tune_result_free(out);
  return status;
}

void tune_result_free(struct tune_result *r) {
  free(r->candidates);
  *r = (struct tune_result){0};
}

int tune_records(const struct tune_result *r, struct tune_record *records) {
  int n = 0;
  double default_ms = r->n ? r->candidates[r->default_at].ms : 0;
  for (int i = 0; i < r->n; i++) {
    const struct tune_candidate *c = &r->candidates[i];
    if (!c->runs || c->ratio <= 0) continue;
    struct tune_record *record = &records[n++];
    *record = (struct tune_record){
        .key = r->key, .ms = c->ratio * default_ms, .default_ms = default_ms, .noise = r->noise, .runs = c->runs};
    // A search that was stopped decides nothing.
    record->mark = i != r->best || r->stopped ? TUNE_TRIED : i == r->default_at ? TUNE_DEFAULT : TUNE_BEST;
    memcpy(record->config, c->text, sizeof record->config);
  }
  return n;
}
