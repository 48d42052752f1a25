#include "scan.h"

#include <string.h>

struct slice slice_of(const char *text) {
  return (struct slice){text, strlen(text)};
}

bool slice_is(struct slice s, const char *name) { return strlen(name) == s.len && memcmp(s.at, name, s.len) == 0; }

struct slice slice_cut(struct slice *rest, char c, bool *found) {
  const char *end = rest->len ? memchr(rest->at, c, rest->len) : NULL;
  *found = end != NULL;
  struct slice head = {rest->at, end ? (size_t)(end - rest->at) : rest->len};
  size_t taken = head.len + (end != NULL);
  *rest = (struct slice){rest->at + taken, rest->len - taken};
  return head;
}

enum scan scan_number(struct slice *s, int64_t max, int64_t *value) {
  size_t n = 0;
  int64_t x = 0;
  bool large = false;
  for (; n < s->len && s->at[n] >= '0' && s->at[n] <= '9'; n++) {
    int digit = s->at[n] - '0';
    large = large || digit > max || x > (max - digit) / 10;
    if (!large) x = 10 * x + digit;
  }
  *s = (struct slice){s->at + n, s->len - n};
  *value = x;
  return n == 0 ? SCAN_NONE : large ? SCAN_TOO_LARGE : SCAN_OK;
}

struct quote quote(struct slice s) {
  struct quote q;
  size_t n = s.len > 48 ? 48 : s.len;
  for (size_t i = 0; i < n; i++) q.text[i] = s.at[i] >= ' ' && s.at[i] <= '~' ? s.at[i] : '?';
  strcpy(q.text + n, s.len > n ? "..." : "");
  return q;
}

enum { LONGEST_NAME = 32 }; // longer text is compared by its first characters: no known name is that long

static int smaller(int a, int b) { return a < b ? a : b; }

// Levenshtein's distance, one row of the table at a time. A replaced character costs a little more than one left out or
// added, so that `v` is nearer to `kv` than to `q`.
enum { COST_SKIP = 2, COST_REPLACE = 3 };
static int edit_distance(struct slice s, const char *name) {
  int row[LONGEST_NAME + 1], n = (int)strlen(name), m = s.len > LONGEST_NAME ? LONGEST_NAME : (int)s.len;
  if (n > LONGEST_NAME) n = LONGEST_NAME;
  for (int j = 0; j <= n; j++) row[j] = COST_SKIP * j;
  for (int i = 1; i <= m; i++) {
    int diagonal = row[0];
    row[0] = COST_SKIP * i;
    for (int j = 1; j <= n; j++) {
      int replaced = diagonal + (s.at[i - 1] != name[j - 1] ? COST_REPLACE : 0);
      diagonal = row[j];
      row[j] = smaller(replaced, smaller(row[j], row[j - 1]) + COST_SKIP);
    }
  }
  return row[n];
}

const char *nearest_name(struct slice s, const char *const *names, int count) {
  const char *best = NULL;
  int best_distance = 0;
  for (int i = 0; i < count; i++) {
    int d = edit_distance(s, names[i]);
    if (!best || d < best_distance) best = names[i], best_distance = d;
  }
  return best;
}

int64_t nearest_multiple(int64_t value, int64_t step, int64_t lo, int64_t hi) {
  if (value <= lo) return lo;
  if (value >= hi) return hi;
  return (value + step / 2) / step * step;
}
