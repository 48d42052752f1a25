#include "tune_run.h"

#include "gpu_bench.h"
#include "probe.h"
#include "tune_learn.h"
#include "tune_stats.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  MOST_DEFAULT = 96, // candidates, if the budget allows
  DUEL_PAIRS = 30,
  FINALISTS = 4,
  FINAL_ROUNDS = 24,
  BESIDE = 8, // candidates after which the default has another run
  BASES_MAX = 64
};
static const double prepare_share[] = {[FAMILY_CPU] = 0.3, [FAMILY_CUDA] = 0.6}; // of the budget, to compile and verify
static const double duel_share = 0.25;                                           // for the duel

// ---- phases ----

static int set_up(struct tuner *t) {
  const struct tune_request *r = t->r;
  struct tune_result *o = t->out;
  tune_key_of(&r->problem, r->target, r->workers, &o->key);
  o->timed = tuner_smaller(&r->problem, r->target);
  int status =
      tune_space_make(&r->problem.spec, r->target, &r->problem, r->workers, &r->base, r->same_bits, &t->space, t->err);
  if (!status) status = tuner_context(t);
  if (!status) status = tuner_tensors(t);
  if (status) return status;
  o->enumerated = t->space.enumerated;
  o->infeasible = t->space.infeasible;
  o->feasible = t->space.n;
  memcpy(o->pruned, t->space.pruned, sizeof o->pruned);
  const int most = r->most > 0 ? r->most : MOST_DEFAULT;
  const int room = (most < t->space.n ? most : t->space.n) + 2; // the default, the rival
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
  return tuner_prepare(t, c, &t->runners[t->out->n++]);
}

// What decides so far may be none of those that the model put first.
static int add_rival(struct tuner *t) {
  const struct tune_request *r = t->r;
  struct tune_point point = {.cost = 0};
  config_clear(&point.config);
  if (!r->recorded || config_parse(r->recorded, &point.config, NULL) ||
      config_resolve(&r->problem.spec, r->target, &r->problem, &point.config, NULL))
    return 0;
  for (int i = 0; i < t->space.n; i++)
    t->rival_in |= !memcmp(&t->space.points[i].config, &point.config, sizeof point.config);
  if (!t->rival_in && !r->exhaustive) return 0;
  for (t->rival = 0; t->rival < t->out->n; t->rival++)
    if (!memcmp(&t->out->candidates[t->rival].config, &point.config, sizeof point.config)) return 0;
  point.cost = tune_cost(&r->problem.spec, r->target, &r->problem, r->workers, &point.config);
  return add_candidate(t, &point);
}

struct screened {
  double ratio;
  int point;
};

static int by_screened(const void *a, const void *b) {
  const struct screened *x = a, *y = b;
  if (x->ratio != y->ratio) return (x->ratio > y->ratio) - (x->ratio < y->ratio);
  return x->point - y->point;
}

// Median of three runs over the default's beside them; INFINITY: it has no plan.
static int screen_one(struct tuner *t, const struct tune_point *point, double *ratio) {
  double three[3];
  struct buf text = {0};
  struct runner one = {.plan = NULL};
  config_print(&point->config, t->r->target, &text);
  int status = text.failed ? fail(t->err, STROBE_NO_MEMORY, "no memory for a config") : 0;
  *ratio = INFINITY;
  if (!status && !tuner_plan(t, &t->out->timed, text.data, &one.plan) && !(status = tuner_workspace(t, one.plan))) {
    tuner_run(t, &one);
    for (int i = 0; i < 3; i++) {
      const double base = tuner_run(t, &t->runners[0]);
      three[i] = tuner_run(t, &one) / base;
      t->runners[0].n = 0;
    }
    *ratio = tune_median(three, 3);
  }
  strobe_plan_destroy(one.plan);
  buf_free(&text);
  return status;
}

