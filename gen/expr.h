// Expressions of the template dialect: 64-bit integers and strings, C's operators and precedence.
#ifndef STROBE_GEN_EXPR_H
#define STROBE_GEN_EXPR_H

#include "buf.h"
#include "error.h"

#include <stdint.h>

struct value {
  bool is_string;
  int64_t integer;
  const char *text; // not NUL-terminated
  size_t len;
};

// Finds a name's value; returns false and fills err (with the nearest known name) if there is none.
typedef bool expr_lookup(void *context, const char *name, size_t len, struct value *out, struct error *err);
// join(I, A..B, "sep", "text"): expands the text once per value of I; the result must outlive the render.
typedef int expr_join(void *context, const char *name, size_t len, int64_t from, int64_t to, struct value separator,
                      struct value text, struct value *out, struct error *err);

struct expr {
  const char *p, *end; // what is left; parsing stops at the first character that can't continue the expression
  expr_lookup *lookup;
  expr_join *join;
  void *context;
  struct error *err;
  int depth, dead; // dead > 0: inside a branch that is not taken, parsed but not evaluated
};

int expr_parse(struct expr *e, struct value *out);
// Skips blanks; then, if the text continues with `word`, takes it.
bool expr_take(struct expr *e, const char *word);
// An identifier; returns its length or 0.
size_t expr_name(struct expr *e, const char **name);

#endif
