// The printer `code`: each operation encoded, each $block one inline-asm statement made of `.byte` lines for libtcc.
//
// A block's pointers and integers reach it through one array, `long frame[]`, whose address is in rdi. They are loaded
// into general registers where they are first used; `base + I*stride` becomes base + {1,2,4,8} * stride, an odd
// multiple of the stride kept in a register, or a derived pointer. rax is scratch; rbp and rsp belong to the C code
// around.
#include "printer.h"

#include <stdlib.h>
#include <string.h>

static const int pool[] = {X86_RSI, X86_RDX, X86_RCX, X86_R8, 9, 10, 11, X86_RBX, 12, 13, 14, 15};
enum { POOL = sizeof pool / sizeof pool[0], MASK_TEMP = 7 };

// ---- instructions of a row ----

static int parse_row_operand(const char **c, struct row_operand *o) {
  if (**c == 'y' || **c == 'x') o->half = true, ++*c;
  if (**c == '$') {
    o->kind = ROW_OPERAND;
    o->value = (*c)[1] - '0';
    *c += 2;
  } else if (**c == 't') {
    o->kind = ROW_TEMP;
    o->value = (*c)[1] - '0';
    *c += 2;
  } else if (!strncmp(*c, "eax", 3)) {
    o->kind = ROW_EAX;
    *c += 3;
  } else if (**c == 'k') { // kt
    o->kind = ROW_OPERAND;
    o->value = -2;
    *c += 2;
  } else if (!strncmp(*c, "#0x", 3)) {
    o->kind = ROW_LITERAL;
    o->value = (int)strtoul(*c + 1, (char **)c, 16);
  } else if (**c == '#') {
    o->kind = ROW_VCONST;
    size_t len = strcspn(++*c, ",; ");
    for (int i = 0; i < vconst_count; i++)
      if (strlen(vconst_table[i].name) == len && !memcmp(vconst_table[i].name, *c, len)) o->value = i;
    *c += len;
  } else {
    o->kind = ROW_IMM;
    for (; **c >= '0' && **c <= '9'; ++*c) o->value = o->value * 10 + **c - '0';
  }
  return 0;
}

static void parse_row(const struct isa_row *row, struct code_row *out) {
  memset(out, 0, sizeof *out);
  out->row = row;
  for (const char *c = row->code; *c;) {
    struct row_insn *insn = &out->insn[out->n++];
    while (*c == ' ') c++;
    if (!strncmp(c, "each ", 5)) insn->each = true, c += 5;
    if (!strncmp(c, "full ", 5)) insn->full = true, c += 5;
    size_t len = strcspn(c, " ");
    insn->mask = -1;
    insn->mnemonic = len == 3 && !memcmp(c, "eax", 3) ? -1 : x86_mnemonic(c, (int)len);
    for (c += len; *c == ' ' || *c == ',';) {
      c++;
      parse_row_operand(&c, &insn->op[insn->n++]);
      for (; *c == '{'; c += strcspn(c, "}") + 1) {
        if (c[1] == 'z')
          insn->zeroing = true;
        else
          insn->mask = c[1] == '$' ? c[2] - '0' : -2;
      }
    }
    if (*c == ';') c++;
  }
}

// ---- emitting bytes ----

static const char hex[] = "0123456789abcdef";

// `".byte 0x62,...\n" /* mnemonic */`
static void put_byte_line(const struct printer_state *p, struct buf *out, const struct x86_insn *insn,
                          const uint8_t *bytes, int n) {
  for (int i = 0; i < p->indent + 2; i++) buf_char(out, ' ');
  buf_str(out, "\".byte ");
  for (int i = 0; i < n; i++) {
    const char text[5] = {',', '0', 'x', hex[bytes[i] >> 4], hex[bytes[i] & 15]};
    buf_add(out, text + !i, i ? 5 : 4);
  }
  buf_str(out, "\\n\" /* ");
  x86_print(insn, out);
  buf_str(out, " */\n");
}

