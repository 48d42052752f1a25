// What crosses the border of the API: the per-thread message, and structs whose size the caller states.
#ifndef STROBE_STATUS_H
#define STROBE_STATUS_H

#include "../gen/error.h"

// Makes err the message of this thread, if it holds one; returns its status.
enum strobe_status status_report(const struct error *err);

// Copies a caller's struct, whose first field is its size, into one of `known` bytes; what an older caller lacks is
// zero. STROBE_INVALID: a size below `least`, or fields that this version does not know and that are not zero.
int sized_read(void *to, size_t known, size_t least, const void *from, const char *name, struct error *err);

// The other way: fills as much of the caller's struct as it has and keeps the size it states.
int sized_write(void *to, size_t known, size_t least, const void *from, const char *name, struct error *err);

#endif
