// CUDA kernels: what a config means in bytes, registers and barriers; which configs can work; the text.
#ifndef STROBE_GEN_CUDA_KERNEL_H
#define STROBE_GEN_CUDA_KERNEL_H

#include "json.h"
#include "kernel.h"
#include "template.h"

enum { CUDA_SHARED_LIMIT = 232448, CUDA_TILE_SLOTS = 4 }; // bytes of shared memory that one CTA may have on sm_90

// Everything that follows from an instance. Bytes; registers are 32-bit, per thread.
struct cuda_kernel {
  int warpgroups, threads;                      // consumers; all threads of a CTA
  int entry_regs, producer_regs, consumer_regs; // at entry, and after setmaxnreg
  int s_regs, p_regs, o_regs, q_fragments, fragment_regs,
      overhead; // of a consumer; overhead: addresses, statistics, counters
  int q_tile, kv_tile;
  int o_stage; // bytes in which O is staged (o_tma=2)
  int at_q, at_k, at_v, at_o, at_k_full, at_k_empty, at_v_full, at_v_empty, at_q_full, at_q_empty, at_o_full,
      at_tile_full, at_tile_empty, at_tile_info;
  int shared_bytes;
  int q_empty_count; // arrivals that free a Q buffer
  bool tickets, lpt, persistent, shift;
  int reference_offset, growth, guard_log2; // of the softmax, in log2 units
  const char *guard;
};

void cuda_derive(const struct instance *i, struct cuda_kernel *k);

// The CUDA part of config_resolve(): fills unset fields from the table of default configs, then checks them.
int cuda_config_resolve(const struct spec *s, const struct target *t, const struct problem *p, struct config *c,
                        struct error *err);

// Appends the text of the .cu file: the device part, and unless o->for_tcc (the JIT) the host part with SYMBOL_launch.
// load may be NULL: the embedded templates.
int cuda_kernel_render(const struct instance *i, const struct render_options *o, tpl_loader *load, void *load_context,
                       struct buf *out, struct error *err);

// Appends the declarations of the header that goes with it: kernel_abi.h and SYMBOL_launch.
void cuda_header(const struct instance *i, const char *symbol, struct buf *out);

// Shared memory in order; a row of rows x columns elements is one of `buffers`.
struct cuda_region {
  const char *name;
  int at, bytes, buffers, rows, columns;
  const char *what;
};
struct cuda_barrier {
  const char *name;     // as in the emitted text
  int number, arrivals; // arrivals complete a phase
  const char *completes;
};
enum { CUDA_REGIONS = 6, CUDA_BARRIERS = 9 };
int cuda_regions(const struct instance *i, const struct cuda_kernel *k, struct cuda_region out[CUDA_REGIONS]);
int cuda_barriers(const struct instance *i, const struct cuda_kernel *k, struct cuda_barrier out[CUDA_BARRIERS]);
// Microseconds that a complete problem keeps all tensor cores, all exp2 units of an H100 SXM busy.
double cuda_ideal_tensor_us(const struct problem *p);
double cuda_ideal_exp2_us(const struct problem *p);

// Appends shared-memory map, barrier table, register budget and, with a complete problem, the ideal time.
void cuda_explain(const struct instance *i, const struct problem *p, struct buf *out);
void cuda_explain_json(const struct instance *i, const struct problem *p,
                       struct json *j); // the same, as a member "cuda"

#endif
