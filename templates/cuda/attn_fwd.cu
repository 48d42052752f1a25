$# FlashAttention-3 forward for sm_90a. Bindings: gen/cuda_kernel.c. Phases are named as in the paper.
$let warpgroups = block_m / 64
$let threads = 128 * (warpgroups + 1)
$let dim_steps = head_dim / 16
$let key_steps = block_n / 16
$let panels = head_dim / 64
$let s_regs = block_n / 2
$let o_regs = head_dim_v / 2
$let p_regs = block_n / 4
$let q_regs_n = head_dim / 4
$let q_tile = block_m * head_dim * 2
$let slab = 64 * head_dim * 2
$let kv_tile = block_n * head_dim * 2
$let q_arg = q_regs ? "q" : "q_desc"
$let o_slab = o_tma == 1
$let o_stage = o_tma == 2
$let fast = softmax == "fast"
$let classical = softmax == "classical"
$let mma_type = dtype == "bf16" ? "bf16" : "f16"
$assert head_dim == head_dim_v, "head_dim_v must equal head_dim"
$assert head_dim % 64 == 0, "head_dim must be a multiple of 64"
$if host
  #ifndef __CUDACC_RTC__
  #include "${symbol}.h"
  #endif

$include "cuda/prologue.inc"

$include "cuda/ptx.inc"

$include "cuda/scheduler.inc"

$include "cuda/blocks.inc"

$include "cuda/producer.inc"

$include "cuda/qk.inc"

$include "cuda/mask.inc"

$include "cuda/softmax.inc"

$if fast
  $include "cuda/recompute.inc"

$include "cuda/pv.inc"

$include "cuda/epilogue.inc"

$include "cuda/consumer.inc"

} // namespace

// One CTA: warpgroup 0 produces (loads K, V and Q, hands out tiles${o_slab ? ", stores O" : ""}), warpgroups 1 to ${warpgroups} consume: each owns 64 query
// rows of the tile and keeps S, P and O of those rows in registers.
extern "C" __global__ void __launch_bounds__(${threads}, 1)
${symbol}(const __grid_constant__ strobe_tensor_map q_map, const __grid_constant__ strobe_tensor_map k_map,
    const __grid_constant__ strobe_tensor_map v_map, const __grid_constant__ strobe_tensor_map o_map,
    const __grid_constant__ strobe_params args) {
  extern __shared__ __align__(1024) unsigned char shared[];
  const u32 smem = (u32)__cvta_generic_to_shared(shared);
  const int warpgroup = __shfl_sync(~0u, (int)threadIdx.x / 128, 0);
  if (threadIdx.x == 0) {
    if (smem % 1024) __trap(); // swizzled tiles need it
    init_barriers(smem);
  }
  __syncthreads();
  if (warpgroup == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 ${producer_regs};");
    if (threadIdx.x == 0) {
      load_kv(smem, &k_map, &v_map, args);
    } else if (threadIdx.x == 64) {
      load_q(smem, &q_map);
    $if o_slab
      } else if (threadIdx.x == 32) {
        store_o(smem, &o_map);
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 ${consumer_regs};");
    consume(smem, ${o_stage ? "&o_map, " : ""}args, warpgroup - 1);
  }
}
$if host

  $include "cuda/host.inc"
