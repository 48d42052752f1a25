// Tiles of queries of kernel=prefill. Only for config_prefill.c, and for who explains what it chose.
#ifndef STROBE_GEN_CONFIG_QUERIES_H
#define STROBE_GEN_CONFIG_QUERIES_H

#include "spec.h"

int prefill_block_m_max(const struct target *t); // that the heuristic takes
// Rows that are computed, those without a query included. tail_m 0 or CONFIG_UNSET: the last tile is a whole one.
int64_t prefill_rows(int64_t q_len, int block_m, int tail_m);

// The heuristic's block_m, at most `most`, for a tail_m that is given (0: none) or CONFIG_UNSET; and its tail_m for a
// block_m: CONFIG_UNSET where that is not worth the text, or sizes are not known (p NULL or q_len -1).
int prefill_block_m(const struct spec *s, const struct target *t, const struct problem *p, int most, int tail_m);
int prefill_tail(const struct spec *s, const struct target *t, const struct problem *p, int block_m);

#endif
