// The printers `scalar` (lane loops, any compiler) and `intrin` (intrinsics with named variables).
#include "printer.h"

#include <string.h>

static void print_linear(const struct printer_state *p, const struct linear *l, struct buf *out) {
  bool first = true;
  for (int i = 0; i < l->n; i++) {
    int64_t k = l->term[i].coefficient;
    if (!k) continue;
    if (!first)
      buf_str(out, k < 0 ? " - " : " + ");
    else if (k < 0)
      buf_char(out, '-');
    if (k != 1 && k != -1) {
      buf_int(out, k < 0 ? -k : k);
      buf_str(out, " * ");
    }
    buf_str(out, p->scope.name[l->term[i].name].name);
    first = false;
  }
  if (first) {
    buf_int(out, l->constant);
  } else if (l->constant) {
    buf_str(out, l->constant < 0 ? " - " : " + ");
    buf_int(out, l->constant < 0 ? -l->constant : l->constant);
  }
}

static bool is_zero(const struct linear *l) {
  for (int i = 0; i < l->n; i++)
    if (l->term[i].coefficient) return false;
  return !l->constant;
}

static void print_float(uint32_t bits, struct buf *out) {
  float f;
  memcpy(&f, &bits, 4);
  size_t at = out->len;
  buf_printf(out, "%.9g", (double)f);
  char *comma = out->failed ? NULL : strchr(out->data + at, ',');
  if (comma) *comma = '.'; // a host's locale
  if (!out->failed && !strpbrk(out->data + at, ".e")) buf_str(out, ".0");
  buf_char(out, 'f');
}

static bool finite_bits(uint32_t bits) { return (bits & 0x7f800000u) != 0x7f800000u; }

// `k + 3*ldk + 17`, plus lanes if this is one lane of a vector.
static void print_pointer(const struct printer_state *p, const struct operand *o, bool lane, struct buf *out) {
  const struct block_name *b = &p->scope.name[o->base];
  buf_str(out, b->name);
  if (!is_zero(&o->index)) {
    buf_str(out, " + ");
    print_linear(p, &o->index, out);
  }
  if (lane) buf_str(out, b->bytes == 4 ? " + e" : " + 2 * e");
}

void c_register_name(const struct vop_scope *s, const struct operand *o, struct buf *out) {
  const struct vreg_decl *d = &s->vreg[o->decl];
  int flat = o->reg - d->first;
  buf_str(out, d->name);
  if (d->dims[1]) {
    buf_int(out, flat / d->dims[1]);
    buf_char(out, '_');
    buf_int(out, flat % d->dims[1]);
  } else if (d->dims[0]) {
    buf_int(out, flat);
  }
}

// ---- intrin ----

// `_mm512_set1_ps(`, `_mm256_set1_ps(`: the intrinsic of the vector's width.
static void intrin_name(const struct printer_state *p, const char *name, struct buf *out) {
  buf_str(out, p->isa->vex ? "_mm256_" : "_mm512_");
  buf_str(out, name);
}

static void intrin_value(const struct printer_state *p, const struct operand *o, struct buf *out) {
  switch (o->kind) {
  case OPD_REG:
  case OPD_MASK: c_register_name(&p->scope, o, out); break;
  case OPD_TILE: buf_int(out, o->reg); break;
  case OPD_MEM:
    intrin_name(p, "loadu_ps(", out);
    print_pointer(p, o, false, out);
    buf_char(out, ')');
    break;
  case OPD_BCAST:
    if (p->scope.name[o->base].bytes == 4) {
      intrin_name(p, "set1_ps(", out);
      buf_str(out, p->scope.name[o->base].name);
      buf_char(out, '[');
      print_linear(p, &o->index, out);
      buf_str(out, "])");
    } else {
      buf_str(out, "pair_at(");
      print_pointer(p, o, false, out);
      buf_char(out, ')');
    }
    break;
  case OPD_LITERAL:
    if (finite_bits(o->bits) && o->text[1] != 'x') {
      intrin_name(p, "set1_ps(", out);
      print_float(o->bits, out);
      buf_char(out, ')');
    } else {
      intrin_name(p, p->isa->vex ? "castsi256_ps(" : "castsi512_ps(", out);
      intrin_name(p, "set1_epi32(", out);
      buf_printf(out, "(int)0x%08xu))", o->bits);
    }
    break;
  case OPD_VCONST:
    intrin_name(p, "loadu_ps(", out);
    buf_printf(out, p->isa->vex ? "(const float *)%s)" : "%s)", vconst_table[o->vconst].name);
    break;
  case OPD_INT: print_linear(p, &o->index, out); break;
  }
}

