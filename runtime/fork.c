#include "fork.h"

#include <pthread.h>
#include <stdatomic.h>

static atomic_int forks;
static pthread_once_t watching = PTHREAD_ONCE_INIT;

static void in_child(void) { atomic_fetch_add(&forks, 1); }
static void watch(void) { pthread_atfork(NULL, NULL, in_child); }

void fork_watch(void) { pthread_once(&watching, watch); }
int fork_generation(void) { return atomic_load(&forks); }
