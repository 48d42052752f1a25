// Why the heuristic chose what it chose, for `explain`. The choices themselves are config_resolve's.
#include "cmd.h"
#include "config_queries.h"

// What reasons are given from.
struct facts {
  const struct spec *spec;
  const struct target *target;
  const int *v;
  int64_t q_len;
  int vectors; // of queries in a tile
  int k_width;
  bool bf16, one_tile, by_tiles;
  double p_error; // of its rounding
};

static void why_block_m(const struct facts *f, struct buf *out) {
  const int most = prefill_block_m_max(f->target), tail_m = f->v[CFG_TAIL_M];
  if (f->q_len <= f->v[CFG_BLOCK_M])
    buf_printf(out, "q_len is %lld: a larger tile would be padding", (long long)f->q_len);
  else if (tail_m <= 0 && prefill_rows(f->q_len, f->v[CFG_BLOCK_M], 0) < prefill_rows(f->q_len, most, 0))
    buf_printf(out, "the last tile is padded less: %lld rows in all; in tiles of %d %lld",
               (long long)prefill_rows(f->q_len, f->v[CFG_BLOCK_M], 0), most,
               (long long)prefill_rows(f->q_len, most, 0));
  else
    buf_printf(out, "each element of K is broadcast once for %d vector%s", f->vectors, f->vectors == 1 ? "" : "s");
}

static void why_block_n(const struct facts *f, struct buf *out) {
  buf_printf(out, "one rescale of O per %d keys; S of %d KB stays in the cache", f->v[CFG_BLOCK_N],
             f->v[CFG_STAGES] * f->v[CFG_BLOCK_N] * f->v[CFG_BLOCK_M] * 4 / 1024);
}

static void why_tile_n(const struct facts *f, struct buf *out) {
  const int accumulators = f->v[CFG_TILE_N] * f->vectors;
  if (f->target->vregs)
    buf_printf(out, "%d accumulators keep the multiply-add pipes busy and leave %d registers", accumulators,
               f->target->vregs - accumulators);
  else
    buf_printf(out, "%d accumulators", accumulators);
}

static void why_stages(const struct facts *f, struct buf *out) {
  buf_str(out, f->v[CFG_STAGES] == 2 ? "exp of one block fills the gaps in QK of the next"
               : f->target->vregs    ? "in turn"
                                     : "a compiler orders the operations itself");
}

static void why_unroll(const struct facts *f, struct buf *out) {
  const int budget = f->target->l1i_bytes * 3 / 4 / 1024;
  if (!f->target->vregs && f->v[CFG_UNROLL] != f->k_width)
    buf_str(out, "short: loops over lanes take a compiler long");
  else if (f->target->bcast_temps && f->v[CFG_UNROLL] != f->k_width)
    buf_str(out, "short: decoded instructions stay in their cache, and the loop hides in the multiply-adds");
  else if (f->v[CFG_UNROLL] == f->k_width)
    buf_printf(out, "all of head_dim: QK and PV fit the %d KB meant for code", budget);
  else
    buf_printf(out, "the most that fits the %d KB meant for code", budget);
}

static void why_exp(const struct facts *f, struct buf *out) {
  const struct exp_info *e = &exp_table[f->v[CFG_EXP]];
  const double v = dtype_table[f->spec->kv].eps;
  if (e->eps < f->p_error)
    buf_printf(out, "error %.1e, far below the %.1e by the rounding of P", e->eps, f->p_error);
  else if (e->eps > 1e-6)
    buf_printf(out, "error %.1e, far below the %.1e by which V was rounded", e->eps, v);
  else
    buf_printf(out, "error %.1e, the cheapest below 1e-6", e->eps);
}

static void why_prefetch(const struct facts *f, struct buf *out) {
  buf_str(out, f->v[CFG_PREFETCH] ? "PV reads few columns of many rows, which hardware does not foresee"
                                  : "blocks are read again from the cache");
}

static void why_pack_k(const struct facts *f, struct buf *out) {
  buf_str(out, f->one_tile ? "one tile of queries reads K once"
               : f->v[CFG_PACK_K]
                   ? "tiles of queries share the copy"
                   : "rows are read whole and prefetched: for so few queries a copy takes longer than it saves");
}

static void why_pack_v(const struct facts *f, struct buf *out) {
  if (f->bf16)
    buf_str(out, "the dot product wants pairs of rows");
  else
    buf_str(out, f->one_tile ? "one tile of queries reads V once" : "tiles of queries share the copy");
}

static void why_kernel(const struct facts *f, struct buf *out) {
  buf_printf(out, "few rows share a KV head: reading K and V is what takes time%s", f->q_len > 1 ? "" : ", once each");
}

static void why_algo(const struct facts *f, struct buf *out) {
  buf_printf(out, "what stages=%d is: softmax %s", f->v[CFG_STAGES],
             f->v[CFG_STAGES] == 2 ? "of one KV block under QK of the next" : "after QK, in turn");
}

static void why_tail_m(const struct facts *f, struct buf *out) {
  const int block_m = f->v[CFG_BLOCK_M];
  const long long left = (long long)(f->q_len % block_m);
  buf_printf(out, "%lld quer%s left: %lld rows in all, with another tile of %d %lld", left,
             left == 1 ? "y is" : "ies are", (long long)prefill_rows(f->q_len, block_m, f->v[CFG_TAIL_M]), block_m,
             (long long)prefill_rows(f->q_len, block_m, 0));
}

static void why_diagonal(const struct facts *f, struct buf *out) {
  (void)f;
  buf_str(out, "half of a block at the diagonal is hidden");
}

