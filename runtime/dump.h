// STROBE_DUMP=DIR: what the JIT compiled, for people to look at.
#ifndef STROBE_DUMP_H
#define STROBE_DUMP_H

#include "../gen/buf.h"

// Writes DIR/symbol.printer.c and .o (an empty buffer: no such file). Returns NULL, or a malloc'd sentence about what
// could not be written. Without STROBE_DUMP it does nothing.
char *dump(const char *symbol, const char *printer, const struct buf *source, const struct buf *object);

#endif
