// Timing on a GPU: bursts short enough to stay under the power cap, interleaved with a matrix product of cuBLAS.
#ifndef STROBE_GPU_BENCH_H
#define STROBE_GPU_BENCH_H

#include "gpu.h"

struct gpu_case {
  struct gpu_kernel *kernel;
  struct problem problem;   // complete
  struct instance instance; // of the caller's
  double median_ms, p10_ms, p90_ms, best_ms;
};
struct gpu_ceiling {
  double tflops; // bf16, 8192 x 8192 x 8192, median; 0: cuBLAS was not found
};

// Told before each burst; tell may be NULL.
struct gpu_listener {
  void (*tell)(void *context, int round, int rounds, int case_number);
  void *context;
};

// Times every case on packed (batch, seqlen, heads, head_dim) tensors of random values: `rounds` bursts each, all cases
// and the matrix product in turn. STROBE_NO_MEMORY, STROBE_DEVICE (a CUDA call failed; the sentence names it).
int gpu_bench(struct gpu_case *cases, int n, int rounds, const struct gpu_listener *listener,
              struct gpu_ceiling *ceiling, struct error *err);

// One launch on such tensors, from the call to its end: the first one of a module also brings it to the device.
int gpu_first_launch(struct gpu_kernel *k, const struct problem *p, double *ms, struct error *err);

// Such tensors of one problem, for several kernels in turn. k, as any kernel that is timed, must be in the context that
// gpu_kernel_open found; it stays open until gpu_stage_close.
struct gpu_stage;
int gpu_stage_open(struct gpu_kernel *k, const struct problem *p, struct gpu_stage **out, struct error *err);
// A burst of launches (as many as are wanted, up to 30) between two events; ms of one.
int gpu_stage_time(struct gpu_stage *s, struct gpu_kernel *k, int64_t launches, double *ms, struct error *err);
void gpu_stage_close(struct gpu_stage *s);

#endif
