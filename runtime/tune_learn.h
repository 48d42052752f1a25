// What the measurements so far say of the values of config fields that the model does not know, so that the search goes
// on where this machine is faster than predicted.
#ifndef STROBE_TUNE_LEARN_H
#define STROBE_TUNE_LEARN_H

#include "../gen/spec.h"

enum { LEARN_VALUES = 16 }; // of a field; what more there are has no effect

struct tune_effects {
  struct {
    int n, value[LEARN_VALUES];
    double effect[LEARN_VALUES];
  } of[CFG_COUNT];
};

// residual[i]: log(measured / predicted) of configs[i]. Fits the sum of one effect for each field's value, drawn
// towards 0 where a value was seen seldom. Nothing is learned of fewer than LEARN_LEAST.
enum { LEARN_LEAST = 16 };
void tune_learn(const struct config *const *configs, const double *residual, int n, struct tune_effects *e);
// The sum of the effects of its values.
double tune_effect(const struct tune_effects *e, const struct config *c);

#endif
