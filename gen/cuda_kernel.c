#include "cuda_kernel.h"

#include "embedded.h"

#include <string.h>

static int round_up(int x, int step) { return (x + step - 1) / step * step; }
static int smaller(int a, int b) { return a < b ? a : b; }

// Shared memory: Q, the K ring, the V ring, then mbarriers of 8 bytes and the tile slots of 16.
static void place(struct cuda_kernel *k, const int *c) {
  const int stages = c[CFG_STAGES], q_stages = c[CFG_Q_STAGES];
  int at = k->at_q = 0;
  k->at_k = at += q_stages * k->q_tile;
  k->at_v = at += stages * k->kv_tile;
  k->at_o = at += stages * k->kv_tile;
  k->at_k_full = at += k->o_stage;
  k->at_k_empty = at += 8 * stages;
  k->at_v_full = at += 8 * stages;
  k->at_v_empty = at += 8 * stages;
  k->at_q_full = at += 8 * stages;
  k->at_q_empty = at += 8 * q_stages;
  k->at_o_full = at += 8 * q_stages;
  k->at_tile_full = at += 8 * q_stages * k->warpgroups;
  k->at_tile_empty = at += 8 * CUDA_TILE_SLOTS;
  k->at_tile_info = at = round_up(at + 8 * CUDA_TILE_SLOTS, 16);
  k->shared_bytes = at + 16 * CUDA_TILE_SLOTS;
}

void cuda_derive(const struct instance *i, struct cuda_kernel *k) {
  const int *c = i->config.v, d = i->spec.head_dim;
  const bool wide_p = i->spec.p != DT_F16; // P has the exponent range of f32
  *k = (struct cuda_kernel){.warpgroups = c[CFG_BLOCK_M] / 64};
  k->threads = 128 * (k->warpgroups + 1);
  // setmaxnreg moves registers between warpgroups: what they have after it must fit what the CTA got at entry.
  k->entry_regs = smaller(65536 / k->threads / 8 * 8, 256);
  k->consumer_regs = c[CFG_REGS];
  k->producer_regs = smaller((k->entry_regs * (k->warpgroups + 1) - k->consumer_regs * k->warpgroups) / 8 * 8, 56);
  k->s_regs = c[CFG_BLOCK_N] / 2;
  k->p_regs = c[CFG_BLOCK_N] / 4;
  k->o_regs = i->spec.head_dim_v / 2;
  k->q_fragments = c[CFG_Q_REGS] ? d / 4 : 0;
  k->fragment_regs = k->s_regs + k->p_regs + k->o_regs + k->q_fragments;
  k->overhead = 28;
  k->q_tile = c[CFG_BLOCK_M] * d * 2;
  k->kv_tile = c[CFG_BLOCK_N] * d * 2;
  k->o_stage = c[CFG_O_TMA] == 2 ? 2 * c[CFG_BLOCK_M] * 64 * 2 : 0; // two panels of 64 columns
  place(k, c);
  k->q_empty_count = c[CFG_O_TMA] == 1 && c[CFG_Q_STAGES] == 2 ? 1 : 4 * k->warpgroups;
  k->lpt = c[CFG_SCHEDULE] == SCHEDULE_LPT;
  k->tickets = k->lpt;
  k->persistent = c[CFG_SCHEDULE] != SCHEDULE_GRID;
  k->shift = k->warpgroups <= 2;
  // bf16 and f32 share the exponent range: P may grow to 2^64 and starts 2^48 below. f16 ends at 65504.
  k->reference_offset = wide_p && c[CFG_SOFTMAX] != SOFTMAX_CLASSICAL ? 48 : 0;
  k->growth = wide_p ? 40 : 10;
  k->guard_log2 = wide_p ? 64 : 15;
  k->guard = wide_p ? "1.8e19f" : "32768.f";
}

// ---- rendering ----

enum { MAX_BINDINGS = 64 };
struct bindings {
  struct tpl_binding b[MAX_BINDINGS];
  size_t n;
};
static void bind_int(struct bindings *b, const char *name, int64_t value) {
  if (b->n < MAX_BINDINGS) b->b[b->n++] = (struct tpl_binding){.name = name, .integer = value};
}
static void bind_str(struct bindings *b, const char *name, const char *value) {
  if (b->n < MAX_BINDINGS) b->b[b->n++] = (struct tpl_binding){.name = name, .string = value};
}

static void bind_config(struct bindings *b, const struct instance *i) {
  static const struct {
    const char *name;
    enum config_field field;
  } numbers[] = {{"block_m", CFG_BLOCK_M},   {"block_n", CFG_BLOCK_N},   {"stages", CFG_STAGES},
                 {"q_stages", CFG_Q_STAGES}, {"pingpong", CFG_PINGPONG}, {"overlap", CFG_OVERLAP},
                 {"flat", CFG_FLAT},         {"heavy", CFG_HEAVY_KEYS},  {"q_regs", CFG_Q_REGS},
                 {"o_tma", CFG_O_TMA}};
  for (size_t n = 0; n < sizeof numbers / sizeof *numbers; n++)
    bind_int(b, numbers[n].name, i->config.v[numbers[n].field]);
  bind_str(b, "softmax", softmax_names[i->config.v[CFG_SOFTMAX]]);
  bind_int(b, "head_dim", i->spec.head_dim);
  bind_int(b, "head_dim_v", i->spec.head_dim_v);
  bind_int(b, "causal", i->spec.mask != MASK_FULL);
  bind_str(b, "dtype", dtype_table[i->spec.kv].name);
  bind_int(b, "map_type", i->spec.kv == DT_F16 ? 6 : 9); // CUtensorMapDataType
  bind_int(b, "l2_section", (int64_t)i->config.v[CFG_L2_SECTION] << 20);
}

