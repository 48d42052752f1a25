$let decode = 0
$# Lane loops have no prefetch.
$let prefetch = printer == "scalar" ? 0 : prefetch
$let cols = block_m / lanes
$# Q and K are multiplied by pairs of bf16, or as f32: c_type. Rows of K and V are then k_width and v_width long, zeros at the end.
$let mac = pair == 2 ? "dot" : "fma"
$let not_prescaled = pair == 2
$# S in memory has its scale.
$let not_scaled = 0
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
$# V is copied to panels: of each KV block ${tile_n} columns of all keys, then the next, in the order in which PV reads them. Of rows it
$# takes 16 bytes of each line, so that those of a block leave the first-level cache before they are used up. (To pairs it is all the same.)
$let panels = pack_v && pair == 1 && tile_n == 4
$# Keys of PV that are straight-line code; addresses of rows read in place cost general registers, so they are fewer.
$let pv_steps = steps >= 16 && panels && lanes == 8 ? 32 : steps >= 16 && pack_v ? 16 : steps >= 8 ? 8 : steps >= 4 ? 4 : 1
$let k_rest = head_dim / pair % lanes
$let v_rest = head_dim_v / pair % lanes
$let uses_load_first = q_as == "" && k_rest || kv_as == "" && (pack_k && k_rest || pack_v && v_rest)
$# Only panels are dealt: lane loops have no registers to transpose in.
$let uses_zips = 0
$let uses_deals = panels
$let edge_steps = q_units % 8 == 0 && printer != "scalar" ? 8 : q_units % 4 == 0 ? 4 : 2
$# With stages = 2 the plain QK runs once per tile of queries: short code is worth more there than no loop.
$let first_steps = stages == 2 ? edge_steps : steps
$# Whole blocks may be shorter by so many keys, which QK takes tile_n at a time, exp and PV four.
$let rest_step = tile_n % 4 == 0 ? tile_n : tile_n % 2 == 0 ? 2 * tile_n : 4 * tile_n
$let rest_steps = min(pv_steps, 4 / pair)
$let ldk = pack_k ? k_width : "k_stride"
$let ldv = pack_v ? v_width * pair : "v_stride"
$let v_key = panels ? tile_n : ldv
$# Panels of a multiple of 2 KB are a line further apart than they are long: the lines of a key would else share two sets of a cache.
$let v_columns = panels ? tile_n * block_n + (tile_n * block_n % 512 == 0 ? 16 : 0) : tile_n * pair
$# Keys of the copy of a head.
$let copied_keys = "a->kv_len"
$# From one KV block to the next, and how many elements the copy of a head has.
$let v_block = panels ? v_width / tile_n * v_columns : join(I, 0..1, "", "${block_n / pair} * ${ldv}")
$let v_head = panels ? join(I, 0..1, "", "((a->kv_len + ${block_n - 1}) / ${block_n} * ${v_block})") : pair == 2 ? join(I, 0..1, "", "((a->kv_len + 1) / 2 * ${2 * v_width})") : join(I, 0..1, "", "(a->kv_len * ${v_width})")
$let k_param = pack_k ? "" : ", strobe_i64 k_stride"
$let v_param = pack_v ? "" : ", strobe_i64 v_stride"
$let k_arg = pack_k ? "" : ", k_stride"
$let v_arg = pack_v ? "" : ", v_stride"
$let scale_param = not_prescaled ? ", const float *scale" : ""
$# The last row of V may lack the other of its pair.
$let lone_row = pack_v && pair == 2
$let zeros_param = lone_row ? ", const unsigned short *zeros" : ""
$let zeros_arg = lone_row ? ", zeros" : ""
$let head_copy = "(batch * a->heads_kv + head_kv)"
$# Workers copy V of so few keys themselves, and K if it is copied and need not be there a tile ahead.
$let own_k = own_keys && pack_k && stages == 1
$# Of many keys, too, if a worker has all queries of a KV head. (Pairs are half as much to copy, and gained nothing.)
$let own_heads = own_keys && pair == 1
$# Rows of Q and O are fetched beside products; lane loops have no prefetch.
$let fetches_soon = stages == 2 && algo != "standard" && algo != "fa1" && printer != "scalar"
$let soon_param = fetches_soon ? ", struct soon *soon" : ""
$let soon_arg = fetches_soon ? ", &soon" : ""
$let scale_arg = not_prescaled ? ", scale" : ""
$# The phases of a tile, which is `narrow` or not, and how many queries it is computed with.
$let do_pack_q = tail_m ? "(narrow ? pack_q_tail : pack_q)" : "pack_q"
$let do_start = tail_m ? "(narrow ? start_tail : start)" : "start"
$let do_qk = tail_m ? "(narrow ? qk_block_tail : qk_block)" : "qk_block"
$let do_exp = tail_m ? "(narrow ? exp_block_tail : exp_block)" : "exp_block"
$let do_qk_softmax = tail_m ? "(narrow ? qk_softmax_block_tail : qk_softmax_block)" : "qk_softmax_block"
$let do_pv = tail_m ? "(narrow ? pv_block_tail : pv_block)" : "pv_block"
$let do_edge = tail_m ? "(narrow ? edge_block_tail : edge_block)" : "edge_block"
$let do_epilogue = tail_m ? "(narrow ? epilogue_tail : epilogue)" : "epilogue"
$let queries = tail_m ? "queries" : join(I, 0..1, "", "${block_m}")
$# Tiles of a head whose queries see most come first: what workers end with is short.
$let tile_of_head = causal ? "(tiles - 1 - item % tiles)" : "item % tiles"
$assert block_m % lanes == 0, "block_m must be a multiple of the vector lanes"
$assert pack_k || (kv_as == "" && k_width == head_dim), "K must be packed to be widened or padded"
$assert pack_v || (kv_as == "" && v_width == head_dim_v && pair == 1), "V must be packed to be paired, widened or padded"
$include "cpu/prologue.inc"
$constants

