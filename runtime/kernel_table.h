// Compiled kernels of a context, by key. Of the callers that ask for one at the same time, the first makes it and the
// others wait; a failure goes to all who waited and is then forgotten, so that a later call tries again.
#ifndef STROBE_KERNEL_TABLE_H
#define STROBE_KERNEL_TABLE_H

#include "jit.h"
#include "kernel_abi.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

struct compiled_kernel {
  const struct strobe_kernel *kernel;
  struct jit_module *module; // owns the kernel; NULL: nothing to unload
  char *source;              // malloc'd text that was compiled
  char *note;                // malloc'd; what went wrong beside the compilation, or NULL
  double render_ms, encode_ms, compile_ms, load_ms;
};

typedef int kernel_make(void *arg, struct compiled_kernel *out, struct error *err);

struct kernel_entry;
struct kernel_table {
  pthread_mutex_t lock;
  pthread_cond_t changed;
  _Atomic(struct kernel_entry *) entries;
  atomic_int generation; // fork_generation at which lock and entries were last sound; negative: being repaired
  int makes;             // calls of a kernel_make so far
};

int kernel_table_init(struct kernel_table *t, struct error *err);
void kernel_table_free(struct kernel_table *t); // unloads every kernel; nobody may be waiting

// The kernel for key, made by make(arg) if it is not there; `*made` says which. Its address is good until the table is
// freed. Returns 0, or what make returned, or STROBE_NO_MEMORY.
int kernel_table_get(struct kernel_table *t, const char *key, kernel_make *make, void *arg,
                     const struct compiled_kernel **out, bool *made, struct error *err);

int kernel_table_makes(struct kernel_table *t);

#endif
