// The template engine: text with `$` directives in, text out. It knows nothing of attention, vector registers or files.
// The dialect is described in templates/README.md.
#ifndef STROBE_GEN_TEMPLATE_H
#define STROBE_GEN_TEMPLATE_H

#include "buf.h"
#include "error.h"

#include <stdint.h>

enum { TPL_MAX_FILES = 80 }; // of one render

struct tpl_binding {
  const char *name;
  const char *string; // NULL: an integer
  int64_t integer;
};

// Where a directive or vector operation stands, for error texts.
struct tpl_place {
  const char *file;
  int line;
};

// Receives what the engine does not understand itself. Each returns 0, or an error status after filling err with a
// sentence that names no file: the engine adds `file:line:` and the include chain. `indent` is the output indentation
// in columns. Any member may be NULL: the directive is then an error.
struct tpl_sink {
  void *context;
  int (*vreg)(void *context, const char *text, size_t len, int indent, struct buf *out, struct error *err);
  int (*block_begin)(void *context, const char *text, size_t len, int indent, struct buf *out, struct error *err);
  int (*op)(void *context, const char *text, size_t len, int indent, struct buf *out, struct error *err);
  int (*block_end)(void *context, struct buf *out, struct error *err);
  int (*constants)(void *context, int indent, struct buf *out, struct error *err);
  int (*mark)(void *context); // at the start of every body: a number that names the set of live registers ...
  void (*release)(void *context, int mark); // ... and at its end: registers declared since that mark are dead
};

// Finds a template by name; returns its text (owned by the loader, alive until the render ends) or NULL.
typedef const char *tpl_loader(void *context, const char *name, size_t *len);

struct tpl_options {
  const struct tpl_binding *bindings;
  size_t n_bindings;
  tpl_loader *load;
  void *load_context;
  const struct tpl_sink *sink; // may be NULL
  bool drop_comments;          // leave out lines that are only a // comment, and blank lines: less text for the JIT
  size_t max_output;           // bytes; 0 = 64 MiB
  size_t max_steps;            // lines executed; 0 = 16 million
};

// Renders template `name` and appends to out. On failure out is as it was before, and err says
// `file:line: sentence (included from file:line ...)`. Deterministic; keeps no state; needs memory proportional to the
// templates and the output; include depth is at most 32, expression depth at most 64.
int tpl_render(const char *name, const struct tpl_options *options, struct buf *out, struct error *err);

#endif
