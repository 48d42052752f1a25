// `explain` for CUDA kernels: where things lie in shared memory, who arrives where, what registers hold, the ideal
// time.
#include "cuda_kernel.h"

#include <stdio.h>

int cuda_regions(const struct instance *i, const struct cuda_kernel *k, struct cuda_region out[CUDA_REGIONS]) {
  const int *c = i->config.v, rows_q = c[CFG_BLOCK_M], rows_kv = c[CFG_BLOCK_N], d = i->spec.head_dim;
  const struct cuda_region all[CUDA_REGIONS] = {
      {"Q", k->at_q, k->at_k - k->at_q, c[CFG_Q_STAGES], rows_q, d,
       c[CFG_O_TMA] == 1 ? "swizzled panels of 64 columns; O leaves through it" : "swizzled panels of 64 columns"},
      {"K", k->at_k, k->at_v - k->at_k, c[CFG_STAGES], rows_kv, d, "ring"},
      {"V", k->at_v, k->at_o - k->at_v, c[CFG_STAGES], rows_kv, i->spec.head_dim_v, "ring"},
      {"O", k->at_o, k->at_k_full - k->at_o, 2, rows_q, 64, "panels on their way out"},
      {"barriers", k->at_k_full, k->at_tile_info - k->at_k_full, 0, 0, 0, "mbarriers, 8 bytes each"},
      {"tiles", k->at_tile_info, k->shared_bytes - k->at_tile_info, CUDA_TILE_SLOTS, 0, 0,
       "ring of tiles handed out by the scheduler"}};
  int n = 0;
  for (int r = 0; r < CUDA_REGIONS; r++)
    if (all[r].bytes) out[n++] = all[r];
  return n;
}

int cuda_barriers(const struct instance *i, const struct cuda_kernel *k, struct cuda_barrier out[CUDA_BARRIERS]) {
  const int *c = i->config.v, warps = 4 * k->warpgroups, stages = c[CFG_STAGES];
  const struct cuda_barrier all[CUDA_BARRIERS] = {
      {"K_FULL", stages, 1, "TMA has written a K tile"},
      {"K_EMPTY", stages, warps, "every consumer warp has read it"},
      {"V_FULL", stages, 1, "TMA has written a V tile"},
      {"V_EMPTY", stages, warps, "every consumer warp has read it"},
      {"Q_FULL", c[CFG_Q_STAGES], 1, "TMA has written a Q tile"},
      {"Q_EMPTY", c[CFG_Q_STAGES], k->q_empty_count,
       c[CFG_O_TMA] == 1 ? "the O staged there has left" : "every consumer warp has read it"},
      {"O_FULL", c[CFG_O_TMA] == 1 ? c[CFG_Q_STAGES] * k->warpgroups : 0, 4, "the warps of a warpgroup have staged O"},
      {"TILE_FULL", CUDA_TILE_SLOTS, 1, "the scheduler has written a tile"},
      {"TILE_EMPTY", CUDA_TILE_SLOTS, warps + 1 + (c[CFG_O_TMA] == 1), "every reader has read it"}};
  int n = 0;
  for (int b = 0; b < CUDA_BARRIERS; b++)
    if (all[b].number) out[n++] = all[b];
  return n;
}

// sm_90: 4096 dense 16-bit FLOP and 16 exp2 per clock and SM; 132 SMs at 1.83 GHz make the 989 TFLOP/s of the data
// sheet of an H100 SXM.
static const double sms = 132, hertz = 1.83e9;
double cuda_ideal_tensor_us(const struct problem *p) { return problem_flops(p) / (4096 * sms * hertz) * 1e6; }
double cuda_ideal_exp2_us(const struct problem *p) {
  return problem_flops(p) / (2.0 * (p->spec.head_dim + p->spec.head_dim_v)) / (16 * sms * hertz) * 1e6;
}

static bool is_complete(const struct problem *p) { return p && p->q_len >= 0 && p->kv_len >= 0; }

static void print_memory(const struct instance *i, const struct cuda_kernel *k, struct buf *out) {
  struct cuda_region r[CUDA_REGIONS];
  const int n = cuda_regions(i, k, r);
  buf_printf(out, "shared memory   %d of %d bytes\n      at   bytes\n", k->shared_bytes, CUDA_SHARED_LIMIT);
  for (int at = 0; at < n; at++) {
    buf_printf(out, "  %6d %7d  %-11s ", r[at].at, r[at].bytes, r[at].name);
    if (r[at].rows)
      buf_printf(out, "%d x %d rows x %d, ", r[at].buffers, r[at].rows, r[at].columns);
    else if (r[at].buffers)
      buf_printf(out, "%d, ", r[at].buffers);
    buf_printf(out, "%s\n", r[at].what);
  }
}