static void intrin_operand(const struct printer_state *p, const struct operand *o, char suffix, struct buf *out) {
  const char *to_integer = p->isa->vex ? "_mm256_castps_si256(" : "_mm512_castps_si512(";
  const char *open = suffix == 'i' ? to_integer : suffix == 'h' ? "(__m512bh)(" : NULL;
  if (suffix == 'p' && o->kind == OPD_VCONST) {
    buf_str(out, vconst_table[o->vconst].name);
  } else if (suffix == 'p' || suffix == 'f') {
    const bool cast = suffix == 'f' && p->scope.name[o->base].bytes != 4;
    if (cast) buf_str(out, "(const float *)(const void *)(");
    print_pointer(p, o, false, out);
    if (cast) buf_char(out, ')');
  } else if (open && !(suffix == 'h' && o->kind == OPD_REG)) {
    buf_str(out, open);
    intrin_value(p, o, out);
    buf_char(out, ')');
  } else {
    if (open) buf_str(out, "(__m512bh)");
    intrin_value(p, o, out);
  }
}

// ---- scalar ----

static void scalar_memory(const struct printer_state *p, const struct operand *o, char field, struct buf *out) {
  bool f32 = p->scope.name[o->base].bytes == 4, lane = o->kind == OPD_MEM;
  if (f32 && field == 'f') {
    buf_str(out, p->scope.name[o->base].name);
    buf_char(out, '[');
    print_linear(p, &o->index, out);
    buf_str(out, lane ? " + e]" : "]");
    return;
  }
  buf_str(out, field == 'f' ? "as_float(ldu(" : "ldu(");
  print_pointer(p, o, lane, out);
  buf_str(out, field == 'f' ? "))" : ")");
}

static void scalar_operand(const struct printer_state *p, const struct operand *o, char field, bool call,
                           struct buf *out) {
  switch (o->kind) {
  case OPD_REG:
    c_register_name(&p->scope, o, out);
    if (!call) buf_printf(out, "[e].%c", field);
    break;
  case OPD_MASK:
    c_register_name(&p->scope, o, out);
    if (!call) buf_str(out, "[e]");
    break;
  case OPD_TILE:
    if (field == 's')
      buf_printf(out, "%d, %d", p->scope.vreg[o->decl].rows, p->scope.vreg[o->decl].columns);
    else if (field == 'w')
      buf_int(out, p->scope.vreg[o->decl].columns);
    else
      c_register_name(&p->scope, o, out);
    break;
  case OPD_MEM:
  case OPD_BCAST:
    if (field == 'p')
      print_pointer(p, o, !call, out);
    else
      scalar_memory(p, o, field, out);
    break;
  case OPD_LITERAL:
    if (field == 'f' && finite_bits(o->bits))
      print_float(o->bits, out);
    else
      buf_printf(out, field == 'f' ? "as_float(0x%08xu)" : "0x%08xu", o->bits);
    break;
  case OPD_VCONST:
    if (field == 'f') buf_str(out, "as_float(");
    buf_str(out, vconst_table[o->vconst].name);
    if (field) buf_str(out, field == 'f' ? "[e])" : "[e]");
    break;
  case OPD_INT: print_linear(p, &o->index, out); break;
  }
}

// ---- both ----

