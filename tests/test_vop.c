// Operand text of vector operations: what is refused and how, which register a name gets, and index arithmetic that
// agrees with the same arithmetic in C.
#include "../gen/kernel.h"
#include "../gen/printer.h"
#include "../gen/vop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct vop_scope scope_of(const char *vregs, const char *block) {
  struct vop_scope s;
  memset(&s, 0, sizeof s);
  assert_int_equal(vop_declare(&s, vregs, strlen(vregs), NULL), 0);
  assert_int_equal(vop_open_block(&s, block, strlen(block), NULL), 0);
  return s;
}

static int parse(const struct vop_scope *s, const char *text, struct operand *o, struct error *err) {
  const struct vop *op;
  int n;
  size_t len = strlen(text);
  char *exact = malloc(len ? len : 1); // no terminating zero: a byte too far is seen
  assert_non_null(exact);
  memcpy(exact, text, len);
  int status = vop_parse(s, exact, len, &op, o, &n, err);
  free(exact);
  return status;
}

static void refuses(const char *text, const char *want) {
  struct vop_scope s = scope_of("s[2][3], q, r[4], mask m", "b(k:f32, ldk, n, a, c, d)");
  struct operand o[VOP_MAX_OPERANDS];
  struct error err = {0};
  int status = parse(&s, text, o, &err);
  if (status != STROBE_INVALID || strcmp(err.text, want)) fail_msg("@%s\ngave: %s\nnot:  %s", text, err.text, want);
}

static void mistakes(void **state) {
  (void)state;
  refuses("", "@? is not a vector operation");
  refuses("fmla q, q, q", "@fmla is not a vector operation");
  refuses("fma q, q", "@fma takes 3 operands, 2 given");
  refuses("fma", "expected an operand");
  refuses("fma q, q, q, q", "@fma takes 3 operands: unexpected ', q'");
  refuses("zero q q", "@zero takes 1 operands: unexpected 'q'");
  refuses("zero x", "x is no register, pointer of this $block or constant");
  refuses("zero s[0]", "s needs 2 indices");
  refuses("zero r", "r needs 1 indices");
  refuses("zero s[0][3]", "index of s must be a constant from 0 to 2");
  refuses("zero s[2][0]", "index of s must be a constant from 0 to 1");
  refuses("zero r[-1]", "index of r must be a constant from 0 to 3");
  refuses("zero r[n]", "index of r must be a constant from 0 to 3");
  refuses("zero r[0", "missing ] after an index of r");
  refuses("zero m", "operand 1 of @zero can't be m");
  refuses("zero 1.5", "operand 1 of @zero can't be 1.5");
  refuses("first q, n", "operand 1 of @first can't be q");
  refuses("lookup q, q, r[0]", "operand 3 of @lookup can't be r[0]");
  refuses("load q, bcast k[0]", "operand 2 of @load can't be bcast k[0]");
  refuses("load q, n[0]", "n is an integer, not a pointer");
  refuses("load q, k[ldk*n]", "product of two run-time integers in an index");
  refuses("load q, k[k]", "k is a pointer, not an integer");
  refuses("load q, k[z]", "z is neither bound nor an integer of this $block");
  refuses("load q, k[ldk + n + a + c]", "an index may use 3 run-time integers at most");
  refuses("load q, k[n / 2]", "/ in an index needs non-negative constants");
  refuses("load q, k[7 % 0]", "% in an index needs non-negative constants");
  refuses("load q, k[9223372036854775808]", "number in an index overflows 64 bits");
  refuses("load q, k[9223372036854775807 + 1]", "index overflows 64 bits");
  refuses("load q, k[(1]", "missing ) in an index");
  refuses("load q, k[0", "missing ] after an index of k");
  refuses("load q, k[]", "expected a number, a name or ( in an index");
  refuses("load q, k[((((((((((((((((((((((((((((((((((((((((1", "index nests deeper than 32 parentheses");
  refuses("bcast q, 1.5x", "1.5x is not a number");
  refuses("bcast q, 0x", "0x is not a number");
  refuses("bcast q, 0x1ffffffff", "0x1ffffffff has more than 32 bits");
  refuses("bcast q, 1111111111111111111111111111111111111111111111",
          "111111111111111111111111111111111111111 is not a number");
}

