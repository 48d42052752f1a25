// Cubins on disk, addressed by the text they were compiled from. A cache: every failure is a miss.
#ifndef STROBE_GPU_CACHE_H
#define STROBE_GPU_CACHE_H

#include "../gen/buf.h"

#include <stdbool.h>

// Appends the cubin of this text. Only files that belong to this user, and that nobody else may write, are read.
bool cubin_cache_get(const char *source, size_t len, struct buf *cubin);
// Keeps it: written beside its place and renamed. A directory that can't be written is survived.
void cubin_cache_put(const char *source, size_t len, const struct buf *cubin);

#endif
