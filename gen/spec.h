// What must hold (spec), what may vary without changing the result (config), what the machine is (target), and a
// problem: a spec with sizes. One grammar of strings for all of them: README.md has the EBNF.
#ifndef STROBE_GEN_SPEC_H
#define STROBE_GEN_SPEC_H

#include "buf.h"
#include "error.h"

#include <stdbool.h>
#include <stdint.h>

enum op { OP_ATTN_FWD };
enum dtype { DT_F32, DT_BF16, DT_F16, DT_COUNT };
enum mask { MASK_FULL, MASK_CAUSAL, MASK_CAUSAL_TOP_LEFT };
#define MASK_COUNT 3

struct dtype_info {
  const char *name;
  int bytes;
  double eps;  // unit roundoff: half an ulp at 1
  double half; // half the smallest number: rounding below the normal range is off by up to this, or flushes to zero
  double over; // magnitudes from here on round to infinity
};
extern const struct dtype_info dtype_table[DT_COUNT];
extern const char *const op_names[];             // "attn_fwd"
extern const char *const mask_names[MASK_COUNT]; // "full", "causal", "causal_top_left"

struct spec {
  enum op op;
  int head_dim, head_dim_v;
  enum dtype q, kv, o;
  enum dtype p;   // P as the second GEMM reads it, or better: spec_p()
  enum dtype acc; // always f32 today
  enum mask mask;
};

// A spec and the sizes it is run at. A size of -1 was not given.
struct problem {
  struct spec spec;
  int64_t batch, heads, heads_kv, q_len, kv_len;
};

// ---- targets ----

enum target_family { FAMILY_CPU, FAMILY_CUDA, FAMILY_ANY }; // ANY: of config fields that both have

struct target {
  const char *name; // "c99", "avx512", "avx512bf16", "amxbf16", "sm90a"
  enum target_family family;
  const char *isa; // name of the row table of vector operations; NULL for cuda
  int lanes;       // f32 lanes of a vector register (c99: of the arrays that stand for one)
  int vregs;       // architectural vector registers; c99: no limit (0)
  int l1i_bytes;   // code budget of unroll=auto is 3/4 of this
  bool bf16_dot;   // dot product of bf16 pairs, accumulating in f32
  bool tiles;      // matrix tiles: products of 16 x 32 and 32 x 16 bf16 (AMX)
  bool lookup;     // tables of 16 entries in registers, which exp=table1 and table2 need
  int bcast_temps; // registers that a broadcast operand takes beside those of the operation
  const char *about;
};

extern const struct target target_table[];
extern const int target_count;
const struct target *target_find(const char *name); // NULL: no such target

// ---- config ----

// One row per field in config_fields[]; a target's family says which apply.
enum config_field {
  CFG_BLOCK_M,  // query rows of a tile; lanes = queries, so a multiple of the lanes
  CFG_BLOCK_N,  // key rows of a KV block: one running maximum, one rescale per block
  CFG_TILE_N,   // key rows (QK) or head_dim_v columns (PV) of a register tile
  CFG_STAGES,   // 1: QK, softmax, PV in turn; 2: softmax of block j interleaved with QK of block j + 1
  CFG_UNROLL,   // head_dim steps of QK that are straight-line code; a divisor of k_width (0 on input = auto, -2 = full)
  CFG_EXP,      // enum exp_kind
  CFG_PREFETCH, // K and V rows ahead that are prefetched by software; 0: none
  CFG_PACK_K,   // 1: K copied to contiguous rows; 0: read in place
  CFG_PACK_V,   // likewise; pairs of rows are always packed, interleaved
  CFG_KERNEL, // enum kernel_kind: config_kernel(); unset on input: by the problem's sizes, and whether there are tiles
  CFG_ALGO,   // enum algo_kind; unset after config_resolve unless standard or fa1: stages tells fa2 from fa3
  CFG_DIAGONAL,   // enum diagonal_kind; unset after config_resolve unless mask
  CFG_TAIL_M,     // the last tile is of so many queries if it has no more; unset: it is a whole one
  CFG_BLOCK_H,    // KV heads of a work item of kernel=decode: their rows of a key are read together
  CFG_SPLIT,      // keys of a work item of kernel=decode, whose partial results are merged; 0: all
  CFG_Q_STAGES,   // CUDA: Q tiles in shared memory
  CFG_PINGPONG,   // warpgroups take turns to issue their GEMMs
  CFG_OVERLAP,    // within a warpgroup, softmax of block j runs under PV of block j + 1
  CFG_FLAT,       // tiles are pipelined too: the next tile's first QK goes out with this tile's last PV
  CFG_SOFTMAX,    // enum softmax_kind
  CFG_HEAVY_KEYS, // O is divided by the sum of P as rounded for keys that outweigh the rest
  CFG_Q_REGS,     // Q as wgmma's register operand
  CFG_O_TMA,      // O leaves through shared memory and a TMA store; 0: from registers
  CFG_SCHEDULE,   // enum schedule_kind
  CFG_L2_SECTION, // MiB of K and V that heads in flight may take (lpt)
  CFG_REGS,       // registers of a consumer thread after setmaxnreg
  CFG_COUNT
};

