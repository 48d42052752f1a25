// The statistics of the tuner: medians, noise, the bound of a duel, rank correlation.
#ifndef STROBE_TUNE_STATS_H
#define STROBE_TUNE_STATS_H

#include "tune.h"

double tune_median(const double *x, int n); // 0 if n is 0; leaves x as it is
double tune_noise(const double *x, int n);  // standard deviation, per cent of the median, of all but the worst tenth
// Geometric mean of x without its lowest and highest fifth.
double tune_mean_ratio(const double *x, int n);
// Upper 95 % bound of that mean.
double tune_upper_bound(const double *x, int n);
// Spearman's rank correlation of predicted and measured ratios of the candidates that were timed; 0 if fewer than 3.
double tune_rank_correlation(const struct tune_candidate *c, int n);

#endif
