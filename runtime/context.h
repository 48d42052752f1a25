// A context: how work is shared out, and the kernels that were compiled for it.
#ifndef STROBE_CONTEXT_H
#define STROBE_CONTEXT_H

#include "kernel_table.h"
#include "parallel.h"

struct strobe_context {
  struct parallel parallel;
  struct kernel_table kernels;
};

#endif
