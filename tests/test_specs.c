// Shapes off the beaten path, through the API: sequences of unequal length, tensors of more than 2^31 elements, many
// tiny problems.
#include "api.h"

#include "../runtime/backend.h"
#include "../runtime/reference.h"
#include "guard.h"

#include <math.h>
#include <sys/mman.h>

static strobe_context *ctx;

static int make_context(void **state) {
  (void)state;
  return strobe_context_create(&pool_options, &ctx);
}
static int free_context(void **state) {
  (void)state;
  strobe_context_destroy(ctx);
  return 0;
}

// NULL: this backend can't serve the problem here (no libtcc, nothing compiled in).
static strobe_plan *try_plan(const char *problem, const char *backend) {
  const struct strobe_plan_options o = {.size = sizeof o, .backend = backend};
  strobe_plan *plan = NULL;
  int status = strobe_plan_create(ctx, problem, &o, &plan);
  if (status && status != STROBE_UNSUPPORTED) fail_msg("%s, %s: %s", problem, backend, strobe_error());
  return plan;
}

static void check_args(const strobe_plan *p, const struct strobe_args *args) {
  struct verify_result r;
  struct error err = {0};
  struct buf text = {0};
  if (verify_args(&p->problem.spec, &p->instance, args, 1, VERIFY_ALL_ROWS, &r, &err)) fail_msg("%s", err.text);
  verify_print(&r, &text);
  if (!r.ok) fail_msg("%s, backend %s: %s", p->name.data, p->backend, text.data);
  buf_free(&text);
}

// ---- sequences of unequal length ----

// Rows that a kernel must not read are NaN.
static void run_lengths(const strobe_plan *p, const void *lens, int bytes, enum layout layout) {
  const struct tensor_allocator guarded = guard_allocator(GUARD_AFTER);
  const struct verify_case c = case_of(p, layout, 0);
  struct tensors t;
  struct error err = {0};
  if (verify_create(&c, &guarded, &t, &err)) fail_msg("%s", err.text);
  t.args.kv_lens = lens;
  t.args.kv_lens_bytes = (unsigned)bytes;
  inputs_spoil_unused(&t.spec, &t.args);
  struct strobe_io io = io_of(&t);
  io.kv_lens = lens;
  io.kv_lens_bytes = bytes;
  assert_ok(strobe_execute(p, &io));
  check_args(p, &t.args);
  tensors_free(&t);
}

static const char *const unequal[] = {
    "d32:f32:b6h2q40k300",
    "d64:f32:causal:b6h2/1q33k300",
    "d32:f32:causal_top_left:b6h1q70k300",
    "d64:bf16:b6h2q70k300",
    "d17v5:bf16:causal:b6h1q9k300",
    "d64:bf16:causal:b6h4/2q1k300",
    "d40:f32:b6h4/2q1k300",
    "d24:q=f32,kv=f16,o=bf16:causal:b6h2q40k300",
};

static void test_kv_lens(void **state) {
  (void)state;
  static const int32_t lens32[6] = {300, 0, 1, 129, 128, 47};
  static const int64_t lens64[6] = {17, 300, 256, 5, 0, 299};
  int ran = 0;
  for (size_t i = 0; i < sizeof unequal / sizeof *unequal; i++)
    for (int b = 0; b < backend_count; b++) {
      if (backend_table[b].family != FAMILY_CPU) continue;
      strobe_plan *p = try_plan(unequal[i], backend_table[b].name);
      if (!p) continue;
      run_lengths(p, lens32, 4, LAYOUT_BNHD);
      run_lengths(p, lens64, 8, LAYOUT_BHND);
      strobe_plan_destroy(p);
      ran++;
    }
  assert_true(ran >= (int)(sizeof unequal / sizeof *unequal));
  // Keys of a sequence in parts, some of which have none; causal rows that see none.
  static const char *const in_parts[] = {"d40:f32:b6h4/2q1k300", "d64:bf16:causal:b6h4/2q3k300"};
  const struct strobe_plan_options o = {.size = sizeof o, .config = "kernel=decode,split=64"};
  for (int i = 0; i < 2 && STROBE_TCC; i++) {
    strobe_plan *p;
    assert_ok(strobe_plan_create(ctx, in_parts[i], &o, &p));
    run_lengths(p, lens32, 4, LAYOUT_BNHD);
    run_lengths(p, lens64, 8, LAYOUT_BHND);
    strobe_plan_destroy(p);
  }
}

