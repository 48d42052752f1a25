// The verifier passes a textbook implementation in the kernel's precision on every kind of input, and catches what is
// wrong.
#include "../runtime/cpu.h" // before cmocka.h, which has a macro named fail
#include "../runtime/probe.h"
#include "../runtime/reference.h"
#include "../runtime/verify.h"
#include "guard.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct verify_case case_of(int head_dim, enum dtype t, enum mask mask, int64_t q_len, int64_t kv_len,
                                  const char *kind) {
  struct verify_case c = {.problem = {.spec = {.op = OP_ATTN_FWD,
                                               .head_dim = head_dim,
                                               .head_dim_v = head_dim,
                                               .q = t,
                                               .kv = t,
                                               .o = t,
                                               .p = t,
                                               .acc = DT_F32,
                                               .mask = mask},
                                      .batch = 2,
                                      .heads = 2,
                                      .heads_kv = 1,
                                      .q_len = q_len,
                                      .kv_len = kv_len},
                          .kind = input_kind_find(kind),
                          .seed = 11,
                          .layout = LAYOUT_BNHD,
                          .pad = 3};
  assert_non_null(c.kind);
  c.scale = default_scale(&c.problem.spec);
  return c;
}

// ---- the textbook, in f32, with P rounded to its dtype ----

static int64_t place(const struct strobe_tensor *t, int64_t b, int64_t h, int64_t n) {
  return b * t->batch_stride + h * t->head_stride + n * t->row_stride;
}

static void textbook_row(const struct tensors *t, int64_t b, int64_t h, int64_t i, float *s) {
  const struct strobe_args *a = &t->args;
  const struct spec *sp = &t->spec;
  const int64_t kv = h / (a->heads / a->heads_kv), seen = reference_visible(sp, a, b, i);
  float most = -INFINITY, sum = 0;
  bool any = false;
  for (int64_t j = 0; j < seen; j++) {
    s[j] = 0;
    for (int x = 0; x < sp->head_dim; x++)
      s[j] += (float)dtype_load(sp->q, a->q.data, place(&a->q, b, h, i) + x) *
              (float)dtype_load(sp->kv, a->k.data, place(&a->k, b, kv, j) + x);
    s[j] *= a->scale;
    any |= s[j] != -INFINITY;
    most = s[j] > most ? s[j] : most;
  }
  for (int64_t j = 0; j < seen;) { // l += rowsum of a block, as in Algorithm 1
    float block = 0;
    for (int64_t end = j + 128; j < seen && j < end; j++) block += s[j] = expf(s[j] - most);
    sum += block;
  }
  for (int x = 0; x < sp->head_dim_v; x++) {
    float o = 0;
    for (int64_t j = 0; j < seen; j++) {
      float p = sp->p == DT_BF16 ? bf16_to_f32(f32_to_bf16(s[j])) : s[j];
      o += p * (float)dtype_load(sp->kv, a->v.data, place(&a->v, b, kv, j) + x);
    }
    dtype_store(sp->o, a->o.data, place(&a->o, b, h, i) + x, seen ? o / sum : 0);
  }
  a->lse[b * a->lse_batch_stride + h * a->lse_head_stride + i] = any ? most + logf(sum) : -INFINITY;
}

static void textbook(const struct tensors *t) {
  float *s = malloc((size_t)(t->args.kv_len + 1) * sizeof *s);
  assert_non_null(s);
  for (int64_t b = 0; b < t->args.batch; b++)
    for (int64_t h = 0; h < t->args.heads; h++)
      for (int64_t i = 0; i < t->args.q_len; i++) textbook_row(t, b, h, i, s);
  free(s);
}

static struct verify_result verify(const struct verify_case *c, const struct tensors *t) {
  struct verify_result r;
  struct error err = {0};
  if (verify_tensors(c, NULL, t, VERIFY_ALL_ROWS, &r, &err)) fail_msg("%s", err.text);
  return r;
}

