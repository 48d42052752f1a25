// The printer `code`: each operation encoded, each $block one inline-asm statement made of `.byte` lines for libtcc.
//
// A block's pointers and integers reach it through one array, `long frame[]`, whose address is in rdi. They are loaded
// into general registers where they are first used; `base + I*stride` becomes base + {1,2,4,8} * stride, an odd
// multiple of the stride kept in a register, or a derived pointer. What finds no register stays in the frame and passes
// through rax, which is scratch; rbp and rsp belong to the C code around.
#include "print_code.h"

#include <string.h>

enum { MASK_TEMP = 7 };

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
int code_put(struct printer_state *p, struct buf *out, const struct x86_insn *insn, struct error *err) {
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

// ---- operations ----

// eax = n + constant, from the low 32 bits of the run-time integer; wide: rax, from all.
static int load_eax(struct printer_state *p, const struct operand *o, bool wide, struct error *err) {
  const struct linear *l = &o->index;
  struct x86_operand eax = {.kind = wide && l->n ? X86_R64 : X86_R32, .reg = X86_RAX, .index = -1};
  struct x86_insn insn = {
      .mnemonic = x86_mnemonic("mov", 3), .n = 2, .op = {eax, {.kind = X86_IMM, .value = l->constant}}};
  if (l->n > 1 || (l->n == 1 && l->term[0].coefficient != 1) || l->constant != (int32_t)l->constant)
    return fail(err, STROBE_UNSUPPORTED, "%.*s: an integer operand is a name plus a constant", o->text_len, o->text);
  struct x86_insn copy = {.mnemonic = insn.mnemonic, .n = 2, .op = {eax}};
  int status = l->n ? code_integer(p, l->term[0].name, &copy.op[1], err) : 0;
  copy.op[1].kind = eax.kind;
  p->rax_slot = -1;
  if (!l->n) return code_put(p, &p->body, &insn, err);
  if (!status) status = code_put(p, &p->body, &copy, err);
  insn.mnemonic = x86_mnemonic("add", 3);
  return status || !l->constant ? status : code_put(p, &p->body, &insn, err);
}

// A row's operand as an instruction's; temporaries are the registers after those in use.
static int resolve(struct printer_state *p, const struct row_operand *x, const struct operand *o,
                   struct x86_operand *out, struct error *err) {
  switch (x->kind) {
  case ROW_OPERAND:
    if (x->value >= 0) return code_operand(p, &o[x->value], x->half, out, err);
    *out = (struct x86_operand){.kind = X86_K, .reg = MASK_TEMP, .index = -1};
    return 0;
  case ROW_TEMP: *out = code_vector(p, p->scope.used[CLASS_VECTOR] + x->value, x->half); return 0;
  case ROW_VCONST: return code_vconst(p, x->value, out, err);
  case ROW_LITERAL: return code_literal(p, (uint32_t)x->value, out, err);
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
    if (r->op[i].strided) m->index = X86_RAX, m->scale = 1;
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
    if (count->n && ((status = code_put(p, &p->body, &compare, err)) || (status = code_put(p, &p->body, &skip, err))))
      return status;
    if ((status = code_put(p, &p->body, &insn, err))) return status;
    for (int i = 0; i < insn.n; i++)
      if (insn.op[i].kind == X86_MEM) insn.op[i].value += insn.op[i].size;
  }
  return 0;
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

static int emit_row(struct printer_state *p, const struct code_row *row, const struct operand *o, struct error *err) {
  const struct operand *n = NULL; // how many lanes, of rows that take the first n
  bool each = false, strided = false;
  for (int i = 0; i < row->n; i++) {
    each |= row->insn[i].each;
    for (int k = 0; k < row->insn[i].n; k++) strided |= row->insn[i].op[k].strided;
  }
  int status = 0;
  for (int i = 0; i < row->n && !status; i++) {
    const struct row_insn *r = &row->insn[i];
    const bool all = n && !n->index.n && n->index.constant >= p->target->lanes;
    struct x86_insn insn;
    if (r->mnemonic == INSN_UNKNOWN)
      status = fail(err, STROBE_UNSUPPORTED, "the encoder does not have an instruction of '%s'", row->row->code);
    else if (r->mnemonic == INSN_EAX)
      status = load_eax(p, n = &o[r->op[0].value], strided, err), p->eax_is_taken = each || strided;
    else if (r->each)
      status = emit_each(p, r, o, n, err);
    else if (!r->full || all)
      status = (status = build_insn(p, r, o, &insn, err)) ? status : code_put(p, &p->body, &insn, err);
    if (r->full && all) i++; // in place of the next
  }
  p->eax_is_taken = false;
  return status;
}

static const struct code_row *row_of(struct printer_state *p, const struct vop *op, struct error *err) {
  struct code_row *row = &p->rows[op - vop_table];
  if (row->row) return row;
  const struct isa_row *found = isa_row(p->isa, op->name);
  if (found)
    code_parse_row(found, row);
  else
    fail(err, STROBE_UNSUPPORTED, "%s has no row for @%s", p->target->name, op->name);
  return found ? row : NULL;
}

int code_op(struct printer_state *p, const struct vop *op, const struct operand *given, int n, struct error *err) {
  const struct code_row *row = row_of(p, op, err);
  struct operand o[VOP_MAX_OPERANDS];
  if (!row) return STROBE_UNSUPPORTED;
  memcpy(o, given, (size_t)n * sizeof *o);
  p->phase->slots += row->row->slots;
  const int held = operand_to_hold(p, row, o), temp = p->scope.used[CLASS_VECTOR] + row->row->temps;
  const int top = temp + (held >= 0);
  if (top > p->scope.peak[CLASS_VECTOR]) p->scope.peak[CLASS_VECTOR] = top;
  if (top > p->target->vregs)
    return fail(err, STROBE_UNSUPPORTED, "needs %d vector registers, %s has %d", top, p->target->name,
                p->target->vregs);
  code_drop_below(p, temp);
  p->first_free = temp;
  int status = held < 0 ? 0 : code_hold(p, &o[held], temp, err);
  if (!status) status = emit_row(p, row, o, err);
  if (op->signature[0] == 'm') code_drop_memory(p); // it may have changed
  return status;
}

int code_block_begin(struct printer_state *p, struct error *err) {
  (void)err;
  p->prologue.len = p->body.len = p->frame.len = 0;
  for (int i = 0; i < MAX_BLOCK_NAMES; i++) p->gpr_of_name[i] = -1;
  p->gpr_of_table = -1;
  p->gprs = p->frame_slots = p->n_derived = p->n_kept = 0;
  p->rax_slot = -1;
  code_drop_below(p, VEX_REGISTERS);
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
  buf_printf(out, "  :: \"D\"(frame) : CLOBBERS%s);\n", code_uses_saved_gpr(p) ? ", SAVED" : "");
  out->failed |= p->prologue.failed;
  return 0;
}
