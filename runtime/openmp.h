// The OpenMP runtime of a program that has one. Work on its threads is up to 1.8 times as fast as on threads beside
// them: after each parallel region they go on watching for work for a while, on the CPUs that ours would have.
#ifndef STROBE_OPENMP_H
#define STROBE_OPENMP_H

#include <stdbool.h>

// By the entry points of GCC's runtime, which LLVM's and Intel's have too.
struct openmp {
  void (*parallel)(void (*body)(void *), void *data, unsigned threads, unsigned flags); // returns after all bodies
  int (*max_threads)(void); // of a region, unless it says how many
  int (*in_parallel)(void); // in a region of several threads
};

// Whether this process has loaded a runtime and its threads may be used. Not in a process that was forked and has
// executed no program since: libgomp would wait there for threads that only the parent has.
bool openmp_find(struct openmp *o);

#endif