static void expect_ok(const struct verify_case *c, const struct verify_result *r) {
  if (r->ok) return;
  struct buf text = {0};
  verify_case_print(c, &text);
  buf_str(&text, ": ");
  verify_print(r, &text);
  fail_msg("%s", text.data);
}

static struct tensors create(const struct verify_case *c, const struct tensor_allocator *allocator) {
  struct tensors t;
  struct error err = {0};
  if (verify_create(c, allocator, &t, &err)) fail_msg("%s", err.text);
  return t;
}

static void textbook_passes(void **state) {
  (void)state;
  static const int64_t lengths[][2] = {{33, 70}, {1, 1}, {70, 33}, {5, 0}, {0, 5}, {17, 300}};
  for (int kind = 0; kind < input_kind_count; kind++)
    for (size_t n = 0; n < sizeof lengths / sizeof *lengths; n++)
      for (int mask = MASK_FULL; mask <= MASK_CAUSAL_TOP_LEFT; mask++)
        for (int type = DT_F32; type <= DT_BF16; type++) {
          struct verify_case c = case_of(n % 2 ? 32 : 64, (enum dtype)type, (enum mask)mask, lengths[n][0],
                                         lengths[n][1], input_kinds[kind].name);
          c.layout = (enum layout)(n % 2);
          struct tensors t = create(&c, NULL);
          textbook(&t);
          struct verify_result r = verify(&c, &t);
          expect_ok(&c, &r);
          assert_int_equal(r.rows, 4 * lengths[n][0]);
          tensors_free(&t);
        }
}

// One element moved by ten times its bound is found, and where it is.
static void perturbation_fails(void **state) {
  (void)state;
  for (int type = DT_F32; type <= DT_BF16; type++)
    for (int i = 0; i < 4; i++) {
      const bool lse = i & 1;
      struct verify_case c = case_of(32, (enum dtype)type, MASK_CAUSAL, 20, 40, i & 2 ? "inf-keys" : "normal");
      struct tensors t = create(&c, NULL);
      textbook(&t);
      struct verify_result r = verify(&c, &t);
      expect_ok(&c, &r);
      assert_true(r.o.ratio > 0 && r.lse.ratio > 0); // there is something to measure
      struct reference_out out = {0};
      double o[32], f[32], l, A;
      const int64_t row = 13, keys = reference_visible(&t.spec, &t.args, 0, row);
      out = (struct reference_out){o, &l, f, &A};
      assert_int_equal(
          reference_some(&t.spec, &t.args, 1, 1, &(struct reference_rows){.index = &row, .count = 1}, &out, NULL), 0);
      if (lse)
        t.args.lse[3 * 20 + row] = (float)(l + 10 * reference_bound_lse(&t.spec, NULL, keys, l, A));
      else
        dtype_store(t.spec.o, t.args.o.data, place(&t.args.o, 1, 1, row) + 7,
                    o[7] + 10 * reference_bound_o(&t.spec, NULL, keys, o[7], f[7], A));
      r = verify(&c, &t);
      const struct verify_worst *w = lse ? &r.lse : &r.o;
      assert_false(r.ok);
      assert_true(w->ratio > 8 && w->ratio < 12 && (lse ? r.o.ratio : r.lse.ratio) < 1);
      assert_int_equal(w->batch * 1000000 + w->head * 10000 + w->row * 100 + w->column, 1011300 + (lse ? 0 : 7));
      tensors_free(&t);
    }
}

static void expect_sentence(const struct verify_case *c, const struct tensors *t, const char *sentence) {
  struct verify_result r = verify(c, t);
  struct buf text = {0};
  verify_print(&r, &text);
  assert_false(r.ok);
  if (!text.data || !strstr(text.data, sentence)) fail_msg("%s, expected \"%s\"", text.data ? text.data : "", sentence);
  buf_free(&text);
}