// Lengths that are all kv_len change no bit.
static void test_equal_kv_lens(void **state) {
  (void)state;
  static const int64_t lens[2] = {77, 77};
  strobe_plan *p = plan_with(ctx, "d32:f32:causal:b2h2q50k77", NULL);
  struct tensors t = tensors_of(p, LAYOUT_BNHD, 0);
  struct strobe_io io = io_of(&t);
  assert_ok(strobe_execute(p, &io));
  void *first = malloc(t.bytes[TENSOR_O]);
  assert_non_null(first);
  memcpy(first, t.args.o.data, t.bytes[TENSOR_O]);
  tensors_poison(&t);
  io.kv_lens = lens;
  io.kv_lens_bytes = 8;
  assert_ok(strobe_execute(p, &io));
  assert_memory_equal(first, t.args.o.data, t.bytes[TENSOR_O]);
  free(first);
  tensors_free(&t);
  strobe_plan_destroy(p);
}

static void test_bad_kv_lens(void **state) {
  (void)state;
  _Alignas(8) static const int32_t good[4] = {20, 3, 0, 0}, negative[2] = {20, -1}, long_one[2] = {21, 3};
  const struct {
    const void *lens;
    int bytes;
    const char *says;
  } cases[] = {
      {negative, 4, "kv_lens[1] -1: must be 0 to kv_len, 20"},
      {long_one, 4, "kv_lens[0] 21: must be 0 to kv_len, 20"},
      {good, 0, "kv_lens_bytes 0: must be 4"},
      {good, 16, "kv_lens_bytes 16: must be 4"},
      {(const char *)good + 2, 4, "must be a multiple of 4"},
      {good + 1, 8, "must be a multiple of 8"},
  };
  strobe_plan *p = plan_with(ctx, "d32:f32:b2h2q5k20", NULL);
  struct tensors t = tensors_of(p, LAYOUT_BNHD, 0);
  struct strobe_io io = io_of(&t);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    io.kv_lens = cases[i].lens;
    io.kv_lens_bytes = cases[i].bytes;
    assert_int_equal(strobe_execute(p, &io), STROBE_INVALID);
    if (!strstr(strobe_error(), cases[i].says)) fail_msg("'%s' lacks '%s'", strobe_error(), cases[i].says);
    assert_true(is_poison(DT_F32, t.args.o.data, 0));
  }
  io.kv_lens = io.lse; // what is written
  io.kv_lens_bytes = 4;
  memset(io.lse, 0, t.bytes[TENSOR_LSE]);
  assert_int_equal(strobe_execute(p, &io), STROBE_INVALID);
  assert_non_null(strstr(strobe_error(), "lse overlaps kv_lens"));
  int64_t last_in_lse[1 + 2 * 2 * 5] = {20, 3};
  io.kv_lens = last_in_lse;
  io.kv_lens_bytes = 8;
  io.lse = (float *)(last_in_lse + 1);
  assert_int_equal(strobe_execute(p, &io), STROBE_INVALID);
  assert_non_null(strstr(strobe_error(), "lse overlaps kv_lens"));
  io.lse = t.args.lse;
  io.kv_lens = good;
  io.kv_lens_bytes = 4;
  assert_ok(strobe_execute(p, &io));
  io.size = offsetof(struct strobe_io, kv_lens); // a caller that was built before there were lengths
  io.kv_lens = negative;
  assert_ok(strobe_execute(p, &io));
  tensors_free(&t);
  strobe_plan_destroy(p);
}

// ---- results that the type of O can't hold ----

