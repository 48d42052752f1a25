// The config of the CPU's prefill kernel: the heuristic (what an unset field becomes) and feasibility (what a kernel
// can be made of); and what the other kernels' configs share with it.
#include "config_queries.h"
#include "scan.h"

#include <limits.h>
#include <stdlib.h>

enum {
  UNROLL_AUTO = 0,
  UNROLL_FULL = -2,
  TILE_N_MAX = 8,
  MAX_COLS = 4,
  BLOCK_N_MAX = 512,
  PREFETCH_MAX = 64,
  LONG_CAUSAL = 4096, // keys
  EXP_TEMPS = 4
};

// The defaults that do not depend on sizes: change them here.
struct cpu_defaults {
  int block_n, tile_n, stages, unroll, prefetch; // unroll 0: by code size
  int block_n_full[2];                           // without a mask, from as many keys on: of f32 and of bf16 pairs
  int copy_k_from[2];                            // queries that pay for a copy of K, without a mask and with one
  enum exp_kind exp_f32, exp_bf16;               // by P's dtype
};
static const struct cpu_defaults vector_defaults = {.block_n = 128,
                                                    .tile_n = 4,
                                                    .stages = 2,
                                                    .prefetch = 8,
                                                    .block_n_full = {256, 256},
                                                    .copy_k_from = {2048, 2049},
                                                    .exp_f32 = EXP_TABLE2,
                                                    .exp_bf16 = EXP_TABLE1};
// Lane loops for any compiler: short text, which it unrolls and schedules itself.
static const struct cpu_defaults scalar_defaults = {.block_n = 128,
                                                    .block_n_full = {128, 128},
                                                    .tile_n = 4,
                                                    .stages = 1,
                                                    .unroll = 8,
                                                    .exp_f32 = EXP_TABLE2,
                                                    .exp_bf16 = EXP_TABLE1};

// 16 registers: 12 accumulators, a row of Q, a broadcast of K. Nothing is left for softmax beside them, nor for tables.
static const struct cpu_defaults few_registers_defaults = {.block_n = 192,
                                                           .block_n_full = {256, 256},
                                                           .tile_n = 4,
                                                           .stages = 1,
                                                           .unroll = 16,
                                                           .prefetch = 8,
                                                           .exp_f32 = EXP_POLY5,
                                                           .exp_bf16 = EXP_POLY3};

static const struct cpu_defaults *defaults_of(const struct target *t) {
  return t->vregs == 0 ? &scalar_defaults : t->vregs < 32 ? &few_registers_defaults : &vector_defaults;
}

enum exp_kind config_default_exp(const struct spec *s, const struct target *t) {
  return s->p == DT_BF16 ? defaults_of(t)->exp_bf16 : defaults_of(t)->exp_f32;
}

struct resolver {
  const struct spec *s;
  const struct target *t;
  int *v;
  struct error *err;
  bool pairs;
  int k_width;
};

bool spec_pairs(const struct spec *s, const struct target *t) {
  return t->bf16_dot && s->q == DT_BF16 && s->kv == DT_BF16;
}

// PV takes 16 rows of V at a time, or 16 pairs of rows.
static int block_n_step(const struct resolver *r) { return r->pairs ? 32 : 16; }

// ---- registers and code ----

static int larger(int a, int b) { return a > b ? a : b; }

// What was broadcast last, for all columns of a tile. With 32 registers and stages=2 a temporary of exp serves.
static int bcast_registers(const struct target *t, const struct config *c) {
  return t->vregs < 32 ? t->bcast_temps : c->v[CFG_STAGES] != 2 && c->v[CFG_BLOCK_M] > t->lanes;
}

bool config_top_fits(const struct target *t, const struct config *c) {
  const int cols = c->v[CFG_BLOCK_M] / t->lanes, bcast = bcast_registers(t, c);
  if (!bcast || c->v[CFG_STAGES] == 2) return true;
  return c->v[CFG_TILE_N] * cols + 2 * cols + bcast <= t->vregs;
}

