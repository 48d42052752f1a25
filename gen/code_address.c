// A block's pointers and integers in general registers, and memory operands made of them.
#include "print_code.h"

#include <string.h>

static const int pool[] = {X86_RSI, X86_RDX, X86_RCX, X86_R8, 9, 10, 11, X86_RBX, 12, 13, 14, 15};
enum { POOL = sizeof pool / sizeof pool[0], CALLER_SAVED = 7 }; // the others, functions have to save

static struct x86_operand r64(int reg) { return (struct x86_operand){.kind = X86_R64, .reg = reg, .index = -1}; }

static int simple(struct printer_state *p, const char *mnemonic, struct x86_operand a, struct x86_operand b,
                  int64_t imm, bool has_imm, struct error *err) {
  struct x86_insn insn = {
      .mnemonic = x86_mnemonic(mnemonic, (int)strlen(mnemonic)), .n = has_imm ? 3 : 2, .op = {a, b}};
  if (has_imm) insn.op[2] = (struct x86_operand){.kind = X86_IMM, .value = imm};
  return code_put(p, &p->prologue, &insn, err);
}

// NONE_LEFT is no error: what finds no register stays in the frame.
enum { NONE_LEFT = -1, FAILED = -2 };
enum { TABLE = -2 }; // a base

static int new_gpr(struct printer_state *p) {
  if (p->gprs == POOL) return NONE_LEFT;
  int reg = pool[p->gprs++];
  if (p->gprs > p->stats->gprs_peak) p->stats->gprs_peak = p->gprs;
  return reg;
}

static struct x86_operand slot_memory(int slot) {
  return (struct x86_operand){.kind = X86_MEM, .base = X86_RDI, .index = -1, .scale = 1, .size = 8, .value = 8 * slot};
}

bool code_uses_saved_gpr(const struct printer_state *p) { return p->gprs > CALLER_SAVED; }

// Loads one more slot of the frame, which C is to fill.
static int load_slot(struct printer_state *p, struct error *err) {
  int reg = new_gpr(p);
  if (reg < 0) return reg;
  return simple(p, "mov", r64(reg), slot_memory(p->frame_slots++), 0, false, err) ? FAILED : reg;
}

int code_gpr(struct printer_state *p, int name, struct error *err) {
  if (p->gpr_of_name[name] >= 0) return p->gpr_of_name[name];
  int reg = load_slot(p, err);
  if (reg < 0) return reg;
  buf_printf(&p->frame, "frame[%d] = (long)%s; ", p->frame_slots - 1, p->scope.name[name].name);
  return p->gpr_of_name[name] = reg;
}

// A register that holds coefficient * stride (base < 0) or base + coefficient * stride, where a pointer's elements
// count.
static int derived_gpr(struct printer_state *p, int base, int stride, int64_t coefficient, struct error *err) {
  for (int i = 0; i < p->n_derived; i++) {
    struct derived *d = &p->derived[i];
    if (d->base == base && d->stride == stride && d->coefficient == coefficient) return d->gpr;
  }
  if (p->n_derived == MAX_DERIVED) return NONE_LEFT;
  int stride_reg = code_gpr(p, stride, err), base_reg = base < 0 ? 0 : code_gpr(p, base, err), reg;
  if (stride_reg < 0) return stride_reg;
  if (base_reg < 0) return base_reg;
  if ((reg = new_gpr(p)) < 0) return reg;
  int64_t k = base < 0 ? coefficient : coefficient * p->scope.name[base].bytes;
  if (simple(p, "imul", r64(reg), r64(stride_reg), k, true, err)) return FAILED;
  if (base >= 0 && simple(p, "add", r64(reg), r64(base_reg), 0, false, err)) return FAILED;
  p->derived[p->n_derived++] = (struct derived){base, stride, coefficient, reg};
  return reg;
}

