// Memory that ends (or begins) at a page that may not be touched: an access one byte beyond a tensor is a SIGSEGV.
#ifndef STROBE_TESTS_GUARD_H
#define STROBE_TESTS_GUARD_H

#include "../runtime/inputs.h"

#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

enum guard_side { GUARD_AFTER, GUARD_BEFORE };
static enum guard_side guard_sides[] = {GUARD_AFTER, GUARD_BEFORE}; // contexts for guard_allocator

// [PROT_NONE page] [pages with the data at their end or start] [PROT_NONE page]
static inline void *guard_alloc(void *context, size_t bytes) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE), inside = (bytes + page - 1) / page * page;
  if (bytes > SIZE_MAX / 2) return NULL;
  char *all = mmap(NULL, inside + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (all == MAP_FAILED) return NULL;
  if (mprotect(all + page, inside, PROT_READ | PROT_WRITE)) {
    munmap(all, inside + 2 * page);
    return NULL;
  }
  return all + page + (*(enum guard_side *)context == GUARD_AFTER ? inside - bytes : 0);
}

static inline void guard_free(void *context, void *data, size_t bytes) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE), inside = (bytes + page - 1) / page * page;
  (void)context;
  munmap((char *)((uintptr_t)data / page * page) - page, inside + 2 * page);
}

// For tensors_create and verify_create: every tensor of its own, against a guard page on the given side.
static inline struct tensor_allocator guard_allocator(enum guard_side side) {
  return (struct tensor_allocator){guard_alloc, guard_free, &guard_sides[side]};
}

// Makes the pages of guarded data readable only, so that a kernel that writes to an input faults. Returns 0 or -1.
static inline int guard_read_only(const void *data, size_t bytes) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  return mprotect((char *)((uintptr_t)data / page * page), (bytes + page - 1) / page * page, PROT_READ);
}

#endif
