// Causal attention with kernels that this project owns, compared with the textbook loop.
#include "attn_dispatch.h"

#include <math.h>
#include <stdio.h>

enum { HEADS = 4, HEADS_KV = 2, ROWS = 70, D = 32 };
static float q[ROWS][HEADS][D], k[ROWS][HEADS_KV][D], v[ROWS][HEADS_KV][D], o[ROWS][HEADS][D];

static void fill(float *x, int n) {
  static unsigned state = 1;
  for (int i = 0; i < n; i++) {
    state = state * 1664525u + 1013904223u;
    x[i] = (float)(state >> 8) / (float)(1 << 23) - 1;
  }
}

// One row of softmax(q K^T / sqrt(D)) V over the first `keys` keys, in double precision.
static void textbook(int row, int head, int keys, double out[D]) {
  double p[ROWS], most = -INFINITY, sum = 0;
  const int h = head / (HEADS / HEADS_KV);
  for (int j = 0; j < keys; j++) {
    p[j] = 0;
    for (int x = 0; x < D; x++) p[j] += (double)q[row][head][x] * k[j][h][x] / sqrt(D);
    most = fmax(most, p[j]);
  }
  for (int j = 0; j < keys; j++) sum += p[j] = exp(p[j] - most);
  for (int x = 0; x < D; x++) {
    out[x] = 0;
    for (int j = 0; j < keys; j++) out[x] += p[j] / sum * v[j][h][x];
  }
}

// The first n rows of q; row i sees the keys up to i + ROWS - n. Returns the largest error, or -1.
static double check(int n) {
  const struct my_attn_problem problem = {D, D, MY_ATTN_F32, MY_ATTN_F32, MY_ATTN_F32, MY_ATTN_CAUSAL};
  const struct strobe_args args = {.abi = STROBE_ABI,
                                   .size = sizeof args,
                                   .scale = (float)(1 / sqrt(D)),
                                   .batch = 1,
                                   .heads = HEADS,
                                   .heads_kv = HEADS_KV,
                                   .q_len = n,
                                   .kv_len = ROWS,
                                   .diagonal = ROWS - n, // the last query sees the last key
                                   .q = {q, n * HEADS * D, D, HEADS * D},
                                   .k = {k, ROWS * HEADS_KV * D, D, HEADS_KV * D},
                                   .v = {v, ROWS * HEADS_KV * D, D, HEADS_KV * D},
                                   .o = {o, n * HEADS * D, D, HEADS * D}};
  char why[300];
  const char *name = "";
  double worst = 0, want[D];
  if (my_attn_forward(&problem, &args, NULL, 0, why, sizeof why)) return puts(why), -1;
  my_attn_kernel(&problem, &args, &name, NULL, 0);
  for (int i = 0; i < n; i++)
    for (int h = 0; h < HEADS; h++) {
      textbook(i, h, i + 1 + ROWS - n, want);
      for (int x = 0; x < D; x++) worst = fmax(worst, fabs(o[i][h][x] - want[x]));
    }
  printf("%2d queries, %s: largest error %.1e\n", n, name, worst);
  return worst;
}

int main(void) {
  fill(&q[0][0][0], ROWS * HEADS * D);
  fill(&k[0][0][0], ROWS * HEADS_KV * D);
  fill(&v[0][0][0], ROWS * HEADS_KV * D);
  const double many = check(ROWS), one = check(1);
  return !(many >= 0 && many < 1e-5 && one >= 0 && one < 1e-5);
}
