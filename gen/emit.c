#include "emit.h"

#include "../runtime/kernel_abi.h"
#include "cuda_kernel.h"
#include "embedded.h"
#include "scan.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

void shell_word(const char *text, struct buf *out) {
  static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./,:=+@%";
  if (*text && !text[strspn(text, plain)]) {
    buf_str(out, text);
    return;
  }
  buf_char(out, '\'');
  for (; *text; text++) {
    if (*text == '\'')
      buf_str(out, "'\\''");
    else
      buf_char(out, *text);
  }
  buf_char(out, '\'');
}

static struct instance kernel_of(const struct emit_request *r) {
  struct instance i = *r->instance;
  if (i.spec.mask == MASK_CAUSAL_TOP_LEFT)
    i.spec.mask = MASK_CAUSAL; // the same kernel: args->diagonal tells them apart
  return i;
}

// The whole config is spelled out, so that a later version with another heuristic still writes the same kernel.
void emit_command(const struct emit_request *r, struct buf *out) {
  const struct instance i = kernel_of(r);
  buf_str(out, "strobe emit ");
  spec_print(&i.spec, out);
  buf_printf(out, " --target %s", i.target->name);
  if (i.target->family == FAMILY_CPU) buf_printf(out, " --printer %s", printer_names[r->printer]);
  buf_str(out, " --set ");
  config_print(&i.config, i.target, out);
  if (r->prefix && *r->prefix) buf_printf(out, " --prefix %s", r->prefix);
  if (r->cite && *r->cite) {
    buf_str(out, " --cite ");
    shell_word(r->cite, out);
  }
  if (r->templates.dir) {
    buf_str(out, " --template-dir ");
    shell_word(r->templates.dir, out);
  }
  buf_str(out, " -o .");
}

void emit_symbol(const struct emit_request *r, struct buf *out) {
  if (r->prefix) buf_str(out, r->prefix);
  instance_symbol(r->instance, out);
  const struct target *t = r->instance->target;
  if (t->family == FAMILY_CPU && t->vregs && r->printer != PRINTER_INTRIN)
    buf_printf(out, "_%s", printer_names[r->printer]);
}

const char *emit_suffix(const struct instance *i) { return i->target->family == FAMILY_CUDA ? ".cu" : ".c"; }

const char emit_x86[] = "defined(__x86_64__) && defined(__GNUC__)";

const char *emit_guard(const struct instance *i, enum printer printer) {
  if (i->target->family != FAMILY_CPU || printer == PRINTER_SCALAR || !i->target->vregs) return NULL;
  const char *const name = i->target->name;
  return strncmp(name, "avx", 3) && strncmp(name, "amx", 3) ? NULL : emit_x86;
}

int emit_check_name(const char *what, const char *name, struct error *err) {
  static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789";
  const size_t len = strlen(name);
  if (len <= 64 && !name[strspn(name, letters)] && !(*name >= '0' && *name <= '9')) return 0;
  return fail(err, STROBE_INVALID, "%s \"%s\": must be at most 64 letters, digits and underscores, no digit first; %s",
              what, quote(slice_of(name)).text, "foo_ works");
}

int emit_check_cite(const char *text, struct error *err) {
  const size_t len = strlen(text);
  for (const char *c = text; *c; c++)
    if (*c < ' ' || *c > '~' || *c == '\\' || *c == '?')
      return fail(err, STROBE_INVALID,
                  "--cite: character %d of it can't stand in a comment: must be printable ASCII, neither \\ nor a "
                  "question mark",
                  (int)(c - text) + 1);
  if (len <= EMIT_CITE_MAX) return 0;
  return fail(err, STROBE_INVALID, "--cite: %zu characters: must be at most %d", len, EMIT_CITE_MAX);
}

