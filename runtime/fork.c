#include "fork.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

static atomic_int forks;
static atomic_bool watching;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void hold(void) { pthread_mutex_lock(&lock); }
static void let_go(void) { pthread_mutex_unlock(&lock); }
static void in_child(void) {
  atomic_fetch_add(&forks, 1);
  let_go();
}

int fork_watch(struct error *err) {
  if (atomic_load(&watching)) return STROBE_OK;
  hold();
  if (!atomic_load(&watching)) atomic_store(&watching, !pthread_atfork(hold, let_go, in_child));
  let_go();
  return atomic_load(&watching) ? STROBE_OK : fail(err, STROBE_NO_MEMORY, "no memory to watch for forks");
}

int fork_generation(void) { return atomic_load(&forks); }
