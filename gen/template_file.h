// A template file split into lines, and lines into segments, once per render.
#ifndef STROBE_GEN_TEMPLATE_FILE_H
#define STROBE_GEN_TEMPLATE_FILE_H

#include "buf.h"
#include "error.h"

#include <stdint.h>

enum line_kind {
  LINE_BLANK,
  LINE_TEXT,
  LINE_COMMENT,
  LINE_OP,
  LINE_FOR,
  LINE_IF,
  LINE_ELIF,
  LINE_ELSE,
  LINE_LET,
  LINE_ASSERT,
  LINE_INCLUDE,
  LINE_VREG,
  LINE_BLOCK,
  LINE_CONSTANTS,
  LINE_NOTE
};

// Literal text, an identifier that may be bound, or the inside of ${ }.
struct segment {
  enum { SEGMENT_TEXT, SEGMENT_NAME, SEGMENT_EXPR } kind;
  const char *text;
  int len;
  int symbol; // SEGMENT_NAME
};

struct line {
  enum line_kind kind;
  int indent;
  const char *text; // after the indentation and the directive's name or '@'
  int len;
  int body_end;            // first line after the body
  int body_indent;         // columns of the body's own lines; indent if there is none
  int segment, n_segments; // LINE_TEXT, LINE_OP, LINE_VREG, LINE_BLOCK
};

struct template_file {
  const char *name;
  struct line *lines;
  int n_lines;
  struct segment *segments;
  int n_segments, cap_segments;
};

// Interns identifiers: small integers for names, so that a lookup is an array access.
struct symbols {
  struct symbol {
    const char *name;
    int len, binding; // index of the innermost binding, -1: none
  } * symbol;
  int n, cap;
  int *slot; // hash table of indices + 1
  int n_slots;
};
int symbol_intern(struct symbols *s, const char *name, size_t len); // -1: no memory
void symbols_free(struct symbols *s);

// Text must outlive the file. On failure err has a sentence and *line the line number (from 1).
int template_split(const char *name, const char *text, size_t len, struct symbols *symbols, struct template_file *out,
                   int *line, struct error *err);
void template_file_free(struct template_file *f);

// The } that closes a ${ whose inside starts at p, or NULL. Braces in string literals do not count.
const char *template_closing_brace(const char *p, const char *end);

#endif
