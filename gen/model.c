// The model of time that orders the tuner's candidates (tune_space.h: tune_cost).
#include "config_queries.h"
#include "tune_space.h"

#include <math.h>

// Cycles of the multiply-add pipes for one vector of queries and one key that they see, in multiply-adds of a vector
// (bf16 pairs: dot products). Weights were fitted, none below 0, to the times of random configs: 1300 of 14 specs on
// targets of 32 registers, 400 of 2 specs on avx2, one core of an AMD EPYC (Zen 4). The first were then scaled so that
// the defaults of d64 and d128 in f32 get the 91 and 92 per cent of peak that they reach.
struct weights {
  double product;       // the multiply-adds of QK and PV themselves
  double per_row;       // over tile_n: loads of Q (of P) that tile_n multiply-adds share
  double per_tile;      // over the accumulators: loads of what they share
  double latency;       // for accumulators fewer than 8
  double one_vector;    // block_m of one vector: each element of K is loaded for it alone
  double keys_far;      // per doubling of a block of K above 32 KB, over the vectors that share it
  double scores_far;    // per doubling of the scores above 64 KB
  double scores_near;   // above 32 KB
  double softmax[2];    // by stages: of a vector of scores
  double per_vector[2]; // over the vectors of a tile
  double degree;        // stages=2: of exp, per degree (alone it waits for latency, not for pipes)
  double block;         // per KV block: maximum, sum, rescale
  double block_column;  // per KV block and element of head_dim_v: O is loaded, rescaled, stored
  double block_shared;  // the same, over the vectors of a tile
  double block_start;   // per KV block, in products: the pipes fill
  double chunk;         // per chunk of QK beyond the first (unroll), over the vectors of a tile
  double copy;          // of K, per element and query
  double v_in_place;    // over the vectors of a tile, per vector of V's row
  double v_tile;        // and per tile of its columns
  double cut_rows;      // causal: products in rows of a tile beyond the diagonal
  double cut_tiles;     // the same, over tile_n
  double cut_keys;      // in keys of a block beyond it
};

static const struct weights many_registers = {.product = 0.97,
                                              .per_row = 0.32,
                                              .latency = 0.135,
                                              .one_vector = 0.01,
                                              .keys_far = 0.017,
                                              .scores_near = 0.78,
                                              .scores_far = 5.2,
                                              .softmax = {9.5, 0.27},
                                              .per_vector = {1.76, 3.1},
                                              .degree = 1.02,
                                              .block = 124,
                                              .block_start = 1.8,
                                              .chunk = 0.25,
                                              .copy = 6.5,
                                              .v_in_place = 0.41,
                                              .v_tile = 0.42,
                                              .cut_tiles = 0.7,
                                              .cut_keys = 0.09};
static const struct weights few_registers = {.product = 0.96,
                                             .per_tile = 3.5,
                                             .latency = 0.33,
                                             .one_vector = 0.3,
                                             .keys_far = 0.09,
                                             .per_vector = {5.8, 0},
                                             .degree = 0.55,
                                             .block_column = 7.5,
                                             .block_shared = 13.8,
                                             .copy = 10.3,
                                             .v_in_place = 10,
                                             .v_tile = 0.38,
                                             .cut_rows = 5.4};

static double doublings(double bytes, double above) { return bytes > above ? log2(bytes / above) : 0; }

struct shape {
  double pair, k, v, products; // elements of a multiply-add; rows of K and V; multiply-adds per query vector and key
  double queries, cols, tile, accumulators;
};

static struct shape shape_of(const struct spec *s, const struct target *t, const struct problem *p,
                             const struct config *c) {
  struct shape x = {.pair = spec_pairs(s, t) ? 2 : 1, .k = config_k_width(s, c), .v = config_v_width(s, c)};
  x.products = (x.k + x.v) / x.pair;
  x.queries = p && p->q_len > 0 ? (double)p->q_len : 2048;
  x.cols = c->v[CFG_BLOCK_M] / (double)t->lanes;
  x.tile = c->v[CFG_TILE_N];
  x.accumulators = x.tile * x.cols;
  return x;
}

static double product_cycles(const struct weights *w, const struct shape *x, const int *v) {
  const double key_bytes = v[CFG_BLOCK_N] * x->k * 4 / x->pair;
  double each = w->product + w->per_row / x->tile + w->per_tile / x->accumulators + w->block_start / v[CFG_BLOCK_N];
  if (x->accumulators < 8) each += w->latency * (8 / x->accumulators - 1);
  if (x->cols <= 1) each += w->one_vector;
  each += w->keys_far * doublings(key_bytes, 32768) / x->cols;
  return x->products * each + w->chunk * (x->k / v[CFG_UNROLL] - 1) / x->cols;
}

static double softmax_cycles(const struct weights *w, const struct shape *x, const int *v) {
  const int ahead = v[CFG_STAGES] == 2;
  const double score_bytes = 4.0 * (1 + ahead) * v[CFG_BLOCK_N] * v[CFG_BLOCK_M];
  const struct exp_info *exp = &exp_table[v[CFG_EXP]];
  double cycles = w->softmax[ahead] + w->per_vector[ahead] / x->cols;
  if (ahead) cycles += w->degree * (exp->degree + (exp->table ? 0.5 : 0));
  cycles += (w->block + w->block_column * x->v + w->block_shared * x->v / x->cols) / v[CFG_BLOCK_N];
  return cycles + w->scores_near * doublings(score_bytes, 32768) + w->scores_far * doublings(score_bytes, 65536);
}

