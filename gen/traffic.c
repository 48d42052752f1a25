#include "traffic.h"

#include <math.h>

const char *const traffic_about[ALGO_COUNT] = {
    [ALGO_STANDARD] = "S written, read twice, P written and read; K and V once per tile of queries",
    [ALGO_FA1] = "O, m and l in and out for every KV block; K and V once per head",
    [ALGO_FA2] = "K and V once per tile of queries",
    [ALGO_FA3] = "K and V once per tile of queries"};

// Keys of a head's copies are a multiple of so many: zeros fill up the last tile.
static const int key_step[KERNEL_COUNT] = {[KERNEL_PREFILL] = 1, [KERNEL_DECODE] = 1, [KERNEL_TILES] = 32};

struct model {
  double rows, keys, pairs; // query rows of all heads; keys of all KV heads; (query, key) pairs that are visible
  double padding;           // keys of a copy, over the head's
  double heads_per_kv;
  double k_row, v_row, q_row; // bytes of a row as the kernel multiplies it
  double score, p;            // bytes of an element of S and of P in memory
};

static struct model model_of(const struct problem *p, const struct instance *i) {
  const struct spec *s = &i->spec;
  const bool tiles = config_kernel(&i->config) == KERNEL_TILES;
  const int bytes = spec_pairs(s, i->target) ? 2 : 4, kv_bytes = tiles ? 2 * tiles_parts(s->kv) : bytes;
  const int k_width = config_k_width(s, &i->config), v_width = config_v_width(s, &i->config);
  const double keys = (double)p->kv_len, step = key_step[config_kernel(&i->config)];
  return (struct model){.rows = (double)p->batch * (double)p->heads * (double)p->q_len,
                        .keys = (double)p->batch * (double)p->heads_kv * (double)p->kv_len,
                        .pairs = problem_flops(p) / (2.0 * (s->head_dim + s->head_dim_v)),
                        .padding = keys > 0 ? ceil(keys / step) * step / keys : 1,
                        .heads_per_kv = (double)p->heads / (double)p->heads_kv,
                        .k_row = (double)k_width * kv_bytes,
                        .v_row = (double)v_width * kv_bytes,
                        .q_row = (double)k_width * bytes,
                        .score = 4,
                        .p = bytes};
}

// Q read and O written once, K and V read, and written where they are packed: always, to matrix tiles.
static double tensors(const struct model *m, const struct instance *i) {
  const struct spec *s = &i->spec;
  const int *v = i->config.v;
  const bool tiles = config_kernel(&i->config) == KERNEL_TILES;
  const double copied = m->keys * m->padding;
  double bytes = m->rows * (s->head_dim * dtype_table[s->q].bytes + s->head_dim_v * dtype_table[s->o].bytes);
  if (tiles || v[CFG_PACK_K]) bytes += m->keys * s->head_dim * dtype_table[s->kv].bytes + copied * m->k_row;
  if (tiles || v[CFG_PACK_V]) bytes += m->keys * s->head_dim_v * dtype_table[s->kv].bytes + copied * m->v_row;
  return bytes;
}

// K and V once per tile of queries.
static double rows_of_kv(const struct model *m, const struct instance *i) {
  return m->pairs * m->padding / i->config.v[CFG_BLOCK_M] * (m->k_row + m->v_row);
}

// S written, read for its maxima and read again for exp, which writes P, which PV reads.
static double standard(const struct model *m, const struct instance *i) {
  return rows_of_kv(m, i) + m->pairs * (3 * m->score + 2 * m->p);
}

// K and V once for every query head. Of each row in each KV block Q comes in, O, m and l come in and go out; Q^T and
// the first O are made, the last O is read.
static double fa1(const struct model *m, const struct instance *i) {
  const double o_row = 4.0 * config_v_width(&i->spec, &i->config), m_and_l = 8;
  const double blocks = m->pairs / i->config.v[CFG_BLOCK_N];
  return m->keys * m->heads_per_kv * (m->k_row + m->v_row) + m->rows * (m->q_row + 2 * (o_row + m_and_l)) +
         blocks * (m->q_row + 2 * (o_row + m_and_l));
}

double traffic_bytes(const struct problem *p, const struct instance *i) {
  static double (*const by_algo[ALGO_COUNT])(const struct model *, const struct instance *) = {
      [ALGO_STANDARD] = standard, [ALGO_FA1] = fa1, [ALGO_FA2] = rows_of_kv, [ALGO_FA3] = rows_of_kv};
  const struct model m = model_of(p, i);
  return tensors(&m, i) + by_algo[config_algo(&i->config)](&m, i);
}
