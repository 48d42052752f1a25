#include "error.h"

#include <stdarg.h>
#include <stdio.h>

int fail(struct error *err, enum strobe_status status, const char *format, ...) {
  if (err && err->status == STROBE_OK) {
    va_list ap;
    va_start(ap, format);
    vsnprintf(err->text, sizeof err->text, format, ap);
    va_end(ap);
    err->status = status;
  }
  return (int)status;
}
