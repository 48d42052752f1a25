// The decode kernel's config: rows of a GQA group, keys of a chunk, prefetch distance.
#include "scan.h"
#include "spec.h"

enum {
  ROWS_MAX = 64,                // of a tile (block_m)
  HEADS_MAX = 64,               // of a work item (block_h)
  HEAD_ROWS_MAX = 64,           // of all its heads, where block_h is not given; twice as many by matrix tiles
  WORK_ITEMS = 32,              // of a problem, if its K and V are long enough
  SPLIT_BYTES = 4 << 20,        // of K and V: less is not worth a merge
  SPLIT_MAX = 1 << 20,          //
  KEYS = 16,                    // scores are made for so many keys at a time
  TILE_KEYS = 32,               // the same by matrix tiles, which take as many elements of head_dim
  WIDENED_KEYS = 8,             // of V at a time, for three or four rows and heads side by side, where V is widened
  PAIRED_BYTES = 8 * 1024,      // of V by tiles: two times 32 keys of 64 columns
  BLOCK_N_MAX = 65536,          //
  SCORE_BYTES = 256 * 1024,     // of a chunk: stays in L2
  AHEAD_BYTES = 8 * 1024,       // of K or V between a row and its prefetch
  SIDE_BYTES = 12 * 1024,       // the same where heads side by side are read in the order of memory
  SIDE_O_MAX = 2048,            // elements of O of a head with more than four rows that is read so
  PREFETCH_MAX = 1024,          //
  REGISTERS_16 = 16 + 4 + 3 + 1 // accumulators, rows, a vector of K or V and two of its pairs, a temporary
};

// Rows that share a KV head; -1: not known.
static int64_t rows_of(const struct problem *p) {
  if (!p || p->q_len < 0) return -1;
  const int64_t group = p->heads > 0 && p->heads_kv > 0 ? p->heads / p->heads_kv : 1;
  return p->q_len > ROWS_MAX ? p->q_len : p->q_len * (group > ROWS_MAX ? ROWS_MAX : group);
}

// Whether so many rows can be those of products of matrix tiles: one or two would leave most of them unused.
static bool can_tile(const struct spec *s, const struct target *t, int block_m) {
  return t->tiles && spec_pairs(s, t) && s->head_dim % TILE_KEYS == 0 && s->head_dim_v % TILE_KEYS == 0 && block_m > 2;
}

bool decode_by_tiles(const struct spec *s, const struct target *t, const struct config *c) {
  return can_tile(s, t, c->v[CFG_BLOCK_M]) && c->v[CFG_BLOCK_N] % TILE_KEYS == 0;
}

// Rows of matrix tiles are cheap, so more of them are served; not where most keys are at the diagonal, which goes row
// by row (d128 of 1024 keys, 16 causal queries of 32 heads on 8: 1.24 times as fast as by tiles of queries, a Xeon).
bool decode_serves(const struct spec *s, const struct target *t, const struct problem *p) {
  const int64_t rows = rows_of(p);
  if (rows < 0) return false;
  if (rows <= DECODE_ROWS_SERVED || p->q_len <= DECODE_Q_LEN_SERVED) return true;
  return rows <= DECODE_TILES_ROWS_SERVED && can_tile(s, t, (int)rows) && s->mask != MASK_CAUSAL_TOP_LEFT &&
         p->q_len <= DECODE_TILES_Q_LEN_SERVED && p->kv_len >= DECODE_TILES_KEYS_SERVED * p->q_len;
}

static int keys_step(const struct spec *s, const struct target *t, int block_m) {
  return can_tile(s, t, block_m) ? TILE_KEYS : KEYS;
}

// Rows as the tiles hold them: three of a last four are filled up; matrix tiles take 4, 8 or sixteens (too many where
// block_n turns out to be no multiple of 32, and vectors do the work).
static int rows_held(const struct spec *s, const struct target *t, int block_m) {
  if (!can_tile(s, t, block_m)) return block_m + (block_m % 4 == 3);
  const int step = block_m > 8 ? 16 : 4;
  return (block_m + step - 1) / step * step;
}

int decode_vregs(const struct spec *s, const struct target *t) {
  (void)s;
  return t->lanes == 16 ? REGISTERS_16 : t->lanes + 4 + 3 + 1;
}

