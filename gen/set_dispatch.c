#include "set_dispatch.h"

#include "../runtime/kernel_abi.h"
#include "set_manifest.h"
#include "template.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { LIST_MAX = 600 }; // characters of the specs in a message

// Everything that the templates get as text.
enum {
  T_P,
  T_UPPER,
  T_COMMAND,
  T_DTYPES,
  T_DTYPE_NAMES,
  T_SPECS,
  T_INCLUDES,
  T_ROWS,
  T_SOURCES,
  T_CUDA_INCLUDES,
  T_CUDA_ROWS,
  T_CUDA_SOURCES,
  T_COUNT
};
static const char *const text_names[T_COUNT] = {"p",         "P",           "command", "dtypes",  "dtype_names",
                                                "specs",     "includes",    "rows",    "sources", "cuda_includes",
                                                "cuda_rows", "cuda_sources"};
struct spec_list { // for a message
  struct buf text;
  bool full;
};
struct texts {
  struct buf t[T_COUNT];
  struct spec_list cpu, cuda;
  struct buf last; // spec
  bool has_x86, has_amx, has_cuda;
};

static void upper(const char *text, struct buf *out) {
  for (; *text; text++) buf_char(out, *text >= 'a' && *text <= 'z' ? (char)(*text - 'a' + 'A') : *text);
}

static void line(struct buf *out) {
  if (out->len) buf_char(out, '\n');
}

static void dtypes(struct texts *x) {
  for (int i = 0; i < DT_COUNT; i++) {
    buf_printf(&x->t[T_DTYPES], "%s%s_", i ? ", " : "", x->t[T_UPPER].data);
    upper(dtype_table[i].name, &x->t[T_DTYPES]);
    if (!i) buf_str(&x->t[T_DTYPES], " = 0");
    buf_printf(&x->t[T_DTYPE_NAMES], "%s\"%s\"", i ? ", " : "", dtype_table[i].name);
  }
}

// "{64, 64, ATTN_F32, ATTN_F32, ATTN_F32, ATTN_CAUSAL}"
static void problem(const struct spec *s, const char *prefix, struct buf *out) {
  const enum dtype d[] = {s->q, s->kv, s->o};
  buf_printf(out, "{%d, %d", s->head_dim, s->head_dim_v);
  for (int i = 0; i < 3; i++) {
    buf_printf(out, ", %s_", prefix);
    upper(dtype_table[d[i]].name, out);
  }
  buf_printf(out, ", %s_%s}", prefix, s->mask == MASK_FULL ? "FULL" : "CAUSAL");
}

static void cpu_row(const struct kernel_set *set, int i, const char *symbol, struct texts *x) {
  const struct set_entry *e = &set->entry[i];
  const struct host_row *host = set_host(e);
  struct buf *rows = &x->t[T_ROWS];
  const bool guarded = emit_guard(&e->instance, e->printer) != NULL;
  line(rows), buf_str(rows, "    {");
  problem(&e->instance.spec, x->t[T_UPPER].data, rows);
  const bool decode = config_kernel(&e->instance.config) == KERNEL_DECODE;
  buf_printf(rows, ", %s, %d, %d,\n     %s%s%s, \"%s\"},", host ? host->feature : "0",
             decode ? e->instance.config.v[CFG_BLOCK_M] : 0, decode && instance_by_tiles(&e->instance),
             guarded ? "X86(" : "&", symbol, guarded ? ")" : "", symbol);
  x->has_x86 |= guarded;
  x->has_amx |= guarded && e->instance.target->tiles;
  line(&x->t[T_INCLUDES]), buf_printf(&x->t[T_INCLUDES], "#include \"%s.h\"", symbol);
  line(&x->t[T_SOURCES]), buf_printf(&x->t[T_SOURCES], "  %s.c", symbol);
}

static void cuda_row(const struct set_entry *e, const char *symbol, struct texts *x) {
  struct buf *rows = &x->t[T_CUDA_ROWS];
  line(rows), buf_str(rows, "    {");
  problem(&e->instance.spec, x->t[T_UPPER].data, rows);
  buf_printf(rows, ", %s_launch},", symbol);
  line(&x->t[T_CUDA_INCLUDES]), buf_printf(&x->t[T_CUDA_INCLUDES], "#include \"%s.h\"", symbol);
  line(&x->t[T_CUDA_SOURCES]), buf_printf(&x->t[T_CUDA_SOURCES], "    %s.cu", symbol);
  x->has_cuda = true;
}

static void spec_text(const struct set_entry *e, struct buf *out) {
  struct spec s = e->instance.spec;
  if (s.mask == MASK_CAUSAL_TOP_LEFT) s.mask = MASK_CAUSAL; // for the kernel the same
  spec_print(&s, out);
}

static void list_spec(const char *spec, struct spec_list *l) {
  if (!l->full && l->text.len + strlen(spec) < LIST_MAX)
    buf_printf(&l->text, "%s%s", l->text.len ? ", " : "", spec);
  else if (!l->full)
    buf_str(&l->text, " and more"), l->full = true;
}

