// The threads of a context: the default parallel-for. They are OpenMP's in a program that has loaded its runtime, else
// our own. We bring no runtime along, as libgomp ends the process when it cannot start a thread and never returns in a
// forked child; where a program has one we see to both (openmp.h, start_team).
#ifndef STROBE_POOL_H
#define STROBE_POOL_H

#include "../gen/error.h"
#include "strobe.h"

#include <stdbool.h>

struct pool;

// Threads start when there is work for them, up to n_workers - 1; the caller of parallel_for is a worker. Any number of
// threads may call it at once. STROBE_NO_MEMORY.
int pool_create(int n_workers, struct pool **out, struct error *err);
void pool_destroy(struct pool *p); // waits for its threads; NULL is allowed
int pool_threads(struct pool *p);  // of its own that are running now, without callers
// Whether small work is worth sharing out at this time (of pool_clock): a thread is awake, or the last work ended so
// little ago that more of it seems to follow. To wake a thread takes longer than small work does.
bool pool_is_warm(struct pool *p, int64_t now);
void pool_ended(struct pool *p, int64_t now); // work ended, whoever did it
int64_t pool_clock(void);                     // nanoseconds, monotonic

// The threads that a parallel-for over n items would start, or as many as can be had: later ones of that size or less
// start none, and so allocate nothing. With OpenMP these are a team of the calling thread, as all of its teams are;
// threads that have not called this have the pool's own, so that many of them do not start many teams.
void pool_start(struct pool *p, int64_t n);

// A strobe_parallel_for; `context` is a struct pool. Chunks of a few items, shared out as workers come free. What does
// not start (RLIMIT_NPROC, memory) is done without: fewer workers, in the end the caller alone. In a forked child a
// pool of the parent has no threads, and the caller does the work; a pool made in the child has its own. In a parallel
// region of OpenMP the caller does the work.
void pool_parallel_for(void *context, int64_t n, strobe_body *body, void *arg);

int pool_default_workers(void); // OpenMP's; OMP_NUM_THREADS if it is a number; the CPUs that this process may run on

#endif