static void bind_derived(struct bindings *b, const struct cuda_kernel *k) {
  const struct {
    const char *name;
    int value;
  } numbers[] = {{"at_q", k->at_q},
                 {"at_k", k->at_k},
                 {"at_v", k->at_v},
                 {"at_o", k->at_o},
                 {"at_k_full", k->at_k_full},
                 {"at_k_empty", k->at_k_empty},
                 {"at_v_full", k->at_v_full},
                 {"at_v_empty", k->at_v_empty},
                 {"at_q_full", k->at_q_full},
                 {"at_q_empty", k->at_q_empty},
                 {"at_o_full", k->at_o_full},
                 {"at_tile_full", k->at_tile_full},
                 {"at_tile_empty", k->at_tile_empty},
                 {"at_tile_info", k->at_tile_info},
                 {"shared_bytes", k->shared_bytes},
                 {"tile_slots", CUDA_TILE_SLOTS},
                 {"q_empty_count", k->q_empty_count},
                 {"producer_regs", k->producer_regs},
                 {"consumer_regs", k->consumer_regs},
                 {"tickets", k->tickets},
                 {"lpt", k->lpt},
                 {"persistent", k->persistent},
                 {"shift", k->shift},
                 {"reference_offset", k->reference_offset},
                 {"growth", k->growth},
                 {"guard_log2", k->guard_log2}};
  for (size_t n = 0; n < sizeof numbers / sizeof *numbers; n++) bind_int(b, numbers[n].name, numbers[n].value);
  bind_str(b, "guard", k->guard);
}

static const char *load_embedded(void *context, const char *name, size_t *len) {
  (void)context;
  for (int i = 0; i < embedded_count; i++)
    if (!strcmp(embedded_files[i].name, name)) {
      *len = embedded_files[i].len;
      return embedded_files[i].text;
    }
  return NULL;
}

int cuda_kernel_render(const struct instance *i, const struct render_options *o, tpl_loader *load, void *load_context,
                       struct buf *out, struct error *err) {
  struct cuda_kernel k;
  struct buf symbol = {0}, name = {0};
  cuda_derive(i, &k);
  instance_symbol(i, &symbol);
  instance_name(i, &name);
  int status = symbol.failed || name.failed ? fail(err, STROBE_NO_MEMORY, "out of memory while rendering a kernel") : 0;
  if (!status) {
    struct bindings b = {.n = 0};
    bind_config(&b, i);
    bind_derived(&b, &k);
    bind_str(&b, "symbol", o->symbol ? o->symbol : symbol.data);
    bind_str(&b, "name", name.data);
    bind_int(&b, "host", !o->for_tcc);
    const struct tpl_options options = {.bindings = b.b,
                                        .n_bindings = b.n,
                                        .load = load ? load : load_embedded,
                                        .load_context = load_context,
                                        .drop_comments = !o->comments};
    status = tpl_render("cuda/attn_fwd.cu", &options, out, err);
  }
  buf_free(&symbol);
  buf_free(&name);
  return status;
}

void cuda_header(const struct instance *i, const char *symbol, struct buf *out) {
  size_t len = 0;
  const char *abi = load_embedded(NULL, "kernel_abi.h", &len);
  buf_str(out, "#include <stddef.h>\n\n#ifdef __cplusplus\nextern \"C\" {\n#endif\n\n");
  if (abi) buf_add(out, abi, len);
  buf_printf(
      out,
      "\n// Enqueues the kernel on `stream` (a cudaStream_t; NULL: the default stream) of the current device, which "
      "must be sm_90.\n"
      "// All pointers in args are device memory; q, k, v and o are %s, 16-byte aligned, with strides that are "
      "multiples of 8\n"
      "// elements.%s\n"
      "// Returns 0, or a status after writing one sentence into message (may be NULL): nothing has been launched "
      "then.\n"
      "// 1: an argument is not what is allowed. 2: not supported. 3: no memory, says CUDA. 6: another CUDA error; the "
      "sentence names\n// the call. Without keys (kv_len 0) O is 0 and lse -inf, and k and v may be NULL.\n"
      "int %s_launch(const struct strobe_args *args, void *stream, char *message, size_t message_size);\n",
      dtype_table[i->spec.kv].name,
      i->config.v[CFG_SCHEDULE] == SCHEDULE_LPT ? " args->workspace: 64 bytes of device memory, zero before the first "
                                                  "launch; launches that may\n// run at the same time need one each."
                                                : "",
      symbol);
  buf_str(out, "\n#ifdef __cplusplus\n}\n#endif\n");
}
