// Which fields of a CPU kernel's config may change how a result is rounded. What may not is held by
// tests/test_rounding.c, which also compares README's table with this one.
#include "spec.h"

const enum rounding config_rounding[CFG_COUNT][KERNEL_COUNT] = {
    // decode: keys that not all rows of a tile see run in another loop
    [CFG_BLOCK_M] = {ROUNDING_NEVER, ROUNDING_MAY, ROUNDING_NEVER},
    // one maximum, one partial sum, one rescale per block
    [CFG_BLOCK_N] = {ROUNDING_MAY, ROUNDING_MAY, ROUNDING_MAY},
    // the last keys of a sequence, that fill no tile, are a block of their own
    [CFG_TILE_N] = {ROUNDING_MAY, ROUNDING_NONE, ROUNDING_NONE},
    // stages=2 sums the block before a shorter last one in two parts
    [CFG_STAGES] = {ROUNDING_MAY, ROUNDING_NONE, ROUNDING_NONE},
    [CFG_UNROLL] = {ROUNDING_NEVER, ROUNDING_NONE, ROUNDING_NONE},
    [CFG_EXP] = {ROUNDING_MAY, ROUNDING_MAY, ROUNDING_MAY},
    [CFG_PREFETCH] = {ROUNDING_NEVER, ROUNDING_NEVER, ROUNDING_NONE},
    [CFG_PACK_K] = {ROUNDING_NEVER, ROUNDING_NONE, ROUNDING_NONE},
    [CFG_PACK_V] = {ROUNDING_NEVER, ROUNDING_NONE, ROUNDING_NONE},
    [CFG_KERNEL] = {ROUNDING_MAY, ROUNDING_MAY, ROUNDING_MAY},
    // P of a hidden key is 0, and so is its V
    [CFG_DIAGONAL] = {ROUNDING_NEVER, ROUNDING_NONE, ROUNDING_NONE},
    // the same operations on fewer vectors
    [CFG_TAIL_M] = {ROUNDING_NEVER, ROUNDING_NONE, ROUNDING_NONE},
    // heads side by side share no number; others have chunks and parts of block_h times as many keys
    [CFG_BLOCK_H] = {ROUNDING_NONE, ROUNDING_MAY, ROUNDING_NONE},
    // parts have sums of their own
    [CFG_SPLIT] = {ROUNDING_NONE, ROUNDING_MAY, ROUNDING_NONE},
    // fa2 and fa3 are stages
    [CFG_ALGO] = {ROUNDING_MAY, ROUNDING_NONE, ROUNDING_NONE},
};

bool config_changes_bits(enum config_field f, const struct config *c) {
  const enum kernel_kind kernel = config_kernel(c);
  // algo=fa1 divides O again in a block of which a row sees nothing, if another row of its tile sees some.
  if (f == CFG_BLOCK_M && kernel == KERNEL_PREFILL && config_algo(c) == ALGO_FA1) return true;
  return config_rounding[f][kernel] == ROUNDING_MAY;
}
