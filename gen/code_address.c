// A block's pointers and integers in general registers, and memory operands made of them.
#include "print_code.h"

#include <string.h>

static const int pool[] = {X86_RSI, X86_RDX, X86_RCX, X86_R8, 9, 10, 11, X86_RBX, 12, 13, 14, 15};
enum { POOL = sizeof pool / sizeof pool[0] };

static struct x86_operand r64(int reg) { return (struct x86_operand){.kind = X86_R64, .reg = reg, .index = -1}; }

static int simple(struct printer_state *p, const char *mnemonic, struct x86_operand a, struct x86_operand b,
                  int64_t imm, bool has_imm, struct error *err) {
  struct x86_insn insn = {
      .mnemonic = x86_mnemonic(mnemonic, (int)strlen(mnemonic)), .n = has_imm ? 3 : 2, .op = {a, b}};
  if (has_imm) insn.op[2] = (struct x86_operand){.kind = X86_IMM, .value = imm};
  return code_put(p, &p->prologue, &insn, err);
}

static int new_gpr(struct printer_state *p, struct error *err) {
  if (p->gprs == POOL) {
    fail(err, STROBE_UNSUPPORTED, "$block %s needs more than %d general registers", p->scope.label, POOL);
    return -1;
  }
  int reg = pool[p->gprs++];
  if (p->gprs > p->stats->gprs_peak) p->stats->gprs_peak = p->gprs;
  return reg;
}

// Loads one more slot of the frame; `c_text` is what C stores there.
int code_load_slot(struct printer_state *p, const char *c_text, struct error *err) {
  int reg = new_gpr(p, err);
  if (reg < 0) return reg;
  buf_printf(&p->frame, "frame[%d] = (long)%s; ", p->frame_slots, c_text);
  struct x86_operand mem = {
      .kind = X86_MEM, .base = X86_RDI, .index = -1, .scale = 1, .size = 8, .value = 8 * p->frame_slots++};
  return simple(p, "mov", r64(reg), mem, 0, false, err) ? -1 : reg;
}

int code_gpr(struct printer_state *p, int name, struct error *err) {
  if (p->gpr_of_name[name] < 0) p->gpr_of_name[name] = code_load_slot(p, p->scope.name[name].name, err);
  return p->gpr_of_name[name];
}

// A register that holds coefficient * stride (base < 0) or base + coefficient * stride, where a pointer's elements
// count.
static int derived_gpr(struct printer_state *p, int base, int stride, int64_t coefficient, struct error *err) {
  for (int i = 0; i < p->n_derived; i++) {
    struct derived *d = &p->derived[i];
    if (d->base == base && d->stride == stride && d->coefficient == coefficient) return d->gpr;
  }
  if (p->n_derived == MAX_DERIVED) {
    fail(err, STROBE_UNSUPPORTED, "$block %s needs more than %d derived addresses", p->scope.label, MAX_DERIVED);
    return -1;
  }
  int stride_reg = code_gpr(p, stride, err), base_reg = base < 0 ? 0 : code_gpr(p, base, err), reg;
  if (stride_reg < 0 || base_reg < 0 || (reg = new_gpr(p, err)) < 0) return -1;
  int64_t k = base < 0 ? coefficient : coefficient * p->scope.name[base].bytes;
  if (simple(p, "imul", r64(reg), r64(stride_reg), k, true, err)) return -1;
  if (base >= 0 && simple(p, "add", r64(reg), r64(base_reg), 0, false, err)) return -1;
  p->derived[p->n_derived++] = (struct derived){base, stride, coefficient, reg};
  return reg;
}

int code_memory(struct printer_state *p, const struct operand *o, struct x86_operand *out, struct error *err) {
  int bytes = p->scope.name[o->base].bytes;
  *out = (struct x86_operand){.kind = X86_MEM, .index = -1, .scale = 1, .bcast = o->kind == OPD_BCAST};
  if (__builtin_mul_overflow(o->index.constant, (int64_t)bytes, &out->value) || out->value != (int32_t)out->value)
    return fail(err, STROBE_UNSUPPORTED, "displacement of %.*s does not fit 32 bits", o->text_len, o->text);
  int terms = 0, stride = 0;
  int64_t k = 0;
  for (int i = 0; i < o->index.n; i++)
    if (o->index.term[i].coefficient) terms++, stride = o->index.term[i].name, k = o->index.term[i].coefficient;
  if (terms > 1) return fail(err, STROBE_UNSUPPORTED, "%.*s: one run-time stride per address", o->text_len, o->text);
  if (!terms) return (out->base = code_gpr(p, o->base, err)) < 0 ? STROBE_UNSUPPORTED : 0;
  int64_t odd = k;
  int scale = bytes;
  while (odd > 0 && odd % 2 == 0 && scale < 8) odd /= 2, scale *= 2;
  if (k > 0 && odd % 2 && odd <= 7) {
    out->base = code_gpr(p, o->base, err);
    out->index = odd == 1 ? code_gpr(p, stride, err) : derived_gpr(p, -1, stride, odd, err);
    out->scale = scale;
    return out->base < 0 || out->index < 0 ? STROBE_UNSUPPORTED : 0;
  }
  return (out->base = derived_gpr(p, o->base, stride, k, err)) < 0 ? STROBE_UNSUPPORTED : 0;
}
