// An allocator that fails on demand: stands in for malloc and its kin in the whole process, libc's own calls included.
// For glibc, and not with a sanitizer, which has an allocator of its own.
#ifndef STROBE_TESTS_FAILING_MALLOC_H
#define STROBE_TESTS_FAILING_MALLOC_H

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define FAILING_MALLOC 1
#else
#define FAILING_MALLOC 0
#endif

struct faults {
  bool on;      // count, and fail; the test runs one thread then
  long calls;   // allocations so far
  long fail_at; // the one that fails, from 1; 0: none
  bool lasting; // and all after it
  long live;    // allocated and not freed
};
static volatile struct faults
    faults; // volatile: the compiler knows what malloc does, and thinks that it does not touch this

// True if this allocation may go on. Also for resources that are not memory: mappings, descriptors.
static inline bool fault_admit(void) {
  if (!faults.on) return true;
  faults.calls++;
  if (!faults.fail_at || faults.calls < faults.fail_at || (faults.calls > faults.fail_at && !faults.lasting))
    return true;
  errno = ENOMEM;
  return false;
}

#if FAILING_MALLOC

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);
void *__libc_memalign(size_t align, size_t size);
void __libc_free(void *p);

// Visible, or libc would go on calling its own.
#define STAND_IN __attribute__((visibility("default")))

static inline void *fault_got(void *p) {
  if (faults.on && p) faults.live++;
  return p;
}

STAND_IN void *malloc(size_t size) { return fault_admit() ? fault_got(__libc_malloc(size)) : NULL; }
STAND_IN void *calloc(size_t n, size_t size) { return fault_admit() ? fault_got(__libc_calloc(n, size)) : NULL; }
void *memalign(size_t align, size_t size);
STAND_IN void *memalign(size_t align, size_t size) {
  return fault_admit() ? fault_got(__libc_memalign(align, size)) : NULL;
}
STAND_IN void *aligned_alloc(size_t align, size_t size) { return memalign(align, size); }
STAND_IN int posix_memalign(void **out, size_t align, size_t size) {
  return (*out = memalign(align, size)) ? 0 : ENOMEM;
}
STAND_IN void *realloc(void *p, size_t size) {
  if (!fault_admit()) return NULL;
  void *q = __libc_realloc(p, size);
  return p ? q : fault_got(q);
}
STAND_IN void free(void *p) {
  if (faults.on && p) faults.live--;
  __libc_free(p);
}

#endif
#endif