// What is different for the decode kernel.
static bool decode_reason(const struct facts *f, enum config_field field, struct buf *out) {
  if (field == CFG_BLOCK_M)
    buf_printf(out, "rows of a KV head: its query heads x q_len %lld", (long long)f->q_len);
  else if (field == CFG_BLOCK_N)
    buf_printf(out, "a whole pass over K, then over V; S of %d KB stays in L2",
               f->v[CFG_BLOCK_N] * f->v[CFG_BLOCK_M] * f->v[CFG_BLOCK_H] * 4 / 1024);
  else if (field == CFG_BLOCK_H && f->v[CFG_BLOCK_H] > 1)
    buf_str(out, "in (b, n, h, d) the heads' rows of a key lie side by side: so memory is read in its order");
  else if (field == CFG_SPLIT)
    buf_str(out, f->v[CFG_SPLIT] ? "from the problem alone, so any number of threads gives the same bits: one sequence "
                                   "uses all cores, and the parts are merged by lse"
                                 : "sequences and heads enough for all cores, or too few keys to be worth a merge");
  else if (field == CFG_BLOCK_H)
    buf_str(out, "one KV head, or too many rows of each");
  else if (field == CFG_PREFETCH && f->v[CFG_PREFETCH])
    buf_str(out, f->by_tiles             ? "a tile of 32 keys is there before it is read"
                 : f->v[CFG_BLOCK_H] > 1 ? "of all heads, before a tile of them is read"
                                         : "rows come from memory, once");
  else if (field == CFG_PREFETCH)
    buf_str(out, "vectors are loops of a compiler's, which has no prefetch");
  else
    return false;
  return true;
}

// What is different for the kernel of matrix tiles.
static bool tiles_reason(const struct facts *f, enum config_field field, struct buf *out) {
  const int rows = tiles_rows(f->v[CFG_BLOCK_M]), parts = tiles_parts(f->spec->kv);
  const bool split = tiles_products(f->spec) > 1;
  if (field == CFG_BLOCK_M && rows < f->v[CFG_BLOCK_M])
    buf_printf(out, "%d tiles of %d queries share what they read of K and V of a block", f->v[CFG_BLOCK_M] / rows,
               rows);
  else if (field == CFG_BLOCK_M && f->q_len > rows)
    buf_printf(out, "%d tiles of S side by side; S of two blocks of %d KB stays in the cache", f->vectors,
               f->v[CFG_BLOCK_N] * rows * 4 / 1024);
  else if (field == CFG_BLOCK_N)
    buf_printf(out, "one rescale of O per %d keys", f->v[CFG_BLOCK_N]);
  else if (field == CFG_KERNEL && !split)
    buf_str(out, "a product of tiles does the work of 256 multiply-adds of vectors");
  else if (field == CFG_KERNEL)
    buf_printf(out,
               "as sums of bf16 (K and V: of %d) %.3g products of tiles do the work of 256 multiply-adds of vectors",
               parts, tiles_products(f->spec));
  else
    return false;
  return true;
}

// What is different for a kernel; false: nothing, the field's own reason will do.
static bool (*const kernel_reason[KERNEL_COUNT])(const struct facts *, enum config_field, struct buf *) = {
    [KERNEL_DECODE] = decode_reason, [KERNEL_TILES] = tiles_reason};

static void (*const reasons[CFG_COUNT])(const struct facts *, struct buf *) = {
    [CFG_BLOCK_M] = why_block_m,   [CFG_BLOCK_N] = why_block_n,   [CFG_TILE_N] = why_tile_n,
    [CFG_STAGES] = why_stages,     [CFG_UNROLL] = why_unroll,     [CFG_EXP] = why_exp,
    [CFG_PREFETCH] = why_prefetch, [CFG_PACK_K] = why_pack_k,     [CFG_PACK_V] = why_pack_v,
    [CFG_KERNEL] = why_kernel,     [CFG_ALGO] = why_algo,         [CFG_BLOCK_H] = why_kernel,
    [CFG_SPLIT] = why_kernel,      [CFG_DIAGONAL] = why_diagonal, [CFG_TAIL_M] = why_tail_m,
};

void cmd_reason(const struct problem *p, const struct instance *i, enum config_field field, struct buf *out) {
  const int *v = i->config.v;
  if (i->target->family == FAMILY_CUDA || !reasons[field]) {
    struct config usual;
    config_clear(&usual);
    const bool fewer =
        field == CFG_BLOCK_M && !config_resolve(&i->spec, i->target, NULL, &usual, NULL) && v[field] < usual.v[field];
    if (fewer)
      buf_printf(out, "of %d queries there would be too few tiles for all multiprocessors", usual.v[field]);
    else
      buf_str(out, "the default for this head_dim and mask");
    return;
  }
  const struct facts f = {.spec = &i->spec,
                          .target = i->target,
                          .v = v,
                          .q_len = p->q_len,
                          .vectors = v[CFG_BLOCK_M] / i->target->lanes,
                          .k_width = config_k_width(&i->spec, &i->config),
                          .bf16 = spec_pairs(&i->spec, i->target),
                          .one_tile = p->q_len <= v[CFG_BLOCK_M],
                          .by_tiles = instance_by_tiles(i),
                          .p_error = instance_p_error(i)};
  const enum kernel_kind kernel = config_kernel(&i->config);
  if (kernel_reason[kernel] && kernel_reason[kernel](&f, field, out)) return;
  reasons[field](&f, out);
}
