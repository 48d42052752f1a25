#include "json_read.h"

#include <string.h>

void json_read_start(struct json_reader *r, const char *text, size_t len) {
  *r = (struct json_reader){.at = text, .end = text + len, .start = text};
}

void json_read_free(struct json_reader *r) {
  buf_free(&r->key);
  buf_free(&r->text);
}

int json_read_line(const struct json_reader *r) {
  int line = 1;
  for (const char *c = r->start; c < r->at; c++) line += *c == '\n';
  return line;
}

static enum json_event expected(const char *what, struct error *err) {
  fail(err, STROBE_INVALID, "not JSON: %s is missing", what);
  return JSON_ERROR;
}

static void skip(struct json_reader *r) {
  while (r->at < r->end && strchr(" \t\r\n", *r->at) && *r->at) r->at++;
}

static bool take(struct json_reader *r, char c) {
  skip(r);
  if (r->at >= r->end || *r->at != c) return false;
  r->at++;
  return true;
}

static int hex4(struct json_reader *r) {
  int value = 0;
  for (int i = 0; i < 4; i++, r->at++) {
    static const char digits[] = "0123456789abcdef";
    const char c = r->at < r->end ? *r->at : 0,
               *d = c ? strchr(digits, c >= 'A' && c <= 'F' ? c - 'A' + 'a' : c) : NULL;
    if (!d) return -1;
    value = 16 * value + (int)(d - digits);
  }
  return value;
}

// Escapes of characters that a manifest can hold; others pass as '?'.
static bool escape(struct json_reader *r, struct buf *out) {
  static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
  const char c = r->at < r->end ? *r->at++ : 0, *which = c ? strchr(from, c) : NULL;
  if (which) return buf_char(out, to[which - from]), true;
  const int code = c == 'u' ? hex4(r) : -1;
  if (code > 0) buf_char(out, code < 128 ? (char)code : '?');
  return code > 0;
}

// A string whose opening quote was taken.
static bool string(struct json_reader *r, struct buf *out) {
  out->len = 0;
  buf_str(out, "");
  while (r->at < r->end) {
    const char c = *r->at++;
    if (c == '"') return true;
    if (c == '\\' ? !escape(r, out) : (unsigned char)c < ' ') return false;
    if (c != '\\') buf_char(out, c);
  }
  return false;
}

static enum json_event value(struct json_reader *r, struct error *err) {
  static const char plain[] = "+-.0123456789abcdefghijklmnopqrstuvwxyzE";
  const bool object = take(r, '{');
  r->started = true;
  if (object || take(r, '[')) {
    if (r->depth == JSON_READ_DEPTH) return expected("less nesting", err);
    r->any[r->depth] = false;
    r->closer[r->depth++] = object ? '}' : ']';
    return object ? JSON_OBJECT : JSON_ARRAY;
  }
  if (take(r, '"')) return string(r, &r->text) ? JSON_TEXT : expected("the end of a string", err);
  r->text.len = 0;
  while (r->at < r->end && *r->at && strchr(plain, *r->at)) buf_char(&r->text, *r->at++);
  return r->text.len ? JSON_OTHER : expected("a value", err);
}

enum json_event json_read(struct json_reader *r, struct error *err) {
  enum json_event event;
  r->key.len = 0;
  buf_str(&r->key, "");
  if (r->depth == 0) {
    skip(r);
    if (r->started) return r->at == r->end ? JSON_DONE : expected("the end of the text", err);
    event = value(r, err);
  } else {
    const char closer = r->closer[r->depth - 1];
    if (take(r, closer)) return r->depth--, JSON_CLOSE;
    if (r->any[r->depth - 1] && !take(r, ',')) return expected("a comma", err);
    r->any[r->depth - 1] = true;
    if (closer == '}' && (!take(r, '"') || !string(r, &r->key) || !take(r, ':'))) return expected("\"key\":", err);
    event = value(r, err);
  }
  if (!r->key.failed && !r->text.failed) return event;
  fail(err, STROBE_NO_MEMORY, "no memory to read JSON");
  return JSON_ERROR;
}
