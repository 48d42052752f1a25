#include "kernel.h"

#include "cuda_kernel.h"
#include "embedded.h"
#include "file.h"
#include "printer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *const printer_names[PRINTER_COUNT] = {"scalar", "intrin", "code"};

uint64_t templates_hash(void) {
  uint64_t h = 0;
  for (int i = 0; i < embedded_count; i++) {
    uint64_t part[3] = {h, hash64(embedded_files[i].name, strlen(embedded_files[i].name)),
                        hash64(embedded_files[i].text, embedded_files[i].len)};
    h = hash64(part, sizeof part);
  }
  return h;
}

// ---- templates: embedded, or from a directory ----

struct loader {
  const char *dir;
  char *owned[TPL_MAX_FILES];
  int n_owned;
  struct error why; // a file of dir that is there and can't be read
};

static const char *load_built_in(const char *name, size_t *len) {
  for (int i = 0; i < embedded_count; i++)
    if (!strcmp(embedded_files[i].name, name)) return *len = embedded_files[i].len, embedded_files[i].text;
  return NULL;
}

// NULL and l->why: trouble. NULL: dir has no such file.
static const char *load_own(struct loader *l, const char *name, size_t *len) {
  struct buf path = {0}, text = {0};
  buf_printf(&path, "%s/%s", l->dir, name);
  if (path.failed)
    fail(&l->why, STROBE_NO_MEMORY, "no memory for a name");
  else if (!access(path.data, F_OK) || (errno != ENOENT && errno != ENOTDIR))
    buf_str(&text, ""), file_read(path.data, &text, &l->why);
  buf_free(&path);
  if (l->why.status || !text.data || l->n_owned == TPL_MAX_FILES) return buf_free(&text), NULL;
  *len = text.len;
  return l->owned[l->n_owned++] = text.data;
}

static const char *load(void *context, const char *name, size_t *len) {
  struct loader *l = context;
  const char *own = l->dir && !strstr(name, "..") ? load_own(l, name, len) : NULL;
  return own || l->why.status ? own : load_built_in(name, len);
}

static int loader_end(struct loader *l, int status, struct error *err) {
  for (int i = 0; i < l->n_owned; i++) free(l->owned[i]);
  if (!l->why.status) return status;
  if (err) *err = l->why; // of a template that is missing, says the engine
  return (int)l->why.status;
}

// ---- the sink ----

static int too_many(struct printer_state *p, struct error *err) {
  int limit = p->kind == PRINTER_SCALAR ? 0 : p->target->vregs;
  const int *peak = p->scope.peak;
  if (limit && peak[CLASS_VECTOR] > limit)
    return fail(err, STROBE_UNSUPPORTED, "needs %d vector registers, %s has %d", peak[CLASS_VECTOR], p->target->name,
                limit);
  if (peak[CLASS_MASK] > 6)
    return fail(err, STROBE_UNSUPPORTED, "needs %d mask registers, there are 6", peak[CLASS_MASK]);
  if (peak[CLASS_TILE] > 8) return fail(err, STROBE_UNSUPPORTED, "needs %d tiles, there are 8", peak[CLASS_TILE]);
  return 0;
}

// Notes the live registers of the open block, if they are more than those of its label's other blocks.
static void describe_registers(struct printer_state *p) {
  char text[sizeof p->phase->registers];
  size_t n = 0;
  for (int i = 0; i < p->scope.n_vreg && n < sizeof text - 40; i++) {
    const struct vreg_decl *d = &p->scope.vreg[i];
    const bool k = d->of == CLASS_MASK && !p->scope.masks_are_vregs;
    int count = (d->dims[0] ? d->dims[0] : 1) * (d->dims[1] ? d->dims[1] : 1), first = d->first + k;
    const char *const letter = k ? "k" : d->of == CLASS_TILE ? "t" : "v";
    n += (size_t)snprintf(text + n, sizeof text - n, "%s%s %s%d", n ? ", " : "", d->name, letter, first);
    if (count > 1) n += (size_t)snprintf(text + n, sizeof text - n, "-%d", first + count - 1);
  }
  if (n > strlen(p->phase->registers)) memcpy(p->phase->registers, text, n + 1);
}

static int on_vreg(void *context, const char *text, size_t len, int indent, struct buf *out, struct error *err) {
  struct printer_state *p = context;
  int first = p->scope.n_vreg, status = vop_declare(&p->scope, text, len, err);
  if (status || (status = too_many(p, err))) return status;
  if (p->kind != PRINTER_CODE) c_declare(p, first, p->phase ? p->indent + 2 : indent, out);
  if (p->phase) describe_registers(p);
  return 0;
}

