// Kernels that were compiled into the library: what a plan falls back to where the JIT cannot work. The table is
// written by gen/builtin_gen.c during the build, from the list in gen/builtin_set.txt.
#ifndef STROBE_BUILTIN_H
#define STROBE_BUILTIN_H

#include "kernel_abi.h"

struct builtin_kernel {
  const char *spec;   // canonical text of its spec, as spec_print gives it
  const char *config; // canonical text; the target is c99
  const struct strobe_kernel *kernel;
};
extern const struct builtin_kernel builtin_kernels[];
extern const int builtin_count;

#endif
