$# Few queries: lanes = elements of head_dim, so that a vector of K or V is read once for all rows of a GQA group. Or by products of matrix tiles.
$let decode = 1
$# Pairs of bf16 are multiplied as they are; other storage types, and odd rows, are widened to f32 when they are loaded.
$let dot = pair == 2 && head_dim % 2 == 0 && head_dim_v % 2 == 0
$let pair = dot ? 2 : 1
$let q_as = q_type == "f32" || dot ? "" : q_type == "bf16" ? "_bf16" : "_f16"
$let kv_as = kv_type == "f32" || dot ? "" : kv_type == "bf16" ? "_bf16" : "_f16"
$let uses_load_first = q_as == "" && head_dim / pair % lanes
$let mac = dot ? "dot" : "fma"
$let kv_t = kv_type == "f32" ? "float" : "unsigned short"
$let q_t = q_type == "f32" ? "float" : "unsigned short"
$let o_t = o_type == "f32" ? "float" : "unsigned short"
$let p_t = dot ? "unsigned short" : "float"
$let p_type = dot ? "bf16" : "f32"
$let row_t = p_t
$let row_type = p_type
$let kv_bytes = kv_type == "f32" ? 4 : 2
$# Elements of K and V to a vector; registers that a vector of V adds into; scores are made for so many keys at a time.
$let unit = lanes * pair
$let keys = by_tiles ? 32 : 16
$let q_pitch = ceil_div(head_dim, unit) * unit
$let k_masked = head_dim % unit && kv_as == ""
$let v_masked = head_dim_v % unit && kv_as == ""
$let o_pitch = ceil_div(head_dim_v, unit) * unit
$# What is prefetched: from where on, a step, how many elements until the next key, and how many further what is prefetched as well, twice
$# as far: the hardware drops a prefetch for which it has no buffer, and so every line gets a second chance.
$let next_params = prefetch ? join(K, 0..1, "", ", const ${kv_t} *next, strobe_i64 next_stride, strobe_i64 next_run, strobe_i64 next_again") : ""
$let tiles_next_params = prefetch ? join(K, 0..1, "", ", const ${kv_t} *next, strobe_i64 next_stride, strobe_i64 next_head") : ""
$let p_wide = dot ? 2 : 1
$# Rows go in fours; two or one that remain have a tile of their own, three are filled up. Products of matrix tiles take 4, 8 or 16, filled up.
$let quads = by_tiles ? (block_m > 8 ? ceil_div(block_m, 16) * 4 : ceil_div(block_m, 4)) : block_m / 4 + (block_m % 4 == 3)
$let rest = by_tiles || block_m % 4 == 3 ? 0 : block_m % 4
$let tile_rows = min(4 * quads, 16)
$# S of one key: 4 rows, or all 16.
$let s_rows = tile_rows == 16 ? 16 : 4
$let rows = quads * 4 + rest
$let row_tiles = by_tiles ? rows / s_rows : quads + (rest > 0)
$# Heads side by side are read together: so many at a time, four keys of K and side_keys of V; vectors to a cache line.
$let side = prefetch && !by_tiles ? side_keys : 0
$# Four rows of what is widened take K key by key: 4 heads of a key to a vector of S.
$let by_key = side && kv_as != "" && quads == 1
$let uses_zips = by_tiles || by_key
$let uses_deals = by_tiles
$let side_heads = quads > 1 ? 1 : quads && !by_key ? 2 : 4
$let side_tiles = max(quads, 1)
$let side_line = 64 / (unit * kv_bytes)
$# S of so many keys of a head: those of all heads lie side by side, then come the next keys. Stores to as many pages as heads cost QK of f16 a tenth.
$let s_tile = rows * keys
$let q_bytes = block_h * rows * q_pitch * (dot ? 2 : 4)
$# Of matrix tiles: Q once more, by pairs of elements; two times V of 32 keys by pairs of keys, of so many columns.
$let q_tiles_bytes = by_tiles ? q_bytes : 0
$let pair_bytes = by_tiles ? (head_dim_v / 16 % 4 == 0 ? 8192 : 4096) : 0
$assert block_n % keys == 0, "block_n must be a multiple of ${keys}"
$assert q_bytes + q_tiles_bytes + pair_bytes + 4 * block_h * (rows * block_n + rows * o_pitch + 3 * row_tiles * lanes) + 384 <= scratch_bytes, "scratch is too small"
$include "cpu/prologue.inc"
$constants