static int on_block_begin(void *context, const char *text, size_t len, int indent, struct buf *out, struct error *err) {
  struct printer_state *p = context;
  if (p->phase) return fail(err, STROBE_INVALID, "$block inside $block %s", p->scope.label);
  int status = vop_open_block(&p->scope, text, len, err);
  if (status) return status;
  struct kernel_stats *s = p->stats;
  int i = 0;
  while (i < s->n_phases && strcmp(s->phase[i].name, p->scope.label)) i++;
  if (i == (int)(sizeof s->phase / sizeof s->phase[0]))
    return fail(err, STROBE_INVALID, "too many different $block labels");
  if (i == s->n_phases) memcpy(s->phase[s->n_phases++].name, p->scope.label, sizeof s->phase[i].name);
  p->phase = &s->phase[i];
  p->indent = indent;
  describe_registers(p);
  if (p->kind == PRINTER_CODE) return code_block_begin(p, err);
  for (int c = 0; c < indent; c++) buf_char(out, ' ');
  buf_str(out, "{\n");
  return 0;
}

static int on_op(void *context, const char *text, size_t len, int indent, struct buf *out, struct error *err) {
  struct printer_state *p = context;
  if (!p->phase) return fail(err, STROBE_INVALID, "a vector operation outside $block");
  const struct vop *op;
  struct operand o[VOP_MAX_OPERANDS];
  int n, status = vop_parse(&p->scope, text, len, &op, o, &n, err);
  if (status) return status;
  (void)indent;
  p->phase->ops++;
  p->phase->fmas += op->is_fma;
  p->phase->tile_products += op->signature[0] == 'X'; // a tile accumulates
  return p->kind == PRINTER_CODE ? code_op(p, op, o, n, err) : c_op(p, op, o, p->indent + 2, out, err);
}

static int on_block_end(void *context, struct buf *out, struct error *err) {
  struct printer_state *p = context;
  int status = 0;
  if (p->kind == PRINTER_CODE) {
    status = code_block_end(p, out, err);
  } else {
    for (int c = 0; c < p->indent; c++) buf_char(out, ' ');
    buf_str(out, "}\n");
  }
  p->phase = NULL;
  p->scope.n_names = 0;
  return status;
}

static int on_constants(void *context, int indent, struct buf *out, struct error *err) {
  struct printer_state *p = context;
  if (p->has_constants_place) return fail(err, STROBE_INVALID, "a second $constants");
  p->has_constants_place = true;
  p->constants_at = out->len;
  p->constants_indent = indent;
  return 0;
}

static int on_mark(void *context) { return ((struct printer_state *)context)->scope.n_vreg; }
static void on_release(void *context, int mark) { vop_release(&((struct printer_state *)context)->scope, mark); }

// ---- what templates see ----

enum { MAX_BINDINGS = 48 };
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

// Whether PV at the diagonal leaves V of hidden keys as it is, unless that leaves a NaN: it then begins again, and must
// not have changed O^T.
static bool keeps_o(const struct instance *i) {
  const int *c = i->config.v;
  return config_kernel(&i->config) == KERNEL_PREFILL && config_algo(&i->config) == ALGO_FA3 &&
         i->spec.mask != MASK_FULL && c[CFG_DIAGONAL] != DIAGONAL_MASK && i->target->lanes == 16;
}

// Keys of a head of which V (stages=1: and K), so many bytes of each, fits beside the rest of a tile in the
// second-level cache: each worker then copies what it reads, in place of a step that waits for memory and other
// workers. 0: never.
enum { OWN_BYTES = 256 << 10 };

static bool owns_k(const struct instance *i) { return i->config.v[CFG_PACK_K] && i->config.v[CFG_STAGES] == 1; }

static int64_t own_keys(const struct instance *i) {
  const int *c = i->config.v;
  if (config_kernel(&i->config) != KERNEL_PREFILL || config_algo(&i->config) < ALGO_FA2 || !c[CFG_PACK_V]) return 0;
  const int64_t k = owns_k(i) ? config_k_width(&i->spec, &i->config) : 0, v = config_v_width(&i->spec, &i->config);
  const int64_t row = (k > v ? k : v) * (spec_pairs(&i->spec, i->target) ? 2 : 4);
  return OWN_BYTES / row / c[CFG_BLOCK_N] * c[CFG_BLOCK_N];
}

// Their copies. V is pairs of rows and a row of zeros, or (what is longer) panels of four columns with a line after
// each.
static int64_t own_bytes(const struct instance *i) {
  const int64_t keys = own_keys(i), pairs = spec_pairs(&i->spec, i->target);
  if (!keys) return 0;
  const int64_t k = owns_k(i) ? config_k_width(&i->spec, &i->config) : 0, v = config_v_width(&i->spec, &i->config);
  const int64_t more = pairs ? v : keys / i->config.v[CFG_BLOCK_N] * 4 * v;
  return ((pairs ? 2 : 4) * (keys * (k + v) + more) + 63) / 64 * 64;
}

