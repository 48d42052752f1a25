// CUDA text to a cubin for sm_90a, through NVRTC (opened at run time) and ptxas inside it.
#ifndef STROBE_GPU_NVRTC_H
#define STROBE_GPU_NVRTC_H

#include "../gen/buf.h"
#include "../gen/error.h"

// What ptxas says about the one kernel of a cubin.
struct gpu_report {
  int registers;                              // per thread, at entry
  int stack_bytes, spill_stores, spill_loads; // bytes
  char serialized[96];                        // the first C75xx message, or ""
  int main_loops;                             // innermost loops with wgmma; 0: the machine code was not understood
  int local_in_loop;                          // loads and stores of local memory that every iteration of one makes
};

// Searched in $STROBE_NVRTC, the loader's path, /usr/local/cuda. STROBE_UNSUPPORTED: not found.
int nvrtc_version(int *major, int *minor, struct error *err);

// What it is called with, joined by blanks; and the path of the library once it has been opened, or NULL.
extern const char nvrtc_options[];
const char *nvrtc_library(void);

// Appends the cubin. STROBE_UNSUPPORTED: no NVRTC; STROBE_INTERNAL: the text does not compile (the sentence holds the
// first error), ptxas serialises wgmma (C7510 to C7519), or registers are
// spilled in a main loop (gpu_sass.h; spills elsewhere are in the report); STROBE_NO_MEMORY, STROBE_DEVICE: a call of
// NVRTC failed (the sentence names it).
int nvrtc_compile(const char *source, struct buf *cubin, struct gpu_report *report, struct error *err);

// Reads the lines of `ptxas -v`.
void gpu_report_parse(const char *log, struct gpu_report *report);

#endif