static void unwritten_nan_and_padding_fail(void **state) {
  (void)state;
  struct verify_case c = case_of(32, DT_F32, MASK_FULL, 20, 40, "normal");
  struct tensors t = create(&c, NULL);
  struct verify_result r;
  assert_int_equal(verify_tensors(&c, NULL, &t, 2, &r, NULL),
                   0); // all rows are looked at for poison, not just the sample
  assert_int_equal(r.unwritten, 2 * 2 * 20 * (32 + 1));
  textbook(&t);
  float *o = (float *)t.args.o.data + place(&t.args.o, 1, 0, 9);
  const float old = o[31];
  memcpy(&o[31], &(uint32_t){POISON_F32}, sizeof *o);
  expect_sentence(&c, &t, "1 output elements were not written, the first in batch 1, head 0, row 9");
  o[31] = NAN;
  expect_sentence(&c, &t,
                  "1 elements are finite where the reference is not, or the reverse; the first, [batch 1, head 0, row "
                  "9, column 31]");
  o[31] = old;
  const float padding = o[32];
  o[32] = 0;
  expect_sentence(&c, &t, "1 elements of padding were overwritten");
  o[32] = padding;
  r = verify(&c, &t);
  if (r.padding)
    memcpy(&o[32], &(uint32_t){POISON_F32}, sizeof *o), r = verify(&c, &t); // an x87 copy may quieten a NaN
  expect_ok(&c, &r);
  tensors_free(&t);
  c = case_of(32, DT_F32, MASK_FULL, 20, 40, "nan");
  t = create(&c, NULL);
  textbook(&t);
  r = verify(&c, &t);
  expect_ok(&c, &r);
  for (int64_t i = 0; i < 20 * 2; i++) // a NaN that should be there and is not
    for (int x = 0; x < 32; x++) {
      float *e = (float *)t.args.o.data + i * t.args.o.head_stride + x;
      if (isnan(*e)) *e = 0;
    }
  expect_sentence(&c, &t, "finite where the reference is not");
  tensors_free(&t);
  c = case_of(32, DT_F32, MASK_FULL, 5, 0, "normal");
  t = create(&c, NULL);
  textbook(&t);
  t.args.lse[3] = INFINITY; // the other infinity
  expect_sentence(&c, &t, "[batch 0, head 0, row 3, column 0] is inf, the reference -inf");
  tensors_free(&t);
}

static void inputs_are_deterministic_and_guarded(void **state) {
  (void)state;
  for (int kind = 0; kind < input_kind_count; kind++)
    for (int side = 0; side < 2; side++) {
      const struct tensor_allocator guard = guard_allocator((enum guard_side)side);
      struct verify_case c = case_of(40, side ? DT_BF16 : DT_F32, MASK_CAUSAL, 9, 13, input_kinds[kind].name);
      struct tensors a = create(&c, &guard);
      c.layout = LAYOUT_BHND;
      c.pad = 0;
      struct tensors b = create(&c, NULL);
      assert_int_equal(guard_read_only(a.memory[TENSOR_K], a.bytes[TENSOR_K]), 0);
      for (int64_t n = 0; n < 13; n++) {
        const int bytes = dtype_table[a.spec.kv].bytes;
        const char *x = (char *)a.args.k.data + place(&a.args.k, 1, 0, n) * bytes, *y = b.args.k.data;
        assert_memory_equal(x, y + place(&b.args.k, 1, 0, n) * bytes, (size_t)(40 * bytes));
      }
      struct verify_result r;
      assert_int_equal(verify_tensors(&c, NULL, &a, VERIFY_AUTO_ROWS, &r, NULL),
                       0); // reads outputs: nothing beyond them
      assert_int_equal(r.padding, 0);
      tensors_free(&a);
      tensors_free(&b);
    }
}