$include "cpu/around_step.inc"

$include "cpu/lengths.inc"

$include "cpu/decode_copy_q.inc"

$include "cpu/decode_start.inc"

$include "cpu/decode_rescale.inc"

$let first_rows = quads ? 4 : rest
$# Registers of O are too few for whole rows of V, which are added in parts.
$let v_parts = ceil_div(head_dim_v, unit) > max(1, (lanes == 16 ? 16 : 8) / first_rows / pair)
$let v_follows = follow && prefetch && !v_parts
$# Keys of a row in a vector of S.
$let side_span = lanes / first_rows
$if side
  $let tm = first_rows
  $if by_key
    $include "cpu/decode_qk_by_key.inc"
  $else
    $include "cpu/decode_qk_side.inc"

  $include "cpu/decode_pv_side.inc"
$if by_tiles
  $include "cpu/decode_tiles.inc"
$for TM in 0..3
  $let tm = 1 << TM
  $let kn = lanes / tm
  $let is_first = tm == first_rows
  $if !by_tiles && (is_first || tm == rest)
    $if !is_first || quads > 1 || !prefetch
      $include "cpu/decode_qk.inc" with far = 0

    $if is_first && prefetch
      $include "cpu/decode_qk.inc" with far = 1

    $include "cpu/decode_softmax.inc"

    $if !is_first || quads > 1 || !prefetch || v_follows
      $include "cpu/decode_pv.inc" with far = 0

    $if is_first && prefetch
      $include "cpu/decode_pv.inc" with far = 1

$# The keys after the last whole block of so many, and those that not all rows see: row by row.
$include "cpu/decode_qk_edge.inc"

$include "cpu/decode_softmax_edge.inc"

$include "cpu/decode_pv_edge.inc"

$include "cpu/decode_epilogue.inc"
$if split

  $include "cpu/decode_merge.inc"

// Work items: the rows of ${block_h} KV heads (the query heads of each times q_len, head by head), ${block_m} of each head at a time${split ? join(K, 0..1, "", ", and ${split} keys") : ""}.
static strobe_i64 row_tiles(const struct strobe_args *a) { return (a->heads / a->heads_kv * a->q_len + ${block_m - 1}) / ${block_m}; }
$if block_h > 1
  // Heads whose rows lie side by side are read together, key by key; others one after the other, with scores of as many more keys.
  static strobe_i64 heads_at_once(const struct strobe_args *a) {
    return a->k.head_stride < a->k.row_stride && a->v.head_stride < a->v.row_stride ? ${block_h} : 1;
  }
$else
  static strobe_i64 heads_at_once(const struct strobe_args *a) {
    (void)a;
    return 1;
  }
static strobe_i64 head_tiles(const struct strobe_args *a) { return (a->heads_kv + heads_at_once(a) - 1) / heads_at_once(a); }
$if split
  static strobe_i64 part_keys(const struct strobe_args *a) { return ${split * block_h} / heads_at_once(a); }
  static strobe_i64 splits_of(const struct strobe_args *a, strobe_i64 keys) { return a->kv_len > keys ? (a->kv_len + keys - 1) / keys : 1; }
  static strobe_i64 splits(const struct strobe_args *a) { return splits_of(a, part_keys(a)); }
