// Configs of CUDA kernels: the defaults per cell, and what can't work, with the reason.
#include "cuda_kernel.h"

#include <math.h>
#include <stdlib.h>

const char *const softmax_names[SOFTMAX_COUNT] = {"classical", "conditional", "fast"};
const char *const schedule_names[SCHEDULE_COUNT] = {"grid", "persistent", "lpt"};

// Best on an H200 in bf16 for kv_len up to `most` (0: any).
static const struct cell {
  int head_dim;
  bool causal;
  int64_t most;
  int block_m, block_n, stages, q_stages, pingpong, flat, q_regs, o_tma, heavy_keys;
  enum softmax_kind softmax;
  enum schedule_kind schedule;
} cells[] = {
    {64, false, 6144, 256, 64, 5, 2, 1, 1, 0, 1, 0, SOFTMAX_FAST, SCHEDULE_PERSISTENT},
    {64, false, 0, 192, 128, 4, 2, 1, 1, 0, 1, 0, SOFTMAX_FAST, SCHEDULE_LPT},
    {64, true, 0, 256, 64, 6, 2, 0, 1, 0, 1, 0, SOFTMAX_FAST, SCHEDULE_LPT},
    {128, false, 1536, 128, 128, 3, 1, 1, 1, 1, 1, 0, SOFTMAX_FAST, SCHEDULE_PERSISTENT},
    {128, false, 0, 128, 128, 3, 1, 0, 1, 1, 1, 1, SOFTMAX_FAST, SCHEDULE_PERSISTENT},
    {128, true, 1536, 128, 64, 5, 2, 0, 1, 1, 1, 0, SOFTMAX_FAST, SCHEDULE_LPT},
    {128, true, 0, 128, 128, 3, 1, 0, 1, 1, 1, 0, SOFTMAX_FAST, SCHEDULE_LPT},
    {192, false, 0, 128, 96, 2, 1, 1, 0, 0, 2, 1, SOFTMAX_CONDITIONAL, SCHEDULE_PERSISTENT},
    {192, true, 0, 128, 96, 2, 1, 1, 0, 0, 2, 1, SOFTMAX_CONDITIONAL, SCHEDULE_LPT},
    {256, false, 3072, 128, 64, 2, 1, 1, 0, 0, 2, 1, SOFTMAX_CONDITIONAL, SCHEDULE_PERSISTENT},
    {256, false, 0, 128, 64, 2, 1, 0, 0, 0, 2, 1, SOFTMAX_FAST, SCHEDULE_PERSISTENT},
    {256, true, 3072, 128, 64, 2, 1, 1, 0, 0, 2, 1, SOFTMAX_CONDITIONAL, SCHEDULE_LPT},
    {256, true, 0, 128, 64, 2, 1, 0, 0, 0, 2, 0, SOFTMAX_FAST, SCHEDULE_LPT},
};

static const struct cell *find_cell(const struct spec *s, const struct problem *p) {
  const struct cell *found = NULL;
  for (size_t i = 0; i < sizeof cells / sizeof *cells; i++) {
    const struct cell *c = &cells[i];
    if (c->head_dim != s->head_dim || c->causal != (s->mask != MASK_FULL)) continue;
    found = c;
    if (c->most && p && p->kv_len >= 0 && p->kv_len <= c->most) break;
  }
  return found;
}

static int smaller_of(int a, int b) { return a < b ? a : b; }

// ---- few tiles ----

// Microseconds of a tile of 64, 128, 192 and 256 queries with 2048 keys, one H200, bf16; 0: no default.
static const struct {
  int head_dim;
  double us[4];
} tile_costs[] = {{64, {14.7, 18.4, 23.2, 28.2}}, {128, {16.5, 22.5}}, {192, {23.1, 33.2}}, {256, {28.8, 43.7}}};
enum { MULTIPROCESSORS = 132 }; // of an H100 SXM and an H200
static const double tile_us = 0.9, least_gain = 0.95;

static double cost_of_tile(int head_dim, int block_m) {
  for (size_t i = 0; i < sizeof tile_costs / sizeof *tile_costs; i++)
    if (tile_costs[i].head_dim == head_dim) return tile_costs[i].us[block_m / 64 - 1] / 2048;
  return 0;
}

