$# Few queries: lanes = elements of head_dim, so that a vector of K or V is read once for all rows of a GQA group.
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
$# Elements of K and V to a vector; registers that a vector of V adds into; scores are made for 16 keys at a time.
$let unit = lanes * pair
$let keys = 16
$let q_pitch = ceil_div(head_dim, unit) * unit
$let k_masked = head_dim % unit && kv_as == ""
$let v_masked = head_dim_v % unit && kv_as == ""
$let o_pitch = ceil_div(head_dim_v, unit) * unit
$# What streams prefetch: from where on, a step, and how many elements until the next key.
$let next_params = prefetch ? join(K, 0..1, "", ", const ${kv_t} *next, strobe_i64 next_stride, strobe_i64 next_run") : ""
$let k_next = prefetch ? ", k + start, step, run" : ""
$let v_next = prefetch ? ", v + start, step, run" : ""
$let p_wide = dot ? 2 : 1
$# Rows go in fours; two or one that remain have a tile of their own, three are filled up.
$let quads = block_m / 4 + (block_m % 4 == 3)
$let rest = block_m % 4 == 3 ? 0 : block_m % 4
$let rows = quads * 4 + rest
$let row_tiles = quads + (rest > 0)
$# S of a head: a cache line more than its rows take, that the heads' are not in the same set of L1.
$let s_head = rows * block_n + 16
$let q_bytes = block_h * rows * q_pitch * (dot ? 2 : 4)
$assert block_n % keys == 0, "block_n must be a multiple of 16"
$assert q_bytes + 4 * block_h * (s_head + rows * o_pitch + 3 * row_tiles * lanes) + 384 <= scratch_bytes, "scratch is too small"
$include "cpu/prologue.inc"
$constants

$include "cpu/lengths.inc"

$include "cpu/decode_copy_q.inc"

$include "cpu/decode_start.inc"

$include "cpu/decode_rescale.inc"

$for TM in 0..3
  $let tm = 1 << TM
  $let kn = lanes / tm
  $let is_first = quads ? tm == 4 : tm == rest
  $if is_first || tm == rest
    $if is_first
      $include "cpu/decode_qk.inc" with stream = 1

    $if !is_first || (tm == 4 && quads > 1)
      $include "cpu/decode_qk.inc" with stream = 0

    $include "cpu/decode_softmax.inc"

    $if is_first
      $include "cpu/decode_pv.inc" with stream = 1

    $if !is_first || (tm == 4 && quads > 1)
      $include "cpu/decode_pv.inc" with stream = 0

$# The keys after the last whole block of 16, and those that not all rows see: row by row.
$include "cpu/decode_qk_edge.inc"

$include "cpu/decode_softmax_edge.inc"

$include "cpu/decode_pv_edge.inc"

$include "cpu/decode_epilogue.inc"
$if split

  $include "cpu/decode_merge.inc"

// Work items: the rows of ${block_h} KV heads (the query heads of each times q_len, head by head), ${block_m} of each head at a time${split ? join(K, 0..1, "", ", and ${split} keys") : ""}.
static strobe_i64 row_tiles(const struct strobe_args *a) { return (a->heads / a->heads_kv * a->q_len + ${block_m - 1}) / ${block_m}; }
static strobe_i64 head_tiles(const struct strobe_args *a) { return (a->heads_kv + ${block_h - 1}) / ${block_h}; }
$if split
  static strobe_i64 splits(const struct strobe_args *a) { return a->kv_len > ${split} ? (a->kv_len + ${split - 1}) / ${split} : 1; }
static strobe_i64 items(const struct strobe_args *a) { return a->heads_kv ? a->batch * head_tiles(a) * row_tiles(a)${split ? " * splits(a)" : ""} : 0; }

$if split
  // What every row has of each split: O, m and l, to be merged.
  static strobe_i64 workspace_bytes(const struct strobe_args *a) {
    return splits(a) > 1 ? a->batch * a->heads * a->q_len * splits(a) * ${4 * (o_pitch + 2)} : 0;
  }

  struct partial {
    float *o, *m, *l;
  };

  static struct partial partial_of(const struct strobe_args *a, strobe_i64 row, strobe_i64 part) {
    const strobe_i64 all = a->batch * a->heads * a->q_len * splits(a), at = row * splits(a) + part;
    struct partial p;
    p.o = (float *)a->workspace + at * ${o_pitch};
    p.m = (float *)a->workspace + all * ${o_pitch} + at;
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
  $if rest && quads
    if (r >= ${4 * quads}) return ${quads * lanes} + (r - ${4 * quads}) * ${lanes / rest};
  return r * ${quads ? lanes / 4 : lanes / rest};
}

$include "cpu/decode_forward.inc"

$if split

  // Rows whose keys were split: each is O = sum of 2^(m - largest) O over sum of 2^(m - largest) l, in the order of the splits.
  static strobe_i64 merge_items(const struct strobe_args *a) { return splits(a) > 1 ? a->batch * a->heads * a->q_len : 0; }

  static void merge(const struct strobe_args *a, strobe_i64 first, strobe_i64 last, void *scratch) {
    float *const ot = scratch, *const m = ot + ${o_pitch}, *const l = m + 16;
    for (strobe_i64 row = first; row < last; row++) {
      const struct partial p = partial_of(a, row, 0);
      const strobe_i64 i = row % a->q_len, head = row / a->q_len % a->heads, batch = row / a->q_len / a->heads;
      merge_statistics(p.m, p.l, splits(a), m, l);
      merge_o(p.m, p.o, splits(a), ot);
      epilogue(ot, m, l, (${o_t} *)a->o.data + batch * a->o.batch_stride + head * a->o.head_stride + i * a->o.row_stride,
        a->lse ? a->lse + batch * a->lse_batch_stride + head * a->lse_head_stride + i : 0,
        visible(a, sequence_keys(a, batch), i) ? ${lanes} : 0);
    }
  }

const struct strobe_kernel ${symbol} = {
  $if split
    STROBE_ABI, 2, ${scratch_bytes}, workspace_bytes, {{"forward", items, forward}, {"merge", merge_items, merge}},
  $else
    STROBE_ABI, 1, ${scratch_bytes}, workspace_bytes, {{"forward", items, forward}},
};