static void operands(void **state) {
  (void)state;
  struct vop_scope s = scope_of("s[2][3], q, mask m[2]", "b(k:bf16, ldk, n)");
  struct operand o[VOP_MAX_OPERANDS];
  struct buf name = {0};
  assert_int_equal(parse(&s, "fma s[1][2], q, bcast k[3*ldk + 17] // a comment", o, NULL), 0);
  assert_true(o[0].kind == OPD_REG && o[0].reg == 5 && o[1].reg == 6 && o[2].kind == OPD_BCAST && o[2].base == 0);
  assert_true(o[2].index.constant == 17 && o[2].index.n == 1 && o[2].index.term[0].name == 1 &&
              o[2].index.term[0].coefficient == 3);
  c_register_name(&s, &o[0], &name);
  assert_string_equal(name.data, "s1_2");
  buf_free(&name);
  assert_int_equal(parse(&s, "first m[1], 2*n - 4", o, NULL), 0);
  assert_true(o[0].kind == OPD_MASK && o[0].reg == 1 && o[1].kind == OPD_INT && o[1].index.constant == -4);
  assert_int_equal(parse(&s, "mul q, q, -inf", o, NULL), 0);
  assert_true(o[2].kind == OPD_LITERAL && o[2].bits == 0xff800000u);
  assert_int_equal(parse(&s, "and q, q, 0xffff0000", o, NULL), 0);
  assert_int_equal(o[2].bits, 0xffff0000u);
  assert_int_equal(parse(&s, "lookup q, q, exp2_b0", o, NULL), 0);
  assert_string_equal(vconst_table[o[2].vconst].name, "exp2_b0");
}

static int declare(struct vop_scope *s, const char *text, char *message) {
  struct error err = {0};
  int status = vop_declare(s, text, strlen(text), &err);
  strcpy(message, err.text);
  return status;
}