// Microseconds of a kernel with such tiles. Those of a full mask are alike and run in waves; of others, the longest
// first, each multiprocessor takes the next.
static double time_of(const struct problem *p, int block_m) {
  const double cost = cost_of_tile(p->spec.head_dim, block_m), heads = (double)p->batch * (double)p->heads;
  const int64_t tiles = (p->q_len + block_m - 1) / block_m, kv_len = p->kv_len, diagonal = problem_diagonal(p);
  if (p->spec.mask == MASK_FULL)
    return ceil((double)tiles * heads / MULTIPROCESSORS) * (cost * (double)kv_len + tile_us);
  double all = 0, longest = 0;
  for (int64_t i = 0; i < tiles; i++) {
    const int64_t seen = (i + 1) * block_m + diagonal;
    longest = cost * (double)(seen < 0 ? 0 : seen > kv_len ? kv_len : seen) + tile_us;
    all += heads * longest;
  }
  const double shared = all / MULTIPROCESSORS + 0.35 * longest;
  return shared > longest ? shared : longest;
}

// Large tiles of a small problem leave multiprocessors without one.
static int fewer_queries(const struct problem *p, int block_m) {
  if (!p || p->batch < 0 || p->heads < 0 || p->q_len < 0 || p->kv_len < 0 ||
      (double)p->batch * (double)p->heads * (double)p->q_len > 1e6)
    return block_m;
  double least = least_gain * time_of(p, block_m);
  int best = block_m;
  for (int smaller = 64; smaller < block_m; smaller += 64) {
    const double us = time_of(p, smaller);
    if (us < least) least = us, best = smaller;
  }
  return best;
}

static void set_default(int *field, int value) {
  if (*field == CONFIG_UNSET) *field = value;
}

// Consumers get most: 232, 160, 112 registers for 2, 3, 4 warpgroups.
static int default_regs(int block_m) {
  static const int regs[] = {256, 232, 160, 112};
  const int warpgroups = block_m / 64;
  return warpgroups >= 1 && warpgroups <= 4 ? regs[warpgroups - 1] : 232;
}

static void fill_defaults(const struct spec *s, const struct problem *p, int *v) {
  const struct cell *c = find_cell(s, p);
  const bool plain = v[CFG_OVERLAP] == 0; // nothing overlaps: what builds on overlap is off
  const bool free_m = v[CFG_PINGPONG] == CONFIG_UNSET && v[CFG_Q_REGS] == CONFIG_UNSET &&
                      v[CFG_O_TMA] == CONFIG_UNSET && v[CFG_REGS] == CONFIG_UNSET; // these may want more warpgroups
  set_default(&v[CFG_BLOCK_M], free_m ? fewer_queries(p, c->block_m) : c->block_m);
  const bool narrow = v[CFG_BLOCK_M] == 64; // ptxas 13.0 spills where one consumer warpgroup keeps Q in registers
  set_default(&v[CFG_BLOCK_N], c->block_n);
  set_default(&v[CFG_STAGES], plain ? smaller_of(c->stages, 2) : c->stages);
  set_default(&v[CFG_OVERLAP], 1);
  set_default(&v[CFG_FLAT], plain ? 0 : c->flat);
  set_default(&v[CFG_O_TMA], c->o_tma == 1 && (!v[CFG_FLAT] || narrow) ? 0 : c->o_tma);
  set_default(&v[CFG_Q_STAGES], v[CFG_FLAT] ? c->q_stages : 1);
  set_default(&v[CFG_Q_REGS], plain || narrow ? 0 : c->q_regs);
  set_default(&v[CFG_PINGPONG], v[CFG_BLOCK_M] > 64 ? c->pingpong : 0);
  set_default(&v[CFG_SOFTMAX], plain ? SOFTMAX_CLASSICAL : (int)c->softmax);
  set_default(&v[CFG_HEAVY_KEYS], v[CFG_SOFTMAX] == SOFTMAX_CLASSICAL ? 0 : c->heavy_keys);
  set_default(&v[CFG_SCHEDULE], c->schedule);
  set_default(&v[CFG_L2_SECTION], 16);
  set_default(&v[CFG_REGS], default_regs(v[CFG_BLOCK_M]));
}

// ---- feasibility ----

