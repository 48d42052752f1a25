#include "buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool reserve(struct buf *b, size_t extra) {
  if (b->failed) return false;
  if (b->cap - b->len > extra) return true;
  size_t cap = b->cap ? b->cap : 256;
  while (cap - b->len <= extra) {
    if (cap > (size_t)-1 / 2) return b->failed = true, false;
    cap *= 2;
  }
  char *data = realloc(b->data, cap);
  if (!data) return b->failed = true, false;
  b->data = data;
  b->cap = cap;
  return true;
}

void buf_add(struct buf *b, const char *text, size_t len) {
  if (!reserve(b, len)) return;
  if (len) memcpy(b->data + b->len, text, len);
  b->len += len;
  b->data[b->len] = 0;
}

void buf_str(struct buf *b, const char *text) { buf_add(b, text, strlen(text)); }

void buf_char(struct buf *b, char c) { buf_add(b, &c, 1); }

void buf_int(struct buf *b, long long value) {
  char digits[24], *p = digits + sizeof digits;
  unsigned long long u = value < 0 ? 0ull - (unsigned long long)value : (unsigned long long)value;
  do *--p = (char)('0' + u % 10);
  while (u /= 10);
  if (value < 0) *--p = '-';
  buf_add(b, p, (size_t)(digits + sizeof digits - p));
}

void buf_vprintf(struct buf *b, const char *format, va_list ap) {
  va_list again;
  va_copy(again, ap);
  int n = vsnprintf(NULL, 0, format, ap);
  if (n >= 0 && reserve(b, (size_t)n + 1)) {
    vsnprintf(b->data + b->len, (size_t)n + 1, format, again);
    b->len += (size_t)n;
  } else {
    b->failed = true;
  }
  va_end(again);
}

void buf_printf(struct buf *b, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  buf_vprintf(b, format, ap);
  va_end(ap);
}

void buf_insert(struct buf *b, size_t at, const char *text, size_t len) {
  if (at > b->len || !reserve(b, len)) return;
  memmove(b->data + at + len, b->data + at, b->len - at);
  if (len) memcpy(b->data + at, text, len);
  b->len += len;
  b->data[b->len] = 0;
}

void buf_free(struct buf *b) {
  free(b->data);
  *b = (struct buf){0};
}
