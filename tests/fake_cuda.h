// What tests see of tests/fake_cuda.c: its counters, and what they set.
#ifndef STROBE_TESTS_FAKE_CUDA_H
#define STROBE_TESTS_FAKE_CUDA_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define FAKE_CUBIN "fake cubin"

struct fake_cuda {
  // What happened.
  long calls;                                                   // that may fail, since the test set it to 0
  int retained, pushed, modules, allocations, events, programs; // alive now
  int launches, compiles, timings;
  char failed[40]; // the call that failed last
  // What is to happen.
  long fail_at;                    // the call that fails, from 1; 0: none
  int error;                       // with this CUresult or nvrtcResult
  int major, devices, nvrtc_major; // compute capability, how many
  atomic_int hold;                 // 1: cuInit makes it 2, and waits until it is 0
  int head_dim, causal;            // of the kernel that is launched (bf16); 0: memory is counted, and never touched
};

#endif