// Copies a row's text, replacing $N with an optional suffix (i, h, p, n and f, a pointer to floats, after intrin; .f,
// .u, p, n, of a tile s, its rows and columns, and w, its columns, after scalar).
static void expand(struct printer_state *p, const char *text, const struct operand *o, bool call, struct buf *out) {
  bool scalar = p->kind == PRINTER_SCALAR;
  for (const char *c = text; *c; c++) {
    if (*c != '$') {
      buf_char(out, *c);
      continue;
    }
    const struct operand *x = &o[*++c - '0'];
    char suffix = 0;
    if (scalar && c[1] == '.')
      suffix = c[2], c += 2;
    else if (c[1] == 'p' || c[1] == 'f' || c[1] == 'n' || c[1] == 'i' || c[1] == 'h' || c[1] == 's' || c[1] == 'w')
      suffix = *++c;
    if (x->kind == OPD_VCONST) p->vconst_used[x->vconst] = true;
    if (scalar)
      scalar_operand(p, x, suffix, call, out);
    else
      intrin_operand(p, x, suffix, out);
  }
}

// Constants that a row's text mentions by name (zip_lo, iota ...).
static void note_named_constants(struct printer_state *p, const char *text) {
  for (int i = 0; i < vconst_count; i++)
    if (strstr(text, vconst_table[i].name)) p->vconst_used[i] = true;
}

int c_op(struct printer_state *p, const struct vop *op, const struct operand *o, int indent, struct buf *out,
         struct error *err) {
  bool scalar = p->kind == PRINTER_SCALAR;
  const char *text = op->scalar;
  if (!scalar) {
    const struct isa_row *row = isa_row(p->isa, op->name);
    if (!row) return fail(err, STROBE_UNSUPPORTED, "%s has no row for @%s", p->target->name, op->name);
    p->phase->slots += row->slots;
    text = row->intrin;
    note_named_constants(p, text);
  }
  if (!*text) return 0;
  bool call = scalar && !strncmp(text, "call:", 5);
  for (int i = 0; i < indent; i++) buf_char(out, ' ');
  if (scalar && !call) buf_str(out, "LANES ");
  expand(p, call ? text + 5 : text, o, call, out);
  size_t len = strlen(text);
  buf_str(out, text[len - 1] == '}' ? "\n" : ";\n");
  return 0;
}

void c_declare(struct printer_state *p, int first_decl, int indent, struct buf *out) {
  for (int i = first_decl; i < p->scope.n_vreg; i++) {
    const struct vreg_decl *d = &p->scope.vreg[i];
    int n = (d->dims[0] ? d->dims[0] : 1) * (d->dims[1] ? d->dims[1] : 1);
    const bool scalar = p->kind == PRINTER_SCALAR;
    if (d->of == CLASS_TILE && !scalar) continue; // intrinsics take their numbers
    for (int c = 0; c < indent; c++) buf_char(out, ' ');
    if (scalar)
      buf_str(out, d->of == CLASS_MASK ? "unsigned char " : d->of == CLASS_TILE ? "tile " : "lane ");
    else
      buf_printf(out, "%s ", d->of == CLASS_MASK ? p->isa->mask_type : p->isa->vector_type);
    for (int r = 0; r < n; r++) {
      struct operand o = {.kind = OPD_REG, .decl = i, .reg = d->first + r};
      if (r) buf_str(out, ", ");
      c_register_name(&p->scope, &o, out);
      if (scalar && d->of != CLASS_TILE) buf_printf(out, "[%d]", p->target->lanes);
    }
    buf_str(out, ";\n");
  }
}

void c_constants(struct printer_state *p, struct buf *out) {
  for (int i = 0; i < vconst_count; i++) {
    if (!p->vconst_used[i]) continue;
    buf_printf(out, "static const unsigned %s[16] = { // %s", vconst_table[i].name, vconst_table[i].about);
    for (int l = 0; l < 16; l++)
      buf_printf(out, "%s0x%08xu%s", l % 8 ? " " : "\n  ", vconst_table[i].bits[l], l < 15 ? "," : "};\n");
  }
}
