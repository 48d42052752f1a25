// One problem of `bench` on the CPU: its tensors, its plan, and what was measured, each burst between two looks at the
// peak.
#ifndef STROBE_GEN_CMD_BENCH_CASE_H
#define STROBE_GEN_CMD_BENCH_CASE_H

#include "../runtime/inputs.h"
#include "../runtime/plan.h"

struct bench_case_options {
  const char *target, *set, *backend, *kv_lens; // as in struct cmd_plan and cmd_kv_lens; NULL: the default
  const struct target *peak;                    // what the peak is of; NULL: the plan's
  enum layout layout;                           // of all tensors
  int64_t runs;                                 // most bursts
  int threads;                                  // workers of the context, and threads of the peak
  uint64_t seed;                                // of the inputs
};

struct bench_case {
  struct problem problem;
  int64_t *kv_lens;            // NULL: all kv_len
  const struct target *target; // what the peak is of
  struct tensors *tensors; // copies of one set, taken in turn: a decode step finds K and V in memory, not in a cache
  char *arena;             // what they lie in, so that the read probe reads the same pages; NULL: memory of their own
  size_t arena_bytes, arena_used;
  int64_t copies, next;
  strobe_plan *plan;
  struct strobe_plan_info info;
  void *workspace;
  struct probe_reader **readers;  // one per thread; NULL: held against arithmetic
  int threads, runs;              // runs: bursts so far
  double once;                    // seconds of the execution before the first burst
  int64_t repeats;                // executions of a burst
  double *seconds, *peak, *ratio; // of each run: of one execution; GFLOP/s or GB/s; rate / peak
  double *rate;                   // of each thread, while the peak is measured
};

// Everything up to the first burst; `text` is the problem. The context is of o->threads workers. What failed is still
// to be closed.
int bench_case_open(strobe_context *ctx, const char *text, const struct bench_case_options *o, struct bench_case *c,
                    struct error *err);
int bench_case_burst(struct bench_case *c, struct error *err); // one more run; at most o->runs of them
void bench_case_close(struct bench_case *c);

struct bench_summary {
  double ms, gflops, gbs, peak, percent, spread; // medians; spread: (slowest - fastest) / median time, per cent
  double rate;                                   // gflops or gbs, as the peak is
  const char *unit;                              // "GFLOP/s" or "GB/s"
};
struct bench_summary bench_case_summary(struct bench_case *c); // sorts what was measured; at least one run

// `bench --suite cpu`: fixed rows and what they are meant to reach.
struct bench_cpu_options {
  struct bench_case_options each; // target: of rows that have none of their own; threads and kv_lens are the rows' own
  const char *only, *plot;        // rows that contain this; an SVG file; NULL: all, none
  bool json, csv;
};
int bench_cpu(const struct bench_cpu_options *o, struct error *err);

// `bench --ablate`: one problem (NULL: the usual one) with more and more of the ideas.
struct bench_ablate_options {
  struct bench_case_options each; // set: fields that all rows have
  bool json, csv;
};
int bench_ablate(const char *problem, const struct bench_ablate_options *o, struct error *err);

#endif