// Copies before the products, or reading in place; and prefetches, whose cost was too small to be seen.
static double access_cycles(const struct weights *w, const struct shape *x, const struct target *t, const int *v) {
  double cycles = 0;
  if (v[CFG_PACK_K]) cycles += w->copy * x->k / x->pair / x->queries;
  if (!v[CFG_PACK_V]) cycles += x->v / x->cols * (w->v_in_place / t->lanes + w->v_tile / x->tile);
  if (v[CFG_PREFETCH]) cycles += 0.001 * x->products;
  return cycles;
}

static double prefill_cost(const struct spec *s, const struct target *t, const struct problem *p,
                           const struct config *c) {
  const struct weights *w = t->vregs && t->vregs < 32 ? &few_registers : &many_registers;
  const struct shape x = shape_of(s, t, p, c);
  const int *v = c->v;
  double cycles = product_cycles(w, &x, v) + softmax_cycles(w, &x, v) + access_cycles(w, &x, t, v);
  if (s->mask != MASK_FULL)
    cycles += x.products / x.queries *
              (v[CFG_BLOCK_M] * (w->cut_rows + w->cut_tiles / x.tile) + v[CFG_BLOCK_N] * w->cut_keys);
  const int64_t q_len = (int64_t)x.queries;
  return cycles * (double)prefill_rows(q_len, v[CFG_BLOCK_M], v[CFG_TAIL_M]) / x.queries;
}

// Bytes of a row of K, and what waiting for it adds: rows far apart are not fetched by the hardware. Of one head 8 KB
// ahead hide the latency of memory; of all heads side by side the default is best, and then reading is faster. Some of
// the heads are neither.
static double decode_cost(const struct spec *s, const struct target *t, const struct problem *p,
                          const struct config *c) {
  const int *v = c->v;
  const double row = s->head_dim * (double)dtype_table[s->kv].bytes, ahead = v[CFG_PREFETCH] * row;
  double wait = 0.5 * exp(-ahead / 2500) + 0.01 * doublings(ahead, 24000);
  if (v[CFG_BLOCK_H] > 1) {
    const int best = decode_default_prefetch(s, t, c);
    const double far = v[CFG_PREFETCH] ? log2((double)v[CFG_PREFETCH] / best) : 0;
    wait = v[CFG_PREFETCH] ? fmax(0.1 * far, -0.25 * far) - 0.2 : 1;
    if (p && p->heads_kv > v[CFG_BLOCK_H]) wait += 0.33 * ((double)p->heads_kv / v[CFG_BLOCK_H] - 1);
  }
  const double cost = row * (1 + wait) * (1 + 10.0 / v[CFG_BLOCK_N]);
  const double scores = 4.0 * v[CFG_BLOCK_N] * v[CFG_BLOCK_M] * v[CFG_BLOCK_H];
  const double parts = v[CFG_SPLIT] ? 1 + 20.0 / v[CFG_SPLIT] : 1; // each begins without prefetch, and is merged
  return parts * (scores > 262144 ? 1.01 * cost : cost);           // scores leave L2
}

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Work items as they are shared out, over the share that keeps all workers busy to the end.
static double idle(const struct problem *p, int workers, const struct config *c) {
  const int *v = c->v;
  if (!p || workers < 2 || p->batch < 1 || p->heads_kv < 1 || p->q_len < 1 || p->kv_len < 1) return 1;
  int64_t items = p->batch * p->heads * ceil_div(p->q_len, v[CFG_BLOCK_M]);
  if (config_kernel(c) == KERNEL_DECODE)
    items = p->batch * ceil_div(p->heads_kv, v[CFG_BLOCK_H]) *
            ceil_div(p->heads / p->heads_kv * p->q_len, v[CFG_BLOCK_M]) *
            (v[CFG_SPLIT] ? ceil_div(p->kv_len, v[CFG_SPLIT]) : 1);
  return (double)(ceil_div(items, workers) * workers) / (double)items;
}

// CUDA and tiles have no model of time: what differs least from the default, which was measured, comes first.
static double unlike_default(const struct spec *s, const struct target *t, const struct problem *p,
                             const struct config *c) {
  struct config d;
  double cost = 1;
  config_clear(&d);
  if (config_resolve(s, t, p, &d, NULL)) return cost;
  for (int f = 0; f < CFG_COUNT; f++)
    if (f != CFG_REGS && c->v[f] != d.v[f]) cost += 0.01;
  return cost;
}

double tune_cost(const struct spec *s, const struct target *t, const struct problem *p, int workers,
                 const struct config *c) {
  const enum kernel_kind kernel = config_kernel(c);
  if (t->family == FAMILY_CUDA || kernel == KERNEL_TILES) return unlike_default(s, t, p, c);
  return idle(p, workers, c) * (kernel == KERNEL_DECODE ? decode_cost(s, t, p, c) : prefill_cost(s, t, p, c));
}

double tune_percent(const struct spec *s, const struct target *t, const struct problem *p, const struct config *c) {
  if (config_kernel(c) != KERNEL_PREFILL || t->family == FAMILY_CUDA) return 0;
  const double products = (s->head_dim + s->head_dim_v) / (spec_pairs(s, t) ? 2.0 : 1.0);
  return 100 * products / prefill_cost(s, t, p, c);
}
