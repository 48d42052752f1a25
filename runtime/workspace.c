#include "workspace.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

struct workspace {
  void *memory;
  atomic_flag lent;
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
  atomic_flag_clear(&w->lent);
  *out = w;
  return STROBE_OK;
}

void workspace_free(struct workspace *w) {
  if (!w) return;
  free(w->memory);
  free(w);
}

void *workspace_borrow(struct workspace *w) {
  return atomic_flag_test_and_set_explicit(&w->lent, memory_order_acquire) ? NULL : w->memory;
}

void workspace_return(struct workspace *w) { atomic_flag_clear_explicit(&w->lent, memory_order_release); }