// QK holds its accumulators, a row of Q and the running maximum; interleaved with the softmax also the row sums and the
// temporaries of exp. The epilogue transposes one vector per lane beside three more (and a logarithm's temporaries,
// where it takes some).
int config_vregs(const struct spec *s, const struct target *t, const struct config *c) {
  const enum kernel_kind kernel = config_kernel(c);
  if (kernel == KERNEL_DECODE) return decode_vregs(s, t);
  if (kernel == KERNEL_TILES) return t->lanes + 3; // the transposes
  int cols = c->v[CFG_BLOCK_M] / t->lanes, top = config_top_fits(t, c) ? cols : 0;
  int qk = c->v[CFG_TILE_N] * cols + cols + top + bcast_registers(t, c);
  int softmax = c->v[CFG_STAGES] == 2 ? cols + EXP_TEMPS : 0;
  return larger(qk + softmax, t->lanes + 3 + 3 * t->bcast_temps);
}

// Code of QK + PV: vector operations of up to 9.5 bytes, one per accumulator and head_dim step (bf16: pair of steps),
// and 2 KB.
static double code_bytes(const struct resolver *r, int unroll) {
  const int *v = r->v;
  double steps = r->pairs ? unroll / 2.0 : unroll;
  return v[CFG_TILE_N] * (v[CFG_BLOCK_M] / r->t->lanes) * steps * 9.5 + 2048;
}

// With stages=2 the exp of a tile's rows (pairs: of its pairs of rows) is dealt out evenly to the chunks of QK.
static int exp_rows(const struct resolver *r) { return r->pairs ? r->v[CFG_TILE_N] / 2 : r->v[CFG_TILE_N]; }

static bool unroll_divides(const struct resolver *r, int unroll) {
  return unroll >= 1 && r->k_width % unroll == 0 && !(r->pairs && unroll % 2);
}

static bool unroll_works(const struct resolver *r, int unroll) {
  if (!unroll_divides(r, unroll)) return false;
  return r->v[CFG_STAGES] != 2 || exp_rows(r) % (r->k_width / unroll) == 0;
}

static int auto_unroll(const struct resolver *r) {
  int smallest = r->k_width, most = defaults_of(r->t)->unroll;
  for (int unroll = most && most < r->k_width ? most : r->k_width; unroll >= 1; unroll--) {
    if (!unroll_works(r, unroll)) continue;
    if (code_bytes(r, unroll) <= 0.75 * r->t->l1i_bytes) return unroll;
    smallest = unroll;
  }
  return smallest;
}

static int nearest_unroll(const struct resolver *r, int wanted) {
  int best = r->k_width; // works always
  for (int unroll = r->k_width; unroll >= 1; unroll--)
    if (unroll_works(r, unroll) && abs(unroll - wanted) < abs(best - wanted)) best = unroll;
  return best;
}

// ---- feasibility, one check per field ----

static int refuse_number(struct resolver *r, enum config_field f, int64_t nearest) {
  return fail(r->err, STROBE_INVALID, "%s %d on %s: must be %s; %lld is the nearest", config_fields[f].name, r->v[f],
              r->t->name, config_fields[f].allowed, (long long)nearest);
}

static int check_range(struct resolver *r, enum config_field f, int step, int lo, int hi) {
  int x = r->v[f];
  if (x >= lo && x <= hi && x % step == 0) return STROBE_OK;
  return refuse_number(r, f, nearest_multiple(x, step, lo, hi));
}

static int check_block_m(struct resolver *r) {
  return check_range(r, CFG_BLOCK_M, r->t->lanes, r->t->lanes, MAX_COLS * r->t->lanes);
}
static int check_block_n(struct resolver *r) {
  int step = block_n_step(r);
  return check_range(r, CFG_BLOCK_N, step, step, BLOCK_N_MAX);
}
static int check_stages(struct resolver *r) { return check_range(r, CFG_STAGES, 1, 1, 2); }

int config_check_exp(const struct target *t, int kind, struct error *err) {
  if (kind < 0 || kind >= EXP_COUNT)
    return fail(err, STROBE_INVALID, "exp %d on %s: must be %s; poly5 is the nearest", kind, t->name,
                config_fields[CFG_EXP].allowed);
  if (exp_table[kind].table && !t->lookup)
    return fail(err, STROBE_INVALID,
                "exp %s on %s: it looks up 16 entries in a register, which this target can't; must be poly3 or poly5; "
                "%s is the nearest",
                exp_table[kind].name, t->name, kind == EXP_TABLE1 ? "poly3" : "poly5");
  return STROBE_OK;
}
static int check_exp(struct resolver *r) { return config_check_exp(r->t, r->v[CFG_EXP], r->err); }
static int check_prefetch(struct resolver *r) { return check_range(r, CFG_PREFETCH, 1, 0, PREFETCH_MAX); }

