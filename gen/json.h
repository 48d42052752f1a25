// Writes JSON (RFC 8259) into a buf, indented so that people can read it and diffs stay small.
#ifndef STROBE_GEN_JSON_H
#define STROBE_GEN_JSON_H

#include "buf.h"

#include <stdint.h>

enum { JSON_DEPTH = 16 };

struct json {
  struct buf *out;
  int depth;
  bool any[JSON_DEPTH]; // a member was written at this depth
  char closer[JSON_DEPTH];
};

// `key` is NULL for an element of an array and for the outermost value.
void json_object(struct json *j, const char *key);
void json_array(struct json *j, const char *key);
void json_end(struct json *j); // of the innermost object or array; a newline after the outermost
void json_string(struct json *j, const char *key,
                 const char *value); // NULL: null; bytes that are not UTF-8 pass as U+FFFD
void json_integer(struct json *j, const char *key, int64_t value);
void json_number(struct json *j, const char *key, double value,
                 int digits); // significant digits; NaN and infinities: null
void json_bool(struct json *j, const char *key, bool value);

#endif
