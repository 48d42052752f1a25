// A plan: a problem, the kernel that serves it, and how that kernel's memory is laid out.
#ifndef STROBE_PLAN_H
#define STROBE_PLAN_H

#include "../gen/kernel.h"
#include "../gen/spec.h"
#include "context.h"
#include "kernel_abi.h"
#include "workspace.h"

struct gpu_kernel;

struct strobe_plan {
  strobe_context *context;
  struct problem problem;
  struct instance instance; // what the kernel is; target NULL for the reference
  float scale;

  const char *backend;
  const struct strobe_kernel *kernel;     // NULL: the reference
  const struct compiled_kernel *compiled; // NULL unless made by the JIT
  struct gpu_kernel *gpu;                 // of a CUDA target; owned by the plan
  bool fresh;                             // compiled for this plan: its timings are this plan's

  size_t shared_bytes;         // of the workspace, used by all workers; then n_workers pieces of
  size_t scratch_bytes;        // bytes of their own; both multiples of 64
  size_t workspace_bytes;      // all of it
  bool small;                  // takes less time on one thread than it takes to wake another
  struct workspace *workspace; // for executions whose caller has none; NULL: no kernel here wants any

  struct buf name, config, why, tuned;
};

// The arguments of a kernel for this plan, without tensors.
struct strobe_args plan_args(const struct strobe_plan *p);

// Sets the config to the one that the tuning database has for this bucket of sizes; with effort MEASURE or PATIENT
// tunes first if it has none. Leaves the config unset if there is nothing to take. STROBE_NO_MEMORY, or what tune()
// returns.
void plan_take_tuned(struct strobe_plan *p, const struct strobe_plan_options *o);

#endif
