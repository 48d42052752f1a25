// What every parser of strings from users needs: slices, bounded numbers, quoting for messages, nearest names.
#ifndef STROBE_GEN_SCAN_H
#define STROBE_GEN_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct slice {
  const char *at;
  size_t len;
};

struct slice slice_of(const char *text);
bool slice_is(struct slice s, const char *name);
// Cuts and returns what stands before the first `c` (or everything); rest keeps what follows it. *found says whether it
// was there.
struct slice slice_cut(struct slice *rest, char c, bool *found);

enum scan { SCAN_NONE, SCAN_OK, SCAN_TOO_LARGE };
// Takes the decimal digits at the front of s. NONE: there are none. TOO_LARGE: more than max (the digits are taken).
enum scan scan_number(struct slice *s, int64_t max, int64_t *value);

// Text from outside made fit for a one-line message: at most 48 characters, unprintable ones as '?', "..." if cut.
struct quote {
  char text[56];
};
struct quote quote(struct slice s);

// The name with the smallest edit distance to s; the first of equals. NULL if count is 0.
const char *nearest_name(struct slice s, const char *const *names, int count);
// The multiple of step nearest to value within lo..hi (both multiples of step).
int64_t nearest_multiple(int64_t value, int64_t step, int64_t lo, int64_t hi);

#endif
