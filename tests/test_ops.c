// Every row of every instruction set this CPU has, against the scalar meaning of its operation: each operation becomes
// a function of its own, with each kind of operand it takes, through `scalar` and `code` (libtcc) and `intrin` (cc).
// Memory operands stand against pages that can't be touched, at both ends.
#include "../gen/kernel.h" // before cmocka.h, which has a macro named fail
#include "../gen/vop.h"
#include "../runtime/cpu.h"
#include "../runtime/jit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096, REGS = 4, MAX_LANES = 16, MAX_CASES = 300, ROUNDS = 40 };

typedef void many_ops(long long which, const float *in, float *out, void *memory, long long n);

// One function of the rendered text: an operation with one choice of operands.
struct op_case {
  const struct vop *op;
  int variant;
};

static char dir[] = "/tmp/strobe-ops-XXXXXX";
static struct op_case cases[MAX_CASES];
static int n_cases;

// ---- the template ----

static const char *const values[] = {"r[%d]", "in[2*lanes + 3]", "bcast in[5]", "0.75", "0x3f000001", "exp2_b1"};
static const char *const counts[] = {"n", "5", "0", "lanes", "n - 1"};

static int variants_of(const struct vop *op) {
  if (strchr(op->signature, 's')) return sizeof values / sizeof *values;
  return strchr(op->signature, 'i') ? sizeof counts / sizeof *counts : 1;
}

static int element_bytes(const struct vop *op) { return strstr(op->name, "f16") ? 2 : 4; }

static void put_operands(struct buf *t, const struct op_case *c) {
  for (int i = 0; c->op->signature[i]; i++) {
    char role = c->op->signature[i];
    buf_str(t, i ? ", " : " ");
    if (role == 's')
      buf_printf(t, values[c->variant], i);
    else if (role == 'i')
      buf_str(t, counts[c->variant]);
    else
      buf_printf(t, role == 'K' || role == 'k' ? "k" : role == 'm' ? "mem[0]" : role == 'c' ? "exp2_b0" : "r[%d]", i);
  }
}

static void put_case(struct buf *t, int index) {
  const struct op_case *c = &cases[index];
  bool masks = strpbrk(c->op->signature, "Kk");
  buf_printf(t,
             "$if 1\n"
             "  KERNEL void op_%d(const float *in, float *out, %s *mem, strobe_i64 n) {\n"
             "    $include \"cpu/frame.inc\"\n    (void)mem;\n    (void)n;\n    $vreg r[4]%s\n"
             "    $block ops(in:f32, out:f32, mem:%s, n)\n      $for I in 0..4\n        @load r[I], in[I*lanes]\n",
             index, element_bytes(c->op) == 2 ? "unsigned short" : "float", masks ? ", mask k" : "",
             element_bytes(c->op) == 2 ? "bf16" : "f32");
  if (strchr(c->op->signature, 'k')) buf_str(t, "      @nonzero k, r[3]\n");
  if (!strcmp(c->op->name, "exp2_scale")) buf_str(t, "      @exp2_split r[2], r[3], r[2]\n");
  buf_printf(t, "      @%s", c->op->name);
  put_operands(t, c);
  if (strchr(c->op->signature, 'K'))
    buf_str(t, "\n      @bcast r[0], 1.0\n      @zero r[1]\n      @select r[0], k, r[0], r[1]");
  buf_str(t, "\n      $for I in 0..4\n        @store out[I*lanes], r[I]\n  }\n\n");
}

// Operations of pairs where there is no dot product, of tables where there are none, of more lanes than there are.
static bool any_of(const char *op, const char *const *names, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (!strcmp(op, names[i])) return true;
  return false;
}

static bool may_lack(const struct target *t, const char *op) {
  static const char *const pairs[] = {"dot", "bf16_pair", "upper_pair"},
                           *const tables[] = {"lookup", "frac16", "scalef"}, *const wide[] = {"fold8",     "swap8",
                                                                                              "zip16_low", "zip16_high",
                                                                                              "zip4_low",  "zip4_high"};
  return (!t->bf16_dot && any_of(op, pairs, sizeof pairs / sizeof *pairs)) ||
         (!t->lookup && any_of(op, tables, sizeof tables / sizeof *tables)) ||
         (t->lanes < 16 && any_of(op, wide, sizeof wide / sizeof *wide));
}

