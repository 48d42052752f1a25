#include "fork.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

static atomic_int forks;
static atomic_bool watching;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void fork_lock(void) { pthread_mutex_lock(&lock); }
void fork_unlock(void) { pthread_mutex_unlock(&lock); }
static void in_child(void) {
  atomic_fetch_add(&forks, 1);
  fork_unlock();
}

int fork_watch(struct error *err) {
  if (atomic_load(&watching)) return STROBE_OK;
  fork_lock();
  if (!atomic_load(&watching)) atomic_store(&watching, !pthread_atfork(fork_lock, fork_unlock, in_child));
  fork_unlock();
  return atomic_load(&watching) ? STROBE_OK : fail(err, STROBE_NO_MEMORY, "no memory to watch for forks");
}

int fork_generation(void) { return atomic_load(&forks); }