static void registers(void **state) {
  (void)state;
  struct vop_scope s;
  struct operand o[VOP_MAX_OPERANDS];
  char message[640];
  memset(&s, 0, sizeof s);
  assert_int_equal(declare(&s, "a[4], mask m", message), 0);
  int mark = s.n_vreg;
  assert_int_equal(declare(&s, "b[2][2], mask k", message), 0);
  assert_true(s.used[CLASS_VECTOR] == 8 && s.used[CLASS_MASK] == 2);
  vop_release(&s, mark);
  assert_true(s.used[CLASS_VECTOR] == 4 && s.used[CLASS_MASK] == 1 && s.peak[CLASS_VECTOR] == 8 &&
              s.peak[CLASS_MASK] == 2);
  assert_int_equal(parse(&s, "zero b[0][0]", o, NULL), STROBE_INVALID); // dead
  assert_int_equal(declare(&s, "c", message), 0);
  assert_int_equal(parse(&s, "zero c", o, NULL), 0);
  assert_int_equal(o[0].reg, 4); // b's first register again
  // Tiles are numbered by themselves, and no vector can take the place of one, nor the other way round.
  assert_int_equal(declare(&s, "tile t[2][2], tile u", message), 0);
  assert_true(s.used[CLASS_TILE] == 5 && s.used[CLASS_VECTOR] == 5);
  assert_int_equal(parse(&s, "tile_dot t[1][0], u, t[0][1]", o, NULL), 0);
  assert_true(o[0].kind == OPD_TILE && o[0].reg == 2 && o[1].reg == 4 && o[2].reg == 1);
  assert_true(s.vreg[3].rows == 16 && s.vreg[3].columns == 16);
  assert_int_equal(parse(&s, "tile_zero c", o, NULL), STROBE_INVALID);
  assert_int_equal(parse(&s, "zero u", o, NULL), STROBE_INVALID);
  assert_int_equal(declare(&s, "a", message), 0);
  assert_int_equal(parse(&s, "zero a", o, NULL), 0);
  assert_int_equal(o[0].reg, 5); // the later declaration hides the earlier one
  struct vop_scope shaped = s;
  assert_int_equal(declare(&shaped, "tile w[2] 4x16, tile v 16x3", message), 0);
  const struct vreg_decl *const last = &shaped.vreg[shaped.n_vreg - 1];
  assert_true(last[-1].rows == 4 && last[-1].columns == 16 && last->rows == 16 && last->columns == 3);
  static const char *const pairs[][2] = {{"tile x 17x4", "x: a tile is 1x1 to 16x16"},
                                         {"tile x 4x0", "x: a tile is 1x1 to 16x16"},
                                         {"tile x 4", "x: a tile is 1x1 to 16x16"},
                                         {"tile x 4x", "x: a tile is 1x1 to 16x16"},
                                         {"y 4x4", "$vreg: unexpected '4x4'"},
                                         {"", "$vreg needs names of 1 to 23 letters"},
                                         {"abcdefghijklmnopqrstuvwx", "$vreg needs names of 1 to 23 letters"},
                                         {"x[0]", "x: a size must be 1 to 4096"},
                                         {"x[4097]", "x: a size must be 1 to 4096"},
                                         {"x[2", "missing ] in $vreg x"},
                                         {"x y", "$vreg: unexpected 'y'"},
                                         {"x[64][64]", "x: 4096 registers and 6 in use are more than 4096"}};
  for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
    struct vop_scope t = s;
    assert_int_equal(declare(&t, pairs[i][0], message), STROBE_INVALID);
    assert_string_equal(message, pairs[i][1]);
  }
  while (s.n_vreg < MAX_VREG_NAMES) assert_int_equal(declare(&s, "x", message), 0);
  assert_int_equal(declare(&s, "x", message), STROBE_INVALID);
  assert_string_equal(message, "more than 48 register names live");
}

static void blocks(void **state) {
  (void)state;
  static const char *const pairs[][2] = {{"", "$block is written: $block label(pointer:dtype, integer, ...)"},
                                         {"qk", "$block is written: $block label(pointer:dtype, integer, ...)"},
                                         {"qk(k:f64)", "k: f64 is no dtype"},
                                         {"qk(k:", "k:  is no dtype"},
                                         {"qk(k,", "$block qk: expected a name of 1 to 23 letters"},
                                         {"qk(k", "missing ) after the names of $block qk"},
                                         {"b(a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a)", "$block b has more than 16 names"}};
  for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
    struct vop_scope s;
    struct error err = {0};
    memset(&s, 0, sizeof s);
    assert_int_equal(vop_open_block(&s, pairs[i][0], strlen(pairs[i][0]), &err), STROBE_INVALID);
    assert_string_equal(err.text, pairs[i][1]);
  }
}

// The limits of a target are the printer's: through templates of a directory of our own.
static void limits(void **state) {
  (void)state;
  char dir[] = "/tmp/strobe-vop-XXXXXX", path[64], sub[48];
  assert_non_null(mkdtemp(dir));
  snprintf(sub, sizeof sub, "mkdir %s/cpu", dir);
  assert_int_equal(system(sub), 0);
  snprintf(path, sizeof path, "%s/cpu/attn_fwd.c", dir);
  static const char *const pairs[][2] = {
      {"$vreg s[8][4], q\n", "cpu/attn_fwd.c:1: needs 33 vector registers, avx512 has 32"},
      {"\n$vreg mask m[7]\n", "cpu/attn_fwd.c:2: needs 7 mask registers, there are 6"},
      {"$if 1\n  $vreg s[32]\n$if 1\n  $vreg t[32], mask m[6]\n", NULL}};
  for (int i = 0; i < 3; i++) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(pairs[i][0], f);
    fclose(f);
    struct problem p;
    struct instance in = {.target = target_find("avx512")};
    struct error err = {0};
    struct buf out = {0};
    config_clear(&in.config);
    assert_int_equal(problem_parse("d32:f32", &p, NULL), 0);
    in.spec = p.spec;
    assert_int_equal(config_resolve(&in.spec, in.target, NULL, &in.config, NULL), 0);
    struct render_options o = {.printer = PRINTER_INTRIN, .templates = {dir}};
    assert_int_equal(kernel_render(&in, &o, &out, NULL, &err), pairs[i][1] ? STROBE_UNSUPPORTED : 0);
    if (pairs[i][1]) assert_string_equal(err.text, pairs[i][1]);
    buf_free(&out);
  }
  unlink(path);
  snprintf(path, sizeof path, "%s/cpu", dir);
  rmdir(path);
  rmdir(dir);
}