static void write_template(const struct target *target) {
  struct buf t = {0};
  char path[64];
  const struct isa *isa = isa_find(target->isa);
  buf_str(&t, "$let pair = printer == \"intrin\" && lanes == 8 ? 1 : 2\n$let dot = 1\n$let decode = 0\n$let "
              "uses_load_first = 1\n$let uses_zips = 1\n$let uses_deals = 1\n$include \"cpu/prologue.inc\"\n"
              "$if printer == \"scalar\"\n  $include \"cpu/scalar_lanes.inc\"\n$constants\n\n");
  n_cases = 0;
  for (int i = 0; i < vop_count; i++) {
    if (!strncmp(vop_table[i].name, "tile_", 5)) continue; // test_tiles
    if (!isa_row(isa, vop_table[i].name)) {
      if (!may_lack(target, vop_table[i].name)) fail_msg("%s has no row for @%s", target->name, vop_table[i].name);
      continue;
    }
    for (int v = 0; v < variants_of(&vop_table[i]); v++) {
      assert_true(n_cases < MAX_CASES);
      cases[n_cases] = (struct op_case){&vop_table[i], v};
      put_case(&t, n_cases++);
    }
  }
  buf_str(&t, "void many(strobe_i64 which, const float *in, float *out, void *memory, strobe_i64 n) {\n");
  for (int i = 0; i < n_cases; i++) buf_printf(&t, "  if (which == %d) op_%d(in, out, memory, n);\n", i, i);
  buf_str(&t, "}\n");
  assert_false(t.failed);
  snprintf(path, sizeof path, "%s/cpu/attn_fwd.c", dir);
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  fputs(t.data, f);
  fclose(f);
  buf_free(&t);
}

// ---- from template to function ----

static void render(const struct target *target, enum printer printer, struct buf *text) {
  struct problem p;
  struct error err = {0};
  struct instance in = {.target = target};
  config_clear(&in.config);
  in.config.v[CFG_KERNEL] = KERNEL_PREFILL;
  assert_int_equal(problem_parse("d24:f32", &p, NULL), 0);
  in.spec = p.spec;
  assert_int_equal(config_resolve(&in.spec, target, NULL, &in.config, &err), 0);
  in.spec.head_dim = in.spec.head_dim_v = 20; // tails of every kind
  in.spec.q = in.spec.kv = in.spec.o = DT_BF16;
  struct render_options o = {
      .printer = printer, .templates = {dir}, .comments = printer == PRINTER_CODE, .for_tcc = true, .symbol = "many"};
  if (kernel_render(&in, &o, text, NULL, &err)) fail_msg("%s: %s", target->name, err.text);
}

static many_ops *jit(const struct target *target, enum printer printer, struct jit_module **module) {
  struct buf text = {0}, object = {0};
  struct error err = {0};
  render(target, printer, &text);
  if (jit_compile(text.data, &object, &err)) fail_msg("%s %s: %s", target->name, printer_names[printer], err.text);
  if (jit_load(object.data, object.len, "ops", module, &err)) fail_msg("%s", err.text);
  many_ops *f = (many_ops *)(uintptr_t)jit_symbol(*module, "many");
  assert_non_null(f);
  buf_free(&text);
  buf_free(&object);
  return f;
}

// NULL: this compiler is not here.
static many_ops *compile(const struct target *target, const char *cc, void **library) {
  struct buf text = {0}, command = {0};
  char path[64];
  buf_printf(&command, "command -v %s >/dev/null", cc);
  bool missing = system(command.data) != 0;
  buf_free(&command);
  if (missing) return NULL;
  render(target, PRINTER_INTRIN, &text);
  snprintf(path, sizeof path, "%s/ops.c", dir);
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  fputs(text.data, f);
  fclose(f);
  buf_printf(&command,
             "%s -std=c11 -O2 -ffp-contract=off -Wall -Wextra -Wpedantic -Wconversion -Werror -Wno-missing-prototypes "
             "-Wno-unused-function "
             "-shared -fPIC %s/ops.c -o %s/ops-%s-%s.so",
             cc, dir, dir, target->name, cc);
  assert_int_equal(system(command.data), 0);
  snprintf(path, sizeof path, "%s/ops-%s-%s.so", dir, target->name, cc);
  assert_non_null(*library = dlopen(path, RTLD_NOW | RTLD_LOCAL));
  buf_free(&text);
  buf_free(&command);
  return (many_ops *)(uintptr_t)dlsym(*library, "many");
}

// ---- inputs ----

static uint64_t seed = 1;
static uint32_t next(void) {
  seed = seed * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(seed >> 32);
}

static float from_bits(uint32_t u) {
  float f;
  memcpy(&f, &u, 4);
  return f;
}

static uint32_t bits_of(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  return u;
}

static const float special[] = {0,        -0.0f,       1,           -1,         1.5f,   0.5f,    -2.5f,      1e-30f,
                                -77.25f,  88.7f,       INFINITY,    -INFINITY,  65504,  65520,   65519.99f,  -65536,
                                6.1e-5f,  5.96e-8f,    2.98e-8f,    2.981e-8f,  1e-40f, -1e-45f, 1.0009766f, 3.4e38f,
                                -3.4e38f, 1.00390625f, 1.01171875f, 8388607.5f, 126.5f, -126.5f};

