// How many queries the prefill kernel takes at a time, and what becomes of those that fill no tile.
#include "config_queries.h"

// Time of a row of queries in tiles of so many vectors, over one in the largest: what is the same for all of a tile,
// loads of K and V above all, is shared by fewer. Zen 4: 1.02, 1.08 and 1.12 of 48, 32 and 16 queries (avx2, of 16 and
// 8: 1.03, 1.15). Emerald Rapids: f32 1.1, 1.3, 2.2 (avx2 1.2, 2.0), bf16 1.03, 1.09, 1.27. So between.
enum { COLS = 4 };
struct row_cost {
  double of[COLS + 1];
  int least; // vectors of a tile that all queries may have; a single one is for what is left
};
static const struct row_cost many_registers = {{[1] = 1.35, [2] = 1.12, [3] = 1.04, [4] = 1}, 2};
static const struct row_cost few_registers = {{[1] = 1.4, [2] = 1.12, [3] = 1}, 2};
static const struct row_cost no_registers = {{[1] = 1}, 1};

static const struct row_cost *costs_of(const struct target *t) {
  return !t->vregs ? &no_registers : t->vregs < 32 ? &few_registers : &many_registers;
}

int prefill_block_m_max(const struct target *t) {
  const struct row_cost *c = costs_of(t);
  int cols = COLS;
  while (cols > 1 && c->of[cols] == 0) cols--;
  return cols * t->lanes;
}

static int64_t padded(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

int64_t prefill_rows(int64_t q_len, int block_m, int tail_m) {
  const int64_t rest = q_len % block_m;
  return rest && rest <= tail_m ? q_len - rest + tail_m : padded(q_len, block_m);
}

// Where products of a tile's first block hide the softmax of the tile before (stages=2, whole blocks), they do not
// between tiles of different sizes, before the small one and after it: rows of so many keys, as which that counts.
static double not_hidden(const struct spec *s, const struct target *t, double keys, int rows) {
  const double of_products = (spec_pairs(s, t) ? 40.0 : 20.0) / (s->head_dim + s->head_dim_v);
  return s->mask != MASK_FULL || t->vregs < 32 ? 0 : of_products * rows * (keys < 256 ? keys : 256);
}

// Rows without a query cost as much as rows that see all keys, which the last queries do.
static double cost_of(const struct spec *s, const struct target *t, const struct problem *p, int block_m, int tail_m) {
  const double *row = costs_of(t)->of;
  const int64_t rest = p->q_len % block_m;
  const double q = (double)p->q_len, keys = p->kv_len > p->q_len ? (double)p->kv_len : q;
  const double work = q * (s->mask == MASK_FULL ? keys : keys - q / 2) - (double)rest * keys;
  const bool small = rest && rest <= tail_m;
  const int last = small ? tail_m : rest ? block_m : 0, cols = block_m / t->lanes, last_cols = last / t->lanes;
  const double whole = row[cols] > 0 ? row[cols] : 1, of_last = row[last_cols] > 0 ? row[last_cols] : 1;
  return whole * work + of_last * last * keys + (small ? not_hidden(s, t, keys, block_m + tail_m) : 0);
}

// Text for another size of tile has to pay for being made.
static const double worth = 0.98;

int prefill_tail(const struct spec *s, const struct target *t, const struct problem *p, int block_m) {
  if (!p || p->q_len <= block_m) return CONFIG_UNSET;
  const int tail_m = (int)padded(p->q_len % block_m, t->lanes);
  const bool pays =
      tail_m > 0 && tail_m < block_m && cost_of(s, t, p, block_m, tail_m) < worth * cost_of(s, t, p, block_m, 0);
  return pays ? tail_m : CONFIG_UNSET;
}

int prefill_block_m(const struct spec *s, const struct target *t, const struct problem *p, int most, int tail_m) {
  const struct row_cost *row = costs_of(t);
  const int lanes = t->lanes;
  int best = most;
  double least = 0;
  if (!p || p->q_len < 0) return most;
  if (p->q_len <= most) return p->q_len > 0 ? (int)padded(p->q_len, lanes) : lanes;
  for (int cols = most / lanes; cols >= row->least; cols--) {
    const int block_m = cols * lanes;
    const int tail = tail_m == CONFIG_UNSET ? prefill_tail(s, t, p, block_m) : tail_m < block_m ? tail_m : 0;
    const double cost = cost_of(s, t, p, block_m, tail) * (tail > 0 ? 1 / worth : 1);
    if (least == 0 || cost < least) least = cost, best = block_m;
  }
  return best;
}