// Orders the points by what they took. A context keeps its kernels, so each screens a few only.
static int screen(struct tuner *t) {
  enum { KERNELS = 64 };
  const int n = t->space.n;
  const int64_t repeats = t->repeats;
  strobe_context *const kept = t->ctx;
  struct screened *s = calloc((size_t)n, sizeof *s);
  t->order = calloc((size_t)n, sizeof *t->order);
  int status = s && t->order ? 0 : fail(t->err, STROBE_NO_MEMORY, "no memory to time %d configs", n);
  t->repeats = (repeats + 3) / 4;
  for (int i = 0; i < n && !status; i++) {
    s[i] = (struct screened){INFINITY, i};
    if (t->out->stopped || !tuner_go_on(t, "every config once", i, n)) continue;
    if (i % KERNELS == 0) {
      if (t->ctx != kept) strobe_context_destroy(t->ctx);
      status = tuner_context(t);
    }
    if (!status) status = screen_one(t, &t->space.points[i], &s[i].ratio);
  }
  if (t->ctx != kept) strobe_context_destroy(t->ctx);
  t->ctx = kept;
  t->repeats = repeats;
  if (!status) qsort(s, (size_t)n, sizeof *s, by_screened);
  for (int i = 0; i < n && !status; i++) t->order[i] = s[i].point;
  free(s);
  t->screened_s = probe_clock() - t->start;
  return status;
}

// Beside the default at once, so that a search that is stopped early has something to keep.
static void first_run(struct tuner *t, struct runner *r) {
  if (!r->plan) return;
  const double base = tuner_run(t, &t->runners[0]);
  r->ratio[0] = tuner_run(t, r) / base;
}

// The point to try next: of the exhaustive search's order, or what the model and the measurements so far say together.
// -1: none is left.
static int next_point(const struct tuner *t, const bool *taken) {
  const struct tune_result *o = t->out;
  const struct config *configs[MOST_DEFAULT];
  double residual[MOST_DEFAULT], least = INFINITY;
  struct tune_effects effects;
  int n = 0, best = -1;
  for (int i = 0; i < t->space.n && t->order; i++)
    if (!taken[t->order[i]]) return t->order[i];
  for (int i = 0; i < o->n && n < MOST_DEFAULT; i++)
    if (t->runners[i].n) {
      configs[n] = &o->candidates[i].config;
      residual[n++] = log(t->runners[i].ratio[0] / o->candidates[i].predicted);
    }
  tune_learn(configs, residual, n, &effects);
  for (int i = 0; i < t->space.n; i++) {
    const double cost =
        taken[i] ? INFINITY : log(t->space.points[i].cost) + tune_effect(&effects, &t->space.points[i].config);
    if (cost < least) least = cost, best = i;
  }
  return best;
}

// The default first, then the others while time and room last.
static int prepare_all(struct tuner *t) {
  struct tune_result *o = t->out;
  const int most = t->r->most > 0 ? t->r->most : MOST_DEFAULT, of = most < t->space.n ? most : t->space.n;
  int status = add_candidate(t, &t->space.points[t->space.default_point]);
  if (status) return status;
  o->candidates[0].is_default = true;
  for (int i = 0; i < RUNS_MAX; i++) t->runners[0].ratio[i] = 1;
  if (!o->candidates[0].verified || !t->runners[0].plan)
    return fail(t->err, STROBE_INTERNAL, "the default config %.150s: %.150s", o->candidates[0].text,
                o->candidates[0].refused);
  struct strobe_plan_info info = {.size = sizeof info};
  if (!strobe_plan_describe(t->runners[0].plan, &info)) t->backend = info.backend;
  t->repeats = t->copies;
  tuner_run(t, &t->runners[0]); // touches every page
  t->repeats = 1;
  t->runners[0].n = 0;
  const double once = tuner_run(t, &t->runners[0]);
  t->runners[0].n = 0;
  t->repeats = once < tuner_run_s / 4 ? (int64_t)(tuner_run_s / 4 / once) + 1 : 1;
  if (t->r->exhaustive) status = screen(t);
  if (!status) tuner_run(t, &t->runners[0]); // a search that is stopped now has measured this
  bool *taken = calloc((size_t)t->space.n, sizeof *taken);
  if (!taken && !status) status = fail(t->err, STROBE_NO_MEMORY, "no memory for %d configs", t->space.n);
  if (taken) taken[t->space.default_point] = true;
  for (int point; !status && o->n < of && (point = next_point(t, taken)) >= 0;) {
    if (!tuner_go_on(t, "compile and verify", o->n, of) ||
        tuner_elapsed(t) > prepare_share[t->r->target->family] * t->r->budget_s)
      break;
    taken[point] = true;
    status = add_candidate(t, &t->space.points[point]);
    if (!status) first_run(t, &t->runners[o->n - 1]);
  }
  free(taken);
  return status ? status : add_rival(t);
}