// Every second round has ordinary numbers only, the others everything.
static float number(int round) {
  uint32_t r = next();
  if (round % 2 == 0) return ((float)(r % 200001u) - 100000.0f) / 4096.0f;
  if (r % 4 == 0) return from_bits(next());
  if (r % 32 == 1) return from_bits(0x7fc00000u | (next() & 0x803fffffu));
  return special[(r >> 8) % (sizeof special / sizeof *special)];
}

// Inputs that an operation is for.
static void prepare(const struct op_case *c, int round, float *in, int count, int lanes) {
  const char *op = c->op->name;
  for (int i = 0; i < count; i++) {
    const uint32_t r = next();
    in[i] = number(round);
    if (!strncmp(op, "dot", 3)) in[i] = from_bits(0x3f803f80u ^ (r & 0x803f803fu));
    if (!strcmp(op, "exp2_split") && !isnan(in[i])) in[i] = -fabsf(in[i]) < -127 ? -127 : -fabsf(in[i]);
    if (!strcmp(op, "exp2_scale") && i / lanes == 2)
      in[i] = -(float)(r % 128);
    else if (!strcmp(op, "exp2_scale") && !isnan(in[i]))
      in[i] = from_bits(0x3f000000u | (r & 0xffffffu));
  }
}

// ---- comparison ----

// vcvtneps2bf16 takes a denormal for 0.
static bool same_bf16(unsigned want, unsigned got) {
  return want == got || ((want & 0x7fffu) <= 0x80u && !(got & 0x7fffu));
}

static bool exact; // code against intrin: the same instructions

// How far a result may be from the scalar one: multiply-adds are fused there or not, and pairs are summed in another
// order. Everything else is the same bits, but for the payload of a NaN.
static bool close_enough(const struct op_case *c, const float *in, int lanes, float want, float got) {
  if (bits_of(want) == bits_of(got) || (isnan(want) && isnan(got))) return true;
  if (want == 0 && got == 0 && !strcmp(c->op->name, "exp2_split")) return true;                 // a sum rounds to +0
  if (fabsf(want) == 0.5f && got == -want && !strcmp(c->op->name, "exp2_split")) return !exact; // of two either
  if (got == 0 && fabsf(want) < 0x1p-126f && !strcmp(c->op->name, "exp2_scale")) return true;   // below 2^-126
  if (exact) return false;
  if (want == 0 && got == 0 && !strncmp(c->op->name, "frac", 4)) return true;
  if (!strcmp(c->op->name, "bf16_pair"))
    return same_bf16(bits_of(want) & 0xffffu, bits_of(got) & 0xffffu) &&
           same_bf16(bits_of(want) >> 16, bits_of(got) >> 16);
  if (c->op->is_fma) {
    float most = 0; // a bound for every product
    for (int i = 0; i < REGS * lanes; i++)
      if (fabsf(in[i]) > most) most = fabsf(in[i]); // fmaxf of a signaling NaN is NaN
    if (!(most < 1e15f)) return true;               // overflow may come earlier or later
    return fabsf(want - got) <= 1e-6f * (fabsf(want) + most * most) + 1e-30f;
  }
  return false;
}

// Inputs for which an operation says nothing.
static bool outside(const struct op_case *c, const float *in, int lane, int lanes) {
  float second = in[lanes + lane], third = in[2 * lanes + lane];
  if (!strcmp(c->op->name, "scalef")) return isinf(third) || isinf(second) || fabsf(second) > 1e30f || second == 0;
  return false;
}

static void compare(const struct op_case *c, const char *what, const float *in, int lanes, const float *want,
                    const float *got) {
  for (int r = 0; r < REGS; r++) {
    if (!strcmp(c->op->name, "bf16_pair") && r == 2) continue;  // a temporary
    if (!strcmp(c->op->name, "exp2_split") && r == 0) continue; // in a form for exp2_scale
    if (!strcmp(c->op->name, "exp2_scale") && r >= 2) continue; // and what it comes with
    for (int l = 0; l < lanes; l++) {
      int at = r * lanes + l;
      if (outside(c, in, l, lanes) || close_enough(c, in, lanes, want[at], got[at])) continue;
      fail_msg("%s: @%s variant %d, register %d lane %d: %08x, scalar gives %08x; operands %08x %08x %08x %08x", what,
               c->op->name, c->variant, r, l, bits_of(got[at]), bits_of(want[at]), bits_of(in[l]),
               bits_of(in[lanes + l]), bits_of(in[2 * lanes + l]), bits_of(in[3 * lanes + l]));
    }
  }
}

// ---- running ----