// Without comments, `out` collects raw bytes, and code_block_end packs them into .quad: libtcc reads that more than
// twice as fast as .byte (36 KB: 1.3 against 3.1 ms).
static int put(struct printer_state *p, struct buf *out, const struct x86_insn *insn, struct error *err) {
  uint8_t bytes[15];
  int64_t start = p->clock_ns ? p->clock_ns() : 0;
  int n = x86_encode(insn, bytes);
  if (p->clock_ns) p->stats->encode_ns += p->clock_ns() - start;
  if (!n) {
    struct buf text = {0};
    x86_print(insn, &text);
    fail(err, STROBE_INTERNAL, "no encoding of '%s'", text.data ? text.data : "?");
    buf_free(&text);
    return STROBE_INTERNAL;
  }
  if (p->comments)
    put_byte_line(p, out, insn, bytes, n);
  else
    buf_add(out, (const char *)bytes, (size_t)n);
  p->phase->instructions++;
  p->phase->bytes += n;
  return 0;
}

static void put_quads(struct buf *out, const uint8_t *bytes, size_t n) {
  char text[24], *c;
  for (size_t i = 0; i + 8 <= n; i += 8) {
    buf_str(out, i % 64 ? "," : i ? "\\n\"\n\".quad " : "\".quad ");
    c = text;
    *c++ = '0';
    *c++ = 'x';
    for (int b = 7; b >= 0; b--) {
      *c++ = hex[bytes[i + (size_t)b] >> 4];
      *c++ = hex[bytes[i + (size_t)b] & 15];
    }
    buf_add(out, text, (size_t)(c - text));
  }
  if (n >= 8) buf_str(out, "\\n\"\n");
  for (size_t i = n / 8 * 8; i < n; i++) buf_printf(out, "\".byte %d\\n\"\n", bytes[i]);
}

static struct x86_operand r64(int reg) { return (struct x86_operand){.kind = X86_R64, .reg = reg, .index = -1}; }

static int simple(struct printer_state *p, const char *mnemonic, struct x86_operand a, struct x86_operand b,
                  int64_t imm, bool has_imm, struct error *err) {
  struct x86_insn insn = {
      .mnemonic = x86_mnemonic(mnemonic, (int)strlen(mnemonic)), .n = has_imm ? 3 : 2, .op = {a, b}};
  if (has_imm) insn.op[2] = (struct x86_operand){.kind = X86_IMM, .value = imm};
  return put(p, &p->prologue, &insn, err);
}

// ---- general registers ----

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
static int load_slot(struct printer_state *p, const char *c_text, struct error *err) {
  int reg = new_gpr(p, err);
  if (reg < 0) return reg;
  buf_printf(&p->frame, "frame[%d] = (long)%s; ", p->frame_slots, c_text);
  struct x86_operand mem = {
      .kind = X86_MEM, .base = X86_RDI, .index = -1, .scale = 1, .size = 8, .value = 8 * p->frame_slots++};
  return simple(p, "mov", r64(reg), mem, 0, false, err) ? -1 : reg;
}

static int name_gpr(struct printer_state *p, int name, struct error *err) {
  if (p->gpr_of_name[name] < 0) p->gpr_of_name[name] = load_slot(p, p->scope.name[name].name, err);
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
  int stride_reg = name_gpr(p, stride, err), base_reg = base < 0 ? 0 : name_gpr(p, base, err), reg;
  if (stride_reg < 0 || base_reg < 0 || (reg = new_gpr(p, err)) < 0) return -1;
  int64_t k = base < 0 ? coefficient : coefficient * p->scope.name[base].bytes;
  if (simple(p, "imul", r64(reg), r64(stride_reg), k, true, err)) return -1;
  if (base >= 0 && simple(p, "add", r64(reg), r64(base_reg), 0, false, err)) return -1;
  p->derived[p->n_derived++] = (struct derived){base, stride, coefficient, reg};
  return reg;
}