static void provenance(const struct emit_request *r, const struct emitted *e, struct buf *out) {
  const struct instance *i = r->instance;
  const struct spec *s = &i->spec;
  const struct kernel_stats *k = &e->stats;
  buf_printf(out, "// Forward attention, O = softmax(scale Q K^T%s) V, written by strobe %s\n",
             s->mask == MASK_FULL ? "" : " + causal mask", STROBE_VERSION);
  buf_printf(out,
             "// from templates %016" PRIx64 "%s. The command that writes this file again, in its directory:\n//   ",
             templates_hash(), r->templates.dir ? " and the directory named below" : "");
  emit_command(r, out);
  buf_str(out, "\n//\n//   spec       ");
  spec_print(s, out);
  buf_str(out, "\n//   config     ");
  config_print(&i->config, i->target, out);
  if (r->cite && *r->cite) buf_printf(out, "\n//   tuned      %s", r->cite);
  buf_printf(out, "\n//   target     %s: %s\n", i->target->name, i->target->about);
  buf_printf(out,
             "//   work       2 head_dim + 2 head_dim_v = %d floating-point operations per query and visible key\n",
             2 * s->head_dim + 2 * s->head_dim_v);
  if (i->target->family == FAMILY_CUDA) {
    struct cuda_kernel c;
    cuda_derive(i, &c);
    buf_printf(out,
               "//   CTA        %d threads, %d bytes of shared memory, %d registers a thread at entry (consumers %d, "
               "producer %d)\n",
               c.threads, c.shared_bytes, c.entry_regs > 255 ? 255 : c.entry_regs, c.consumer_regs, c.producer_regs);
    buf_str(out, "//   compile    nvcc -O3 -std=c++17 -gencode arch=compute_90a,code=sm_90a\n//\n// Emitted code "
                 "carries no licence obligation.\n");
    return;
  }
  if (k->vregs_limit)
    buf_printf(out, "//   registers  %d of %d vector registers\n", k->vregs_peak, k->vregs_limit);
  else
    buf_printf(out, "//   registers  %d arrays of %d lanes stand for vector registers\n", k->vregs_peak,
               i->target->lanes);
  if (k->code_bytes) buf_printf(out, "//   code       %d bytes of vector instructions\n", k->code_bytes);
  buf_printf(out, "//   scratch    %lld bytes per worker\n", (long long)k->scratch_bytes);
  buf_str(out, "//\n// Emitted code carries no licence obligation.\n");
}

static const struct embedded_file *abi_text(void) {
  for (int i = 0; i < embedded_count; i++)
    if (!strcmp(embedded_files[i].name, "kernel_abi.h")) return &embedded_files[i];
  return NULL;
}

static void guard_name(const struct buf *symbol, struct buf *out) {
  for (size_t i = 0; i < symbol->len; i++) {
    const char c = symbol->data[i];
    buf_char(out, c >= 'a' && c <= 'z' ? (char)(c - 'a' + 'A') : c);
  }
  buf_str(out, "_H");
}

static void usage(const struct spec *s, const char *symbol, struct buf *out) {
  buf_str(out, "// How to call it, with packed (batch, seqlen, heads, head_dim) tensors of ");
  buf_printf(out, "%s (q), %s (k, v) and %s (o):\n", dtype_table[s->q].name, dtype_table[s->kv].name,
             dtype_table[s->o].name);
  buf_printf(
      out,
      "//\n"
      "//   struct strobe_args args = {.abi = STROBE_ABI, .size = sizeof args, .batch = b, .heads = h, .heads_kv = g,\n"
      "//     .q_len = n, .kv_len = m, .diagonal = %s, .scale = %.9g%sf, // 1/sqrt(%d)\n"
      "//     .q = {q, n * h * %d, %d, h * %d}, .k = {k, m * g * %d, %d, g * %d},\n"
      "//     .v = {v, m * g * %d, %d, g * %d}, .o = {o, n * h * %d, %d, h * %d}};\n"
      "//   strobe_i64 bytes = %s_bytes(&args);\n"
      "//   void *memory = aligned_alloc(64, bytes);\n"
      "//   if (!memory || %s_forward(&args, memory, bytes)) ...\n\n",
      s->mask == MASK_FULL ? "0" : "m - n", (double)(float)(1 / sqrt(s->head_dim)), s->head_dim == 1 ? ".0" : "",
      s->head_dim, s->head_dim, s->head_dim, s->head_dim, s->head_dim, s->head_dim, s->head_dim, s->head_dim_v,
      s->head_dim_v, s->head_dim_v, s->head_dim_v, s->head_dim_v, s->head_dim_v, symbol, symbol);
  if (s->mask != MASK_FULL)
    buf_str(
        out,
        "// diagonal m - n aligns the mask to the bottom right, 0 to the top left; with kv_lens set diagonal_at_end "
        "to 1 for the\n// bottom right of each sequence.\n\n");
}