static void test_f16_overflow(void **state) {
  (void)state;
  strobe_plan *p = plan_with(ctx, "d8v3:f32:o=f16:q5k4", NULL);
  struct tensors t = tensors_of(p, LAYOUT_BNHD, 0);
  static const float columns[3] = {7e4f, -7e4f, 6.5e4f}; // the largest f16 is 65504
  for (int64_t n = 0; n < 4; n++)
    for (int x = 0; x < 3; x++) ((float *)t.args.v.data)[n * 3 + x] = columns[x];
  struct strobe_io io = io_of(&t);
  assert_ok(strobe_execute(p, &io));
  check_result(p, LAYOUT_BNHD, 0, &t);
  uint16_t *o = t.args.o.data;
  for (int i = 0; i < 5; i++) {
    assert_int_equal(o[3 * i], 0x7c00);
    assert_int_equal(o[3 * i + 1], 0xfc00);
    assert_true(fabs((double)f16_to_f32(o[3 * i + 2]) - 6.5e4) <= 32);
  }
  struct verify_result r;
  o[2] = 0x7c00; // infinite where it need not be
  assert_int_equal(verify_args(&p->problem.spec, &p->instance, &t.args, 1, VERIFY_ALL_ROWS, &r, NULL), 0);
  assert_false(r.ok);
  o[2] = o[5], o[0] = 0xfc00; // the other infinity
  assert_int_equal(verify_args(&p->problem.spec, &p->instance, &t.args, 1, VERIFY_ALL_ROWS, &r, NULL), 0);
  assert_false(r.ok);
  tensors_free(&t);
  strobe_plan_destroy(p);
}

// ---- more than 2^31 elements ----

// Pages that are touched exist; the others are only addresses.
static void *sparse(size_t bytes) {
  void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return p == MAP_FAILED ? NULL : p;
}

static void run_sparse(const char *problem) {
  strobe_plan *p = plan_with(ctx, problem, NULL);
  const struct problem *s = &p->problem;
  const int64_t row = ((int64_t)1 << 29) + 40, head = 72, batch = row * 70 + 8; // 1.1 TB and more of addresses
  struct strobe_args args = plan_args(p);
  struct strobe_tensor *const tensor[] = {&args.q, &args.k, &args.v, &args.o};
  size_t bytes[4];
  bool all = true;
  for (int i = 0; i < 4; i++) {
    bytes[i] = (size_t)(batch * s->batch) * 4;
    *tensor[i] = (struct strobe_tensor){sparse(bytes[i]), batch, head, row};
    all = all && tensor[i]->data;
  }
  float *lse = malloc((size_t)(s->batch * s->heads * s->q_len) * sizeof *lse);
  assert_non_null(lse);
  args.lse = lse;
  args.lse_batch_stride = s->heads * s->q_len;
  args.lse_head_stride = s->q_len;
  struct error err = {0};
  if (all) {
    if (inputs_fill(&s->spec, &args, input_kind_find("normal"), 3, &err)) fail_msg("%s", err.text);
    const struct strobe_io io = {.size = sizeof io,
                                 .q = array_of(&args.q),
                                 .k = array_of(&args.k),
                                 .v = array_of(&args.v),
                                 .o = array_of(&args.o),
                                 .lse = lse};
    assert_ok(strobe_execute(p, &io));
    check_args(p, &args);
  }
  for (int i = 0; i < 4; i++)
    if (tensor[i]->data) munmap(tensor[i]->data, bytes[i]);
  free(lse);
  strobe_plan_destroy(p);
  if (!all) skip(); // this system gives no addresses without memory behind them
}

static void test_large_strides(void **state) {
  (void)state;
  run_sparse("d32:f32:b2h2/1q40k70");      // K and V read in place
  run_sparse("d32:f32:causal:b2h2q65k70"); // copied
  run_sparse("d16:bf16:o=f32:b2h2q20k37"); // pairs
  run_sparse("d16:f32:b2h2q2k70");         // few queries
}

// ---- many tiny problems ----

static void test_tiny_problems(void **state) {
  (void)state;
  static const char *const tiny[] = {"d32:f32:b300h4q49k49", "d24:bf16:b100h3q49k49", "d32:f32:b200h25/5q7k3",
                                     "d1:f32:b64h1q3k2", "d8v1:bf16:b64h5q1k1"};
  for (size_t i = 0; i < sizeof tiny / sizeof *tiny; i++) {
    strobe_plan *p = plan_with(ctx, tiny[i], NULL);
    struct tensors t = tensors_of(p, LAYOUT_BNHD, 0);
    struct strobe_io io = io_of(&t);
    assert_ok(strobe_execute(p, &io));
    check_result(p, LAYOUT_BNHD, 0, &t);
    tensors_free(&t);
    strobe_plan_destroy(p);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_kv_lens),      cmocka_unit_test(test_equal_kv_lens), cmocka_unit_test(test_bad_kv_lens),
      cmocka_unit_test(test_f16_overflow), cmocka_unit_test(test_large_strides), cmocka_unit_test(test_tiny_problems),
  };
  return cmocka_run_group_tests_name("specs", tests, make_context, free_context);
}
