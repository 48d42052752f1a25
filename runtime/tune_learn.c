#include "tune_learn.h"

#include "tune_stats.h"

#include <math.h>
#include <string.h>

enum { ROUNDS = 3 };
static const double seldom = 4; // as many measurements of no effect beside those of each value
static const double most = 0.1; // a residual that says more is an accident
enum { CONFIGS_MAX = 256 };

static int value_at(struct tune_effects *e, int field, int value) {
  int i = 0;
  while (i < e->of[field].n && e->of[field].value[i] != value) i++;
  if (i < e->of[field].n || i == LEARN_VALUES) return i;
  e->of[field].value[i] = value;
  return e->of[field].n++;
}

double tune_effect(const struct tune_effects *e, const struct config *c) {
  double sum = 0;
  for (int f = 0; f < CFG_COUNT; f++)
    for (int i = 0; i < e->of[f].n; i++)
      if (e->of[f].value[i] == c->v[f]) sum += e->of[f].effect[i];
  return sum;
}

// Mean of what the other fields' effects leave of the residuals, for each value of one field.
static void fit_field(const struct config *const *configs, const double *residual, int n, int f,
                      struct tune_effects *e) {
  double sum[LEARN_VALUES] = {0};
  int seen[LEARN_VALUES] = {0};
  for (int i = 0; i < n; i++) {
    const int at = value_at(e, f, configs[i]->v[f]);
    if (at == LEARN_VALUES) continue;
    sum[at] += residual[i] - tune_effect(e, configs[i]) + e->of[f].effect[at];
    seen[at]++;
  }
  for (int i = 0; i < e->of[f].n; i++) e->of[f].effect[i] = sum[i] / (seen[i] + seldom);
}

void tune_learn(const struct config *const *configs, const double *residual, int n, struct tune_effects *e) {
  double near[CONFIGS_MAX];
  memset(e, 0, sizeof *e);
  if (n > CONFIGS_MAX) n = CONFIGS_MAX;
  if (n < LEARN_LEAST) return;
  const double middle = tune_median(residual, n);
  for (int i = 0; i < n; i++) near[i] = fmin(most, fmax(-most, residual[i] - middle));
  for (int round = 0; round < ROUNDS; round++)
    for (int f = 0; f < CFG_COUNT; f++) fit_field(configs, near, n, f, e);
}