static int check_range(const int *v, enum config_field f, int step, int lo, int hi, struct error *err) {
  if (v[f] >= lo && v[f] <= hi && v[f] % step == 0) return 0;
  int nearest = v[f] < lo ? lo : v[f] > hi ? hi : (v[f] + step / 2) / step * step;
  return fail(err, STROBE_INVALID, "%s %d on sm90a: must be a multiple of %d, %d to %d; %d is the nearest",
              config_fields[f].name, v[f], step, lo, hi,
              nearest > hi   ? hi
              : nearest < lo ? lo
                             : nearest);
}

static int check_ranges(const int *v, struct error *err) {
  static const struct {
    enum config_field field;
    int step, lo, hi;
  } range[] = {{CFG_BLOCK_M, 64, 64, 256},   {CFG_BLOCK_N, 16, 16, 256},
               {CFG_STAGES, 1, 1, 16},       {CFG_Q_STAGES, 1, 1, 2},
               {CFG_PINGPONG, 1, 0, 1},      {CFG_OVERLAP, 1, 0, 1},
               {CFG_FLAT, 1, 0, 1},          {CFG_SOFTMAX, 1, 0, SOFTMAX_COUNT - 1},
               {CFG_HEAVY_KEYS, 1, 0, 1},    {CFG_Q_REGS, 1, 0, 1},
               {CFG_O_TMA, 1, 0, 2},         {CFG_SCHEDULE, 1, 0, SCHEDULE_COUNT - 1},
               {CFG_L2_SECTION, 1, 1, 1024}, {CFG_REGS, 8, 24, 256}};
  for (size_t i = 0; i < sizeof range / sizeof *range; i++) {
    int status = check_range(v, range[i].field, range[i].step, range[i].lo, range[i].hi, err);
    if (status) return status;
  }
  return 0;
}

// Fields that exclude each other: true refuses.
static int check_combinations(const int *v, struct error *err) {
  const struct {
    bool refused;
    const char *why;
  } rule[] = {
      {v[CFG_STAGES] < 2 && v[CFG_OVERLAP],
       "stages 1 with overlap=1: V is consumed one block after K, so both rings need 2 stages; overlap=0 works"},
      {v[CFG_PINGPONG] && v[CFG_BLOCK_M] == 64,
       "pingpong 1 with block_m=64: one consumer warpgroup has no other to take turns with; pingpong=0 works"},
      {v[CFG_Q_REGS] && !v[CFG_OVERLAP], "q_regs 1 with overlap=0: ptxas 13.0 gives P the registers of Q, which the "
                                         "next block still reads; q_regs=0 works"},
      {v[CFG_FLAT] && !v[CFG_OVERLAP],
       "flat 1 with overlap=0: the next tile's QK is issued with this tile's last PV, which is overlap; flat=0 works"},
      {v[CFG_SOFTMAX] == SOFTMAX_FAST && !v[CFG_OVERLAP],
       "softmax fast with overlap=0: it is built into the overlapped loop; softmax=conditional works"},
      {v[CFG_HEAVY_KEYS] && v[CFG_SOFTMAX] == SOFTMAX_CLASSICAL,
       "heavy_keys 1 with softmax=classical: its heaviest key has P = 1, which is exact; heavy_keys=0 works"},
      {v[CFG_O_TMA] == 1 && v[CFG_Q_STAGES] == 1 && !(v[CFG_Q_REGS] && v[CFG_FLAT]),
       "o_tma 1 with q_stages=1: O is staged in the Q buffer, which is free only if Q went to registers and tiles are "
       "pipelined; "
       "q_regs=1 with flat=1, or q_stages=2, or o_tma=2, works"},
  };
  for (size_t i = 0; i < sizeof rule / sizeof *rule; i++)
    if (rule[i].refused) return fail(err, STROBE_INVALID, "%s", rule[i].why);
  return 0;
}