static void header(const struct spec *s, const struct embedded_file *abi, struct emitted *e) {
  struct buf *out = &e->header, guard = {0};
  const char *symbol = e->symbol.data;
  guard_name(&e->symbol, &guard);
  out->failed |= guard.failed;
  if (out->failed) {
    buf_free(&guard);
    return;
  }
  buf_printf(out, "#ifndef %s\n#define %s\n\n#ifdef __cplusplus\nextern \"C\" {\n#endif\n\n", guard.data, guard.data);
  buf_str(out, "// ---- the same in every header that strobe writes "
               "-----------------------------------------------------------\n\n");
  buf_add(out, abi->text, abi->len);
  buf_str(out, "\n// ---- this kernel "
               "---------------------------------------------------------------------------------------------\n\n");
  buf_printf(out, "#if STROBE_ABI != %d\n#error \"two headers of different strobe versions in one file\"\n#endif\n\n",
             STROBE_ABI);
  usage(s, symbol, out);
  buf_printf(out, "// Its steps, for callers with threads of their own.\nextern const struct strobe_kernel %s;\n\n",
             symbol);
  buf_printf(out,
             "// Bytes of memory that %s_forward wants for args (its sizes and workers are looked at).\n"
             "strobe_i64 %s_bytes(const struct strobe_args *args);\n\n",
             symbol, symbol);
  buf_printf(out,
             "// The whole forward pass on the calling thread. memory: %s_bytes(args) bytes, 64-byte aligned; the "
             "workspace in\n"
             "// args is not used. Returns 0, or 1 and has done nothing: bytes is too small, memory is not aligned, or "
             "args->abi or\n"
             "// args->size is not what this header says.\n"
             "int %s_forward(const struct strobe_args *args, void *memory, strobe_i64 bytes);\n",
             symbol, symbol);
  buf_printf(out, "\n#ifdef __cplusplus\n}\n#endif\n\n#endif // %s\n", guard.data);
  buf_free(&guard);
}

static const char runner[] =
    "\n"
    "// ---- one call, one thread "
    "--------------------------------------------------------------------------------------\n"
    "\n"
    "static strobe_i64 shared_bytes(const struct strobe_args *args) {\n"
    "  return ($.workspace_bytes(args) + 63) / 64 * 64;\n"
    "}\n"
    "\n"
    "strobe_i64 $_bytes(const struct strobe_args *args) { return shared_bytes(args) + $.scratch_bytes; }\n"
    "\n"
    "int $_forward(const struct strobe_args *args, void *memory, strobe_i64 bytes) {\n"
    "  if (args->abi != STROBE_ABI || args->size != sizeof *args) return 1;\n"
    "  if (bytes < $_bytes(args) || (uintptr_t)memory % 64 != 0) return 1;\n"
    "  struct strobe_args own = *args;\n"
    "  own.workspace = memory;\n"
    "  void *scratch = (char *)memory + shared_bytes(args);\n"
    "  for (unsigned i = 0; i < $.n_steps; i++) $.step[i].run(&own, 0, $.step[i].items(&own), scratch);\n"
    "  return 0;\n"
    "}\n";