$include "cpu/around_step.inc"

$include "cpu/lengths.inc"

$include "cpu/pack.inc"

$if own_heads
  $include "cpu/worker_of.inc"

$if own_keys
  $include "cpu/own.inc"

$include "cpu/blocks.inc"

$if stages == 2
  $include "cpu/start_rows.inc"

$include "cpu/rescale.inc"

$if algo == "fa1"
  $include "cpu/invert.inc"

$if keeps_o
  $include "cpu/not_zero.inc"

$if fetches_soon
  // Rows that are wanted soon. The CPU drops prefetches beyond what it has buffers for: a few at a time.
  struct soon {
    const ${q_t} *q;
    const ${o_t} *o;
    const ${c_t} *k;
    const ${kv_t} *v;
    strobe_i64 q_stride, o_stride, k_stride, v_stride, q_rows, o_rows, k_rows, v_rows;
  };

$# All phases for tiles of block_m queries, and for a last one of at most tail_m, whose functions end in _tail.
$for TAIL in 0..(tail_m ? 2 : 1)
  $let block_m = TAIL ? tail_m : block_m
  $let cols = block_m / lanes
  $let b_in_register = lanes == 16 && cols > 1 && printer != "scalar"
  $let units = tile_n * cols / pair
  $let tail = TAIL ? "_tail" : ""
  $include "cpu/phases.inc"

$if tail_m
  // Tiles of at most so many queries are computed by what ends in _tail.
  enum { TAIL = ${tail_m} };

$if algo == "standard"
  $include "cpu/forward_standard.inc"
$elif algo == "fa1"
  $include "cpu/forward_fa1.inc"
$elif stages == 2
  $include "cpu/tiles.inc"

  $include "cpu/forward_pipelined.inc"
$else
  $include "cpu/tiles.inc"

  $include "cpu/forward.inc"

const struct strobe_kernel ${symbol} = {
  STROBE_ABI,
  ${(pack_k || pack_v) + (algo == "standard" ? 3 : 1)},
  ${scratch_bytes},
  workspace_bytes,
  {
    $if pack_k || pack_v
      {"pack", pack_items, pack},
    $if algo == "standard"
      {"scores", items, scores},
      {"softmax", items, softmax},
      {"output", items, output},
    $else
      {"forward", items, forward},
  },
};