static int check_shared(const struct instance *i, struct error *err) {
  struct cuda_kernel k, smaller;
  cuda_derive(i, &k);
  if (k.shared_bytes <= CUDA_SHARED_LIMIT) return 0;
  struct instance trial = *i;
  int *v = trial.config.v;
  do cuda_derive(&trial, &smaller);
  while (smaller.shared_bytes > CUDA_SHARED_LIMIT && --v[CFG_STAGES] >= 1);
  if (v[CFG_STAGES] >= (v[CFG_OVERLAP] ? 2 : 1))
    return fail(err, STROBE_INVALID,
                "stages %d: Q %d x %d + K and V %d x 2 x %d + barriers = %d bytes of shared memory, sm90a has %d; "
                "stages=%d fits",
                i->config.v[CFG_STAGES], i->config.v[CFG_Q_STAGES], k.q_tile, i->config.v[CFG_STAGES], k.kv_tile,
                k.shared_bytes, CUDA_SHARED_LIMIT, v[CFG_STAGES]);
  return fail(err, STROBE_INVALID,
              "block_n %d with block_m=%d: Q %d x %d + K and V %d x 2 x %d = %d bytes of shared memory, sm90a has %d; "
              "a smaller block_n fits",
              i->config.v[CFG_BLOCK_N], i->config.v[CFG_BLOCK_M], i->config.v[CFG_Q_STAGES], k.q_tile,
              i->config.v[CFG_STAGES], k.kv_tile, k.shared_bytes, CUDA_SHARED_LIMIT);
}

// At a mask the first warpgroup skips the blocks that only the last one sees. It waits for K of the block behind them
// before it gives V back: that of one block less, and of the tile before where tiles are pipelined, must fit the ring.
static int check_rings(const struct instance *i, struct error *err) {
  const int *v = i->config.v, skipped = (v[CFG_BLOCK_M] - 64 + v[CFG_BLOCK_N] - 1) / v[CFG_BLOCK_N];
  const int least = skipped - !v[CFG_FLAT];
  if (i->spec.mask == MASK_FULL || v[CFG_STAGES] >= least) return 0;
  return fail(err, STROBE_INVALID,
              "stages %d with block_m=%d, block_n=%d and a causal mask: a warpgroup that skips %d KV blocks would wait "
              "for ever; stages=%d or a larger block_n works",
              v[CFG_STAGES], v[CFG_BLOCK_M], v[CFG_BLOCK_N], skipped, least);
}

static int check_registers(const struct instance *i, struct error *err) {
  struct cuda_kernel k;
  cuda_derive(i, &k);
  const int most = (k.entry_regs * (k.warpgroups + 1) - 24) / k.warpgroups / 8 * 8, limit = smaller_of(most, 256);
  if (k.consumer_regs > limit || k.producer_regs < 24)
    return fail(err, STROBE_INVALID,
                "regs %d with %d consumer warpgroups: %d x %d + 24 for the producer exceed the %d that %d threads get "
                "at entry; %d is the most",
                k.consumer_regs, k.warpgroups, k.warpgroups, k.consumer_regs, k.entry_regs * (k.warpgroups + 1),
                k.threads, limit);
  if (k.fragment_regs + k.overhead > smaller_of(k.consumer_regs, 255))
    return fail(err, STROBE_INVALID,
                "block_n %d: S %d + P %d + O %d + Q %d + %d others = %d registers a thread, %d consumer warpgroups "
                "have %d; a smaller block_n%s fits",
                i->config.v[CFG_BLOCK_N], k.s_regs, k.p_regs, k.o_regs, k.q_fragments, k.overhead,
                k.fragment_regs + k.overhead, k.warpgroups, k.consumer_regs,
                k.q_fragments ? " or q_regs=0" : " or block_m");
  return 0;
}

int cuda_config_resolve(const struct spec *s, const struct target *t, const struct problem *p, struct config *c,
                        struct error *err) {
  struct instance i = {.spec = *s, .config = *c, .target = t};
  const bool free_stages = c->v[CFG_STAGES] == CONFIG_UNSET, free_o = c->v[CFG_O_TMA] == CONFIG_UNSET;
  fill_defaults(s, p, i.config.v);
  int status = check_ranges(i.config.v, err);
  if (!status) status = check_combinations(i.config.v, err);
  // A larger tile than the default's leaves no room for O, then for fewer stages, unless they were asked for.
  if (!status && free_o && i.config.v[CFG_O_TMA] == 2 && check_shared(&i, NULL)) i.config.v[CFG_O_TMA] = 0;
  while (!status && free_stages && i.config.v[CFG_STAGES] > 2 && check_shared(&i, NULL)) i.config.v[CFG_STAGES]--;
  if (!status) status = check_shared(&i, err);
  if (!status) status = check_rings(&i, err);
  if (!status) status = check_registers(&i, err);
  if (!status) *c = i.config;
  return status;
}