static bool tile_works(const struct resolver *r, int tile) {
  return tile >= 1 && tile <= TILE_N_MAX && r->v[CFG_BLOCK_N] % tile == 0 && !(r->pairs && tile % 2);
}

static int check_tile_n(struct resolver *r) {
  int wanted = r->v[CFG_TILE_N], best = 0, best_distance = INT_MAX;
  if (tile_works(r, wanted)) return STROBE_OK;
  for (int tile = TILE_N_MAX; tile >= 1; tile--) { // 2 works always
    int distance = abs(tile - wanted);
    if (tile_works(r, tile) && distance < best_distance) best = tile, best_distance = distance;
  }
  return fail(r->err, STROBE_INVALID, "tile_n %d with block_n=%d: must be %s; %d is the nearest", wanted,
              r->v[CFG_BLOCK_N], config_fields[CFG_TILE_N].allowed, best);
}

// Why K or V can't be read in place: a packed copy has what the tensor lacks. NULL: it can.
static const char *must_pack(const struct resolver *r, bool is_v) {
  if (is_v && r->pairs) return "bf16 V is always packed in pairs of rows";
  if (!r->pairs && r->s->kv != DT_F32) return "16-bit rows are widened to f32 when they are packed";
  const int tile = r->v[CFG_TILE_N]; // defaults are asked for before it is checked
  if (is_v && tile > 0 && r->s->head_dim_v % tile)
    return "rows are padded to a multiple of tile_n when they are packed";
  if (!is_v && r->k_width != r->s->head_dim) return "rows are padded to a multiple of 4 when they are packed";
  return NULL;
}

static int check_pack(struct resolver *r, enum config_field field) {
  const bool is_v = field == CFG_PACK_V;
  const char *why = must_pack(r, is_v);
  if (r->v[field] == 0 && why)
    return fail(r->err, STROBE_INVALID, "%s 0 with %s %d of %s: %s; %s=1 works", config_fields[field].name,
                is_v ? "head_dim_v" : "head_dim", is_v ? r->s->head_dim_v : r->s->head_dim, dtype_table[r->s->kv].name,
                why, config_fields[field].name);
  return check_range(r, field, 1, 0, 1);
}
static int check_pack_k(struct resolver *r) { return check_pack(r, CFG_PACK_K); }
static int check_pack_v(struct resolver *r) { return check_pack(r, CFG_PACK_V); }

static int check_unroll(struct resolver *r) {
  const struct spec *s = r->s;
  int unroll = r->v[CFG_UNROLL];
  if (!unroll_divides(r, unroll))
    return fail(r->err, STROBE_INVALID, "unroll %d with head_dim %d: must be %s; %d is the nearest that works", unroll,
                s->head_dim, config_fields[CFG_UNROLL].allowed, nearest_unroll(r, unroll));
  if (!unroll_works(r, unroll))
    return fail(
        r->err, STROBE_INVALID,
        "unroll %d with stages=2 and head_dim %d makes %d chunks of QK, whose number must divide the %d %s of a tile "
        "(tile_n=%d); unroll=%d works",
        unroll, s->head_dim, r->k_width / unroll, exp_rows(r), r->pairs ? "pairs of rows" : "rows", r->v[CFG_TILE_N],
        nearest_unroll(r, unroll));
  return STROBE_OK;
}

static bool registers_fit(const struct resolver *r, int block_m, int tile_n) {
  struct config c = {{0}};
  c.v[CFG_BLOCK_M] = block_m, c.v[CFG_TILE_N] = tile_n, c.v[CFG_STAGES] = r->v[CFG_STAGES];
  return r->t->vregs == 0 || config_vregs(r->s, r->t, &c) <= r->t->vregs;
}

// The largest tile that fits with this block_m, else with the next smaller one.
static int check_registers(struct resolver *r) {
  int block_m = r->v[CFG_BLOCK_M], tile_n = r->v[CFG_TILE_N], m = block_m, tile = 0, limit = r->t->vregs;
  if (registers_fit(r, block_m, tile_n)) return STROBE_OK;
  for (; m > 0 && !tile; m -= tile ? 0 : r->t->lanes)
    for (int n = TILE_N_MAX; n >= 1 && !tile; n--)
      if (tile_works(r, n) && registers_fit(r, m, n)) tile = n;
  struct config c = {{0}};
  c.v[CFG_BLOCK_M] = block_m, c.v[CFG_TILE_N] = tile_n, c.v[CFG_STAGES] = r->v[CFG_STAGES];
  return fail(
      r->err, STROBE_INVALID,
      "tile_n %d with block_m=%d and stages=%d needs %d vector registers, %s has %d: tile_n=%d with block_m=%d fits",
      tile_n, block_m, r->v[CFG_STAGES], config_vregs(r->s, r->t, &c), r->t->name, limit, tile, m);
}

