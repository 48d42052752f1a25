// In a program that uses OpenMP attention runs on OpenMP's threads: by default, and by a parallel-for of the program's
// own, as for any other pool of threads. cc -fopenmp openmp.c $(pkg-config --cflags --libs strobe)
#include <strobe.h>

#include <omp.h>
#include <stdio.h>
#include <string.h>

enum { HEADS = 6, N = 500, D = 64 };
static float q[N][HEADS][D], k[N][HEADS][D], v[N][HEADS][D], o[2][N][HEADS][D];

// Items differ in length (of a causal head the longest come first), so each goes to the thread that is free.
static void openmp_for(void *context, int64_t n, strobe_body *body, void *arg) {
  (void)context;
#pragma omp parallel for schedule(dynamic)
  for (int64_t i = 0; i < n; i++) body(arg, i, i + 1, omp_get_thread_num());
}

static int attend(const struct strobe_context_options *options, float *out) {
  strobe_context *ctx = NULL;
  strobe_plan *plan = NULL;
  struct strobe_io io = {.size = sizeof io, .q = {q}, .k = {k}, .v = {v}, .o = {out}};
  const int failed = strobe_context_create(options, &ctx) ||
                     strobe_plan_create(ctx, "d64:f32:causal:h6q500k500", NULL, &plan) || strobe_execute(plan, &io);
  if (failed) puts(strobe_error());
  strobe_plan_destroy(plan);
  strobe_context_destroy(ctx);
  return failed;
}

int main(void) {
  const struct strobe_context_options options = {
      .size = sizeof options, .n_workers = omp_get_max_threads(), .parallel_for = openmp_for};
  for (int i = 0; i < N * HEADS * D; i++) {
    (&q[0][0][0])[i] = (float)(i % 13) / 13;
    (&k[0][0][0])[i] = (float)(i % 11) / 11;
    (&v[0][0][0])[i] = (float)(i % 7);
  }
  if (attend(&options, &o[0][0][0][0]) || attend(NULL, &o[1][0][0][0])) return 1;
  const int same = !memcmp(o[0], o[1], sizeof o[0]);
  printf("%d OpenMP threads: %s\n", options.n_workers, same ? "the same bits either way" : "other bits");
  return !same;
}