// What no register is left for: C computes the address, and rax gets it before each use. Names come into registers in
// the order of their first use, so that it is not the inner products that wait for it.
static int from_frame(struct printer_state *p, int base, int stride, int64_t coefficient, struct x86_operand *out,
                      struct error *err) {
  int i = 0;
  while (i < p->n_kept && !(p->kept[i].base == base && p->kept[i].coefficient == coefficient &&
                            (!coefficient || p->kept[i].stride == stride)))
    i++;
  if (p->eax_is_taken)
    return fail(err, STROBE_UNSUPPORTED, "$block %s needs more than %d general registers", p->scope.label, POOL);
  if (i == p->n_kept) {
    if (p->frame_slots == FRAME_SLOTS)
      return fail(err, STROBE_UNSUPPORTED, "$block %s needs more than %d addresses", p->scope.label, FRAME_SLOTS);
    p->kept[p->n_kept++] = (struct derived){base, stride, coefficient, p->frame_slots};
    const char *name = base == TABLE ? "vector_constants" : p->scope.name[base].name;
    buf_printf(&p->frame, "frame[%d] = (long)", p->frame_slots++);
    if (coefficient)
      buf_printf(&p->frame, "(%s + %lld * %s); ", name, (long long)coefficient, p->scope.name[stride].name);
    else
      buf_printf(&p->frame, "%s; ", name);
  }
  out->base = X86_RAX, out->index = -1, out->scale = 1;
  const int slot = p->kept[i].gpr;
  if (p->rax_slot == slot) return 0;
  p->rax_slot = slot;
  struct x86_insn load = {.mnemonic = x86_mnemonic("mov", 3), .n = 2, .op = {r64(X86_RAX), slot_memory(slot)}};
  return code_put(p, &p->body, &load, err);
}

int code_table(struct printer_state *p, struct x86_operand *out, struct error *err) {
  if (p->gpr_of_table < 0 && (p->gpr_of_table = load_slot(p, err)) >= 0)
    buf_printf(&p->frame, "frame[%d] = (long)vector_constants; ", p->frame_slots - 1);
  *out = (struct x86_operand){.kind = X86_MEM, .base = p->gpr_of_table, .index = -1, .scale = 1};
  return p->gpr_of_table >= 0 ? 0 : p->gpr_of_table == FAILED ? STROBE_INTERNAL : from_frame(p, TABLE, 0, 0, out, err);
}

int code_integer(struct printer_state *p, int name, struct x86_operand *out, struct error *err) {
  const int reg = code_gpr(p, name, err);
  *out = (struct x86_operand){.kind = X86_R32, .reg = reg >= 0 ? reg : X86_RAX, .index = -1};
  if (reg != NONE_LEFT) return reg >= 0 ? 0 : STROBE_INTERNAL;
  struct x86_operand whole;
  return from_frame(p, name, 0, 0, &whole, err);
}

// base + index of registers, as far as there are any; sets out's.
static int in_registers(struct printer_state *p, int base, int stride, int64_t k, struct x86_operand *out,
                        struct error *err) {
  int64_t odd = k;
  int scale = p->scope.name[base].bytes, reg;
  if (!k) return out->base = code_gpr(p, base, err);
  while (odd > 0 && odd % 2 == 0 && scale < 8) odd /= 2, scale *= 2;
  if (k < 0 || odd % 2 == 0 || odd > 7) return out->base = derived_gpr(p, base, stride, k, err);
  if ((reg = code_gpr(p, base, err)) < 0) return reg;
  out->base = reg;
  if ((reg = odd == 1 ? code_gpr(p, stride, err) : derived_gpr(p, -1, stride, odd, err)) < 0) return reg;
  out->scale = scale;
  return out->index = reg;
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
  const int reg = in_registers(p, o->base, stride, k, out, err);
  return reg >= 0 ? 0 : reg == FAILED ? STROBE_INTERNAL : from_frame(p, o->base, stride, k, out, err);
}
