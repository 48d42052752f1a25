// Operand text to operands: names are resolved against the live registers and the names of the current block.
#include "vop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct cursor {
  const char *p, *end;
  const struct vop_scope *scope;
  struct error *err;
  int depth;
};

static void skip(struct cursor *c) {
  while (c->p < c->end && (*c->p == ' ' || *c->p == '\t')) c->p++;
}

static bool is_alpha(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static bool take(struct cursor *c, char ch) {
  skip(c);
  if (c->p == c->end || *c->p != ch) return false;
  c->p++;
  return true;
}

static int word(struct cursor *c, const char **text) {
  skip(c);
  *text = c->p;
  if (c->p < c->end && is_alpha(*c->p))
    while (c->p < c->end && (is_alpha(*c->p) || is_digit(*c->p))) c->p++;
  return (int)(c->p - *text);
}

// Names differ in their first letter most of the time, and this is called a hundred thousand times a kernel.
static bool same(const char *name, const char *text, int len) {
  return len && name[0] == text[0] && !strncmp(name, text, (size_t)len) && !name[len];
}

// ---- linear forms: integer arithmetic over the block's integers ----

static int sum(struct cursor *c, struct linear *out);

static int add_term(struct cursor *c, struct linear *l, int name, int64_t k) {
  for (int i = 0; i < l->n; i++)
    if (l->term[i].name == name) {
      if (__builtin_add_overflow(l->term[i].coefficient, k, &l->term[i].coefficient)) goto overflow;
      return 0;
    }
  if (!k) return 0;
  if (l->n == VOP_MAX_TERMS)
    return fail(c->err, STROBE_INVALID, "an index may use %d run-time integers at most", VOP_MAX_TERMS);
  l->term[l->n].name = name;
  l->term[l->n++].coefficient = k;
  return 0;
overflow:
  return fail(c->err, STROBE_INVALID, "index overflows 64 bits");
}

static int scale(struct cursor *c, struct linear *l, int64_t k) {
  bool over = __builtin_mul_overflow(l->constant, k, &l->constant);
  for (int i = 0; i < l->n; i++) over |= __builtin_mul_overflow(l->term[i].coefficient, k, &l->term[i].coefficient);
  return over ? fail(c->err, STROBE_INVALID, "index overflows 64 bits") : 0;
}

static int factor(struct cursor *c, struct linear *out) {
  *out = (struct linear){0};
  if (take(c, '(')) {
    if (++c->depth > 32) return fail(c->err, STROBE_INVALID, "index nests deeper than 32 parentheses");
    int status = sum(c, out);
    c->depth--;
    if (!status && !take(c, ')')) return fail(c->err, STROBE_INVALID, "missing ) in an index");
    return status;
  }
  if (take(c, '-')) {
    if (++c->depth > 32) return fail(c->err, STROBE_INVALID, "index nests deeper than 32 signs");
    int status = factor(c, out);
    c->depth--;
    return status ? status : scale(c, out, -1);
  }
  skip(c);
  if (c->p < c->end && is_digit(*c->p)) {
    while (c->p < c->end && is_digit(*c->p))
      if (__builtin_mul_overflow(out->constant, 10, &out->constant) ||
          __builtin_add_overflow(out->constant, *c->p++ - '0', &out->constant))
        return fail(c->err, STROBE_INVALID, "number in an index overflows 64 bits");
    return 0;
  }
  const char *text;
  int len = word(c, &text);
  if (!len) return fail(c->err, STROBE_INVALID, "expected a number, a name or ( in an index");
  for (int i = 0; i < c->scope->n_names; i++)
    if (same(c->scope->name[i].name, text, len)) {
      if (c->scope->name[i].bytes) return fail(c->err, STROBE_INVALID, "%.*s is a pointer, not an integer", len, text);
      return add_term(c, out, i, 1);
    }
  return fail(c->err, STROBE_INVALID, "%.*s is neither bound nor an integer of this $block", len, text);
}

static int product(struct cursor *c, struct linear *out) {
  int status = factor(c, out);
  while (!status) {
    skip(c);
    char op = c->p < c->end ? *c->p : 0;
    if (op != '*' && op != '/' && op != '%') return 0;
    c->p++;
    struct linear right;
    if ((status = factor(c, &right))) return status;
    if (op == '*') {
      if (right.n && out->n) return fail(c->err, STROBE_INVALID, "product of two run-time integers in an index");
      if (right.n) {
        struct linear swap = *out;
        *out = right;
        right = swap;
      }
      status = scale(c, out, right.constant);
    } else {
      if (out->n || right.n || right.constant <= 0 || out->constant < 0)
        return fail(c->err, STROBE_INVALID, "%c in an index needs non-negative constants", op);
      out->constant = op == '/' ? out->constant / right.constant : out->constant % right.constant;
    }
  }
  return status;
}

static int sum(struct cursor *c, struct linear *out) {
  int status = product(c, out);
  while (!status) {
    skip(c);
    char op = c->p < c->end ? *c->p : 0;
    if (op != '+' && op != '-') return 0;
    c->p++;
    struct linear right;
    if ((status = product(c, &right))) return status;
    if (op == '-' && (status = scale(c, &right, -1))) return status;
    if (__builtin_add_overflow(out->constant, right.constant, &out->constant))
      return fail(c->err, STROBE_INVALID, "index overflows 64 bits");
    for (int i = 0; i < right.n && !status; i++)
      status = add_term(c, out, right.term[i].name, right.term[i].coefficient);
  }
  return status;
}

// ---- operands ----

// A decimal f32 without libc, whose strtof follows the host's locale. At most 15 digits and 22 decimals: exact in
// double.
static float decimal(const char *p, const char **end) {
  bool negative = *p == '-';
  int64_t digits = 0;
  double scale = 1;
  p += negative;
  *end = p;
  if (p[0] == 'i' && p[1] == 'n' && p[2] == 'f') return *end = p + 3, negative ? -__builtin_inff() : __builtin_inff();
  for (int n = 0; (is_digit(*p) || (*p == '.' && scale == 1)) && n < 16; p++, n++) {
    if (*p == '.') {
      for (p++; is_digit(*p) && n < 16; p++, n++, scale *= 10) digits = digits * 10 + (*p - '0');
      *end = p;
      break;
    }
    digits = digits * 10 + (*p - '0');
    *end = p + 1;
  }
  double value = (double)digits / scale;
  return (float)(negative ? -value : value);
}

static int literal(struct cursor *c, struct operand *o) {
  char text[40];
  const char *end;
  int n = 0;
  skip(c);
  while (c->p < c->end && *c->p != ',' && *c->p != ' ' && n < 39) text[n++] = *c->p++;
  text[n] = 0;
  o->kind = OPD_LITERAL;
  if (text[0] == '0' && text[1] == 'x') {
    unsigned long long bits = strtoull(text, (char **)&end, 16);
    if (bits > UINT32_MAX) return fail(c->err, STROBE_INVALID, "%s has more than 32 bits", text);
    o->bits = (uint32_t)bits;
  } else {
    float f = decimal(text, &end);
    memcpy(&o->bits, &f, 4);
  }
  return *end || !n ? fail(c->err, STROBE_INVALID, "%s is not a number", text) : 0;
}

static int register_operand(struct cursor *c, int decl, struct operand *o) {
  const struct vreg_decl *d = &c->scope->vreg[decl];
  int flat = 0, dims[2] = {d->dims[0], d->dims[1]};
  skip(c);
  if (!dims[0] && c->p < c->end && *c->p == '[') dims[0] = 1; // a register of its own is also the first of one
  for (int i = 0; i < 2 && dims[i]; i++) {
    struct linear index;
    if (!take(c, '[')) return fail(c->err, STROBE_INVALID, "%s needs %d indices", d->name, dims[1] ? 2 : 1);
    int status = sum(c, &index);
    if (status) return status;
    if (index.n || index.constant < 0 || index.constant >= dims[i])
      return fail(c->err, STROBE_INVALID, "index of %s must be a constant from 0 to %d", d->name, dims[i] - 1);
    if (!take(c, ']')) return fail(c->err, STROBE_INVALID, "missing ] after an index of %s", d->name);
    flat = flat * dims[i] + (int)index.constant;
  }
  o->kind = d->of == CLASS_MASK ? OPD_MASK : d->of == CLASS_TILE ? OPD_TILE : OPD_REG;
  o->decl = decl;
  o->reg = d->first + flat;
  return 0;
}

static int memory_operand(struct cursor *c, int name, bool bcast, struct operand *o) {
  o->kind = bcast ? OPD_BCAST : OPD_MEM;
  o->base = name;
  if (!take(c, '[')) return 0; // the pointer itself
  int status = sum(c, &o->index);
  if (status) return status;
  return take(c, ']') ? 0 : fail(c->err, STROBE_INVALID, "missing ] after an index of %s", c->scope->name[name].name);
}

static int parse_operand(struct cursor *c, char role, struct operand *o) {
  memset(o, 0, sizeof *o);
  skip(c);
  o->text = c->p;
  if (role == 'i') {
    o->kind = OPD_INT;
    return sum(c, &o->index);
  }
  if (c->p < c->end && (is_digit(*c->p) || *c->p == '-' || *c->p == '.')) return literal(c, o);
  const char *text;
  int len = word(c, &text);
  bool bcast = len == 5 && !memcmp(text, "bcast", 5);
  if (bcast) len = word(c, &text);
  if (!len) return fail(c->err, STROBE_INVALID, "expected an operand");
  for (int i = c->scope->n_vreg - 1; i >= 0 && !bcast; i--)
    if (same(c->scope->vreg[i].name, text, len)) return register_operand(c, i, o);
  for (int i = 0; i < c->scope->n_names; i++)
    if (same(c->scope->name[i].name, text, len)) {
      if (!c->scope->name[i].bytes) return fail(c->err, STROBE_INVALID, "%.*s is an integer, not a pointer", len, text);
      return memory_operand(c, i, bcast, o);
    }
  for (int i = 0; i < vconst_count && !bcast; i++)
    if (same(vconst_table[i].name, text, len)) {
      o->kind = OPD_VCONST;
      o->vconst = i;
      return 0;
    }
  return fail(c->err, STROBE_INVALID, "%.*s is no register, pointer of this $block or constant", len, text);
}

static bool role_allows(char role, enum operand_kind kind) {
  switch (role) {
  case 'd':
  case 'x':
  case 'r': return kind == OPD_REG;
  case 's': return kind == OPD_REG || kind == OPD_MEM || kind == OPD_BCAST || kind == OPD_LITERAL || kind == OPD_VCONST;
  case 'c': return kind == OPD_VCONST;
  case 'm': return kind == OPD_MEM;
  case 'K':
  case 'k': return kind == OPD_MASK;
  case 'T':
  case 'X':
  case 't': return kind == OPD_TILE;
  default: return kind == OPD_INT;
  }
}

int vop_parse(const struct vop_scope *s, const char *text, size_t len, const struct vop **op, struct operand *out,
              int *n_operands, struct error *err) {
  struct cursor c = {text, text + len, s, err, 0};
  const char *name;
  int n = word(&c, &name);
  *op = NULL;
  for (int i = 0; i < vop_count && !*op; i++)
    if (same(vop_table[i].name, name, n)) *op = &vop_table[i];
  if (!*op) return fail(err, STROBE_INVALID, "@%.*s is not a vector operation", n ? n : 1, n ? name : "?");
  const char *sig = (*op)->signature;
  *n_operands = (int)strlen(sig);
  for (int i = 0; i < *n_operands; i++) {
    if (i && !take(&c, ','))
      return fail(err, STROBE_INVALID, "@%s takes %d operands, %d given", (*op)->name, *n_operands, i);
    int status = parse_operand(&c, sig[i], &out[i]);
    if (status) return status;
    out[i].text_len = (int)(c.p - out[i].text);
    if (!role_allows(sig[i], out[i].kind))
      return fail(err, STROBE_INVALID, "operand %d of @%s can't be %.*s", i + 1, (*op)->name, out[i].text_len,
                  out[i].text);
  }
  skip(&c);
  if (c.p < c.end && !(c.end - c.p >= 2 && c.p[0] == '/' && c.p[1] == '/'))
    return fail(err, STROBE_INVALID, "@%s takes %d operands: unexpected '%.*s'", (*op)->name, *n_operands,
                (int)(c.end - c.p), c.p);
  return 0;
}

// ---- declarations ----

enum { TILE = 16 }; // rows, f32 of a row
static int tile_side(struct cursor *c) {
  int n = 0;
  while (c->p < c->end && is_digit(*c->p) && n <= TILE) n = 10 * n + *c->p++ - '0';
  return n >= 1 && n <= TILE ? n : 0;
}

// Of a tile `8x16`, or nothing.
static int shape(struct cursor *c, struct vreg_decl *d) {
  d->rows = d->columns = TILE;
  skip(c);
  if (c->p == c->end || !is_digit(*c->p)) return 0;
  d->rows = tile_side(c);
  d->columns = take(c, 'x') ? tile_side(c) : 0;
  if (d->rows && d->columns) return 0;
  return fail(c->err, STROBE_INVALID, "%s: a tile is 1x1 to %dx%d", d->name, TILE, TILE);
}

// The class that registers are counted in.
static enum vreg_class counted(const struct vop_scope *s, enum vreg_class of) {
  return of == CLASS_MASK && s->masks_are_vregs ? CLASS_VECTOR : of;
}

int vop_declare(struct vop_scope *s, const char *text, size_t len, struct error *err) {
  static const char *const classes[CLASS_COUNT] = {"", "mask", "tile"};
  struct cursor c = {text, text + len, s, err, 0};
  do {
    const char *name;
    int n = word(&c, &name);
    enum vreg_class of = CLASS_VECTOR;
    for (int i = 1; i < CLASS_COUNT; i++)
      if (same(classes[i], name, n)) of = (enum vreg_class)i;
    if (of) n = word(&c, &name);
    if (!n || n > 23) return fail(err, STROBE_INVALID, "$vreg needs names of 1 to 23 letters");
    if (s->n_vreg == MAX_VREG_NAMES)
      return fail(err, STROBE_INVALID, "more than %d register names live", MAX_VREG_NAMES);
    struct vreg_decl *d = &s->vreg[s->n_vreg];
    memset(d, 0, sizeof *d);
    memcpy(d->name, name, (size_t)n);
    int count = 1;
    for (int i = 0; i < 2 && take(&c, '['); i++) {
      struct linear size;
      int status = sum(&c, &size);
      if (status) return status;
      if (size.n || size.constant < 1 || size.constant > 4096)
        return fail(err, STROBE_INVALID, "%s: a size must be 1 to 4096", d->name);
      if (!take(&c, ']')) return fail(err, STROBE_INVALID, "missing ] in $vreg %s", d->name);
      d->dims[i] = (int)size.constant;
      count *= d->dims[i];
    }
    const int status = of == CLASS_TILE ? shape(&c, d) : 0;
    if (status) return status;
    d->of = of;
    int *used = &s->used[counted(s, of)], *peak = &s->peak[counted(s, of)];
    if (count > 4096 - *used)
      return fail(err, STROBE_INVALID, "%s: %d registers and %d in use are more than 4096", d->name, count, *used);
    d->first = *used;
    *used += count;
    if (*used > *peak) *peak = *used;
    s->n_vreg++;
  } while (take(&c, ','));
  skip(&c);
  return c.p == c.end ? 0 : fail(err, STROBE_INVALID, "$vreg: unexpected '%.*s'", (int)(c.end - c.p), c.p);
}

void vop_release(struct vop_scope *s, int n_vreg) {
  while (s->n_vreg > n_vreg) {
    const struct vreg_decl *d = &s->vreg[--s->n_vreg];
    s->used[counted(s, d->of)] = d->first;
  }
}

static int element_bytes(const char *type, int len) {
  for (int i = 0; i < DT_COUNT; i++)
    if (same(dtype_table[i].name, type, len)) return dtype_table[i].bytes;
  return 0;
}

int vop_open_block(struct vop_scope *s, const char *text, size_t len, struct error *err) {
  struct cursor c = {text, text + len, s, err, 0};
  const char *name;
  int n = word(&c, &name);
  if (!n || n > 23 || !take(&c, '('))
    return fail(err, STROBE_INVALID, "$block is written: $block label(pointer:dtype, integer, ...)");
  memcpy(s->label, name, (size_t)n);
  s->label[n] = 0;
  s->n_names = 0;
  if (take(&c, ')')) return 0;
  do {
    n = word(&c, &name);
    if (!n || n > 23) return fail(err, STROBE_INVALID, "$block %s: expected a name of 1 to 23 letters", s->label);
    if (s->n_names == MAX_BLOCK_NAMES)
      return fail(err, STROBE_INVALID, "$block %s has more than %d names", s->label, MAX_BLOCK_NAMES);
    struct block_name *b = &s->name[s->n_names++];
    memcpy(b->name, name, (size_t)n);
    b->name[n] = 0;
    b->bytes = 0;
    if (take(&c, ':')) {
      n = word(&c, &name);
      b->bytes = element_bytes(name, n);
      if (!b->bytes) return fail(err, STROBE_INVALID, "%s: %.*s is no dtype", b->name, n, name);
    }
  } while (take(&c, ','));
  return take(&c, ')') ? 0 : fail(err, STROBE_INVALID, "missing ) after the names of $block %s", s->label);
}