// prefill: lanes are queries. decode: lanes are elements of head_dim, and block_m rows (the query heads of a KV head
// times q_len) share one pass over K and one over V. tiles: prefill by matrix tiles.
enum kernel_kind { KERNEL_PREFILL, KERNEL_DECODE, KERNEL_TILES, KERNEL_COUNT };
extern const char *const kernel_names[KERNEL_COUNT]; // "prefill", "decode", "tiles"
// standard: S in memory. fa1: KV blocks outside, tiles of queries inside. fa2: stages=1. fa3: stages=2.
enum algo_kind { ALGO_STANDARD, ALGO_FA1, ALGO_FA2, ALGO_FA3, ALGO_COUNT };
extern const char *const algo_names[ALGO_COUNT]; // "standard", "fa1", "fa2", "fa3"
// What becomes of a vector of queries none of which sees a key of a block at the diagonal. mask: computed, then masked.
enum diagonal_kind { DIAGONAL_MASK, DIAGONAL_SKIP };
enum softmax_kind { SOFTMAX_CLASSICAL, SOFTMAX_CONDITIONAL, SOFTMAX_FAST, SOFTMAX_COUNT };
extern const char *const softmax_names[SOFTMAX_COUNT]; // "classical", "conditional", "fast"
enum schedule_kind { SCHEDULE_GRID, SCHEDULE_PERSISTENT, SCHEDULE_LPT, SCHEDULE_COUNT };
extern const char *const schedule_names[SCHEDULE_COUNT]; // "grid", "persistent", "lpt"

enum exp_kind { EXP_TABLE1, EXP_TABLE2, EXP_POLY3, EXP_POLY5, EXP_COUNT };
struct exp_info {
  const char *name;
  int degree;
  bool table;
  double eps; // largest relative error of exp2 on the reduced argument
};
extern const struct exp_info exp_table[EXP_COUNT];

// Whether a field of a CPU kernel's config may change how a result is rounded. NONE: the kernel has no such field.
enum rounding { ROUNDING_NONE, ROUNDING_NEVER, ROUNDING_MAY };
extern const enum rounding config_rounding[CFG_COUNT][KERNEL_COUNT];

#define CONFIG_UNSET (-1)

struct config {
  int v[CFG_COUNT];
};
struct instance;

struct config_field_info {
  const char *name; // "block_m"
  enum target_family family;
  const char *allowed; // "a multiple of the vector lanes, 16 to 64 on avx512"
  const char *about;
};
extern const struct config_field_info config_fields[CFG_COUNT];

// Whether another value of f may change a bit of what a kernel of this resolved config computes.
bool config_changes_bits(enum config_field f, const struct config *c);
bool config_field_applies(enum config_field f, const struct target *t); // to targets of this family
void config_clear(struct config *c);                                    // all fields unset

// Parses "block_n=128,stages=2" into c on top of what it holds. `full`, `auto` and exp names are accepted where they
// apply.
int config_parse(const char *text, struct config *c, struct error *err);

// Fills the fields that are unset with the heuristic for this spec, target and (if not NULL) problem sizes (-1 or what
// problem_check takes), then checks
// that the whole is feasible: registers, divisibility, code size. On failure err says which field, why, and what would
// be.
int config_resolve(const struct spec *s, const struct target *t, const struct problem *p, struct config *c,
                   struct error *err);

void config_print(const struct config *c, const struct target *t,
                  struct buf *out); // canonical: every field, table order

// The kernel that a resolved config is of. One of prefill may leave the field unset, and all of CUDA do.
enum kernel_kind config_kernel(const struct config *c);
// Whether its products are those of matrix tiles: kernel=tiles, and decode of enough rows where the target has them.
bool instance_by_tiles(const struct instance *i);
// Whether it multiplies pairs of bf16: all by tiles do, and else what spec_pairs says, but for decode by vectors on a
// target with tiles, which widens them.
bool instance_pairs(const struct instance *i);
// By how much of itself P differs from what the second GEMM multiplies in its place. 0: by nothing, P stays f32.
double instance_p_error(const struct instance *i);
enum algo_kind config_algo(const struct config *c); // of a resolved config of prefill or tiles

// config_resolve for one kernel; fields that it does not have stay unset.
int prefill_resolve(const struct spec *s, const struct target *t, const struct problem *p, struct config *c,
                    struct error *err);
int decode_resolve(const struct spec *s, const struct target *t, const struct problem *p, struct config *c,
                   struct error *err);