// block_n before tile_n, tile_n before what is computed from it.
static int (*const checks_before_unroll[])(struct resolver *) = {check_block_m, check_block_n, check_tile_n,
                                                                 check_stages,  check_exp,     check_prefetch,
                                                                 check_pack_k,  check_pack_v,  check_registers};

// ---- the algorithm ----

enum algo_kind config_algo(const struct config *c) {
  if (c->v[CFG_ALGO] != CONFIG_UNSET) return (enum algo_kind)c->v[CFG_ALGO];
  return c->v[CFG_STAGES] == 2 || config_kernel(c) == KERNEL_TILES ? ALGO_FA3 : ALGO_FA2;
}

// fa2 and fa3 are other words for stages=1 and 2, so that a kernel has one name.
static int resolve_algo(struct resolver *r) {
  static const struct {
    int stages;
    bool kept;
    const char *why;
  } algos[ALGO_COUNT] = {
      [ALGO_STANDARD] = {1, true, "all of S is in memory before its softmax begins, so there is nothing to interleave"},
      [ALGO_FA1] = {1, true, "the next step is another tile of queries, whose m and l are in memory"},
      [ALGO_FA2] = {1, false, "QK, softmax and PV in turn is what fa2 means; algo=fa3 interleaves them"},
      [ALGO_FA3] =
          {2, false,
           "softmax of one block interleaved with QK of the next is what fa3 means; algo=fa2 has them in turn"},
  };
  int *algo = &r->v[CFG_ALGO], *stages = &r->v[CFG_STAGES];
  if (*algo == CONFIG_UNSET) return STROBE_OK;
  if (*stages != CONFIG_UNSET && *stages != algos[*algo].stages)
    return fail(r->err, STROBE_INVALID, "stages %d with algo=%s: must be %d: %s", *stages, algo_names[*algo],
                algos[*algo].stages, algos[*algo].why);
  *stages = algos[*algo].stages;
  if (!algos[*algo].kept) *algo = CONFIG_UNSET;
  return STROBE_OK;
}

// skip is what all kernels do unless told otherwise, so that a kernel has one name.
static int resolve_diagonal(struct resolver *r) {
  int *diagonal = &r->v[CFG_DIAGONAL];
  if (*diagonal != CONFIG_UNSET && r->s->mask == MASK_FULL)
    return fail(
        r->err, STROBE_INVALID,
        "config field diagonal does not apply to a full mask, which hides nothing: leave it out, or take causal");
  if (*diagonal == DIAGONAL_SKIP) *diagonal = CONFIG_UNSET;
  return STROBE_OK;
}

// ---- the heuristic ----

static void set_default(int *field, int value) {
  if (*field == CONFIG_UNSET) *field = value;
}

// The largest multiple of 16 (bf16: 32) and tile_n up to the default: of 128, 96 for tile_n 3 or 6, 80 for 5. In longer
// blocks O is rescaled less often; at the diagonal they would be waste, unless there are many beside it. f32 rows of
// fewer than 64 columns gained nothing by them where stages=2 is the default.
static int default_block_n(const struct resolver *r, const struct problem *p) {
  const struct cpu_defaults *d = defaults_of(r->t);
  const int64_t keys = !p ? -1 : p->kv_len >= 0 ? p->kv_len : p->q_len;
  const bool narrow = !r->pairs && r->t->vregs >= 32 && r->s->head_dim_v < 64;
  const int full = narrow ? d->block_n : d->block_n_full[r->pairs], tile_n = r->v[CFG_TILE_N];
  const int block_n = (r->s->mask == MASK_FULL ? keys < 0 || keys >= full : keys >= LONG_CAUSAL) ? full : d->block_n;
  const int step = block_n_step(r);
  if (tile_n < 1 || tile_n > TILE_N_MAX) return block_n;
  for (int smaller = block_n; smaller > 0; smaller -= step)
    if (smaller % tile_n == 0) return smaller;
  return block_n;
}