static void samples(void **state) {
  (void)state;
  int64_t rows[64];
  for (int64_t q_len = 0; q_len < 200; q_len += 7)
    for (uint64_t seed = 0; seed < 5; seed++) {
      int64_t n = verify_sample(q_len, 64, seed, rows);
      assert_true(q_len <= 64 ? n == q_len : n >= 16);
      for (int64_t i = 0; i < n; i++) assert_true(rows[i] >= 0 && rows[i] < q_len && (!i || rows[i] > rows[i - 1]));
      if (n) assert_true(rows[0] == 0 && rows[n - 1] == q_len - 1);
    }
  for (uint64_t seed = 0; seed < 5; seed++) { // a quarter of them are before a tile's edge, and a quarter after one
    const int64_t n = verify_sample(1000000, 64, seed, rows);
    int before = 0, after = 0;
    for (int64_t i = 0; i < n; i++) before += rows[i] % 16 == 15, after += rows[i] % 16 == 0;
    assert_true(before >= 14 && after >= 14);
  }
}

static void *limited_alloc(void *context, size_t bytes) { return --*(int *)context > 0 ? malloc(bytes) : NULL; }
static void limited_free(void *context, void *data, size_t bytes) {
  (void)bytes;
  ++*(int *)context;
  free(data);
}

static void sizes_that_do_not_fit(void **state) {
  (void)state;
  struct verify_case c = case_of(64, DT_F32, MASK_FULL, 1, 1, "zeros");
  struct tensors t;
  struct error err = {0};
  c.problem.q_len = INT64_MAX / 100;
  assert_int_equal(verify_create(&c, NULL, &t, &err), STROBE_INVALID);
  assert_non_null(strstr(err.text, "is more than 2^60 elements"));
  c.problem.q_len = 5;
  int left = 3; // q and k are given memory, and freed again; v is not
  const struct tensor_allocator limited = {limited_alloc, limited_free, &left};
  assert_int_equal(verify_create(&c, &limited, &t, NULL), STROBE_NO_MEMORY);
  assert_int_equal(left, 2);
  assert_null(t.memory[TENSOR_Q]);
  c.problem.q_len = -2;
  assert_int_equal(verify_create(&c, NULL, &t, NULL), STROBE_INVALID);
}

static void machine(void **state) {
  (void)state;
  char name[64] = "", tiny[3];
  cpu_name(name, sizeof name);
  assert_true(strlen(name) > 0 && name[0] != ' ');
  cpu_name(tiny, sizeof tiny);
  assert_true(strlen(tiny) < sizeof tiny);
  assert_true(cpu_has_target(target_find("c99")));
  struct verify_case c = case_of(64, DT_F32, MASK_FULL, 1, 1, "zeros");
  const struct target *best = cpu_best_target(&c.problem.spec);
  assert_non_null(best);
  assert_true(cpu_has_target(best));
  for (int i = 0; i < target_count; i++) {
    if (target_table[i].family != FAMILY_CPU) assert_false(cpu_has_target(&target_table[i]));
    double fma = probe_fma(&target_table[i], 2), dot = probe_bf16_dot(&target_table[i], 2);
    assert_true(fma > 0.05 && fma < 2000 && dot > 0.05 && dot < 4000); // more: the compiler has thrown the loop away
  }
  struct probe_reader *reader;
  assert_int_equal(probe_reader_create(1 << 20, 0.5, &reader, NULL), 0);
  double speed = probe_reader_run(reader, 1);
  assert_true(speed > 0.05 && speed < 2000);
  assert_non_null(strstr(probe_reader_best(reader), "stream"));
  probe_reader_free(reader);
  assert_int_equal(probe_reader_create(0, 1, &reader, NULL), STROBE_INVALID);
  char *memory = aligned_alloc(64, 1 << 19);
  assert_non_null(memory);
  memset(memory, 1, 1 << 19);
  assert_int_equal(probe_reader_over(memory, 1 << 19, 0.1, &reader, NULL), 0);
  assert_true(probe_reader_run(reader, 0.5) > 0);
  probe_reader_free(reader); // and not the memory
  assert_int_equal(probe_reader_over(memory, 1 << 17, 0.1, &reader, NULL), STROBE_INVALID);
  assert_int_equal(probe_reader_over(memory + 1, 1 << 18, 0.1, &reader, NULL), STROBE_INVALID);
  free(memory);
}