struct memory {
  unsigned char *page; // between two that can't be touched
};

static struct memory memory_create(void) {
  unsigned char *p = mmap(NULL, 3 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  assert_true(p != MAP_FAILED);
  assert_int_equal(mprotect(p + PAGE, PAGE, PROT_READ | PROT_WRITE), 0);
  return (struct memory){p + PAGE};
}

static int count_of(const struct op_case *c, int n, int lanes) {
  if (!strchr(c->op->signature, 'i')) return lanes;
  int count = c->variant == 0 ? n : c->variant == 1 ? 5 : c->variant == 2 ? 0 : c->variant == 3 ? lanes : n - 1;
  return count < 0 ? 0 : count > lanes ? lanes : count;
}

static bool same_memory(const struct op_case *c, const unsigned char *a, const unsigned char *b, const char *target) {
  if (!memcmp(a, b, PAGE)) return true;
  if (strcmp(c->op->name, "store_bf16") || (strcmp(target, "avx512bf16") && strcmp(target, "amxbf16"))) return false;
  for (int i = 0; i < PAGE; i += 2) {
    if (!same_bf16(a[i] | (unsigned)a[i + 1] << 8, b[i] | (unsigned)b[i + 1] << 8)) return false;
  }
  return true;
}

// One case in one round: its memory starts (at_end: ends) where the page does.
static void run_case(int index, many_ops *scalar, many_ops *other, const char *what, const char *target, int lanes,
                     int round, struct memory m) {
  const struct op_case *c = &cases[index];
  _Alignas(64) float in[REGS * MAX_LANES + 16], want[REGS * MAX_LANES], got[REGS * MAX_LANES];
  unsigned char before[PAGE], after[PAGE];
  const int n = round / 2 % (lanes + 3) - 1, count = count_of(c, n, lanes), bytes = count * element_bytes(c->op);
  unsigned char *at = round / 2 % 2 ? m.page : m.page + PAGE - bytes;
  prepare(c, round, in, sizeof in / sizeof *in, lanes);
  for (int i = 0; i < PAGE; i++) before[i] = (unsigned char)(next() >> 8);
  memcpy(m.page, before, PAGE);
  scalar(index, in, want, at, n);
  memcpy(after, m.page, PAGE);
  memcpy(m.page, before, PAGE);
  other(index, in, got, at, n);
  compare(c, what, in, lanes, want, got);
  if (!same_memory(c, after, m.page, target)) fail_msg("%s: @%s wrote other bytes, n = %d", what, c->op->name, n);
}

static void run_all(const struct target *t, many_ops *scalar, many_ops *other, const char *how) {
  struct memory m = memory_create();
  char what[64];
  snprintf(what, sizeof what, "%s %s", t->name, how);
  for (int round = 0; round < ROUNDS; round++)
    for (int i = 0; i < n_cases; i++) run_case(i, scalar, other, what, t->name, t->lanes, round, m);
  munmap(m.page - PAGE, 3 * PAGE);
}

static void every_row_does_what_the_scalar_text_says(void **state) {
  (void)state;
  static const char *const compilers[] = {"gcc", "clang"};
  int targets = 0;
  for (int i = 0; i < target_count; i++) {
    const struct target *t = &target_table[i];
    struct jit_module *scalar, *code;
    if (t->family != FAMILY_CPU || !isa_find(t->isa) || !cpu_has_target(t)) continue;
    write_template(t);
    many_ops *reference = jit(t, PRINTER_SCALAR, &scalar);
    many_ops *encoded = jit(t, PRINTER_CODE, &code);
    run_all(t, reference, encoded, "code");
    for (int c = 0; c < 2; c++) {
      void *library;
      many_ops *intrin = compile(t, compilers[c], &library);
      if (!intrin) continue;
      run_all(t, reference, intrin, compilers[c]);
      exact = true;
      run_all(t, encoded, intrin, compilers[c]);
      exact = false;
      dlclose(library);
    }
    jit_unload(code);
    jit_unload(scalar);
    print_message("%s: %d functions\n", t->name, n_cases);
    targets++;
  }
  if (!targets) print_message("no vector instructions here that the generator knows\n");
}

static int setup(void **state) {
  (void)state;
  char path[64];
  if (!mkdtemp(dir)) return -1;
  snprintf(path, sizeof path, "mkdir %s/cpu", dir);
  return system(path);
}

static int teardown(void **state) {
  (void)state;
  char command[64];
  snprintf(command, sizeof command, "rm -r %s", dir);
  return system(command);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(every_row_does_what_the_scalar_text_says)};
#if STROBE_TCC
  return cmocka_run_group_tests(tests, setup, teardown);
#else
  (void)tests, (void)setup, (void)teardown;
  return 0;
#endif
}
