$let decode = 0
$let cols = block_m / lanes
$# Q and K are multiplied by pairs of bf16, or as f32: c_type. Rows of K and V are then k_width and v_width long, zeros at the end.
$let mac = pair == 2 ? "dot" : "fma"
$let not_prescaled = pair == 2
$let c_type = pair == 2 ? "bf16" : "f32"
$let c_t = pair == 2 ? "unsigned short" : "float"
$let c_bytes = pair == 2 ? 2 : 4
$let kv_t = kv_type == "f32" ? "float" : "unsigned short"
$let q_t = q_type == "f32" ? "float" : "unsigned short"
$let o_t = o_type == "f32" ? "float" : "unsigned short"
$# What widens a load of Q, and of K and V, to c_type.
$let q_as = q_type == "f32" || pair == 2 ? "" : q_type == "bf16" ? "_bf16" : "_f16"
$let kv_as = kv_type == "f32" || pair == 2 ? "" : kv_type == "bf16" ? "_bf16" : "_f16"
$let q_units = k_width / pair
$let steps = unroll / pair
$let chunks = k_width / unroll
$let units = tile_n * cols / pair
$# Keys of PV that are straight-line code; addresses of rows read in place cost general registers, so they are fewer.
$let pv_steps = steps >= 16 && pack_v ? 16 : steps >= 8 ? 8 : steps >= 4 ? 4 : 1
$let k_rest = head_dim / pair % lanes
$let v_rest = head_dim_v / pair % lanes
$let uses_load_first = q_as == "" && k_rest || kv_as == "" && (pack_k && k_rest || pack_v && v_rest)
$let edge_steps = q_units % 8 == 0 ? 8 : q_units % 4 == 0 ? 4 : 2
$# With stages = 2 the plain QK runs once per tile of queries: short code is worth more there than no loop.
$let first_steps = stages == 2 ? edge_steps : steps
$# Whole blocks may be shorter by so many keys, which QK takes tile_n at a time, exp and PV four.
$let rest_step = tile_n % 4 == 0 ? tile_n : tile_n % 2 == 0 ? 2 * tile_n : 4 * tile_n
$let rest_steps = min(pv_steps, 4 / pair)
$let ldk = pack_k ? k_width : "k_stride"
$let ldv = pack_v ? v_width * pair : "v_stride"
$let k_param = pack_k ? "" : ", strobe_i64 k_stride"
$let v_param = pack_v ? "" : ", strobe_i64 v_stride"
$let k_arg = pack_k ? "" : ", k_stride"
$let v_arg = pack_v ? "" : ", v_stride"
$let scale_param = not_prescaled ? ", const float *scale" : ""
$let scale_arg = not_prescaled ? ", scale" : ""
$assert block_m % lanes == 0, "block_m must be a multiple of the vector lanes"
$assert pack_k || (kv_as == "" && k_width == head_dim), "K must be packed to be widened or padded"
$assert pack_v || (kv_as == "" && v_width == head_dim_v && pair == 1), "V must be packed to be paired, widened or padded"
$include "cpu/prologue.inc"
$constants

$include "cpu/lengths.inc"

$include "cpu/pack.inc"

$include "cpu/pack_q.inc"

$include "cpu/qk.inc"

$include "cpu/start.inc"

$include "cpu/rescale.inc"

$include "cpu/exp_block.inc"

$if stages == 2
  $include "cpu/qk_softmax.inc"

$include "cpu/pv.inc"

$include "cpu/blocks.inc"

$include "cpu/edge.inc"

$include "cpu/epilogue.inc"

// Work items: tiles of ${block_m} queries of every head.
static strobe_i64 items(const struct strobe_args *a) {
  return a->batch * a->heads * ((a->q_len + ${block_m - 1}) / ${block_m});
}

