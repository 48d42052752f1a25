// Reads JSON (RFC 8259) as a stream of events: what the manifest needs, no tree.
#ifndef STROBE_GEN_JSON_READ_H
#define STROBE_GEN_JSON_READ_H

#include "buf.h"
#include "error.h"

enum json_event {
  JSON_ERROR, // what was expected is in err, where is json_read_line's
  JSON_OBJECT,
  JSON_ARRAY,
  JSON_CLOSE, // of the innermost object or array
  JSON_TEXT,  // a string: text
  JSON_OTHER, // a number, true, false or null: text as it stands
  JSON_DONE   // after the outermost value
};

enum { JSON_READ_DEPTH = 32 };

struct json_reader {
  const char *at, *end;
  int depth;
  char closer[JSON_READ_DEPTH];
  bool any[JSON_READ_DEPTH]; // a member was read at this depth
  bool started;
  struct buf key; // of the value at hand; empty in arrays and for the outermost
  struct buf text;
  const char *start;
};

void json_read_start(struct json_reader *r, const char *text, size_t len);
enum json_event json_read(struct json_reader *r, struct error *err);
int json_read_line(const struct json_reader *r); // from 1
void json_read_free(struct json_reader *r);

#endif
