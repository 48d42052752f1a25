// Cubins on disk, addressed by what they were compiled from. A cache: every failure is a miss.
#ifndef STROBE_GPU_CACHE_H
#define STROBE_GPU_CACHE_H

#include "../gen/buf.h"

#include <stdbool.h>

// What a cubin follows from, besides the compiler: its text, and how the compiler is called.
struct cubin_key {
  const char *source;
  size_t len;
  const char *options; // any text
};

// Appends the cubin of this key. A hit wants a file that belongs to this user and that nobody else may write, whole,
// and made by a compiler that is still what it was: the file of its library has the same size and time. (So a hit needs
// no compiler: opening NVRTC takes as long as everything else together.) STROBE_NVRTC is part of the key.
bool cubin_cache_get(const struct cubin_key *key, struct buf *cubin);
// Keeps it: written beside its place and renamed. `compiler` is the path of the library that made it. A directory that
// can't be written is survived. Removes temporary files of such writes that are older than a day.
void cubin_cache_put(const struct cubin_key *key, const char *compiler, const struct buf *cubin);

#endif
