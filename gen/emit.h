// A kernel as two files that need nothing but a compiler: NAME.c or NAME.cu, and NAME.h.
#ifndef STROBE_GEN_EMIT_H
#define STROBE_GEN_EMIT_H

#include "kernel.h"

// What to emit. The texts depend on nothing but this and the embedded templates.
struct emit_request {
  const struct instance *instance;
  enum printer printer;
  struct templates templates; // dir is named in the command that writes the files again
  const char *prefix;         // of every external symbol, and so of the files' name: "foo_"; NULL: none
  const char *cite;           // what the config was taken from, for people; NULL or "": the header says nothing of it
};

struct emitted {
  struct buf name;   // the files' name without suffix: the symbol
  struct buf symbol; // of the struct strobe_kernel; also the prefix of SYMBOL_forward and SYMBOL_bytes
  struct buf source, header;
  const char *suffix; // of the source: ".c" or ".cu"
  struct kernel_stats stats;
};

// Renders both texts. STROBE_UNSUPPORTED, STROBE_INVALID, STROBE_NO_MEMORY; then *out is all zero.
int emit_kernel(const struct emit_request *request, struct emitted *out, struct error *err);
void emit_free(struct emitted *e); // back to {0}

// Appends PREFIX, the instance's symbol, and of two printers the one that is not the default: what the two files are
// called.
void emit_symbol(const struct emit_request *request, struct buf *out);
const char *emit_suffix(const struct instance *i); // of the source: ".c" or ".cu"
// Appends the command that writes the two files again, in their directory.
void emit_command(const struct emit_request *request, struct buf *out);

// The #if condition under which the source has a body, so that a build compiles all files everywhere. NULL: always.
extern const char emit_x86[]; // that of x86-64
const char *emit_guard(const struct instance *i, enum printer printer);

// "" or what a C identifier may begin with, at most 64 characters; what is "--prefix", say.
int emit_check_name(const char *what, const char *name, struct error *err);

// What may be cited in a comment: at most EMIT_CITE_MAX characters, none that could end the line or be a trigraph.
enum { EMIT_CITE_MAX = 240 };
int emit_check_cite(const char *text, struct error *err);

// Appends text so that a POSIX shell reads it as one word.
void shell_word(const char *text, struct buf *out);

#endif
