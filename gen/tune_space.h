// What the tuner may choose from: the feasible configs of an instance, and a model that says which to try first.
#ifndef STROBE_GEN_TUNE_SPACE_H
#define STROBE_GEN_TUNE_SPACE_H

#include "spec.h"

struct tune_point {
  struct config config; // resolved
  double cost;          // tune_cost
};

// Why points fell away: one sentence per config field that refused, with how many it refused.
struct tune_pruned {
  int count;
  char why[200]; // the first refusal's words
};

struct tune_space {
  struct tune_point *points; // by cost, the cheapest first; no two alike; the default is among them
  int n, default_point;      // index of the config that the heuristic gives
  int enumerated, infeasible, alike;
  struct tune_pruned pruned[CFG_COUNT]; // by the field whose check refused
};

// Every combination of the fields' values that `base` leaves unset, for so many workers. same_bits: only fields that
// never change a bit of the result (config_changes_bits). STROBE_UNSUPPORTED (same_bits on a GPU),
// STROBE_INVALID (base itself is not feasible), STROBE_NO_MEMORY.
int tune_space_make(const struct spec *s, const struct target *t, const struct problem *p, int workers,
                    const struct config *base, bool same_bits, struct tune_space *out, struct error *err);
void tune_space_free(struct tune_space *space);

// The model. Prefill: cycles of the multiply-add pipes per query vector and visible key, in multiply-adds of a vector:
// both products, loads that they share, latency, softmax, rescaling, copies, ragged tiles, blocks cut by the diagonal.
// CUDA: fields that differ from the default's. Decode: bytes of a row of K, times what waiting for it adds. Both times
// what the last work items leave of the workers idle. Only ratios are meant; what the weights rest on is said in
// model.c.
double tune_cost(const struct spec *s, const struct target *t, const struct problem *p, int workers,
                 const struct config *c);
// Prefill on a CPU: the per cent of peak that the model predicts. Else 0.
double tune_percent(const struct spec *s, const struct target *t, const struct problem *p, const struct config *c);

#endif
