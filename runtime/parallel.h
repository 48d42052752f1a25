// The default parallel-for, and what a fork does to it.
#ifndef STROBE_PARALLEL_H
#define STROBE_PARALLEL_H

#include "strobe.h"

struct parallel {
  strobe_parallel_for *run;
  void *context;
  int n_workers;
};

int parallel_default_workers(void); // OpenMP's number of threads

// OpenMP, dynamic, in chunks of a few items; `context` is the struct parallel it belongs to. Serial where there is
// nothing to share and in a forked child: the threads of libgomp's pool do not survive a fork, and waiting for them
// never ends.
void parallel_openmp(void *context, int64_t n, strobe_body *body, void *arg);

void fork_watch(void);     // counts forks from now on; idempotent
int fork_generation(void); // forks between the process that called fork_watch and this one

#endif
