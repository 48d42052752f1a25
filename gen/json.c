#include "json.h"

#include <math.h>
#include <string.h>

static void newline(struct json *j) {
  buf_char(j->out, '\n');
  for (int i = 0; i < j->depth; i++) buf_str(j->out, "  ");
}

// Bytes of the UTF-8 sequence at s (Unicode table 3-7), 0 if it is not one.
static int utf8_length(const unsigned char *s) {
  if (s[0] < 0x80) return 1;
  const int n = s[0] >= 0xc2 && s[0] <= 0xdf   ? 2
                : s[0] >= 0xe0 && s[0] <= 0xef ? 3
                : s[0] >= 0xf0 && s[0] <= 0xf4 ? 4
                                               : 0;
  for (int i = 1; i < n; i++)
    if ((s[i] & 0xc0) != 0x80) return 0;
  if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f)) return 0;
  if ((s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f)) return 0;
  return n;
}

static void quoted(struct buf *out, const char *text) {
  buf_char(out, '"');
  for (const unsigned char *s = (const unsigned char *)text; *s;) {
    const int n = utf8_length(s);
    if (*s == '"' || *s == '\\')
      buf_printf(out, "\\%c", *s);
    else if (*s == '\n')
      buf_str(out, "\\n");
    else if (*s < 0x20)
      buf_printf(out, "\\u%04x", *s);
    else if (!n)
      buf_str(out, "\\ufffd");
    else
      buf_add(out, (const char *)s, (size_t)n);
    s += n ? n : 1;
  }
  buf_char(out, '"');
}

static void start(struct json *j, const char *key) {
  if (j->depth > 0) {
    if (j->any[j->depth - 1]) buf_char(j->out, ',');
    j->any[j->depth - 1] = true;
    newline(j);
  }
  if (!key) return;
  quoted(j->out, key);
  buf_str(j->out, ": ");
}

static void open_with(struct json *j, const char *key, char opener, char closer) {
  start(j, key);
  buf_char(j->out, opener);
  if (j->depth == JSON_DEPTH) {
    j->out->failed = true;
    return;
  }
  j->any[j->depth] = false;
  j->closer[j->depth++] = closer;
}

void json_object(struct json *j, const char *key) { open_with(j, key, '{', '}'); }
void json_array(struct json *j, const char *key) { open_with(j, key, '[', ']'); }

void json_end(struct json *j) {
  if (j->depth == 0) return;
  const bool any = j->any[--j->depth];
  if (any) newline(j);
  buf_char(j->out, j->closer[j->depth]);
  if (j->depth == 0) buf_char(j->out, '\n');
}

void json_string(struct json *j, const char *key, const char *value) {
  start(j, key);
  if (value)
    quoted(j->out, value);
  else
    buf_str(j->out, "null");
}

void json_integer(struct json *j, const char *key, int64_t value) {
  start(j, key);
  buf_int(j->out, value);
}

void json_number(struct json *j, const char *key, double value, int digits) {
  start(j, key);
  if (isfinite(value))
    buf_printf(j->out, "%.*g", digits, value);
  else
    buf_str(j->out, "null");
}

void json_bool(struct json *j, const char *key, bool value) {
  start(j, key);
  buf_str(j->out, value ? "true" : "false");
}
