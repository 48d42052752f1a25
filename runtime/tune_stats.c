#include "tune_stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 256 };

static int ascending(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static int sorted(const double *x, int n, double *out) {
  if (n > MOST) n = MOST;
  memcpy(out, x, (size_t)n * sizeof *x);
  qsort(out, (size_t)n, sizeof *out, ascending);
  return n;
}

double tune_median(const double *x, int n) {
  double s[MOST];
  n = sorted(x, n, s);
  return n == 0 ? 0 : n % 2 ? s[n / 2] : (s[n / 2 - 1] + s[n / 2]) / 2;
}

double tune_noise(const double *x, int n) {
  double s[MOST], sum = 0, squares = 0;
  n = sorted(x, n, s);
  const double middle = tune_median(x, n);
  n -= n / 10;
  if (n < 2) return 0;
  for (int i = 0; i < n; i++) sum += s[i];
  for (int i = 0; i < n; i++) squares += (s[i] - sum / n) * (s[i] - sum / n);
  return 100 * sqrt(squares / (n - 1)) / middle;
}

// Logarithms in order; `cut` of them at each end are left out of the mean: a run that was interrupted must not decide.
static int sorted_logs(const double *x, int n, double *out, int *cut) {
  n = sorted(x, n, out);
  for (int i = 0; i < n; i++) out[i] = log(out[i]);
  *cut = n / 5;
  return n;
}

static double trimmed_mean(const double *s, int n, int cut) {
  double sum = 0;
  for (int i = cut; i < n - cut; i++) sum += s[i];
  return sum / (n - 2 * cut);
}

double tune_mean_ratio(const double *x, int n) {
  double s[MOST];
  int cut;
  n = sorted_logs(x, n, s, &cut);
  return n ? exp(trimmed_mean(s, n, cut)) : 0;
}

// Yuen, "The two-sample trimmed t for unequal population variances", 1974, for one sample: the variance is that of the
// values with the outer ones moved to the cuts.
double tune_upper_bound(const double *x, int n) {
  // Student's t, one-sided 95 %, by degrees of freedom.
  static const double t[] = {0,    6.31, 2.92, 2.35, 2.13, 2.02, 1.94, 1.89,
                             1.86, 1.83, 1.81, 1.80, 1.78, 1.77, 1.76, 1.75};
  double s[MOST], sum = 0, squares = 0;
  int cut;
  if (n < 2) return INFINITY;
  n = sorted_logs(x, n, s, &cut);
  for (int i = 0; i < cut; i++) s[i] = s[cut], s[n - 1 - i] = s[n - 1 - cut];
  for (int i = 0; i < n; i++) sum += s[i];
  for (int i = 0; i < n; i++) squares += (s[i] - sum / n) * (s[i] - sum / n);
  const int degrees = n - 2 * cut - 1, last = (int)(sizeof t / sizeof *t) - 1;
  const double error = sqrt(squares / (n - 1) / n) * n / (n - 2 * cut);
  return exp(trimmed_mean(s, n, cut) + t[degrees < last ? degrees : last] * error);
}

// Rank of each candidate's value among the n; ties share the mean rank.
static void ranks(const double *x, int n, double *rank) {
  for (int i = 0; i < n; i++) {
    int below = 0, equal = 0;
    for (int j = 0; j < n; j++) below += x[j] < x[i], equal += x[j] == x[i];
    rank[i] = below + (equal - 1) / 2.0;
  }
}

double tune_rank_correlation(const struct tune_candidate *c, int n) {
  double x[MOST], y[MOST], a[MOST], b[MOST], mean, xy = 0, xx = 0, yy = 0;
  int m = 0;
  for (int i = 0; i < n && m < MOST; i++)
    if (c[i].ratio > 0) x[m] = c[i].predicted, y[m++] = c[i].ratio;
  if (m < 3) return 0;
  ranks(x, m, a);
  ranks(y, m, b);
  mean = (m - 1) / 2.0;
  for (int i = 0; i < m; i++) {
    xy += (a[i] - mean) * (b[i] - mean);
    xx += (a[i] - mean) * (a[i] - mean);
    yy += (b[i] - mean) * (b[i] - mean);
  }
  return xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : 0;
}