static int memory(struct printer_state *p, const struct operand *o, struct x86_operand *out, struct error *err) {
  int bytes = p->scope.name[o->base].bytes;
  *out = (struct x86_operand){.kind = X86_MEM, .index = -1, .scale = 1, .bcast = o->kind == OPD_BCAST};
  if (__builtin_mul_overflow(o->index.constant, (int64_t)bytes, &out->value) || out->value != (int32_t)out->value)
    return fail(err, STROBE_UNSUPPORTED, "displacement of %.*s does not fit 32 bits", o->text_len, o->text);
  int terms = 0, stride = 0;
  int64_t k = 0;
  for (int i = 0; i < o->index.n; i++)
    if (o->index.term[i].coefficient) terms++, stride = o->index.term[i].name, k = o->index.term[i].coefficient;
  if (terms > 1) return fail(err, STROBE_UNSUPPORTED, "%.*s: one run-time stride per address", o->text_len, o->text);
  if (!terms) return (out->base = name_gpr(p, o->base, err)) < 0 ? STROBE_UNSUPPORTED : 0;
  int64_t odd = k;
  int scale = bytes;
  while (odd > 0 && odd % 2 == 0 && scale < 8) odd /= 2, scale *= 2;
  if (k > 0 && odd % 2 && odd <= 7) {
    out->base = name_gpr(p, o->base, err);
    out->index = odd == 1 ? name_gpr(p, stride, err) : derived_gpr(p, -1, stride, odd, err);
    out->scale = scale;
    return out->base < 0 || out->index < 0 ? STROBE_UNSUPPORTED : 0;
  }
  return (out->base = derived_gpr(p, o->base, stride, k, err)) < 0 ? STROBE_UNSUPPORTED : 0;
}

// ---- constants ----

static int table_memory(struct printer_state *p, int line, int entry, struct x86_operand *out, struct error *err) {
  if (p->gpr_of_table < 0 && (p->gpr_of_table = load_slot(p, "vector_constants", err)) < 0) return STROBE_UNSUPPORTED;
  *out = (struct x86_operand){
      .kind = X86_MEM, .base = p->gpr_of_table, .index = -1, .scale = 1, .value = 64 * line + 4 * entry};
  return 0;
}

