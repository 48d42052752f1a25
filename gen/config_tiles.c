// The config of kernel=tiles: QK and PV are products of matrix tiles (AMX). Only what differs from the prefill
// kernel's: its register tiles, copies and prefetches are those of the instruction, and have no fields.
#include "scan.h"
#include "spec.h"

enum {
  TILE = 16,        // rows of a tile; columns of f32, or of pairs of bf16
  BLOCK_M_MAX = 64, // queries: a row of accumulators, of which there are four
  BLOCK_N_STEP = 32,
  BLOCK_N_MAX = 512,
  MANY_KEYS = 4096
};

bool tiles_serve(const struct spec *s, const struct target *t) { return t->tiles && spec_pairs(s, t); }

// Q^T in pairs of two tiles, S or P of two blocks, O^T, six rows of statistics, the scale; causal: a block of V
// without Inf and NaN. While K and V are copied: pairs of 32 rows of V, and a row of zeros.
int64_t tiles_scratch_bytes(const struct instance *i) {
  const struct spec *s = &i->spec;
  const int *v = i->config.v;
  const int64_t width = config_v_width(s, &i->config);
  const int64_t rows = config_k_width(s, &i->config) + 2 * v[CFG_BLOCK_N] + width + 6;
  const int64_t finite = s->mask == MASK_FULL ? 0 : 2 * v[CFG_BLOCK_N] * width;
  const int64_t forward = 4 * (rows * v[CFG_BLOCK_M] + TILE) + finite;
  const int64_t longer = s->head_dim > s->head_dim_v ? s->head_dim : s->head_dim_v;
  const int64_t pack = 4 * TILE + 64 * width + (2 * longer + 63) / 64 * 64;
  return forward > pack ? forward : pack;
}

static int check_range(const struct config *c, enum config_field f, const char *allowed, int step, int hi,
                       struct error *err) {
  const int x = c->v[f];
  if (x >= step && x <= hi && x % step == 0) return STROBE_OK;
  return fail(err, STROBE_INVALID, "%s %d with kernel=tiles: must be %s; %lld is the nearest", config_fields[f].name, x,
              allowed, (long long)nearest_multiple(x, step, step, hi));
}

int tiles_resolve(const struct spec *s, const struct target *t, const struct problem *p, struct config *c,
                  struct error *err) {
  struct config r = *c;
  if (!tiles_serve(s, t))
    return fail(err, STROBE_INVALID,
                "kernel tiles on %s with Q of %s and K and V of %s: must be prefill or decode; tiles are products of "
                "bf16 on amxbf16",
                t->name, dtype_table[s->q].name, dtype_table[s->kv].name);
  for (int f = 0; f < CFG_COUNT; f++)
    if (r.v[f] != CONFIG_UNSET && f != CFG_KERNEL && f != CFG_BLOCK_M && f != CFG_BLOCK_N && f != CFG_EXP)
      return fail(err, STROBE_INVALID,
                  "config field %s does not apply to kernel=tiles: leave it out, or take kernel=prefill or decode",
                  config_fields[f].name);
  r.v[CFG_KERNEL] = KERNEL_TILES;
  // Many keys: larger tiles, as K and V come from beyond the second-level cache (one core of a Xeon, Granite Rapids:
  // d128 of 8192 keys 1.10 times as fast with 48 x 256 as with 32 x 128; causal d128 of 2048 keys 0.90 times).
  const int64_t queries = p ? p->q_len : -1, keys = p ? p->kv_len : -1;
  const bool many = keys >= MANY_KEYS, wide = config_k_width(s, &r) + config_v_width(s, &r) > 128;
  const bool large = s->mask == MASK_FULL ? wide || many : many;
  if (r.v[CFG_BLOCK_M] == CONFIG_UNSET)
    r.v[CFG_BLOCK_M] = queries >= 0 && queries <= TILE ? TILE : large && wide ? 3 * TILE : 2 * TILE;
  if (r.v[CFG_BLOCK_N] == CONFIG_UNSET) r.v[CFG_BLOCK_N] = large ? 256 : 128;
  if (r.v[CFG_EXP] == CONFIG_UNSET) r.v[CFG_EXP] = (int)config_default_exp(s, t);
  int status = config_check_exp(t, r.v[CFG_EXP], err);
  if (!status) status = check_range(&r, CFG_BLOCK_M, "16, 32, 48 or 64", TILE, BLOCK_M_MAX, err);
  if (!status) status = check_range(&r, CFG_BLOCK_N, "a multiple of 32, up to 512", BLOCK_N_STEP, BLOCK_N_MAX, err);
  if (!status) *c = r;
  return status;
}
