// The oracle as the one step of a plan: the last rung of the ladder. An item is a few query rows of one head.
#ifndef STROBE_REFERENCE_STEP_H
#define STROBE_REFERENCE_STEP_H

#include "reference.h"

int64_t reference_step_items(const struct strobe_args *args);
// Of the memory that each worker has for itself; -1: beyond 64 bits.
int64_t reference_step_bytes(const struct spec *s, const struct strobe_args *args);
int reference_step_run(const struct spec *s, const struct strobe_args *args, int64_t first, int64_t last,
                       void *scratch);

#endif