static int vconst_memory(struct printer_state *p, int id, struct x86_operand *out, struct error *err) {
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

// ---- operations ----

static struct x86_operand vector(const struct printer_state *p, int reg, bool half) {
  enum x86_kind whole = p->isa->vex ? X86_YMM : X86_ZMM, part = p->isa->vex ? X86_XMM : X86_YMM;
  return (struct x86_operand){.kind = half ? part : whole, .reg = reg, .index = -1};
}

static int operand(struct printer_state *p, const struct operand *o, bool half, struct x86_operand *out,
                   struct error *err) {
  switch (o->kind) {
  case OPD_MASK:
    if (!p->isa->vex) {
      *out = (struct x86_operand){.kind = X86_K, .reg = 1 + o->reg, .index = -1};
      return 0;
    }
    // fall through
  case OPD_REG: *out = vector(p, o->reg, half); return 0;
  case OPD_MEM:
  case OPD_BCAST: return memory(p, o, out, err);
  case OPD_LITERAL: return literal_memory(p, o->bits, out, err);
  case OPD_VCONST: return vconst_memory(p, o->vconst, out, err);
  default: return fail(err, STROBE_INTERNAL, "integer operand in a vector position");
  }
}

// eax = n + constant, from the low 32 bits of the run-time integer.
static int load_eax(struct printer_state *p, const struct operand *o, struct error *err) {
  const struct linear *l = &o->index;
  struct x86_operand eax = {.kind = X86_R32, .reg = X86_RAX, .index = -1};
  struct x86_insn insn = {
      .mnemonic = x86_mnemonic("mov", 3), .n = 2, .op = {eax, {.kind = X86_IMM, .value = l->constant}}};
  if (l->n > 1 || (l->n == 1 && l->term[0].coefficient != 1) || l->constant != (int32_t)l->constant)
    return fail(err, STROBE_UNSUPPORTED, "%.*s: an integer operand is a name plus a constant", o->text_len, o->text);
  if (!l->n) return put(p, &p->body, &insn, err);
  int reg = name_gpr(p, l->term[0].name, err);
  if (reg < 0) return STROBE_UNSUPPORTED;
  struct x86_insn copy = {.mnemonic = insn.mnemonic, .n = 2, .op = {eax, {.kind = X86_R32, .reg = reg, .index = -1}}};
  int status = put(p, &p->body, &copy, err);
  insn.mnemonic = x86_mnemonic("add", 3);
  return status || !l->constant ? status : put(p, &p->body, &insn, err);
}

// A row's operand as an instruction's; temporaries are the registers after those in use.
static int resolve(struct printer_state *p, const struct row_operand *x, const struct operand *o,
                   struct x86_operand *out, struct error *err) {
  switch (x->kind) {
  case ROW_OPERAND:
    if (x->value >= 0) return operand(p, &o[x->value], x->half, out, err);
    *out = (struct x86_operand){.kind = X86_K, .reg = MASK_TEMP, .index = -1};
    return 0;
  case ROW_TEMP: *out = vector(p, p->scope.vregs + x->value, x->half); return 0;
  case ROW_VCONST: return vconst_memory(p, x->value, out, err);
  case ROW_LITERAL: return literal_memory(p, (uint32_t)x->value, out, err);
  case ROW_EAX: *out = (struct x86_operand){.kind = X86_R32, .reg = X86_RAX, .index = -1}; return 0;
  default: *out = (struct x86_operand){.kind = X86_IMM, .value = x->value}; return 0;
  }
}

static int build_insn(struct printer_state *p, const struct row_insn *r, const struct operand *o, struct x86_insn *insn,
                      struct error *err) {
  *insn = (struct x86_insn){.mnemonic = r->mnemonic, .n = r->n, .zeroing = r->zeroing, .vex = p->isa->vex};
  for (int i = 0; i < r->n; i++) {
    int status = resolve(p, &r->op[i], o, &insn->op[i], err);
    if (status) return status;
  }
  struct x86_operand *from = &insn->op[1];
  if (r->mnemonic == p->move && from->kind == X86_MEM && from->bcast)
    insn->mnemonic = p->broadcast; // it has no {1to16}
  for (int i = 0; i < r->n; i++) {
    struct x86_operand *m = &insn->op[i];
    if (m->kind != X86_MEM) continue;
    m->size = m->bcast ? 4 : x86_memory_size(insn);
    if (insn->mnemonic == p->broadcast) m->bcast = false;
  }
  insn->mask = r->mask == -2 ? MASK_TEMP : r->mask >= 0 ? 1 + o[r->mask].reg : 0;
  return 0;
}

// The instruction once per element, numbered in its last operand and in memory, while the number is below n: skipped
// by a jump if n is in eax, left out if n is constant.
static int emit_each(struct printer_state *p, const struct row_insn *r, const struct operand *o,
                     const struct operand *n, struct error *err) {
  static const struct x86_operand eax = {.kind = X86_R32, .reg = X86_RAX, .index = -1};
  const struct linear *count = &n->index;
  struct x86_insn insn;
  int status = build_insn(p, r, o, &insn, err);
  if (status) return status;
  for (int e = 0; e < p->target->lanes && (count->n || e < count->constant); e++) {
    uint8_t bytes[15];
    insn.op[insn.n - 1].value = e;
    struct x86_insn compare = {.mnemonic = x86_mnemonic("cmp", 3), .n = 2, .op = {eax, {.kind = X86_IMM, .value = e}}};
    struct x86_insn skip = {
        .mnemonic = x86_mnemonic("jle", 3), .n = 1, .op = {{.kind = X86_IMM, .value = x86_encode(&insn, bytes)}}};
    if (count->n && ((status = put(p, &p->body, &compare, err)) || (status = put(p, &p->body, &skip, err))))
      return status;
    if ((status = put(p, &p->body, &insn, err))) return status;
    for (int i = 0; i < insn.n; i++)
      if (insn.op[i].kind == X86_MEM) insn.op[i].value += insn.op[i].size;
  }
  return 0;
}

// ---- broadcast operands where instructions have none ----

static bool same_operand(const struct operand *a, const struct operand *b) {
  return a->base == b->base && !memcmp(&a->index, &b->index, sizeof a->index);
}

// The broadcast operand of a row that isn't just moved into a register; -1: none.
static int operand_to_hold(const struct printer_state *p, const struct code_row *row, const struct operand *o) {
  if (!p->isa->vex) return -1;
  for (int i = 0; i < row->n; i++)
    for (int k = 0; k < row->insn[i].n && row->insn[i].mnemonic != p->move; k++) {
      const struct row_operand *x = &row->insn[i].op[k];
      if (x->kind == ROW_OPERAND && x->value >= 0 && o[x->value].kind == OPD_BCAST) return x->value;
    }
  return -1;
}

// Replaces o by the register that holds it, which is loaded unless it does already.
static int hold(struct printer_state *p, struct operand *o, int reg, struct error *err) {
  const bool there = p->held.reg == reg && p->held.vregs == p->scope.vregs && same_operand(&p->held.operand, o);
  if (!there) {
    struct x86_insn load = {.mnemonic = p->broadcast, .n = 2, .vex = true, .op = {vector(p, reg, false)}};
    int status = memory(p, o, &load.op[1], err);
    load.op[1].bcast = false;
    load.op[1].size = 4;
    if (status || (status = put(p, &p->body, &load, err))) return status;
    p->held.operand = *o;
    p->held.reg = reg;
    p->held.vregs = p->scope.vregs;
  }
  *o = (struct operand){.kind = OPD_REG, .reg = reg};
  return 0;
}

static int emit_row(struct printer_state *p, const struct code_row *row, const struct operand *o, struct error *err) {
  const struct operand *n = NULL; // how many lanes, of rows that take the first n
  int status = 0;
  for (int i = 0; i < row->n && !status; i++) {
    const struct row_insn *r = &row->insn[i];
    const bool all = n && !n->index.n && n->index.constant >= p->target->lanes;
    struct x86_insn insn;
    if (r->mnemonic < 0)
      status = load_eax(p, n = &o[r->op[0].value], err);
    else if (r->each)
      status = emit_each(p, r, o, n, err);
    else if (!r->full || all)
      status = (status = build_insn(p, r, o, &insn, err)) ? status : put(p, &p->body, &insn, err);
    if (r->full && all) i++; // in place of the next
  }
  return status;
}

static const struct code_row *row_of(struct printer_state *p, const struct vop *op, struct error *err) {
  struct code_row *row = &p->rows[op - vop_table];
  if (row->row) return row;
  const struct isa_row *found = isa_row(p->isa, op->name);
  if (found)
    parse_row(found, row);
  else
    fail(err, STROBE_UNSUPPORTED, "%s has no row for @%s", p->target->name, op->name);
  return found ? row : NULL;
}

int code_op(struct printer_state *p, const struct vop *op, const struct operand *given, int n, struct error *err) {
  const struct code_row *row = row_of(p, op, err);
  struct operand o[VOP_MAX_OPERANDS];
  if (!row) return STROBE_UNSUPPORTED;
  memcpy(o, given, (size_t)n * sizeof *o);
  p->phase->ops++;
  p->phase->fmas += op->is_fma;
  p->phase->slots += row->row->slots;
  const int held = operand_to_hold(p, row, o), temp = p->scope.vregs + row->row->temps, top = temp + (held >= 0);
  if (top > p->scope.vregs_peak) p->scope.vregs_peak = top;
  if (top > p->target->vregs)
    return fail(err, STROBE_UNSUPPORTED, "needs %d vector registers, %s has %d", top, p->target->name,
                p->target->vregs);
  if (p->held.vregs != p->scope.vregs || p->held.reg < temp) p->held.reg = -1; // another register's, or overwritten
  int status = held < 0 ? 0 : hold(p, &o[held], temp, err);
  if (!status) status = emit_row(p, row, o, err);
  if (op->signature[0] == 'm') p->held.reg = -1; // memory may have changed
  return status;
}

int code_block_begin(struct printer_state *p, struct error *err) {
  (void)err;
  p->prologue.len = p->body.len = p->frame.len = 0;
  for (int i = 0; i < MAX_BLOCK_NAMES; i++) p->gpr_of_name[i] = -1;
  p->gpr_of_table = -1;
  p->gprs = p->frame_slots = p->n_derived = 0;
  p->held.reg = -1;
  return 0;
}

int code_block_end(struct printer_state *p, struct buf *out, struct error *err) {
  (void)err;
  out->failed |= p->prologue.failed | p->body.failed | p->frame.failed; // also of a block that is empty because of it
  if (!p->body.len) return 0;
  for (int i = 0; i < p->indent; i++) buf_char(out, ' ');
  buf_add(out, p->frame.data ? p->frame.data : "", p->frame.len);
  buf_str(out, "__asm__ volatile(\n");
  if (p->comments) {
    if (p->prologue.len) buf_add(out, p->prologue.data, p->prologue.len);
    buf_add(out, p->body.data, p->body.len);
  } else {
    buf_add(&p->prologue, p->body.data, p->body.len);
    if (!p->prologue.failed) put_quads(out, (const uint8_t *)p->prologue.data, p->prologue.len);
  }
  for (int i = 0; i < p->indent; i++) buf_char(out, ' ');
  buf_str(out, "  :: \"D\"(frame) : CLOBBERS);\n");
  out->failed |= p->prologue.failed;
  return 0;
}
