// The config of kernel=tiles: QK and PV are products of matrix tiles (AMX). Only what differs from the prefill
// kernel's: its register tiles, copies and prefetches are those of the instruction, and have no fields.
#include "scan.h"
#include "spec.h"

enum {
  TILE = 16,     // rows of a tile; columns of f32, or of pairs of bf16
  ROWS_MAX = 64, // queries of a tile: a row of accumulators, of which there are four
  ROWS = 32,     // of each where a work item has several
  BLOCK_M_MAX = 256,
  BLOCK_N_STEP = 32,
  BLOCK_N_MAX = 512,
  MANY_KEYS = 4096,
  BLOCK_KEYS = 384, // without a mask
  SPLIT_KEYS = 160,
  WIDE = 192, // head_dim + head_dim_v
  MASKED_KEYS = 1024,
  CACHED_BYTES = 1 << 20,
  ITEMS = 32
};

bool tiles_serve(const struct spec *s, const struct target *t) { return t->tiles && s->op == OP_ATTN_FWD; }

// bf16 has 8 bits, f16 11, f32 24: so many bf16 add up to one of them.
int tiles_parts(enum dtype d) {
  static const int parts[DT_COUNT] = {[DT_F32] = 3, [DT_BF16] = 1, [DT_F16] = 2};
  return parts[d];
}

// Of the products of parts those that count: parts number i are 2^-8i of the whole. P of f16 need not be better than
// f16.
static int products(int parts, int others, int limit) {
  int n = 0;
  for (int i = 0; i < parts; i++)
    for (int j = 0; j < others; j++) n += i + j < limit;
  return n;
}

double tiles_products(const struct spec *s) {
  const int kv = tiles_parts(s->kv), p = tiles_parts(s->p);
  const double qk = products(tiles_parts(s->q), kv, 3), pv = products(p, kv, p);
  return (qk * s->head_dim + pv * s->head_dim_v) / (s->head_dim + s->head_dim_v);
}

int tiles_rows(int block_m) { return block_m > ROWS_MAX ? ROWS : block_m; }

// Of each query Q^T in pairs, O^T and two statistics; of those of one tile S of two blocks, P where it is longer than S
// and four statistics; a line; where it is needed, a block of V without Inf and NaN. While K and V are copied: pairs of
// 32 rows of V, or of what is cut into parts 16 x 16 elements; and a row of zeros.
int64_t tiles_scratch_bytes(const struct instance *i) {
  const struct spec *s = &i->spec;
  const int *v = i->config.v;
  const int q_parts = tiles_parts(s->q), kv_parts = tiles_parts(s->kv), p_parts = tiles_parts(s->p);
  const bool split = q_parts * kv_parts > 1;
  const int64_t k_width = config_k_width(s, &i->config), v_width = config_v_width(s, &i->config);
  const int64_t q = k_width * q_parts, p = p_parts > 2 ? p_parts * v[CFG_BLOCK_N] / 2 : 0;
  const int64_t floats =
      (q / 2 + v_width + 2) * v[CFG_BLOCK_M] + (2 * v[CFG_BLOCK_N] + p + 4) * tiles_rows(v[CFG_BLOCK_M]);
  const int64_t finite = s->mask == MASK_FULL && !split ? 0 : 2 * v[CFG_BLOCK_N] * v_width * kv_parts;
  const int64_t zeros = ((int64_t)s->head_dim_v * dtype_table[s->kv].bytes + 63) / 64 * 64;
  return 4 * (floats + TILE) + finite + (split ? 4 * TILE * TILE : 64 * v_width) + zeros;
}

struct sizes {
  int m, n;
};

// As many queries of an item as there are, and as leave enough items for some workers.
static int shared_rows(const struct problem *p) {
  const int64_t heads = p->batch > 0 && p->heads > 0 ? p->batch * p->heads : ITEMS;
  int m = BLOCK_M_MAX;
  while (m > ROWS && (p->q_len <= m / 2 || heads * ((p->q_len + m - 1) / m) < ITEMS)) m /= 2;
  return m;
}

// Tiles of 32 or 48 queries: those that leave less of the last one empty. In those of 48 a row takes 0.96 of the time
// of one in 32, and less where another thread uses the core's tiles (Emerald Rapids: 0.7 to 0.8 of d64).
static int fewest_rows(int64_t q_len) {
  const int64_t few = (q_len + ROWS - 1) / ROWS * ROWS, more = (q_len + 3 * TILE - 1) / (3 * TILE) * (3 * TILE);
  return q_len <= 3 * ROWS || 25 * few <= 24 * more ? ROWS : 3 * TILE;
}

// Blocks of about the same number of keys.
static int even_keys(int64_t keys, int most) {
  const int64_t blocks = keys > most ? (keys - 1) / most + 1 : 1, each = keys ? (keys - 1) / blocks + 1 : 1;
  return (int)((each + BLOCK_N_STEP - 1) / BLOCK_N_STEP * BLOCK_N_STEP);
}