// Of every head Q (by matrix tiles twice), O, S and three rows of statistics; the scale, a row of zeros, V in pairs.
int64_t decode_scratch_bytes(const struct instance *i) {
  const struct spec *s = &i->spec;
  const int *v = i->config.v;
  const int64_t rows = v[CFG_BLOCK_H] * rows_held(s, i->target, v[CFG_BLOCK_M]), q = (s->head_dim + 31) / 32 * 32,
                o = (s->head_dim_v + 31) / 32 * 32;
  const int64_t paired = decode_by_tiles(s, i->target, &i->config) ? PAIRED_BYTES : 0;
  return 4 * rows * (q + o + v[CFG_BLOCK_N] + 3 * i->target->lanes) + 512 + paired;
}

static int default_block_m(const struct problem *p) {
  const int64_t rows = rows_of(p);
  return rows < 0 ? 4 : rows < 1 ? 1 : rows > ROWS_MAX ? ROWS_MAX : (int)rows;
}

// All of the heads if that is not many rows, else a multiple of four of them.
static int default_block_h(const struct spec *s, const struct target *t, const struct problem *p, int block_m) {
  if (!p || p->heads_kv < 1 || block_m < 1 || block_m > ROWS_MAX) return 1;
  const int most = HEAD_ROWS_MAX * (can_tile(s, t, block_m) ? 2 : 1) / rows_held(s, t, block_m);
  return p->heads_kv <= most ? (int)p->heads_kv : most < 4 ? 1 : most / 4 * 4;
}

// Parts of a sequence, that one sequence keeps all cores busy: about WORK_ITEMS of them, but none with less than
// SPLIT_BYTES of K and V. It depends on the problem alone, never on the number of threads, and so do the bits of O.
static int default_split(const struct spec *s, const struct target *t, const struct problem *p, int block_m,
                         int block_h) {
  if (!p || p->batch < 1 || p->heads_kv < 1 || p->kv_len < 1 || block_m < 1 || block_h < 1 || block_h > HEADS_MAX)
    return 0;
  const int64_t tiles = (p->heads_kv - 1) / block_h + 1;
  if (tiles >= WORK_ITEMS || p->batch >= WORK_ITEMS || p->batch * tiles >= WORK_ITEMS) return 0;
  const int64_t items = p->batch * tiles;
  const int64_t row = (int64_t)block_h * (s->head_dim + s->head_dim_v) * dtype_table[s->kv].bytes;
  const int64_t even = p->kv_len / (WORK_ITEMS / items), least = SPLIT_BYTES / row, keys = even > least ? even : least;
  const int64_t step = keys_step(s, t, block_m), split = (keys + step - 1) / step * step;
  return split >= p->kv_len ? 0 : split > SPLIT_MAX ? SPLIT_MAX : (int)split;
}

static int default_block_n(const struct spec *s, const struct target *t, int block_m, int block_h, int split) {
  if (block_m < 1 || block_m > ROWS_MAX || block_h < 1 || block_h > HEADS_MAX) return KEYS;
  const int step = keys_step(s, t, block_m);
  const int keys = SCORE_BYTES / 4 / rows_held(s, t, block_m) / block_h / step * step;
  const int most = split > 0 && split % step == 0 && split < 8192 ? split : 8192;
  return keys > most ? most : keys < step ? step : keys;
}

static bool decode_pairs(const struct spec *s, const struct target *t) {
  return spec_pairs(s, t) && s->head_dim % 2 == 0 && s->head_dim_v % 2 == 0;
}

// Whether vectors take K and V as they are. Targets with matrix tiles widen bf16, where they take vectors at all.
static bool as_they_are(const struct spec *s, const struct target *t) {
  return s->kv == DT_F32 || (decode_pairs(s, t) && !t->tiles);
}

// Keys of V that the template reads at a time where heads lie side by side; 0: all keys of a tile of one head after the
// other. More rows take more keys, that O goes through the cache less often, and that unrolled must fit the instruction
// cache. What has to be widened is bound by arithmetic from three rows on, and then one head after the other is faster:
// so on AMD's Zen 4, but not on CPUs that have matrix tiles (1.04 times, f16, d128, a Xeon).
int decode_side_keys(const struct spec *s, const struct target *t, int block_m, int block_h) {
  const bool as_is = as_they_are(s, t);
  const int rows = block_m + (block_m % 4 == 3); // by vectors
  if (t->lanes != 16 || block_h < 4) return 0;
  if (!as_is && rows > 2) return rows == 4 && t->tiles && !decode_pairs(s, t) ? WIDENED_KEYS : 0;
  if (rows < 3 || rows == 4) return 4;
  return rows % 4 == 0 && rows * s->head_dim_v <= SIDE_O_MAX ? 16 : 0;
}