// ---- linear forms: random expressions are worth what C says ----

static uint64_t seed = 1;
static int next(int below) {
  seed = seed * 6364136223846793005u + 1442695040888963407u;
  return (int)((seed >> 33) % (unsigned)below);
}

static const int64_t worth[3] = {1009, -77, 12345}; // of ldk, n, c
static const char *const names[3] = {"ldk", "n", "c"};

// Writes an expression that is linear by construction and returns its value; *constant says whether it has no names.
static int64_t expression(struct buf *b, int depth, bool *constant) {
  int kind = depth ? next(7) : next(2);
  bool left, right;
  int64_t v;
  *constant = kind == 0;
  if (kind == 0) return buf_int(b, v = next(1000)), v;
  if (kind == 1) return v = next(3), buf_str(b, names[v]), worth[v];
  if (kind == 2) {
    buf_str(b, "-");
    buf_char(b, '(');
    v = -expression(b, depth - 1, constant);
    return buf_char(b, ')'), v;
  }
  if (kind == 3) { // constants divide
    int64_t x = next(1000), y = 1 + next(30);
    buf_printf(b, "%lld %c %lld", (long long)x, y % 2 ? '/' : '%', (long long)y);
    return *constant = true, y % 2 ? x / y : x % y;
  }
  if (kind == 4) {
    int64_t k = next(20);
    bool first = next(2);
    if (first) buf_printf(b, "%lld*", (long long)k);
    buf_char(b, '(');
    v = k * expression(b, depth - 1, constant);
    buf_char(b, ')');
    if (!first) buf_printf(b, " * %lld", (long long)k);
    return v;
  }
  v = expression(b, depth - 1, &left);
  buf_str(b, kind == 5 ? " + " : " - (");
  int64_t w = expression(b, depth - 1, &right);
  if (kind == 6) buf_char(b, ')');
  *constant = left && right;
  return kind == 5 ? v + w : v - w;
}

static void linear_forms(void **state) {
  (void)state;
  struct vop_scope s = scope_of("q", "b(k:f32, ldk, n, c)");
  for (int i = 0; i < 20000; i++) {
    struct buf b = {0};
    struct operand o[VOP_MAX_OPERANDS];
    struct error err = {0};
    bool constant;
    buf_str(&b, "load q, k[");
    int64_t want = expression(&b, 1 + next(5), &constant);
    buf_char(&b, ']');
    if (parse(&s, b.data, o, &err)) fail_msg("%s: %s", b.data, err.text);
    int64_t got = o[1].index.constant;
    for (int t = 0; t < o[1].index.n; t++) got += o[1].index.term[t].coefficient * worth[o[1].index.term[t].name - 1];
    if (got != want) fail_msg("%s: %lld, not %lld", b.data, (long long)got, (long long)want);
    if (constant) assert_int_equal(o[1].index.n, 0);
    buf_free(&b);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(mistakes),  cmocka_unit_test(operands),
                                     cmocka_unit_test(registers), cmocka_unit_test(blocks),
                                     cmocka_unit_test(limits),    cmocka_unit_test(linear_forms)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
