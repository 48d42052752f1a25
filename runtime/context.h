// A context: how work is shared out, and the kernels that were compiled for it.
#ifndef STROBE_CONTEXT_H
#define STROBE_CONTEXT_H

#include "kernel_table.h"
#include "pool.h"
#include "tuned.h"

struct parallel {
  strobe_parallel_for *run;
  void *context;
  int n_workers;
};

struct strobe_context {
  struct parallel parallel;
  struct pool *pool; // what parallel.run runs on; NULL: the caller's own
  struct kernel_table kernels;
  struct tuned tuned; // configs measured on this machine
};

#endif
