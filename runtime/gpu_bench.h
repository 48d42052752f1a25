// Timing on a GPU: bursts short enough to stay under the power cap, interleaved with a matrix product of cuBLAS.
#ifndef STROBE_GPU_BENCH_H
#define STROBE_GPU_BENCH_H

#include "gpu.h"

struct gpu_case {
  struct gpu_kernel *kernel;
  struct problem problem; // complete
  double median_ms, best_ms;
};
struct gpu_ceiling {
  double tflops; // bf16, 8192 x 8192 x 8192, median; 0: cuBLAS was not found
};

// Times every case on packed (batch, seqlen, heads, head_dim) tensors of random values: `rounds` bursts each, all cases
// and the matrix product in turn. STROBE_NO_MEMORY, STROBE_UNSUPPORTED (a CUDA call failed; the sentence names it).
int gpu_bench(struct gpu_case *cases, int n, int rounds, struct gpu_ceiling *ceiling, struct error *err);

#endif