// A kernel that multiplies whole blocks spreads a bad V to rows of the same 64 that do not see the key; no further.
static void whole_blocks(void **state) {
  (void)state;
  struct verify_case c = case_of(64, DT_BF16, MASK_CAUSAL, 150, 150, "normal");
  struct tensors t = create(&c, NULL);
  struct instance kernel = {.spec = c.problem.spec, .target = target_find("sm90a")};
  struct verify_result r;
  struct error err = {0};
  config_clear(&kernel.config);
  kernel.config.v[CFG_BLOCK_N] = 32;
  const struct strobe_args *a = &t.args;
  dtype_store(DT_BF16, a->v.data, place(&a->v, 0, 0, 70) + 5, NAN); // seen by rows 70 .., in the block of keys 64 to 95
  textbook(&t);
#define CHECK(row_, column_, value_, flag_, good_)                                                                     \
  do {                                                                                                                 \
    const int64_t at_ = place(&a->o, 0, 0, row_) + (column_);                                                          \
    const double kept_ = dtype_load(DT_BF16, a->o.data, at_);                                                          \
    dtype_store(DT_BF16, a->o.data, at_, value_);                                                                      \
    c.whole_blocks = flag_;                                                                                            \
    assert_int_equal(verify_tensors(&c, &kernel, &t, VERIFY_ALL_ROWS, &r, &err), 0);                                   \
    assert_int_equal(r.ok, good_);                                                                                     \
    dtype_store(DT_BF16, a->o.data, at_, kept_);                                                                       \
  } while (0)
  CHECK(69, 5, NAN, true, true);
  assert_int_equal(r.excused, 1);
  CHECK(69, 5, NAN, false, false); // the CPU's kernels skip keys that a row does not see
  CHECK(64, 5, NAN, true, true);
  CHECK(63, 5, NAN, true, false);      // the 64 rows before stop a block earlier
  CHECK(69, 6, NAN, true, false);      // another column
  CHECK(69, 5, INFINITY, true, false); // 0 times NaN is NaN
  CHECK(71, 5, 0.0, true, false);      // sees the key
  kernel.config.v[CFG_BLOCK_N] = 128;  // now keys 0 to 127 are one block, which the first 64 rows visit too
  CHECK(63, 5, NAN, true, true);
  for (int x = 0; x < 64; x++) // row 0 sees one key: its score is -Inf
    dtype_store(DT_BF16, a->q.data, place(&a->q, 0, 0, 0) + x,
                dtype_load(DT_BF16, a->k.data, place(&a->k, 0, 0, 0) + x) > 0 ? -INFINITY : INFINITY);
  for (int x = 0; x < 64; x++) dtype_store(DT_BF16, a->o.data, place(&a->o, 0, 0, 0) + x, 0);
  a->lse[0] = -INFINITY;
  CHECK(1, 0, dtype_load(DT_BF16, a->o.data, place(&a->o, 0, 0, 1)), true, true);
  assert_int_equal(r.excused, 64);
  CHECK(0, 7, 0.5, true, false);
  a->lse[0] = NAN;
  CHECK(1, 0, dtype_load(DT_BF16, a->o.data, place(&a->o, 0, 0, 1)), true, true);
  assert_int_equal(r.excused, 65);
  a->lse[0] = 0;
  CHECK(1, 0, dtype_load(DT_BF16, a->o.data, place(&a->o, 0, 0, 1)), true, false);
  a->lse[0] = -INFINITY;
  CHECK(1, 0, dtype_load(DT_BF16, a->o.data, place(&a->o, 0, 0, 1)), false, false);
#undef CHECK
  tensors_free(&t);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(textbook_passes),
      cmocka_unit_test(whole_blocks),
      cmocka_unit_test(perturbation_fails),
      cmocka_unit_test(unwritten_nan_and_padding_fail),
      cmocka_unit_test(inputs_are_deterministic_and_guarded),
      cmocka_unit_test(samples),
      cmocka_unit_test(sizes_that_do_not_fit),
      cmocka_unit_test(machine),
  };
  return cmocka_run_group_tests_name("verify", tests, NULL, NULL);
}