// Algorithm 1 of FlashAttention-3 for one core: per tile of queries, O and the statistics m, l over the KV blocks.
static void forward(const struct strobe_args *a, strobe_i64 first, strobe_i64 last, void *scratch) {
  float *const qt = scratch, *const s0 = qt + ${q_units * block_m}, *const ot = s0 + ${stages * block_n * block_m};
  float *const m = ot + ${v_width * block_m}, *const l = m + ${block_m}, *const alpha = l + ${block_m};
  float *const block_max = alpha + ${block_m}, *const scale = block_max + ${block_m};
  const strobe_i64 tiles = (a->q_len + ${block_m - 1}) / ${block_m}, group = a->heads / (a->heads_kv ? a->heads_kv : 1);
  $if !pack_k
    const strobe_i64 k_stride = a->k.row_stride;
  $if !pack_v
    const strobe_i64 v_stride = a->v.row_stride;
  scale[0] = a->scale * 1.44269504088896341f; // softmax in powers of two
  for (strobe_i64 item = first; item < last; item++) {
    const strobe_i64 q0 = item % tiles * ${block_m}, head = item / tiles % a->heads, batch = item / tiles / a->heads;
    const strobe_i64 head_kv = head / group, n = a->q_len - q0 < ${block_m} ? a->q_len - q0 : ${block_m};
    $if pack_k
      const ${c_t} *k = (const ${c_t} *)a->workspace + (batch * a->heads_kv + head_kv) * a->kv_len * ${k_width};
    $else
      const ${c_t} *k = (const ${c_t} *)a->k.data + batch * a->k.batch_stride + head_kv * a->k.head_stride;
    $if pack_v
      const ${c_t} *v = (const ${c_t} *)((char *)a->workspace${pack_k ? " + packed_k_bytes(a)" : ""}) +
        (batch * a->heads_kv + head_kv) * ((a->kv_len + ${pair - 1}) / ${pair}) * ${pair * v_width};
    $else
      const ${c_t} *v = (const ${c_t} *)a->v.data + batch * a->v.batch_stride + head_kv * a->v.head_stride;
    const ${q_t} *q = (const ${q_t} *)a->q.data + batch * a->q.batch_stride + head * a->q.head_stride + q0 * a->q.row_stride;
    const strobe_i64 keys = sequence_keys(a, batch);
    const struct block_range blocks = visit(a, keys, q0, n);

    pack_q(q, a->q.row_stride, n, scale, qt);
    start(ot, m, l);
    const strobe_i64 whole = blocks.full + (blocks.rest > 0);
    $if stages == 2
      // S of block j + 1 is computed while P of block j is.
      float *s = s0, *next = s0 + ${block_n * block_m};
      if (whole) {
        qk_block(k, qt, s, block_max, block_keys(blocks, 0)${scale_arg}${k_arg});
        for (strobe_i64 j = 1; j < whole; j++) {
          const int n_next = block_keys(blocks, j);
          for (int c = 0; c < ${block_m}; c += ${lanes}) rescale(block_max + c, m + c, l + c, alpha + c);
          k += ${block_n} * ${ldk};
          qk_softmax_block(k, qt, next, block_max, s, m, l, n_next${scale_arg}${k_arg});
          if (n_next < ${block_n}) exp_block(s, m, l, n_next, ${block_n});
          pv_block(s, v, alpha, ot, ${block_n}${v_arg});
          v += ${block_n / pair} * ${ldv};
          float *swap = s;
          s = next;
          next = swap;
        }
        const int n_last = block_keys(blocks, whole - 1);
        for (int c = 0; c < ${block_m}; c += ${lanes}) rescale(block_max + c, m + c, l + c, alpha + c);
        exp_block(s, m, l, 0, n_last);
        pv_block(s, v, alpha, ot, n_last${v_arg});
        k += n_last * ${ldk};
        v += n_last / ${pair} * ${ldv};
      }
    $else
      float *s = s0;
      for (strobe_i64 j = 0; j < whole; j++) {
        const int n_block = block_keys(blocks, j);
        qk_block(k, qt, s, block_max, n_block${scale_arg}${k_arg});
        for (int c = 0; c < ${block_m}; c += ${lanes}) rescale(block_max + c, m + c, l + c, alpha + c);
        exp_block(s, m, l, 0, n_block);
        pv_block(s, v, alpha, ot, n_block${v_arg});
        k += n_block * ${ldk};
        v += n_block / ${pair} * ${ldv};
      }
    for (strobe_i64 t = blocks.full * ${block_n} + blocks.rest; t < blocks.end; t += ${block_n}) {
      const int n_block = (int)(keys - t < ${block_n} ? keys - t : ${block_n});
      edge_block(k, v, qt, s, m, l, alpha, block_max, ot, n_block, diagonal_offset(a, keys, q0, t)${scale_arg}${k_arg}${v_arg});
      k += ${block_n} * ${ldk};
      v += ${block_n / pair} * ${ldv};
    }
    epilogue(ot, m, l, (${o_t} *)a->o.data + batch * a->o.batch_stride + head * a->o.head_stride + q0 * a->o.row_stride,
      a->o.row_stride, n, a->lse ? a->lse + batch * a->lse_batch_stride + head * a->lse_head_stride + q0 : 0);
  }
}

const struct strobe_kernel ${symbol} = {
  STROBE_ABI,
  $if pack_k || pack_v
    2,
  $else
    1,
  ${scratch_bytes},
  workspace_bytes,
  {
    $if pack_k || pack_v
      {"pack", pack_items, pack},
    {"forward", items, forward},
  },
};
