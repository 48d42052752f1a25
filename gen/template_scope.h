// The state of one render, shared by the walk over lines (template.c) and the names and values (template_scope.c).
#ifndef STROBE_GEN_TEMPLATE_SCOPE_H
#define STROBE_GEN_TEMPLATE_SCOPE_H

#include "expr.h"
#include "template.h"
#include "template_file.h"

enum { MAX_INCLUDE = 32, MAX_NESTING = 200, MAX_JOIN = 16 };

struct binding {
  int symbol, hidden; // the binding of the same name that this one shadows, -1: none
  struct value value;
};

struct kept { // text that a join produced, freed at the end
  struct kept *next;
  char text[];
};

struct render {
  const struct tpl_options *options;
  const struct tpl_sink *sink;
  struct buf *out;
  struct error *err;
  struct symbols symbols;
  struct binding *bindings;
  int n_bindings, cap_bindings;
  struct template_file files[TPL_MAX_FILES];
  int n_files;
  struct tpl_place chain[MAX_INCLUDE + 1]; // where each open include stands
  int depth, nesting, joins;
  bool in_block, located;
  size_t start, max_output, steps, max_steps, kept_bytes;
  struct buf text; // of the line being built
  struct kept *kept;
};

// Binds a name until the caller unbinds down to the number of bindings there were before. STROBE_NO_MEMORY.
int scope_bind(struct render *r, const char *name, size_t len, struct value value);
void scope_unbind(struct render *r, int n);
struct expr scope_expression(struct render *r, const char *text, size_t len);
// Evaluates the whole of a text.
int scope_evaluate(struct render *r, const char *text, size_t len, struct value *out);
// Appends a string with its ${} substituted.
int scope_expand(struct render *r, struct value text, struct buf *b);
// Builds the text of a line in r->text.
int scope_substitute(struct render *r, const struct template_file *f, const struct line *l);

#endif
