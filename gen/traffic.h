// A model of what the algorithms of the CPU's prefill kernels move: bytes between a tile's registers and scratch memory
// on one side, caches and memory on the other. It counts loads and stores of tensors and workspace, not misses.
#ifndef STROBE_GEN_TRAFFIC_H
#define STROBE_GEN_TRAFFIC_H

#include "spec.h"

// Of one execution of p, whose sizes are complete, by an instance with a resolved config of kernel=prefill or tiles.
double traffic_bytes(const struct problem *p, const struct instance *i);
extern const char *const traffic_about[ALGO_COUNT]; // what most of it is

#endif
