// Vector registers and constants as operands of instructions. VEX has no broadcast operands: those and literals are
// held in registers that nothing else wants, while it lasts.
#include "print_code.h"

#include <string.h>

// ---- constants ----

static int table_memory(struct printer_state *p, int line, int entry, struct x86_operand *out, struct error *err) {
  int status = code_table(p, out, err);
  out->value = 64 * line + 4 * entry;
  return status;
}

int code_vconst(struct printer_state *p, int id, struct x86_operand *out, struct error *err) {
  if (p->vconst_line[id] < 0) {
    if (p->table_lines == 64) return fail(err, STROBE_INTERNAL, "constant table is full");
    memcpy(p->table_bits[p->table_lines], vconst_table[id].bits, 64);
    p->vconst_line[id] = p->table_lines++;
  }
  return table_memory(p, p->vconst_line[id], 0, out, err);
}

static int literal_memory(struct printer_state *p, uint32_t bits, struct x86_operand *out, struct error *err) {
  int i = 0;
  while (i < p->n_literals && p->table_bits[p->literal[i] / 16][p->literal[i] % 16] != bits) i++;
  if (i == p->n_literals) {
    if (i == MAX_LITERALS || p->table_lines == 64) return fail(err, STROBE_INTERNAL, "constant table is full");
    const int copies = p->isa->vex ? p->target->lanes : 1, per_line = 16 / copies;
    if (i % per_line == 0)
      p->literal[i] = 16 * p->table_lines++; // a new line of 16
    else
      p->literal[i] = p->literal[i - 1] + copies;
    p->n_literals++;
    for (int c = 0; c < copies; c++) p->table_bits[p->literal[i] / 16][p->literal[i] % 16 + c] = bits;
  }
  int status = table_memory(p, p->literal[i] / 16, p->literal[i] % 16, out, err);
  out->bcast = !p->isa->vex;
  return status;
}

void code_constants(struct printer_state *p, struct buf *out) {
  if (!p->table_lines) return;
  buf_printf(out, "static const unsigned vector_constants[%d][16] __attribute__((aligned(64))) = {\n", p->table_lines);
  for (int i = 0; i < p->table_lines; i++) {
    buf_str(out, "  {");
    for (int l = 0; l < 16; l++) buf_printf(out, "%s0x%xu", l ? "," : "", p->table_bits[i][l]);
    buf_str(out, "},\n");
  }
  buf_str(out, "};\n");
}

// ---- what VEX has no operands for ----

struct x86_operand code_vector(const struct printer_state *p, int reg, bool half) {
  enum x86_kind whole = p->isa->vex ? X86_YMM : X86_ZMM, part = p->isa->vex ? X86_XMM : X86_YMM;
  return (struct x86_operand){.kind = half ? part : whole, .reg = reg, .index = -1};
}

// A register that holds this broadcast operand or literal; -1: none.
static int holder(const struct printer_state *p, const struct operand *o) {
  for (int r = 0; r < VEX_REGISTERS; r++) {
    const struct operand *h = &p->held[r].operand;
    if (!p->held[r].live || h->kind != o->kind) continue;
    if (o->kind == OPD_LITERAL ? h->bits == o->bits
                               : h->base == o->base && !memcmp(&h->index, &o->index, sizeof o->index))
      return r;
  }
  return -1;
}

// Registers below `end` belong to declarations and to temporaries of an operation: what they held is gone.
void code_drop_below(struct printer_state *p, int end) {
  for (int r = 0; r < end && r < VEX_REGISTERS; r++) p->held[r].live = false;
}

void code_drop_memory(struct printer_state *p) {
  for (int r = 0; r < VEX_REGISTERS; r++)
    if (p->held[r].operand.kind == OPD_BCAST) p->held[r].live = false;
}

// Replaces a broadcast operand by a register that holds it: one that does already, or reg.
int code_hold(struct printer_state *p, struct operand *o, int reg, struct error *err) {
  const int there = holder(p, o);
  if (there < 0) {
    struct x86_insn load = {.mnemonic = p->broadcast, .n = 2, .vex = true, .op = {code_vector(p, reg, false)}};
    int status = code_memory(p, o, &load.op[1], err);
    load.op[1].bcast = false;
    load.op[1].size = 4;
    if (status || (status = code_put(p, &p->body, &load, err))) return status;
    p->held[reg].live = true;
    p->held[reg].operand = *o;
  }
  *o = (struct operand){.kind = OPD_REG, .reg = there < 0 ? reg : there};
  return 0;
}

// A literal in every lane. It stays in a register that nothing else wants for the rest of the $block; memory if there
// is none.
int code_literal(struct printer_state *p, uint32_t bits, struct x86_operand *out, struct error *err) {
  const struct operand wanted = {.kind = OPD_LITERAL, .bits = bits};
  int status = 0, reg = p->isa->vex ? holder(p, &wanted) : -1;
  if (reg >= 0) return *out = code_vector(p, reg, false), 0;
  if ((status = literal_memory(p, bits, out, err)) || !p->isa->vex) return status;
  for (reg = VEX_REGISTERS - 1; reg > p->first_free && p->held[reg].live;) reg--;
  if (reg <= p->first_free) return 0;
  struct x86_insn load = {.mnemonic = p->move, .n = 2, .vex = true, .op = {code_vector(p, reg, false), *out}};
  load.op[1].size = x86_memory_size(&load);
  if ((status = code_put(p, &p->body, &load, err))) return status;
  p->held[reg].live = true;
  p->held[reg].operand = wanted;
  *out = load.op[0];
  return 0;
}

int code_operand(struct printer_state *p, const struct operand *o, bool half, struct x86_operand *out,
                 struct error *err) {
  switch (o->kind) {
  case OPD_MASK:
    if (!p->isa->vex) {
      *out = (struct x86_operand){.kind = X86_K, .reg = 1 + o->reg, .index = -1};
      return 0;
    }
    // fall through
  case OPD_REG: *out = code_vector(p, o->reg, half); return 0;
  case OPD_TILE: *out = (struct x86_operand){.kind = X86_TMM, .reg = o->reg, .index = -1}; return 0;
  case OPD_MEM:
  case OPD_BCAST: return code_memory(p, o, out, err);
  case OPD_LITERAL: return code_literal(p, o->bits, out, err);
  case OPD_VCONST: return code_vconst(p, o->vconst, out, err);
  default: return fail(err, STROBE_INTERNAL, "integer operand in a vector position");
  }
}
