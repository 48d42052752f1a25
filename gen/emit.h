// A kernel as two files that need nothing but a compiler: NAME.c or NAME.cu, and NAME.h.
#ifndef STROBE_GEN_EMIT_H
#define STROBE_GEN_EMIT_H

#include "kernel.h"

struct emitted {
  struct buf name;   // instance name: the files' name without suffix
  struct buf symbol; // of the struct strobe_kernel; also the prefix of SYMBOL_forward and SYMBOL_bytes
  struct buf source, header;
  const char *suffix; // of the source: ".c" or ".cu"
  struct kernel_stats stats;
};

// Renders both texts; they depend on nothing but the arguments and the embedded templates. t->dir is named in the
// command that writes them again. STROBE_UNSUPPORTED, STROBE_INVALID, STROBE_NO_MEMORY; then *out is all zero.
int emit_kernel(const struct instance *i, enum printer printer, const struct templates *t, struct emitted *out,
                struct error *err);
void emit_free(struct emitted *e); // back to {0}

// Appends text so that a POSIX shell reads it as one word.
void shell_word(const char *text, struct buf *out);

#endif
