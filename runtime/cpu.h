// What this CPU can run.
#ifndef STROBE_CPU_H
#define STROBE_CPU_H

#include "../gen/spec.h"

// True if this CPU and its operating system run code for t (by name; every x86-64 and AArch64 machine runs c99), or if
// t is a CUDA target and there is such a GPU. Of amxbf16 it asks the system to let this process use tiles.
bool cpu_has_target(const struct target *t);

// The CPU target that this machine runs s fastest on: the widest vectors, bf16 dot products where Q, K and V are bf16
// (but not on Intel, where they are slower than multiply-adds of f32), matrix tiles before all; c99 if nothing else
// does. NULL only if no CPU target supports s. The second leaves tiles out.
const struct target *cpu_best_target(const struct spec *s);
const struct target *cpu_best_vector_target(const struct spec *s);

// The processor's name as it gives it, with its numbers ("AMD EPYC (family 25 model 17)"), or "unknown CPU"; always
// terminated.
void cpu_name(char *name, size_t size);

#endif