// Keys whose copies leave the second-level cache are read once for as many queries as may be (one core of a Xeon,
// Granite Rapids: d128 of 8192 keys 1.13 times as fast with 256 x 256 as with 48 x 256, in f32 of 2048 keys 1.23 times
// with 256 x 128 as with 32 x 128). Those that do not are faster in tiles of their own: 1.05 times. Without a mask few
// blocks and no short last one are faster: products wait for the softmax of a block's beginning and end alone (Emerald
// Rapids, bf16 d64 and d128 against blocks of 128 and 256: 150 keys 1.19 and 1.09, 257 1.10 and 1.15, 577 1.03
// and 1.05; 4096 and 8192 with 512 against 256, Granite and Emerald Rapids: 1.01 to 1.06, d32 0.97). Under a mask they
// have more scores to hide; wide rows pay for that (1024 to 3000 keys, 256 against 128: d96 1.03, 1.04, d128 1.01 to
// 1.05, d192 1.06, 1.08, d64 0.95 to 0.98).
static struct sizes default_sizes(const struct spec *s, const struct problem *p, int width) {
  const bool split = tiles_parts(s->q) * tiles_parts(s->kv) > 1, full = s->mask == MASK_FULL;
  struct sizes few = {ROWS, 128};
  if (!p || p->q_len < 0 || p->kv_len < 0)
    return split ? (struct sizes){4 * ROWS, 128} : width > 128 && full ? (struct sizes){3 * TILE, 256} : few;
  if (p->q_len <= TILE) return (struct sizes){TILE, 128};
  if (split && p->kv_len * width * 2 * tiles_parts(s->kv) > CACHED_BYTES) return (struct sizes){shared_rows(p), 128};
  if (!split && p->kv_len >= MANY_KEYS)
    return (struct sizes){shared_rows(p), full && width >= 128 ? even_keys(p->kv_len, BLOCK_N_MAX) : 256};
  if (full && split && p->kv_len <= 2 * SPLIT_KEYS) few.n = even_keys(p->kv_len, SPLIT_KEYS);
  if (full && !split && width >= 128) return (struct sizes){fewest_rows(p->q_len), even_keys(p->kv_len, BLOCK_KEYS)};
  if (!full && !split && width >= WIDE && p->kv_len >= MASKED_KEYS) few.n = 256;
  return few;
}

// Copies of f16 and f32 are parts, and products of narrow rows are padded: where few queries share the copies vectors
// are faster (Granite Rapids: f32 d64 and d128 of 64 queries on 2048 keys 0.97 and 0.74, of 72 1.48 and 1.26 times as
// fast by tiles, as vectors take 64 queries at a time; d16 and d24 of 512 on 512 0.98 and 1.10; f16 d8 0.90, d12 1.07).
bool tiles_pay(const struct spec *s, const struct problem *p) {
  static const struct { int width, rows, keys; } least[] = {[1] = {2, 0, 0}, [2] = {24, 0, 64}, [3] = {48, 65, 0}};
  const int parts = tiles_parts(s->kv);
  if (s->head_dim + s->head_dim_v < least[parts].width) return false;
  if (!p || p->q_len < 0 || p->kv_len < 0) return true;
  const int64_t group = p->heads > 0 && p->heads_kv > 0 ? p->heads / p->heads_kv : 1;
  return group * p->q_len >= least[parts].rows && p->kv_len >= least[parts].keys;
}

static bool is_step(int x, int step, int hi) { return x >= step && x <= hi && x % step == 0; }

static int block_m_step(int block_m) { return block_m > ROWS_MAX ? ROWS : TILE; }

bool tiles_take(const struct config *c) {
  const int m = c->v[CFG_BLOCK_M], n = c->v[CFG_BLOCK_N];
  return (m == CONFIG_UNSET || is_step(m, block_m_step(m), BLOCK_M_MAX)) &&
         (n == CONFIG_UNSET || is_step(n, BLOCK_N_STEP, BLOCK_N_MAX));
}

static int check_range(const struct config *c, enum config_field f, const char *allowed, int step, int hi,
                       struct error *err) {
  const int x = c->v[f];
  if (is_step(x, step, hi)) return STROBE_OK;
  return fail(err, STROBE_INVALID, "%s %d with kernel=tiles: must be %s; %lld is the nearest", config_fields[f].name, x,
              allowed, (long long)nearest_multiple(x, step, step, hi));
}

int tiles_resolve(const struct spec *s, const struct target *t, const struct problem *p, struct config *c,
                  struct error *err) {
  struct config r = *c;
  if (!tiles_serve(s, t))
    return fail(err, STROBE_INVALID, "kernel tiles on %s: must be prefill or decode; amxbf16 alone has tiles", t->name);
  for (int f = 0; f < CFG_COUNT; f++)
    if (r.v[f] != CONFIG_UNSET && f != CFG_KERNEL && f != CFG_BLOCK_M && f != CFG_BLOCK_N && f != CFG_EXP)
      return fail(err, STROBE_INVALID,
                  "config field %s does not apply to kernel=tiles: leave it out, or take kernel=prefill or decode",
                  config_fields[f].name);
  r.v[CFG_KERNEL] = KERNEL_TILES;
  const struct sizes best = default_sizes(s, p, config_k_width(s, &r) + config_v_width(s, &r));
  if (r.v[CFG_BLOCK_M] == CONFIG_UNSET) r.v[CFG_BLOCK_M] = best.m;
  if (r.v[CFG_BLOCK_N] == CONFIG_UNSET) r.v[CFG_BLOCK_N] = best.n;
  if (r.v[CFG_EXP] == CONFIG_UNSET) r.v[CFG_EXP] = (int)config_default_exp(s, t);
  int status = config_check_exp(t, r.v[CFG_EXP], err);
  const int step = block_m_step(r.v[CFG_BLOCK_M]);
  if (!status)
    status = check_range(&r, CFG_BLOCK_M, "16, 32, 48, 64 or a multiple of 32, up to 256", step, BLOCK_M_MAX, err);
  if (!status) status = check_range(&r, CFG_BLOCK_N, "a multiple of 32, up to 512", BLOCK_N_STEP, BLOCK_N_MAX, err);
  if (!status) *c = r;
  return status;
}