static void runner_text(const char *symbol, struct buf *out) {
  for (const char *c = runner; *c; c++) {
    if (*c == '$')
      buf_str(out, symbol);
    else
      buf_char(out, *c);
  }
}

static int check_dir(const struct templates *t, struct error *err) {
  for (const char *c = t->dir ? t->dir : ""; *c; c++)
    if ((unsigned char)*c < ' ')
      return fail(err, STROBE_INVALID,
                  "--template-dir: its name holds a control character; allowed: printable characters");
  return 0;
}

static void cuda_files(const struct emit_request *r, const struct buf *body, struct emitted *out) {
  struct buf guard = {0};
  guard_name(&out->symbol, &guard);
  const char *name = guard.failed ? "" : guard.data;
  provenance(r, out, &out->header);
  buf_printf(&out->header, "#ifndef %s\n#define %s\n\n", name, name);
  cuda_header(r->instance, out->symbol.data, &out->header);
  buf_str(&out->header, "\n#endif\n");
  out->header.failed |= guard.failed;
  buf_free(&guard);
  provenance(r, out, &out->source);
  buf_add(&out->source, body->data ? body->data : "", body->len);
}

static void cpu_files(const struct emit_request *r, const struct buf *body, const struct embedded_file *abi,
                      struct emitted *out) {
  const char *condition = emit_guard(r->instance, r->printer);
  provenance(r, out, &out->header);
  header(&r->instance->spec, abi, out);
  provenance(r, out, &out->source);
  buf_printf(&out->source, "#include \"%s.h\"\n\n#include <stdint.h>\n\n", out->name.data);
  if (condition) buf_printf(&out->source, "#if %s // elsewhere there is nothing in this file\n\n", condition);
  if (r->printer == PRINTER_CODE)
    buf_str(&out->source,
            "// One asm statement is one string, far longer than the 4095 characters that ISO C asks of a compiler.\n"
            "#pragma GCC diagnostic ignored \"-Woverlength-strings\"\n\n");
  buf_add(&out->source, body->data ? body->data : "", body->len);
  runner_text(out->symbol.data, &out->source);
  if (condition) buf_str(&out->source, "\n#endif\n");
}

int emit_kernel(const struct emit_request *request, struct emitted *out, struct error *err) {
  const struct instance kernel = kernel_of(request);
  const struct emit_request r = {&kernel, request->printer, request->templates, request->prefix, request->cite};
  *out = (struct emitted){.suffix = emit_suffix(&kernel)};
  const struct embedded_file *abi = abi_text();
  struct buf body = {0};
  emit_symbol(&r, &out->name); // files are named like the symbol, so no two instances share one
  emit_symbol(&r, &out->symbol);
  const struct render_options options = {
      .printer = r.printer, .templates = r.templates, .comments = true, .symbol = out->symbol.data};
  int status = check_dir(&r.templates, err);
  if (!status && !abi) status = fail(err, STROBE_INTERNAL, "kernel_abi.h is not embedded in this build");
  if (!status && (out->name.failed || out->symbol.failed))
    status = fail(err, STROBE_NO_MEMORY, "no memory for the emitted text");
  if (!status) status = kernel_render(&kernel, &options, &body, &out->stats, err);
  if (!status && kernel.target->family == FAMILY_CUDA)
    cuda_files(&r, &body, out);
  else if (!status)
    cpu_files(&r, &body, abi, out);
  if (!status && (out->source.failed || out->header.failed || body.failed))
    status = fail(err, STROBE_NO_MEMORY, "no memory for the emitted text");
  buf_free(&body);
  if (status) emit_free(out);
  return status;
}

void emit_free(struct emitted *e) {
  buf_free(&e->name);
  buf_free(&e->symbol);
  buf_free(&e->source);
  buf_free(&e->header);
  *e = (struct emitted){.name = {0}};
}
