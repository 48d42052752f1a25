// Kernels on an NVIDIA GPU: compiled through NVRTC or found in the cubin cache, loaded through the driver, launched.
#ifndef STROBE_GPU_H
#define STROBE_GPU_H

#include "../gen/spec.h"
#include "gpu_nvrtc.h"
#include "kernel_abi.h"

struct gpu_kernel;

struct gpu_kernel_info {
  const char *source;                    // what was compiled; lives as long as the kernel
  double render_ms, compile_ms, load_ms; // compile_ms: also the look into the cache
  bool cached;                           // the cubin came from the cache
  struct gpu_report report;              // all 0 if cached
};

// Whether this machine has a GPU that runs the target: compute capability 9.0. The device of the current context, else
// the first. STROBE_UNSUPPORTED with the reason.
int gpu_has_target(const struct target *t, struct error *err);

// The name of that device ("NVIDIA H200"), or "NVIDIA GPU"; always terminated.
void gpu_name(char *name, size_t size);

// Makes the kernel ready to launch in the current context, else in the primary context of the first device.
int gpu_kernel_open(const struct instance *i, struct gpu_kernel **out, struct error *err);
// Renders and compiles it, past the cache, and throws it away: for timing. Wants NVRTC, but no GPU. info->source is
// NULL.
int gpu_kernel_compile(const struct instance *i, struct gpu_kernel_info *info, struct error *err);
void gpu_kernel_close(struct gpu_kernel *k); // no launch may be in flight
struct gpu_kernel_info gpu_kernel_info(const struct gpu_kernel *k);

// Computes what args says and waits for it. Tensors are all in device memory, or all in host memory: those are copied,
// with any strides. args->workspace is not used. Re-entrant.
int gpu_kernel_run(struct gpu_kernel *k, const struct strobe_args *args, struct error *err);

// For timing: make the kernel's context current, and give it back; enqueue a launch on tensors in device memory.
struct gpu_driver;
const struct gpu_driver *gpu_kernel_driver(const struct gpu_kernel *k);
int gpu_kernel_enter(struct gpu_kernel *k, struct error *err);
void gpu_kernel_leave(struct gpu_kernel *k);
int gpu_kernel_enqueue(struct gpu_kernel *k, const struct strobe_args *args, struct error *err);

#endif