// Memory of one worker: Q^T and S (one block) of each stage, O^T (before and after a block at the diagonal), four rows
// of statistics (stages=2: five), the scale. algo=standard has S in the workspace, fa1 Q^T, O^T, m and l.
static int64_t prefill_scratch_bytes(const struct instance *i) {
  const int *c = i->config.v;
  const int64_t q = config_k_width(&i->spec, &i->config) / (spec_pairs(&i->spec, i->target) ? 2 : 1),
                stages = c[CFG_STAGES], s = stages * c[CFG_BLOCK_N];
  const int64_t o = config_v_width(&i->spec, &i->config);
  const enum algo_kind algo = config_algo(&i->config);
  const int64_t rows = algo == ALGO_STANDARD ? (q > o ? q : o) + 2
                       : algo == ALGO_FA1    ? s + 3
                                             : stages * q + s + (keeps_o(i) ? 2 : 1) * o + 3 + stages;
  return 4 * (rows * c[CFG_BLOCK_M] + 16) + own_bytes(i);
}

static const struct {
  const char *template;
  int64_t (*scratch_bytes)(const struct instance *);
} kernels[KERNEL_COUNT] = {
    [KERNEL_PREFILL] = {"cpu/attn_fwd.c", prefill_scratch_bytes},
    [KERNEL_DECODE] = {"cpu/attn_decode.c", decode_scratch_bytes},
    [KERNEL_TILES] = {"cpu/attn_tiles.c", tiles_scratch_bytes},
};

static int64_t scratch_bytes(const struct instance *i) { // a caller's aligned_alloc may want multiples of 64
  return (kernels[config_kernel(&i->config)].scratch_bytes(i) + 63) / 64 * 64;
}

static void bind_instance(struct bindings *b, const struct instance *i, const struct render_options *o,
                          const struct isa *isa) {
  const struct spec *s = &i->spec;
  const int *c = i->config.v;
  const enum kernel_kind kernel = config_kernel(&i->config);
  bind_str(b, "kernel", kernel_names[kernel]);
  bind_int(b, "head_dim", s->head_dim);
  bind_int(b, "head_dim_v", s->head_dim_v);
  const bool prefill = kernel == KERNEL_PREFILL;
  bind_int(b, "k_width", config_k_width(s, &i->config));
  bind_int(b, "v_width", config_v_width(s, &i->config));
  bind_int(b, "by_tiles", instance_by_tiles(i));
  bind_int(b, "pair", instance_pairs(i) ? 2 : 1);
  const bool tiles = kernel == KERNEL_TILES;
  bind_int(b, "sub_m", tiles ? tiles_rows(c[CFG_BLOCK_M]) : c[CFG_BLOCK_M]);
  bind_int(b, "q_parts", tiles ? tiles_parts(s->q) : 1);
  bind_int(b, "kv_parts", tiles ? tiles_parts(s->kv) : 1);
  bind_int(b, "p_parts", tiles ? tiles_parts(s->p) : 1);
  bind_str(b, "q_type", dtype_table[s->q].name);
  bind_str(b, "kv_type", dtype_table[s->kv].name);
  bind_str(b, "o_type", dtype_table[s->o].name);
  bind_int(b, "causal", s->mask != MASK_FULL);
  bind_int(b, "lanes", i->target->lanes);
  bind_int(b, "top_in_memory", prefill && !config_top_fits(i->target, &i->config));
  bind_int(b, "block_m", c[CFG_BLOCK_M]);
  bind_int(b, "block_n", c[CFG_BLOCK_N]);
  bind_int(b, "tile_n", c[CFG_TILE_N]);
  bind_int(b, "tail_m", c[CFG_TAIL_M] > 0 ? c[CFG_TAIL_M] : 0);
  bind_int(b, "stages", c[CFG_STAGES]);
  bind_str(b, "algo", prefill ? algo_names[config_algo(&i->config)] : "");
  bind_int(b, "diagonal_skips", c[CFG_DIAGONAL] != DIAGONAL_MASK);
  bind_int(b, "keeps_o", keeps_o(i));
  bind_int(b, "own_keys", own_keys(i));
  bind_int(b, "unroll", c[CFG_UNROLL]);
  bind_int(b, "prefetch", c[CFG_PREFETCH]);
  bind_int(b, "block_h", c[CFG_BLOCK_H]);
  bind_int(b, "split", c[CFG_SPLIT]);
  bind_int(b, "side_keys",
           kernel == KERNEL_DECODE ? decode_side_keys(s, i->target, c[CFG_BLOCK_M], c[CFG_BLOCK_H]) : 0);
  bind_int(b, "follow", kernel == KERNEL_DECODE && decode_follows(s, i->target, c[CFG_BLOCK_M]));
  bind_int(b, "pack_k", c[CFG_PACK_K]);
  bind_int(b, "pack_v", c[CFG_PACK_V]);
  bind_int(b, "exp_degree", exp_table[c[CFG_EXP]].degree);
  bind_int(b, "exp_is_table", exp_table[c[CFG_EXP]].table);
  bind_str(b, "printer", printer_names[o->printer]);
  bind_int(b, "for_tcc", o->for_tcc);
  bind_str(b, "symbol", o->symbol);
  bind_int(b, "scratch_bytes", scratch_bytes(i));
  bind_str(b, "attribute", isa && o->printer == PRINTER_INTRIN ? isa->attribute : "");
}