static strobe_i64 items(const struct strobe_args *a) { return a->heads_kv ? a->batch * head_tiles(a) * row_tiles(a)${split ? " * splits(a)" : ""} : 0; }

$if split
  static strobe_i64 total_rows(const struct strobe_args *a) { return a->batch * a->heads * a->q_len; }

  // What every row has of each split, to be merged: O of a split lie together, as a work item writes them; m and l of a row, as merge reads
  // them.
  static strobe_i64 workspace_bytes(const struct strobe_args *a) { // for any strides
    const strobe_i64 most = splits_of(a, ${split});
    if ((double)total_rows(a) * (double)most > 1e15) return (strobe_i64)1 << 62; // more than there is
    return most > 1 ? total_rows(a) * most * ${4 * (o_pitch + 2)} : 0;
  }

  struct partial {
    float *o, *m, *l;
  };

  static struct partial partial_of(const struct strobe_args *a, strobe_i64 row, strobe_i64 part, strobe_i64 parts) {
    const strobe_i64 rows = total_rows(a), all = rows * parts;
    struct partial p;
    p.o = (float *)a->workspace + (part * rows + row) * ${o_pitch};
    p.m = (float *)a->workspace + all * ${o_pitch} + row * parts + part;
    p.l = p.m + all;
    return p;
  }
$else
  static strobe_i64 workspace_bytes(const struct strobe_args *a) {
    (void)a;
    return 0;
  }

// Of so many keys, how many query i sees: the first.
static strobe_i64 visible(const struct strobe_args *a, strobe_i64 keys, strobe_i64 i) {
  $if causal
    const strobe_i64 n = i + sequence_diagonal(a, keys) + 1;
    return n < 0 ? 0 : n > keys ? keys : n;
  $else
    (void)a;
    (void)i;
    return keys;
}

// Where row r keeps its m, l and alpha: lanes of the vector of its tile.
static int state_of(int r) {
  $if by_tiles
    return r / ${s_rows} * ${lanes} + r % ${s_rows};
  $else
    $if rest && quads
      if (r >= ${4 * quads}) return ${quads * lanes} + (r - ${4 * quads}) * ${lanes / rest};
    return r * ${quads ? lanes / 4 : lanes / rest};
}

$include "cpu/decode_forward.inc"

$if split

  // Rows whose keys were split: each is O = sum of 2^(m - largest) O over sum of 2^(m - largest) l, in the order of the splits.
  static strobe_i64 merge_items(const struct strobe_args *a) { return splits(a) > 1 ? total_rows(a) : 0; }

  static void merge(const struct strobe_args *a, strobe_i64 first, strobe_i64 last, void *scratch) {
    const unsigned mode = begin_step();
    float *const ot = scratch, *const m = ot + ${o_pitch}, *const l = m + 16;
    const strobe_i64 parts = splits(a), rows = total_rows(a);
    for (strobe_i64 row = first; row < last; row++) {
      const struct partial p = partial_of(a, row, 0, parts);
      const strobe_i64 i = row % a->q_len, head = row / a->q_len % a->heads, batch = row / a->q_len / a->heads;
      merge_statistics(p.m, p.l, parts, m, l);
      merge_o(p.m, p.o, parts, rows, ot);
      epilogue(ot, m, l, (${o_t} *)a->o.data + batch * a->o.batch_stride + head * a->o.head_stride + i * a->o.row_stride,
        a->lse ? a->lse + batch * a->lse_batch_stride + head * a->lse_head_stride + i : 0,
        visible(a, sequence_keys(a, batch), i) ? ${lanes} : 0);
    }
    end_step(mode);
  }

const struct strobe_kernel ${symbol} = {
  $if split
    STROBE_ABI, 2, ${scratch_bytes}, workspace_bytes, {{"forward", items, forward}, {"merge", merge_items, merge}},
  $else
    STROBE_ABI, 1, ${scratch_bytes}, workspace_bytes, {{"forward", items, forward}},
};