// No more query rows than there are, and than the registers allow for the tile.
static int default_block_m(const struct resolver *r, const struct problem *p) {
  int most = prefill_block_m_max(r->t);
  while (most > r->t->lanes && !registers_fit(r, most, r->v[CFG_TILE_N])) most -= r->t->lanes;
  return prefill_block_m(r->s, r->t, p, most, r->v[CFG_ALGO] == CONFIG_UNSET ? r->v[CFG_TAIL_M] : 0);
}

static void fill_defaults(struct resolver *r, const struct problem *p) {
  int *v = r->v;
  const struct cpu_defaults *d = defaults_of(r->t);
  set_default(&v[CFG_STAGES], d->stages);
  set_default(&v[CFG_TILE_N], d->tile_n);
  set_default(&v[CFG_BLOCK_N], default_block_n(r, p));
  set_default(&v[CFG_BLOCK_M], default_block_m(r, p));
  set_default(&v[CFG_EXP], (int)config_default_exp(r->s, r->t));
  set_default(&v[CFG_PREFETCH], d->prefetch);
  // A copy pays when enough query blocks read it. QK reads whole rows, PV a few columns of many: a copy of V pays
  // sooner.
  const bool known = p && p->q_len >= 0, one_block = known && p->q_len <= v[CFG_BLOCK_M];
  const bool few = one_block || (known && p->q_len < d->copy_k_from[r->s->mask != MASK_FULL]);
  set_default(&v[CFG_PACK_K], few && !must_pack(r, false) ? 0 : 1);
  set_default(&v[CFG_PACK_V], one_block && !must_pack(r, true) ? 0 : 1);
}

// The size of a last tile with few queries.
static int resolve_tail(struct resolver *r, const struct problem *p) {
  int *tail = &r->v[CFG_TAIL_M];
  const int block_m = r->v[CFG_BLOCK_M], lanes = r->t->lanes;
  const bool kept = r->v[CFG_ALGO] != CONFIG_UNSET;
  if (*tail > 0 && kept)
    return fail(r->err, STROBE_INVALID,
                "tail_m %d with algo=%s: must be 0: what it keeps in memory is of one size of tile", *tail,
                algo_names[r->v[CFG_ALGO]]);
  if (*tail == CONFIG_UNSET && !kept) *tail = prefill_tail(r->s, r->t, p, block_m);
  if (*tail > 0 && (*tail % lanes || *tail >= block_m)) {
    const int most = block_m > lanes ? block_m - lanes : 0;
    return fail(r->err, STROBE_INVALID, "tail_m %d with block_m=%d on %s: must be %s; %d is the nearest", *tail,
                block_m, r->t->name, config_fields[CFG_TAIL_M].allowed,
                most ? (int)nearest_multiple(*tail, lanes, lanes, most) : 0);
  }
  if (*tail == 0) *tail = CONFIG_UNSET; // so that a kernel has one name
  return STROBE_OK;
}

int prefill_resolve(const struct spec *s, const struct target *t, const struct problem *p, struct config *c,
                    struct error *err) {
  if (c->v[CFG_BLOCK_H] != CONFIG_UNSET || c->v[CFG_SPLIT] != CONFIG_UNSET)
    return fail(err, STROBE_INVALID,
                "config field %s does not apply to kernel=prefill: leave it out, or take kernel=decode",
                c->v[CFG_SPLIT] != CONFIG_UNSET ? "split" : "block_h");
  struct config resolved = *c;
  struct resolver r = {s, t, resolved.v, err, spec_pairs(s, t), config_k_width(s, c)};
  int status = resolve_algo(&r);
  if (status || (status = resolve_diagonal(&r)) != STROBE_OK) return status;
  fill_defaults(&r, p);
  for (size_t i = 0; i < sizeof checks_before_unroll / sizeof *checks_before_unroll; i++)
    if ((status = checks_before_unroll[i](&r)) != STROBE_OK) return status;
  if ((status = resolve_tail(&r, p)) != STROBE_OK) return status;
  int *unroll = &resolved.v[CFG_UNROLL];
  if (*unroll == UNROLL_FULL)
    *unroll = r.k_width;
  else if (*unroll == UNROLL_AUTO || *unroll == CONFIG_UNSET)
    *unroll = auto_unroll(&r);
  if ((status = check_unroll(&r)) != STROBE_OK) return status;
  *c = resolved;
  return STROBE_OK;
}
