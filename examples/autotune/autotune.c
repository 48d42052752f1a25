// Tunes a problem within a budget, in this thread; a plan of another context, as one of another process would be, finds
// the record. With TUNINGS the program brings records of its own (strobe db export --c), and tunes nothing.
//   autotune [PROBLEM [SECONDS]]
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <strobe.h>
#include <time.h>

#ifdef TUNINGS
extern const char strobe_tunings[];
#else
static const char *const strobe_tunings = NULL;
#endif

enum { RUNS = 15 };

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static strobe_plan *plan(const char *problem, const struct strobe_plan_options *options,
                         struct strobe_plan_info *info) {
  const struct strobe_context_options with = {.size = sizeof with, .n_workers = 1, .tunings = strobe_tunings};
  strobe_context *context; // kept: the plan needs it
  strobe_plan *p;
  info->size = sizeof *info;
  if (strobe_context_create(&with, &context) || strobe_plan_create(context, problem, options, &p) ||
      strobe_plan_describe(p, info)) {
    fprintf(stderr, "autotune: %s\n", strobe_error());
    exit(2);
  }
  return p;
}

// Median of alternating runs, so that both plans see the same machine.
static void race(strobe_plan *const p[2], size_t elements, double ms[2]) {
  float *x = malloc(4 * elements * sizeof *x);
  double t[2][RUNS];
  if (!x) exit(2);
  for (size_t i = 0; i < 4 * elements; i++) x[i] = (float)(i * 2654435761u % 1000) / 500 - 1;
  const struct strobe_io io = {.size = sizeof io,
                               .q = {.data = x},
                               .k = {.data = x + elements},
                               .v = {.data = x + 2 * elements},
                               .o = {.data = x + 3 * elements}};
  for (int run = 0; run < 2 * RUNS; run++) {
    const double start = seconds();
    if (strobe_execute(p[run % 2], &io)) fprintf(stderr, "autotune: %s\n", strobe_error()), exit(2);
    t[run % 2][run / 2] = 1e3 * (seconds() - start);
  }
  for (int i = 0; i < 2; i++) qsort(t[i], RUNS, sizeof **t, ascending), ms[i] = t[i][RUNS / 2];
  free(x);
}

int main(int argc, char **argv) {
  const char *problem = argc > 1 ? argv[1] : "d64:f32:b1h8q512";
  const size_t elements = 1 << 22; // of each tensor: enough for f32 problems of up to 4 million elements
  const struct strobe_plan_options measure = {
      .size = sizeof measure, .effort = STROBE_MEASURE, .budget_s = argc > 2 ? strtod(argv[2], NULL) : 2};
  struct strobe_plan_info first, second, untuned;
#ifndef TUNINGS
  const double start = seconds();
  plan(problem, &measure, &first);
  printf("first plan   %.2f s: %s\n", seconds() - start, first.tuned);
#else
  (void)first, (void)measure;
#endif
  const double again = seconds();
  strobe_plan *const found = plan(problem, NULL, &second);
  printf("second plan  %.4f s: %s\n", seconds() - again, *second.tuned ? second.tuned : "no record");
  const struct strobe_plan_options fixed = {.size = sizeof fixed, .config = ""}; // no record is asked for
  double ms[2];
  race((strobe_plan *const[2]){plan(problem, &fixed, &untuned), found}, elements, ms);
  printf("default      %.3f ms  %s\nrecord       %.3f ms  %s\n", ms[0], untuned.config, ms[1], second.config);
  return !*second.tuned;
}
