#include "workspace.h"

#include "fork.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

struct workspace {
  void *memory;
  atomic_int lent; // 0, or 1 + the fork_generation of the process whose thread has it
};

int workspace_create(size_t bytes, struct workspace **out, struct error *err) {
  *out = NULL;
  if (!bytes) return STROBE_OK;
  struct workspace *w = malloc(sizeof *w);
  void *memory = bytes > SIZE_MAX - 63 ? NULL : aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (!w || !memory) {
    free(w);
    free(memory);
    return fail(err, STROBE_NO_MEMORY, "no memory for a workspace of %zu bytes", bytes);
  }
  w->memory = memory;
  atomic_init(&w->lent, 0);
  *out = w;
  return STROBE_OK;
}

void workspace_free(struct workspace *w) {
  if (!w) return;
  free(w->memory);
  free(w);
}

// A thread of the parent that had it at the fork is not in the child.
void *workspace_borrow(struct workspace *w) {
  const int mine = fork_generation() + 1;
  int lent = atomic_load_explicit(&w->lent, memory_order_relaxed);
  const bool taken = lent != mine && atomic_compare_exchange_strong_explicit(
                                         &w->lent, &lent, mine, memory_order_acquire, memory_order_relaxed);
  return taken ? w->memory : NULL;
}

void workspace_return(struct workspace *w) { atomic_store_explicit(&w->lent, 0, memory_order_release); }