// Whether rows of a head that follow each other are left to the hardware's prefetches, and others are prefetched twice.
// What has to be widened takes so many instructions, from three rows on, that the hardware's don't get far enough
// ahead, and software's do as well. One row or two are 1.06 to 1.5 times as fast so on Zen 4, 0.87 on a Xeon (f16).
bool decode_follows(const struct spec *s, const struct target *t, int block_m) {
  return as_they_are(s, t) || (block_m < 3 && !t->tiles);
}

// Beside a tile of 16 keys of several heads, or of 32 by matrix tiles, the next tile is prefetched, and a little more.
int decode_default_prefetch(const struct spec *s, const struct target *t, const struct config *c) {
  const int block_h = c->v[CFG_BLOCK_H], side = decode_side_keys(s, t, c->v[CFG_BLOCK_M], block_h);
  if (decode_by_tiles(s, t, c)) return TILE_KEYS + 4;
  if (block_h > 1 && !side) return KEYS + (t->lanes == 16 ? 8 : 2);
  const int row = (s->head_dim > s->head_dim_v ? s->head_dim : s->head_dim_v) * dtype_table[s->kv].bytes;
  const int rows = side ? SIDE_BYTES / row / block_h : AHEAD_BYTES / row, least = side > 4 ? side : 4;
  return rows < least ? least : rows > 256 ? 256 : rows;
}

static int check_range(const struct config *c, enum config_field f, const char *allowed, int step, int lo, int hi,
                       struct error *err) {
  const int x = c->v[f];
  if (x >= lo && x <= hi && x % step == 0) return STROBE_OK;
  return fail(err, STROBE_INVALID, "%s %d with kernel=decode: must be %s; %lld is the nearest", config_fields[f].name,
              x, allowed, (long long)nearest_multiple(x, step, lo, hi));
}

int decode_resolve(const struct spec *s, const struct target *t, const struct problem *p, struct config *c,
                   struct error *err) {
  struct config r = *c;
  static const enum config_field none[] = {CFG_TILE_N, CFG_STAGES, CFG_UNROLL,   CFG_PACK_K,
                                           CFG_PACK_V, CFG_ALGO,   CFG_DIAGONAL, CFG_TAIL_M};
  for (size_t i = 0; i < sizeof none / sizeof *none; i++)
    if (r.v[none[i]] != CONFIG_UNSET)
      return fail(err, STROBE_INVALID,
                  "config field %s does not apply to kernel=decode: leave it out, or take kernel=prefill",
                  config_fields[none[i]].name);
  r.v[CFG_KERNEL] = KERNEL_DECODE;
  if (r.v[CFG_BLOCK_M] == CONFIG_UNSET) r.v[CFG_BLOCK_M] = default_block_m(p);
  if (r.v[CFG_BLOCK_H] == CONFIG_UNSET) r.v[CFG_BLOCK_H] = default_block_h(s, t, p, r.v[CFG_BLOCK_M]);
  if (r.v[CFG_SPLIT] == CONFIG_UNSET) r.v[CFG_SPLIT] = default_split(s, t, p, r.v[CFG_BLOCK_M], r.v[CFG_BLOCK_H]);
  if (r.v[CFG_BLOCK_N] == CONFIG_UNSET)
    r.v[CFG_BLOCK_N] = default_block_n(s, t, r.v[CFG_BLOCK_M], r.v[CFG_BLOCK_H], r.v[CFG_SPLIT]);
  if (r.v[CFG_EXP] == CONFIG_UNSET) r.v[CFG_EXP] = (int)config_default_exp(s, t);
  if (r.v[CFG_PREFETCH] == CONFIG_UNSET) r.v[CFG_PREFETCH] = t->vregs ? decode_default_prefetch(s, t, &r) : 0;
  int status = config_check_exp(t, r.v[CFG_EXP], err);
  if (!status) status = check_range(&r, CFG_BLOCK_M, "1 to 64", 1, 1, ROWS_MAX, err);
  if (!status) status = check_range(&r, CFG_BLOCK_H, "1 to 64", 1, 1, HEADS_MAX, err);
  if (!status) status = check_range(&r, CFG_SPLIT, config_fields[CFG_SPLIT].allowed, KEYS, 0, SPLIT_MAX, err);
  if (!status) status = check_range(&r, CFG_BLOCK_N, "a multiple of 16, up to 65536", KEYS, KEYS, BLOCK_N_MAX, err);
  if (!status) status = check_range(&r, CFG_PREFETCH, "0 to 1024", 1, 0, PREFETCH_MAX, err);
  if (!status) *c = r;
  return status;
}
