// The template engine: text with `$` directives in, text out. It knows nothing of attention, vector registers or files.
//
// Dialect (the reference is templates/README.md):
//   $for I in A..B, J in C..D     body once per value, J fastest; half-open; B <= A gives nothing; `A..B step S`, S >=
//   1 $if expr / $elif expr / $else $let NAME = expr              binds NAME until the enclosing body (or file, for an
//   include) ends; rebinding shadows $assert expr, "why"           a false expr is an error whose text is why (with ${}
//   substituted) $include "file" with A = 1, B = x + 1     renders a file at this point and indentation; it sees the
//   names of the includer $vreg TEXT                    handed to the sink (declares vector registers; they live until
//   the enclosing body ends) $block TEXT                   its body may hold only directives, `@` lines and comments;
//   handed to the sink as begin/end $constants                    handed to the sink: the place for a table that is
//   known only at the end
//   $# text                       comment of the template; not output
//   @op operands                  handed to the sink
//   anything else                 output, with ${expr} substituted and `$$` for a dollar sign
// A body is what is indented deeper than its directive; output is de-indented by that depth, so that it looks
// hand-written.
// `${join(I, A..B, "sep", "text ${I}")}` repeats. In `@`, `$vreg` and `$block` text, a bare identifier that is bound to
// an integer or a string in scope is replaced by its value (so `@fma s[I][J], q[J], bcast k[I*ldk + X]` arrives as
// `s[0][1], q[1], bcast k[0*ldk + 17]`).
#ifndef STROBE_GEN_TEMPLATE_H
#define STROBE_GEN_TEMPLATE_H

#include "buf.h"
#include "error.h"

#include <stdint.h>

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