// Whether its products are those of matrix tiles: of bf16, of at least three rows, of steps of 32 keys and elements.
bool decode_by_tiles(const struct spec *s, const struct target *t, const struct config *c);
int decode_vregs(const struct spec *s, const struct target *t);
int decode_side_keys(const struct spec *s, const struct target *t, int block_m, int block_h);
bool decode_follows(const struct spec *s, const struct target *t, int block_m);
int decode_default_prefetch(const struct spec *s, const struct target *t, const struct config *c);
int64_t decode_scratch_bytes(const struct instance *i); // memory of a worker
// Up to so many rows of a KV head, or so short a q_len, decode is the better kernel: half of the other's lanes would be
// padding, and K read by each query head. By matrix tiles more rows are: of so short a q_len, with so many keys for
// each.
enum {
  DECODE_ROWS_SERVED = 16,
  DECODE_Q_LEN_SERVED = 8,
  DECODE_TILES_ROWS_SERVED = 64,
  DECODE_TILES_Q_LEN_SERVED = 32,
  DECODE_TILES_KEYS_SERVED = 32
};
// Whether config_resolve takes kernel=decode for these sizes when the field is unset.
bool decode_serves(const struct spec *s, const struct target *t, const struct problem *p);

// kernel=tiles. A target whose kernel for the spec it is; config_resolve for it; memory of a worker.
bool tiles_serve(const struct spec *s, const struct target *t);
int tiles_resolve(const struct spec *s, const struct target *t, const struct problem *p, struct config *c,
                  struct error *err);
int64_t tiles_scratch_bytes(const struct instance *i);
bool tiles_pay(const struct spec *s, const struct problem *p); // whether they are the faster choice
bool tiles_take(const struct config *c); // whether block_m and block_n, where they are given, are such that tiles work
int tiles_rows(int block_m);             // queries of each tile of a work item
// Products of tiles for one multiply-add of the problem: 1 of bf16, 6 of f32; f16 4 for QK, 3 for PV.
double tiles_products(const struct spec *s);
// Numbers of bf16 whose sum an element is: what matrix tiles multiply in its place.
int tiles_parts(enum dtype d);

// Whether K, V and Q are multiplied as pairs of bf16, accumulating in f32: both are bf16 and the target has the
// instruction. Else they are widened to f32 (K and V once, when they are packed).
bool spec_pairs(const struct spec *s, const struct target *t);
// Elements of a row of K and of V as the kernel of a resolved config multiplies them: head_dim and head_dim_v, rounded
// up to what its tiles divide (decode: as they are). The elements past the end are zeros of a packed copy.
int config_k_width(const struct spec *s, const struct config *c);
int config_v_width(const struct spec *s, const struct config *c);

// What exp is where a config does not say, and whether the target can do it.
enum exp_kind config_default_exp(const struct spec *s, const struct target *t);
int config_check_exp(const struct target *t, int kind, struct error *err);
// Whether the running maximum of QK has registers beside the tile; else it stays in memory.
bool config_top_fits(const struct target *t, const struct config *c);

// Vector registers of the forward kernel's largest phase under this config (what `$vreg` will declare).
int config_vregs(const struct spec *s, const struct target *t, const struct config *c);

// ---- spec and problem strings ----

// "d128:bf16:causal:b2h32/8q1024k1024", fields in any order after the head dim. Sizes that are not given are -1.
// Reserved key=value fields (window, softcap, sinks, ...) are recognised and refused as not supported in this version.
int problem_parse(const char *text, struct problem *p, struct error *err);
// Canonical text; sizes only if given.
void problem_print(const struct problem *p, struct buf *out);
void spec_print(const struct spec *s, struct buf *out);
// Sizes of a problem that are still -1 get: batch 1, heads 1, heads_kv = heads, kv_len = q_len; q_len 1024. Then checks
// sizes and products: at most 2^56 bytes of a tensor, 2^40 heads in all, 2^58 pairs of a query and a key.
int problem_complete(struct problem *p, struct error *err);
int problem_check(const struct problem *p, struct error *err); // the same of a copy
// kv's dtype if q has the same, else f32.
enum dtype spec_p(const struct spec *s);
// Refuses what the target can't do with the spec (dtype, head_dim); the sentence names the nearest that works.
int spec_supported(const struct spec *s, const struct target *t, struct error *err);

// Floating-point operations of the forward pass, 2 per multiply-add: 4 d per visible (query, key) pair.
double problem_flops(const struct problem *p);
// The same for sequences of kv_lens[batch] keys; kv_lens NULL: of kv_len.
double problem_flops_lens(const struct problem *p, const int64_t *kv_lens);
// Offset of the diagonal: query i sees keys j <= i + diagonal. Full: kv_len.
int64_t problem_diagonal(const struct problem *p);

// ---- instances ----

struct instance {
  struct spec spec;
  struct config config;
  const struct target *target;
};

// `attn_fwd_d128_bf16_causal_m64n128s2_avx512bf16`: what people read ...
void instance_name(const struct instance *i, struct buf *out);
// ... the canonical text of every field: what identifies it ...
void instance_key(const struct instance *i, struct buf *out);
// ... and the C symbol: the name and 8 hex digits of the key's hash, so no two instances share one.
void instance_symbol(const struct instance *i, struct buf *out);

uint64_t hash64(const void *data, size_t len); // FNV-1a

#endif
