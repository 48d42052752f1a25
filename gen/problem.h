// The sizes of a problem string as a table, shared by its parser and its checks.
#ifndef STROBE_GEN_PROBLEM_H
#define STROBE_GEN_PROBLEM_H

#include "spec.h"

#include <stddef.h>

// In the order in which they stand in the string.
struct size_row {
  char prefix; // the character before the number
  const char *name;
  size_t offset; // of an int64_t in struct problem
  int64_t min;
};
enum { SIZE_BATCH, SIZE_HEADS, SIZE_HEADS_KV, SIZE_Q, SIZE_K, SIZE_COUNT };
extern const struct size_row size_table[SIZE_COUNT];
#define SIZE_MAX_ALLOWED ((int64_t)1 << 40)
enum { HEAD_DIM_MAX = 576 };

int64_t *problem_size(struct problem *p, int row);
// heads must be a multiple of heads_kv; sizes that are not given pass.
int problem_check_heads(const struct problem *p, struct error *err);

#endif