int kernel_render(const struct instance *i, const struct render_options *o, struct buf *out, struct kernel_stats *stats,
                  struct error *err) {
  struct kernel_stats local;
  if (!stats) stats = &local;
  memset(stats, 0, sizeof *stats);
  if (i->target->family == FAMILY_CUDA) {
    struct loader loader = {.dir = o->templates.dir};
    const int status = cuda_kernel_render(i, o, load, &loader, out, err);
    return loader_end(&loader, status, err);
  }
  const struct isa *isa = isa_find(i->target->isa);
  if (o->printer != PRINTER_SCALAR && !isa)
    return fail(err, STROBE_UNSUPPORTED, "printer %s: target %s has no vector instructions; printer scalar works",
                printer_names[o->printer], i->target->name);
  if (o->printer == PRINTER_CODE && !x86_available())
    return fail(err, STROBE_UNSUPPORTED,
                "printer code: this build has no encoder (TCC=0); printers intrin and scalar work");

  struct printer_state *p = calloc(1, sizeof *p);
  struct code_row *rows = calloc((size_t)vop_count, sizeof *rows);
  struct buf symbol = {0};
  instance_symbol(i, &symbol);
  int status = !p || !rows || symbol.failed ? fail(err, STROBE_NO_MEMORY, "out of memory while rendering a kernel") : 0;
  if (!status) {
    *p = (struct printer_state){.kind = o->printer,
                                .isa = isa,
                                .target = i->target,
                                .comments = o->comments,
                                .clock_ns = o->clock_ns,
                                .stats = stats,
                                .move = x86_mnemonic("vmovups", 7),
                                // of 512 bits vbroadcastss takes a vector pipe beside the load (Zen 4)
                                .broadcast = x86_mnemonic(isa && isa->vex ? "vbroadcastss" : "vpbroadcastd", 12),
                                .rows = rows};
    for (int c = 0; c < vconst_count; c++) p->vconst_line[c] = -1;
    p->scope.masks_are_vregs = o->printer != PRINTER_SCALAR && isa->vex;
    struct render_options with_symbol = *o;
    if (!o->symbol) with_symbol.symbol = symbol.data;
    struct bindings b = {.n = 0};
    bind_instance(&b, i, &with_symbol, isa);
    struct loader loader = {.dir = o->templates.dir};
    struct tpl_sink sink = {p, on_vreg, on_block_begin, on_op, on_block_end, on_constants, on_mark, on_release};
    struct tpl_options options = {.bindings = b.b,
                                  .n_bindings = b.n,
                                  .load = load,
                                  .load_context = &loader,
                                  .sink = &sink,
                                  .drop_comments = !o->comments};
    size_t start = out->len;
    const enum kernel_kind kernel = config_kernel(&i->config);
    status = tpl_render(kernels[kernel].template, &options, out, err);
    if (!status && p->has_constants_place) {
      struct buf table = {0};
      (o->printer == PRINTER_CODE ? code_constants : c_constants)(p, &table);
      if (table.len) buf_insert(out, p->constants_at, table.data, table.len);
      out->failed |= table.failed;
      buf_free(&table);
    }
    if (!status && out->failed) {
      out->len = start;
      status = fail(err, STROBE_NO_MEMORY, "out of memory while rendering a kernel");
    }
    status = loader_end(&loader, status, err);
    stats->scratch_bytes = scratch_bytes(i);
    stats->vregs_peak = p->scope.peak[CLASS_VECTOR];
    stats->vregs_limit = o->printer == PRINTER_SCALAR ? 0 : i->target->vregs;
    for (int n = 0; n < stats->n_phases; n++) stats->code_bytes += stats->phase[n].bytes;
    buf_free(&p->prologue);
    buf_free(&p->body);
    buf_free(&p->frame);
  }
  buf_free(&symbol);
  free(p);
  free(rows);
  return status;
}

int kernel_template(const char *name, const struct tpl_binding *b, size_t n, const struct templates *t, struct buf *out,
                    struct error *err) {
  struct loader loader = {.dir = t->dir};
  const struct tpl_options options = {.bindings = b, .n_bindings = n, .load = load, .load_context = &loader};
  const int status = tpl_render(name, &options, out, err);
  return loader_end(&loader, status, err);
}
