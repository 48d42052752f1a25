// The tuner: finds the config of a kernel that is fastest on this machine, and says how sure it is.
//
// Candidates come from the search space (gen/tune_space.h) in the order of its model. Each is compiled, verified
// against the double-precision oracle, and only then timed, all of them in turn (A B C A B C), the default among them,
// by successive halving. The finalists meet the default in duels of pairs; the fastest is the best only if the upper
// 95 % bound of its time over the default's is below 1.
#ifndef STROBE_TUNE_H
#define STROBE_TUNE_H

#include "../gen/tune_space.h"
#include "tune_db.h"

struct tune_candidate {
  struct config config;
  char text[256];   // config_print
  double predicted; // the model's time over the default's
  double ratio;     // measured time over the default's beside it, median of runs; 0: not timed
  double ms;        // median
  int runs;
  bool verified, is_default;
  char refused[200]; // why it was not timed; empty otherwise
};

struct tune_progress {
  const char *phase; // "compile and verify", "round 2 of 6", "duel"
  int done, of;
  double elapsed_s, budget_s;
};

struct tune_request {
  struct problem problem;      // complete
  const struct target *target; // that this CPU can run
  struct config base;          // fields that are given; the rest is searched
  int workers;
  double budget_s; // what it may take in all, about
  int most;        // candidates that are measured at most; 0: as many as the budget allows
  bool same_bits;  // only fields that change no bit of the result
  bool exhaustive; // times every config first, and lets the fastest in: takes as long as it takes before the budget
                   // counts; the winner meets what is recorded in a duel of its own
  const char *recorded; // config that decides so far: is among the finalists if it is in the space, and decides on
                        // unless it is no longer faster than the default or another is better; NULL: none
  // May be NULL. progress returns false to stop: what was measured is kept.
  bool (*progress)(void *context, const struct tune_progress *p);
  void *context;
};

struct tune_result {
  struct tune_key key;
  struct problem timed; // the problem that was run: the request's, made smaller where one run would take long
  struct tune_candidate *candidates;           // the fastest first, then what was not timed
  int n, best, default_at;                     // indices; best == default_at: nothing was significantly better
  bool stands;                                 // nothing was, but what was recorded is not slower: it is best
  int enumerated, infeasible, feasible, wrong; // of the space; candidates that failed verification
  struct tune_pruned pruned[CFG_COUNT];
  double noise;      // standard deviation of the default's runs, per cent of the median
  double gain_bound; // upper 95 % bound of best's time over the default's, from the duel; 1 if default is best
  double rival_ratio,
      rival_bound;         // rival's time over the winner's, mean and upper 95 % bound; 0: there was no such duel
  double rank_correlation; // Spearman's, predicted against measured
  double seconds;
  bool stopped; // by progress
};

// STROBE_UNSUPPORTED (same_bits on a GPU), STROBE_INVALID, STROBE_NO_MEMORY, STROBE_DEVICE. On success free with
// tune_result_free.
int tune(const struct tune_request *r, struct tune_result *out, struct error *err);
void tune_result_free(struct tune_result *r);
// Orders the candidates as they are described above.
void tune_result_sort(struct tune_result *r);

// What the database keeps of a result: every candidate that was timed. `records` has room for out->n; returns how many.
int tune_records(const struct tune_result *r, struct tune_record *records);

#endif