// One run of each that is still in the race, and of the default now and then. All ratios of a round are over the median
// of its runs of the default: noise of one run must not favour the few beside it.
static void one_round(struct tuner *t, const int *alive, int n) {
  double base[BASES_MAX];
  int bases = 0;
  for (int i = 0; i < n; i++) {
    if (i % BESIDE == 0 && bases < BASES_MAX) base[bases++] = tuner_run(t, &t->runners[0]);
    if (alive[i]) tuner_run(t, &t->runners[alive[i]]);
  }
  for (int i = 0; i < n; i++) {
    struct runner *r = &t->runners[alive[i]];
    if (alive[i]) r->ratio[r->n - 1] = r->seconds[r->n - 1] / tune_median(base, bases);
  }
}

// Halves the field while time lasts; alive[] is ordered by median ratio afterwards. The default is never dropped.
static int race(struct tuner *t, int *alive, int n) {
  const double end = (1 - duel_share) * t->r->budget_s;
  for (int level = 0; n > 1; level++) {
    char phase[48];
    const int rounds = n <= FINALISTS ? FINAL_ROUNDS : 2 + level;
    for (int i = 0; i < rounds; i++) {
      snprintf(phase, sizeof phase, "race, %d left", n);
      if (!tuner_go_on(t, phase, i, rounds) || tuner_elapsed(t) > end) break;
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
    if (t->out->stopped || tuner_elapsed(t) > end || n <= FINALISTS) break;
    n = n / 2 > FINALISTS ? n / 2 : FINALISTS;
  }
  return n;
}

// Pairs in alternating order: the first one's time over the second one's. Returns how many.
static int duel(struct tuner *t, const char *phase, int first, int second, double ratio[DUEL_PAIRS]) {
  int n = 0;
  for (; n < DUEL_PAIRS; n++) {
    if (!tuner_go_on(t, phase, n, DUEL_PAIRS)) return 0;
    if (n >= 8 && tuner_elapsed(t) > t->r->budget_s) break;
    double a = 0, b = 0;
    if (n % 2) a = tuner_run(t, &t->runners[first]);
    b = tuner_run(t, &t->runners[second]);
    if (n % 2 == 0) a = tuner_run(t, &t->runners[first]);
    ratio[n] = a / b;
    struct runner *r = &t->runners[first];
    if (second == 0) r->ratio[r->n - 1] = a / b; // one more of its ratios over the default
  }
  return n;
}

// The fastest of the race, and what decides so far if it may still be found and is not the default, which all meet.
static int finalists(const struct tuner *t, int *alive, int n) {
  if (n > FINALISTS) n = FINALISTS;
  bool in = !t->rival_in || !t->rival || t->rival >= t->out->n || !t->runners[t->rival].plan;
  for (int i = 0; i < n; i++) in |= alive[i] == t->rival;
  if (!in) alive[n < FINALISTS ? n++ : n - 1] = t->rival;
  return n;
}

// Every finalist meets the default: which of them is the fastest, a race of few runs can't always tell. Returns it; the
// default, 0, if none is significantly better and what decides so far is slower.
static int decide(struct tuner *t, int *alive, int n) {
  double ratio[DUEL_PAIRS], least = 1, rival_bound = 0;
  struct tune_result *o = t->out;
  o->gain_bound = 1;
  n = finalists(t, alive, n);
  for (int i = 0; i < n && !o->stopped; i++) {
    const bool rival = t->rival_in && alive[i] == t->rival;
    if (alive[i] == 0 || (i && !rival && tuner_elapsed(t) > t->r->budget_s)) continue;
    const int pairs = duel(t, "duel with the default", alive[i], 0, ratio);
    const double bound = tune_upper_bound(ratio, pairs), mean = tune_mean_ratio(ratio, pairs);
    if (pairs == 0) break;
    o->candidates[alive[i]].ratio = mean;
    if (rival && mean < 1) rival_bound = bound;
    if (bound >= 1 || mean >= least) continue;
    least = mean;
    o->best = alive[i];
    o->gain_bound = bound;
  }
  if (o->stopped) o->best = 0, o->gain_bound = 1; // decides nothing
  if (!o->best && rival_bound > 0 && !o->stopped) {
    o->stands = true;
    o->best = t->rival;
    o->gain_bound = rival_bound;
  }
  return o->best;
}

// Against the winner, whether or not that is better than the default.
static void meet_rival(struct tuner *t, int winner) {
  double ratio[DUEL_PAIRS];
  struct tune_result *o = t->out;
  if (!t->r->recorded || !t->r->exhaustive || t->rival >= o->n || !t->runners[t->rival].plan) return;
  o->rival_ratio = o->rival_bound = 1;
  if (t->rival == winner) return;
  struct runner *const both[] = {&t->runners[t->rival], &t->runners[winner]};
  const int runs[] = {both[0]->n, both[1]->n}; // what follows has no ratio over the default
  const int n = duel(t, "duel with the record", t->rival, winner, ratio);
  both[0]->n = runs[0], both[1]->n = runs[1];
  o->rival_ratio = n ? tune_mean_ratio(ratio, n) : 0;
  o->rival_bound = n ? tune_upper_bound(ratio, n) : 0;
}

// ---- results ----

static void summarise(struct tuner *t) {
  struct tune_result *o = t->out;
  for (int i = 0; i < o->n; i++) {
    struct runner *r = &t->runners[i];
    struct tune_candidate *c = &o->candidates[i];
    c->runs = r->n;
    if (!r->n) continue;
    if (c->ratio == 0) c->ratio = i ? tune_median(r->ratio, r->n) : 1; // else of the duel
    c->ms = 1e3 * tune_median(r->seconds, r->n);
  }
  o->noise = tune_noise(t->runners[0].seconds, t->runners[0].n);
  o->rank_correlation = tune_rank_correlation(o->candidates, o->n);
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
      n = race(&t, alive, n);
      const int fastest = alive[0], best = decide(&t, alive, n);
      meet_rival(&t, best ? best : fastest);
      summarise(&t);
      tune_result_sort(out);
    } else
      status = fail(err, STROBE_NO_MEMORY, "no memory for %d candidates", out->n);
    free(alive);
  }
  if (!status) status = t.broken;
  gpu_stage_close(t.stage);
  for (int i = 0; i < out->n && t.runners; i++) strobe_plan_destroy(t.runners[i].plan);
  free(t.runners);
  free(t.order);
  free(t.workspace);
  for (int64_t i = 0; i < t.copies && t.tensors; i++) tensors_free(&t.tensors[i]);
  free(t.tensors);
  strobe_context_destroy(t.ctx);
  tune_space_free(&t.space);
  out->seconds = tuner_elapsed(&t) + t.screened_s;
  if (status) tune_result_free(out);
  return status;
}
