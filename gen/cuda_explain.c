// `explain` for CUDA kernels: where things lie in shared memory, who arrives where, what registers hold, the ideal
// time.
#include "cuda_kernel.h"

#include <stdio.h>

static void memory_line(struct buf *out, const char *name, int at, int bytes, const char *what) {
  buf_printf(out, "  %6d %7d  %-11s %s\n", at, bytes, name, what);
}

static void memory(const struct instance *i, const struct cuda_kernel *k, struct buf *out) {
  const int *c = i->config.v, stages = c[CFG_STAGES], q_stages = c[CFG_Q_STAGES];
  char text[96];
  buf_printf(out, "shared memory   %d of %d bytes\n      at   bytes\n", k->shared_bytes, CUDA_SHARED_LIMIT);
  snprintf(text, sizeof text, "%d x %d rows x %d, swizzled panels of 64 columns%s", q_stages, c[CFG_BLOCK_M],
           i->spec.head_dim, c[CFG_O_TMA] ? "; O leaves through it" : "");
  memory_line(out, "Q", k->at_q, k->at_k - k->at_q, text);
  snprintf(text, sizeof text, "ring of %d x %d rows x %d", stages, c[CFG_BLOCK_N], i->spec.head_dim);
  memory_line(out, "K", k->at_k, k->at_v - k->at_k, text);
  memory_line(out, "V", k->at_v, k->at_k_full - k->at_v, text);
  memory_line(out, "barriers", k->at_k_full, k->at_tile_info - k->at_k_full, "mbarriers, 8 bytes each");
  memory_line(out, "tiles", k->at_tile_info, k->shared_bytes - k->at_tile_info,
              "ring of 4 tiles handed out by the scheduler");
}

static void barriers(const struct instance *i, const struct cuda_kernel *k, struct buf *out) {
  const int *c = i->config.v, warps = 4 * k->warpgroups;
  const struct {
    const char *name;
    int number, arrivals;
    const char *completes;
  } row[] = {
      {"K_FULL", c[CFG_STAGES], 1, "TMA has written a K tile"},
      {"K_EMPTY", c[CFG_STAGES], warps, "every consumer warp has read it"},
      {"V_FULL", c[CFG_STAGES], 1, "TMA has written a V tile"},
      {"V_EMPTY", c[CFG_STAGES], warps, "every consumer warp has read it"},
      {"Q_FULL", c[CFG_Q_STAGES], 1, "TMA has written a Q tile"},
      {"Q_EMPTY", c[CFG_Q_STAGES], k->q_empty_count,
       c[CFG_O_TMA] ? "the O staged there has left" : "every consumer warp has read it"},
      {"O_FULL", c[CFG_O_TMA] ? c[CFG_Q_STAGES] * k->warpgroups : 0, 4, "the warps of a warpgroup have staged O"},
      {"TILE_FULL", CUDA_TILE_SLOTS, 1, "the scheduler has written a tile"},
      {"TILE_EMPTY", CUDA_TILE_SLOTS, warps + 1 + c[CFG_O_TMA], "every reader has read it"}};
  buf_str(out, "mbarriers       number x arrivals\n");
  for (size_t n = 0; n < sizeof row / sizeof *row; n++)
    if (row[n].number)
      buf_printf(out, "  %-11s %2d x %2d  %s\n", row[n].name, row[n].number, row[n].arrivals, row[n].completes);
  if (c[CFG_PINGPONG])
    buf_printf(out, "named barriers  1 to %d: warpgroup w's turn to issue its GEMMs (256 threads each)\n",
               k->warpgroups);
}

void cuda_explain(const struct instance *i, const struct problem *p, struct buf *out) {
  struct cuda_kernel k;
  cuda_derive(i, &k);
  buf_printf(out, "CTA             %d threads: 1 producer warpgroup, %d consumer warpgroups of 64 query rows\n",
             k.threads, k.warpgroups);
  memory(i, &k, out);
  buf_printf(out, "registers       %d a thread at entry; setmaxnreg: producer %d, consumer %d\n", k.entry_regs,
             k.producer_regs, k.consumer_regs);
  buf_printf(out, "  consumer      S %d + P %d + O %d + Q %d = %d; %d left for the rest\n", k.s_regs, k.p_regs,
             k.o_regs, k.q_fragments, k.fragment_regs, k.consumer_regs - k.fragment_regs);
  barriers(i, &k, out);
  if (!p || p->q_len < 0 || p->kv_len < 0) return;
  // sm_90: 4096 dense bf16 FLOP and 16 exp2 per clock and SM; 132 SMs at 1.755 GHz (boost of an H100 SXM).
  const double flops = problem_flops(p), sms = 132, hertz = 1.755e9, elements = flops / (4.0 * i->spec.head_dim);
  buf_printf(out, "ideal time      %.1f us of tensor cores, %.1f us of exp2 units (132 SMs at 1.755 GHz)\n",
             flops / (4096 * sms * hertz) * 1e6, elements / (16 * sms * hertz) * 1e6);
}
