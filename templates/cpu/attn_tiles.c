$# Prefill by matrix tiles: rows of 16 f32, or of 16 pairs of bf16, 16 rows to a tile (AMX). S^T = K Q^T and O^T = V^T P^T as in attn_fwd.c, one
$# query per lane, so that the softmax and the phases around it are the same; K and V^T are copied tile by tile.
$let decode = 0
$let tail = ""
$let prefetch = 0
$let own_keys = 0
$let own_k = 0
$let pack_k = 1
$let pack_v = 1
$# Elements of Q, K and V are sums of so many bf16; bf16 alone stay pairs as they are.
$let split = q_parts * kv_parts > 1
$let finds_wild = causal || split
$let k_copied_q = k_width * q_parts
$let k_copied = k_width * kv_parts
$let v_copied = v_width * kv_parts
$let p_apart = p_parts > 2
$# A work item may be several tiles, which share what they read of K and V.
$let item_m = block_m
$let block_m = sub_m
$let cols = block_m / lanes
$let not_prescaled = 1
$let not_scaled = 1
$# Lines of the longest row, and how many rows are fetched beside QK of 16 keys.
$let q_bytes = q_type == "f32" ? 4 : 2
$let kv_bytes = kv_type == "f32" ? 4 : 2
$let o_bytes = o_type == "f32" ? 4 : 2
$let row_lines = ceil_div(max(head_dim * max(q_bytes, kv_bytes), head_dim_v * max(o_bytes, kv_bytes)), 64)
$let fetched = printer == "scalar" ? 0 : max(4, min(8, 32 / row_lines))
$let soon_param = fetched ? ", struct soon *soon" : ""
$let soon_arg = fetched ? ", &soon" : ""
$let c_t = "unsigned short"
$let c_type = "bf16"
$let kv_t = kv_type == "f32" ? "float" : "unsigned short"
$let q_t = q_type == "f32" ? "float" : "unsigned short"
$let o_t = o_type == "f32" ? "float" : "unsigned short"
$let q_as = ""
$let q_units = k_width / 2
$let uses_load_first = 1
$let uses_zips = 1
$let uses_deals = 1
$let rest_step = 32
$let panels = 0
$# Columns of queries whose accumulators are in registers at a time: beside parts of K and V not more than two.
$let group = split && cols % 2 == 0 ? 2 : cols
$# Rows of V^T that PV takes at a time: four accumulators, or as many columns of queries.
$let most_rows = split ? 1 : max(4 / cols, 1)
$let pv_rows = v_width / 16 % most_rows == 0 ? most_rows : v_width / 16 % 2 == 0 && most_rows > 2 ? 2 : 1
$include "cpu/prologue.inc"
$constants

$include "cpu/around_step.inc"

$include "cpu/lengths.inc"

$include "cpu/tiles_pack.inc"

$if split
  $include "cpu/tiles_pack_q.inc"
$else
  $include "cpu/pack_q.inc"

$include "cpu/start.inc"

$include "cpu/start_rows.inc"

$include "cpu/rescale.inc"

$include "cpu/blocks.inc"

$include "cpu/tiles_items.inc"

$if fetched
  $include "cpu/tiles_soon.inc"

$include "cpu/tiles_qk.inc"

$include "cpu/tiles_pv.inc"

$include "cpu/tiles_edge.inc"

$include "cpu/epilogue.inc"

$include "cpu/larger.inc"

$include "cpu/worker_of.inc"

$include "cpu/tiles_forward.inc"

const struct strobe_kernel ${symbol} = {
  STROBE_ABI, 2, ${scratch_bytes}, workspace_bytes, {{"pack", pack_items, pack}, {"forward", items, forward}},
};
