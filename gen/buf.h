// A growable string with a sticky out-of-memory flag: callers append freely and check `failed` once at the end.
#ifndef STROBE_GEN_BUF_H
#define STROBE_GEN_BUF_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

struct buf {
  char *data; // NUL-terminated whenever cap > 0
  size_t len, cap;
  bool failed; // an allocation failed: contents are a prefix of what was asked for
};

void buf_add(struct buf *b, const char *text, size_t len);
void buf_str(struct buf *b, const char *text);
void buf_char(struct buf *b, char c);
void buf_int(struct buf *b, long long value); // decimal; much faster than buf_printf
void buf_printf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
void buf_vprintf(struct buf *b, const char *format, va_list ap);
void buf_insert(struct buf *b, size_t at, const char *text, size_t len);
void buf_free(struct buf *b); // back to {0}

#endif
