// `explain`: what a tile of each kernel is, and the work items of decode.
#include "cmd.h"

// Parts that the keys of a sequence are split into.
static int64_t splits_of(const struct problem *p, const struct instance *i) {
  const int64_t split = i->config.v[CFG_SPLIT], keys = p->kv_len;
  return split > 0 && keys > split ? (keys + split - 1) / split : 1;
}

static int64_t decode_items(const struct problem *p, const struct instance *i) {
  const int *c = i->config.v;
  if (!p->heads_kv) return 0;
  return p->batch * ((p->heads_kv + c[CFG_BLOCK_H] - 1) / c[CFG_BLOCK_H]) *
         ((p->heads / p->heads_kv * p->q_len + c[CFG_BLOCK_M] - 1) / c[CFG_BLOCK_M]) * splits_of(p, i);
}

static void prefill(const struct problem *p, const struct instance *i, struct buf *out) {
  const int *c = i->config.v, lanes = i->target->lanes;
  (void)p;
  buf_printf(out,
             "tiles: %d queries (one per lane, %d to a register) x %d keys; register tile %d keys x %d queries = %d "
             "accumulators\n",
             c[CFG_BLOCK_M], lanes, c[CFG_BLOCK_N], c[CFG_TILE_N], c[CFG_BLOCK_M],
             c[CFG_TILE_N] * c[CFG_BLOCK_M] / lanes);
  if (c[CFG_TAIL_M] > 0)
    buf_printf(out, "a last tile of at most %d queries: %d accumulators\n", c[CFG_TAIL_M],
               c[CFG_TILE_N] * c[CFG_TAIL_M] / lanes);
}

static void decode(const struct problem *p, const struct instance *i, struct buf *out) {
  const int *c = i->config.v;
  buf_printf(out,
             "tiles: %d rows (query heads of a KV head x q_len) share each load of K and V; %d KV heads side by side; "
             "chunks of %d keys; ",
             c[CFG_BLOCK_M], c[CFG_BLOCK_H], c[CFG_BLOCK_N]);
  if (instance_by_tiles(i))
    buf_str(out, "products of matrix tiles, up to 16 rows x 16 keys x 32 elements of head_dim\n");
  else
    buf_printf(out, "one element of head_dim per lane, %d to a register\n", i->target->lanes);
  const int64_t parts = splits_of(p, i);
  if (parts > 1)
    buf_printf(out, "split: %lld parts of %d keys, each a work item; then every row is merged from its parts by lse\n",
               (long long)parts, c[CFG_SPLIT]);
  buf_printf(out, "work items: %lld, for any number of threads\n", (long long)decode_items(p, i));
  if (c[CFG_BLOCK_H] > 1)
    buf_printf(
        out,
        "heads not side by side, as in (b, h, n, d): a work item each, chunks and parts of %d times as many keys\n",
        c[CFG_BLOCK_H]);
}

static void matrix(const struct problem *p, const struct instance *i, struct buf *out) {
  const int *c = i->config.v;
  const int rows = tiles_rows(c[CFG_BLOCK_M]);
  (void)p;
  buf_printf(out, "tiles: %d queries", c[CFG_BLOCK_M]);
  if (rows < c[CFG_BLOCK_M]) buf_printf(out, ", %d at a time", rows);
  buf_printf(out,
             " (one per lane, %d to a register) x %d keys; products of matrix tiles, 16 keys x 16 queries x 32 "
             "elements of head_dim\n",
             i->target->lanes, c[CFG_BLOCK_N]);
}

void cmd_explain_tiles(const struct problem *p, const struct instance *i, struct buf *out) {
  static void (*const print[KERNEL_COUNT])(const struct problem *, const struct instance *, struct buf *) = {
      [KERNEL_PREFILL] = prefill, [KERNEL_DECODE] = decode, [KERNEL_TILES] = matrix};
  const int *c = i->config.v;
  if (i->target->family == FAMILY_CUDA)
    buf_printf(out, "tiles: %d queries x %d keys\n", c[CFG_BLOCK_M], c[CFG_BLOCK_N]);
  else
    print[config_kernel(&i->config)](p, i, out);
  buf_char(out, '\n');
}

void cmd_explain_tiles_json(const struct problem *p, const struct instance *i, struct json *j) {
  struct buf text = {0};
  cmd_explain_tiles(p, i, &text);
  while (text.len && text.data[text.len - 1] == '\n') text.data[--text.len] = 0;
  j->out->failed |= text.failed;
  json_string(j, "about", text.failed ? "" : text.data);
  buf_free(&text);
  if (config_kernel(&i->config) != KERNEL_DECODE) return;
  json_integer(j, "splits", splits_of(p, i));
  json_integer(j, "work_items", decode_items(p, i));
}
