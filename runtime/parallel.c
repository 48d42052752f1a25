#include "parallel.h"

#include <omp.h>
#include <pthread.h>
#include <stdatomic.h>

enum { CHUNKS_PER_WORKER = 8, CHUNK_MAX = 8 };

static atomic_int forks;
static pthread_once_t watching = PTHREAD_ONCE_INIT;

static void in_child(void) { atomic_fetch_add(&forks, 1); }
static void watch(void) { pthread_atfork(NULL, NULL, in_child); }

void fork_watch(void) { pthread_once(&watching, watch); }
int fork_generation(void) { return atomic_load(&forks); }

int parallel_default_workers(void) { return omp_get_max_threads(); }

void parallel_openmp(void *context, int64_t n, strobe_body *body, void *arg) {
  const struct parallel *p = context;
  // Neighbouring items share K and V, so a chunk is worth having; few enough items to a chunk that the last ones
  // balance.
  int64_t size = n / p->n_workers / CHUNKS_PER_WORKER;
  size = size < 1 ? 1 : size > CHUNK_MAX ? CHUNK_MAX : size;
  const int64_t chunks = n / size + (n % size != 0);
  if (chunks <= 1 || p->n_workers == 1 || fork_generation()) {
    if (n > 0) body(arg, 0, n, 0);
    return;
  }
  // Always the same number of threads: libgomp ends and restarts those that a smaller team leaves over.
#pragma omp parallel for schedule(dynamic, 1) num_threads(p->n_workers)
  for (int64_t c = 0; c < chunks; c++) {
    int64_t first = c * size, last = n - first < size ? n : first + size;
    body(arg, first, last, omp_get_thread_num());
  }
}
