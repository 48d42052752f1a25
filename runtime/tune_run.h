// What a search runs: candidates' plans, what they compute on, and the clock. Only for tune.c and tune_run.c.
#ifndef STROBE_TUNE_RUN_H
#define STROBE_TUNE_RUN_H

#include "inputs.h"
#include "plan.h"
#include "tune.h"

enum { RUNS_MAX = 200 }; // of one candidate
struct runner {
  strobe_plan *plan;
  double seconds[RUNS_MAX], ratio[RUNS_MAX]; // of each run; over the default's of the same round
  int n;
};

struct gpu_stage;
struct tuner {
  const struct tune_request *r;
  struct tune_result *out;
  struct tune_space space;
  strobe_context *ctx;
  struct tensors *tensors; // what is timed: decode takes copies in turn, so that they come from memory
  int64_t copies, next;
  const char *backend; // of the default: one that must do without the encoder is no candidate
  void *workspace;
  size_t workspace_bytes;
  struct runner *runners;   // beside out->candidates
  int64_t repeats;          // executions of a run
  int rival;                // candidate: request.recorded
  bool rival_in;            // is in the space, so that it may be found again
  struct gpu_stage *stage;  // of a CUDA target: its tensors, in place of `tensors`
  int broken;               // the status of a launch that failed: ends the search
  double start, screened_s; // all that came before the budget counts: screening
  int *order;               // of points, the first to try first; NULL: the model's
  struct error *err;
};

double tuner_elapsed(const struct tuner *t); // of the budget
// Tells the caller how far it is; false: it is to stop.
bool tuner_go_on(struct tuner *t, const char *phase, int done, int of);

// The problem that is timed: a run of it should take about tuner_run_s.
extern const double tuner_run_s;
struct problem tuner_smaller(const struct problem *p, const struct target *t);
int tuner_tensors(struct tuner *t); // for out->timed
int tuner_context(struct tuner *t); // into ctx

int tuner_plan(struct tuner *t, const struct problem *p, const char *config, strobe_plan **out);
int tuner_workspace(struct tuner *t, const strobe_plan *plan); // large enough for it
// Verifies a candidate and makes its plan. One that fails is refused (c->refused); an error ends the search.
int tuner_prepare(struct tuner *t, struct tune_candidate *c, struct runner *r);
double tuner_run(struct tuner *t, struct runner *r); // seconds of an execution; kept in r->seconds

#endif