// Specs, each once with its targets: they follow one another, the CUDA kernel first.
static void spec_line(const struct kernel_set *set, int i, struct texts *x) {
  const struct set_entry *e = &set->entry[i];
  const bool cuda = e->instance.target->family == FAMILY_CUDA;
  struct buf text = {0};
  spec_text(e, &text);
  if (text.failed || x->last.failed) {
    x->t[T_SPECS].failed = true;
  } else if (!x->last.data || strcmp(text.data, x->last.data)) {
    line(&x->t[T_SPECS]), buf_printf(&x->t[T_SPECS], "//   %s: %s", text.data, e->instance.target->name);
    list_spec(text.data, cuda ? &x->cuda : &x->cpu);
  } else if (e[-1].instance.target != e->instance.target) {
    buf_printf(&x->t[T_SPECS], ", %s", e->instance.target->name);
    if (e[-1].instance.target->family == FAMILY_CUDA) list_spec(text.data, &x->cpu);
  }
  buf_free(&x->last);
  x->last = text;
}

static void fill(const struct kernel_set *set, struct texts *x) {
  buf_printf(&x->t[T_P], "%s%s", set->prefix, set->name);
  if (x->t[T_P].failed) return;
  upper(x->t[T_P].data, &x->t[T_UPPER]);
  manifest_command(set, &x->t[T_COMMAND]);
  if (x->t[T_UPPER].failed) return;
  dtypes(x);
  for (int i = 0; i < T_COUNT; i++) buf_str(&x->t[i], "");
  for (int i = 0; i < set->n; i++) {
    const struct emit_request r = set_request(set, i);
    struct buf symbol = {0};
    emit_symbol(&r, &symbol);
    if (symbol.failed) {
      x->t[T_ROWS].failed = true;
    } else {
      spec_line(set, i, x);
      if (r.instance->target->family == FAMILY_CUDA)
        cuda_row(&set->entry[i], symbol.data, x);
      else
        cpu_row(set, i, symbol.data, x);
    }
    buf_free(&symbol);
  }
  line(&x->t[T_SOURCES]), buf_printf(&x->t[T_SOURCES], "  %s_dispatch.c", set->name);
}

int set_render(const struct kernel_set *set, const char *template, struct buf *out, struct error *err) {
  struct texts x = {.t = {{0}}};
  char hash[17], file[64];
  bool failed = false;
  fill(set, &x);
  snprintf(hash, sizeof hash, "%016" PRIx64, templates_hash());
  snprintf(file, sizeof file, "set/%s", template);
  struct tpl_binding b[T_COUNT + 16];
  size_t n = 0;
  for (; n < T_COUNT; n++) {
    failed |= x.t[n].failed;
    b[n] = (struct tpl_binding){.name = text_names[n], .string = x.t[n].data};
  }
  b[n++] = (struct tpl_binding){.name = "name", .string = set->name};
  b[n++] = (struct tpl_binding){.name = "version", .string = STROBE_VERSION};
  b[n++] = (struct tpl_binding){.name = "templates", .string = hash};
  b[n++] = (struct tpl_binding){.name = "x86", .string = emit_x86};
  b[n++] = (struct tpl_binding){.name = "has_x86", .integer = x.has_x86};
  b[n++] = (struct tpl_binding){.name = "has_amx", .integer = x.has_amx};
  b[n++] = (struct tpl_binding){.name = "has_cuda", .integer = x.has_cuda};
  b[n++] = (struct tpl_binding){.name = "abi", .integer = STROBE_ABI};
  b[n++] = (struct tpl_binding){.name = "decode_rows", .integer = DECODE_ROWS_SERVED};
  b[n++] = (struct tpl_binding){.name = "decode_q_len", .integer = DECODE_Q_LEN_SERVED};
  b[n++] = (struct tpl_binding){.name = "decode_tiles_rows", .integer = DECODE_TILES_ROWS_SERVED};
  b[n++] = (struct tpl_binding){.name = "decode_tiles_q_len", .integer = DECODE_TILES_Q_LEN_SERVED};
  b[n++] = (struct tpl_binding){.name = "decode_tiles_keys", .integer = DECODE_TILES_KEYS_SERVED};
  b[n++] = (struct tpl_binding){.name = "last_dtype", .integer = DT_COUNT - 1};
  buf_str(&x.cpu.text, x.cpu.text.len ? "" : "none for CPUs");
  buf_str(&x.cuda.text, "");
  b[n++] = (struct tpl_binding){.name = "cpu_specs", .string = x.cpu.text.data};
  b[n++] = (struct tpl_binding){.name = "cuda_specs", .string = x.cuda.text.data};
  failed |= x.cpu.text.failed || x.cuda.text.failed;
  int status = failed ? fail(err, STROBE_NO_MEMORY, "no memory for the dispatcher") : 0;
  if (!status) status = kernel_template(file, b, n, &set->templates, out, err);
  for (int i = 0; i < T_COUNT; i++) buf_free(&x.t[i]);
  buf_free(&x.cpu.text), buf_free(&x.cuda.text), buf_free(&x.last);
  return status;
}
