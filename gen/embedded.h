// The template files that were built into this binary.
#ifndef STROBE_GEN_EMBEDDED_H
#define STROBE_GEN_EMBEDDED_H

#include <stddef.h>

struct embedded_file {
  const char *name; // "cpu/attn_fwd.c"
  const char *text; // NUL-terminated
  size_t len;
};
extern const struct embedded_file embedded_files[];
extern const int embedded_count;

#endif
