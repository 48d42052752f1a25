// One sentence about what went wrong, carried by value so that the library needs no global state.
#ifndef STROBE_GEN_ERROR_H
#define STROBE_GEN_ERROR_H

#include "../runtime/strobe.h" // enum strobe_status

struct error {
  enum strobe_status status;
  char text[640];
};

// Records status and a printf-style sentence (field, value, what is allowed, the nearest that works); returns status.
// A NULL err is allowed. The first error wins: a later call on a struct that already holds one keeps it.
int fail(struct error *err, enum strobe_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