static void print_barriers(const struct instance *i, const struct cuda_kernel *k, struct buf *out) {
  struct cuda_barrier b[CUDA_BARRIERS];
  const int n = cuda_barriers(i, k, b);
  buf_str(out, "mbarriers       number x arrivals\n");
  for (int at = 0; at < n; at++)
    buf_printf(out, "  %-11s %2d x %2d  %s\n", b[at].name, b[at].number, b[at].arrivals, b[at].completes);
  if (i->config.v[CFG_PINGPONG])
    buf_printf(out, "named barriers  1 to %d: warpgroup w's turn to issue its GEMMs (256 threads each)\n",
               k->warpgroups);
}

void cuda_explain(const struct instance *i, const struct problem *p, struct buf *out) {
  struct cuda_kernel k;
  cuda_derive(i, &k);
  buf_printf(out, "CTA             %d threads: 1 producer warpgroup, %d consumer warpgroup%s of 64 query rows\n",
             k.threads, k.warpgroups, k.warpgroups == 1 ? "" : "s");
  print_memory(i, &k, out);
  buf_printf(out, "registers       %d a thread at entry; setmaxnreg: producer %d, consumer %d\n", k.entry_regs,
             k.producer_regs, k.consumer_regs);
  buf_printf(out, "  consumer      S %d + P %d + O %d + Q %d = %d; %d left for the rest\n", k.s_regs, k.p_regs,
             k.o_regs, k.q_fragments, k.fragment_regs, k.consumer_regs - k.fragment_regs);
  print_barriers(i, &k, out);
  if (!is_complete(p)) return;
  buf_printf(out, "ideal time      %.1f us of tensor cores, %.1f us of exp2 units (132 SMs at 1.83 GHz)\n",
             cuda_ideal_tensor_us(p), cuda_ideal_exp2_us(p));
}

void cuda_explain_json(const struct instance *i, const struct problem *p, struct json *j) {
  struct cuda_kernel k;
  struct cuda_region r[CUDA_REGIONS];
  struct cuda_barrier b[CUDA_BARRIERS];
  cuda_derive(i, &k);
  const int regions = cuda_regions(i, &k, r), barriers = cuda_barriers(i, &k, b);
  const struct {
    const char *key;
    int value;
  } numbers[] = {{"threads", k.threads},
                 {"consumer_warpgroups", k.warpgroups},
                 {"registers_entry", k.entry_regs},
                 {"registers_producer", k.producer_regs},
                 {"registers_consumer", k.consumer_regs},
                 {"registers_s", k.s_regs},
                 {"registers_p", k.p_regs},
                 {"registers_o", k.o_regs},
                 {"registers_q", k.q_fragments},
                 {"shared_bytes", k.shared_bytes},
                 {"shared_limit", CUDA_SHARED_LIMIT}};
  json_object(j, "cuda");
  for (size_t n = 0; n < sizeof numbers / sizeof *numbers; n++) json_integer(j, numbers[n].key, numbers[n].value);
  json_array(j, "shared_memory");
  for (int n = 0; n < regions; n++) {
    json_object(j, NULL);
    json_string(j, "name", r[n].name);
    json_integer(j, "at", r[n].at);
    json_integer(j, "bytes", r[n].bytes);
    json_end(j);
  }
  json_end(j);
  json_array(j, "mbarriers");
  for (int n = 0; n < barriers; n++) {
    json_object(j, NULL);
    json_string(j, "name", b[n].name);
    json_integer(j, "number", b[n].number);
    json_integer(j, "arrivals", b[n].arrivals);
    json_end(j);
  }
  json_end(j);
  json_integer(j, "named_barriers", i->config.v[CFG_PINGPONG] ? k.warpgroups : 0);
  if (is_complete(p)) {
    json_number(j, "ideal_tensor_us", cuda_ideal_tensor_us(p), 6);
    json_number(j, "ideal_exp2_us", cuda_ideal_exp2_us(p), 6);
  }
  json_end(j);
}
