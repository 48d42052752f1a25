// The oracle: cases worked out by hand, properties of attention, and the float64 outputs of trained models.
#include "../runtime/inputs.h" // before cmocka.h, which has a macro named fail
#include "../runtime/npy.h"
#include "../runtime/reference.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct problem problem_of(int head_dim, enum dtype t, enum mask mask, int64_t heads, int64_t heads_kv,
                                 int64_t q_len, int64_t kv_len) {
  return (struct problem){.spec = {.op = OP_ATTN_FWD,
                                   .head_dim = head_dim,
                                   .head_dim_v = head_dim,
                                   .q = t,
                                   .kv = t,
                                   .o = t,
                                   .p = t,
                                   .acc = DT_F32,
                                   .mask = mask},
                          .batch = 1,
                          .heads = heads,
                          .heads_kv = heads_kv,
                          .q_len = q_len,
                          .kv_len = kv_len};
}

// ---- one head, one column, worked out by hand ----

struct tiny {
  double o[4], lse[4], floor[4], magnitude[4];
};

static struct tiny run_tiny(enum mask mask, int q_len, const float *q, int kv_len, const float *k, const float *v,
                            float scale) {
  struct problem p = problem_of(1, DT_F32, mask, 1, 1, q_len, kv_len);
  struct strobe_args a = {.q = {(void *)q, 0, 0, 1},
                          .k = {(void *)k, 0, 0, 1},
                          .v = {(void *)v, 0, 0, 1},
                          .batch = 1,
                          .heads = 1,
                          .heads_kv = 1,
                          .q_len = q_len,
                          .kv_len = kv_len,
                          .diagonal = problem_diagonal(&p),
                          .scale = scale};
  struct tiny t;
  const struct reference_out out = {t.o, t.lse, t.floor, t.magnitude};
  assert_int_equal(reference_head(&p.spec, &a, 0, 0, &out, NULL), 0);
  return t;
}

static void close_to(double got, double want) {
  if (!(fabs(got - want) <= 1e-15 * (1 + fabs(want))) && !(isnan(got) && isnan(want)) && got != want)
    fail_msg("%.17g, expected %.17g", got, want);
}

static void by_hand(void **state) {
  (void)state;
  struct tiny t = run_tiny(MASK_FULL, 2, (float[]){1, 2}, 2, (float[]){1, -1}, (float[]){10, -10}, 0.5f);
  for (int i = 0; i < 2; i++) {
    const double s = 0.5 * (i + 1); // scores s and -s
    close_to(t.o[i], 10 * tanh(s));
    close_to(t.lse[i], log(2 * cosh(s)));
    close_to(t.floor[i], 10);
    close_to(t.magnitude[i], s);
  }
  t = run_tiny(MASK_FULL, 1, (float[]){0}, 3, (float[]){5, 6, 7}, (float[]){1, 2, -9}, -2);
  close_to(t.o[0], -2), close_to(t.lse[0], log(3)), close_to(t.floor[0], 4), close_to(t.magnitude[0], 0);
  // A key of score -Inf has weight 0, whatever is rounded: it is not in the bound.
  t = run_tiny(MASK_FULL, 2, (float[]){1, -1}, 2, (float[]){-INFINITY, 3}, (float[]){9, 2}, 1);
  close_to(t.o[0], 2), close_to(t.lse[0], 3), close_to(t.floor[0], 2), close_to(t.magnitude[0], 3);
  close_to(t.o[1], NAN), close_to(t.lse[1], NAN);
}

static void masks_and_rows_without_keys(void **state) {
  (void)state;
  const float q[] = {0, 0, 0, 0}, k[] = {1, 1, 1, 1}, v[] = {1, 3, 5, 100};
  // 3 queries, 2 keys: bottom-right, query i sees keys up to i - 1; top-left, up to i.
  struct tiny t = run_tiny(MASK_CAUSAL, 3, q, 2, k, v, 1);
  close_to(t.o[0], 0), close_to(t.lse[0], -INFINITY), close_to(t.floor[0], 0), close_to(t.magnitude[0], 0);
  close_to(t.o[1], 1), close_to(t.lse[1], 0), close_to(t.o[2], 2), close_to(t.lse[2], log(2));
  t = run_tiny(MASK_CAUSAL_TOP_LEFT, 3, q, 2, k, v, 1);
  close_to(t.o[0], 1), close_to(t.o[1], 2), close_to(t.o[2], 2);
  // 2 queries, 4 keys: bottom-right sees 3 and 4, top-left 1 and 2.
  t = run_tiny(MASK_CAUSAL, 2, q, 4, k, v, 1);
  close_to(t.o[0], 3), close_to(t.o[1], 109 / 4.0);
  t = run_tiny(MASK_CAUSAL_TOP_LEFT, 2, q, 4, k, v, 1);
  close_to(t.o[0], 1), close_to(t.o[1], 2);
  t = run_tiny(MASK_FULL, 2, q, 0, k, v, 1);
  close_to(t.o[1], 0), close_to(t.lse[1], -INFINITY);
  const struct spec s = {.mask = MASK_CAUSAL};
  struct strobe_args a = {.q_len = 4, .kv_len = 7, .diagonal = INT64_MAX};
  assert_int_equal(reference_visible(&s, &a, 0, 3), 7);
  a.diagonal = INT64_MIN;
  assert_int_equal(reference_visible(&s, &a, 0, 3), 0);
}

// A masked key adds nothing, whatever it holds; a visible one spreads as the three steps say.
static void non_finite(void **state) {
  (void)state;
  const float inf = INFINITY, nan = NAN;
  struct tiny t = run_tiny(MASK_CAUSAL, 3, (float[]){1, 1, 1}, 3, (float[]){0, nan, 0}, (float[]){7, 8, nan}, 1);
  close_to(t.o[0], 7), close_to(t.lse[0], 0), close_to(t.o[1], NAN), close_to(t.lse[1], NAN), close_to(t.o[2], NAN);
  t = run_tiny(MASK_FULL, 1, (float[]){1}, 2, (float[]){0, -inf}, (float[]){7, 8}, 1); // p = 1, 0
  close_to(t.o[0], 7), close_to(t.lse[0], 0);
  t = run_tiny(MASK_FULL, 1, (float[]){1}, 2, (float[]){0, -inf}, (float[]){7, inf}, 1); // 0 * inf
  close_to(t.o[0], NAN), close_to(t.lse[0], 0);
  t = run_tiny(MASK_FULL, 1, (float[]){1}, 2, (float[]){0, inf}, (float[]){7, 8}, 1); // inf - inf
  close_to(t.o[0], NAN), close_to(t.lse[0], NAN);
  t = run_tiny(MASK_FULL, 1, (float[]){1}, 2, (float[]){-inf, -inf}, (float[]){7, 8},
               1); // 0 / 0, not a row without keys; log 0
  close_to(t.o[0], NAN), close_to(t.lse[0], -INFINITY);
  t = run_tiny(MASK_FULL, 1, (float[]){1}, 2, (float[]){0, 0}, (float[]){7, inf}, 1);
  close_to(t.o[0], INFINITY), close_to(t.lse[0], log(2));
  t = run_tiny(MASK_FULL, 2, (float[]){nan, 1}, 1, (float[]){1}, (float[]){7}, 1);
  close_to(t.o[0], NAN), close_to(t.o[1], 7);
}

static void refuses(void **state) {
  (void)state;
  struct problem p = problem_of(1, DT_F32, MASK_FULL, 4, 2, 3, 3);
  struct strobe_args a = {.batch = 1, .heads = 4, .heads_kv = 2, .q_len = 3, .kv_len = 3};
  const struct reference_out out = {0};
  const int64_t row = 3;
  struct error err = {0};
  assert_int_equal(reference_head(&p.spec, &a, 1, 0, &out, &err), STROBE_INVALID);
  assert_string_equal(err.text, "reference: batch 1; allowed: 0 to 0");
  assert_int_equal(reference_head(&p.spec, &a, 0, 4, &out, NULL), STROBE_INVALID);
  assert_int_equal(reference_some(&p.spec, &a, 0, 0, &(struct reference_rows){.index = &row, .count = 1}, &out, NULL),
                   STROBE_INVALID);
  a.heads_kv = 3;
  assert_int_equal(reference_head(&p.spec, &a, 0, 0, &out, NULL), STROBE_INVALID);
  a.heads_kv = 2, a.kv_len = INT64_MAX;
  assert_int_equal(reference_head(&p.spec, &a, 0, 0, &out, NULL), STROBE_NO_MEMORY);
}

// ---- properties ----

enum { N = 150, M = 40, D = 8 }; // more than one block of keys and of rows

struct head {
  double o[M][D], lse[M];
};

static void run_head(const struct tensors *t, int64_t head, struct head *h) {
  const struct reference_out out = {&h->o[0][0], h->lse, NULL, NULL};
  assert_int_equal(reference_head(&t->spec, &t->args, 0, head, &out, NULL), 0);
}

static void same_heads(const struct head *a, const struct head *b, double tolerance) {
  for (int i = 0; i < M; i++) {
    assert_true(fabs(a->lse[i] - b->lse[i]) <= tolerance);
    for (int x = 0; x < D; x++) assert_true(fabs(a->o[i][x] - b->o[i][x]) <= tolerance);
  }
}

static struct tensors tensors_of(enum dtype t, enum mask mask, enum layout layout, int64_t pad, const char *kind) {
  struct problem p = problem_of(D, t, mask, 4, 2, M, N);
  struct tensors out;
  assert_int_equal(tensors_create(&p, layout, pad, default_scale(&p.spec), NULL, &out, NULL), 0);
  assert_int_equal(inputs_fill(&p.spec, &out.args, input_kind_find(kind), 3, NULL), 0);
  return out;
}

static void layouts_and_row_lists_agree(void **state) {
  (void)state;
  for (int t = 0; t < DT_COUNT; t++)
    for (int mask = MASK_FULL; mask <= MASK_CAUSAL_TOP_LEFT; mask++) {
      struct tensors a = tensors_of((enum dtype)t, (enum mask)mask, LAYOUT_BNHD, 0, "normal");
      struct tensors b = tensors_of((enum dtype)t, (enum mask)mask, LAYOUT_BHND, 5, "normal");
      for (int64_t h = 0; h < 4; h++) {
        struct head x, y;
        run_head(&a, h, &x);
        run_head(&b, h, &y);
        assert_memory_equal(&x, &y, sizeof x);
        const int64_t rows[] = {39, 0, 17, 17};
        double o[4][D], lse[4];
        const struct reference_rows list = {.index = rows, .count = 4};
        const struct reference_out out = {.o = &o[0][0], .lse = lse};
        assert_int_equal(reference_some(&a.spec, &a.args, 0, h, &list, &out, NULL), 0);
        for (int i = 0; i < 4; i++) {
          assert_memory_equal(o[i], x.o[rows[i]], sizeof o[i]);
          assert_memory_equal(&lse[i], &x.lse[rows[i]], sizeof lse[i]);
        }
      }
      tensors_free(&a);
      tensors_free(&b);
    }
}

static float *element(const struct strobe_tensor *t, int64_t row, int64_t head) {
  return (float *)t->data + row * t->row_stride + head * t->head_stride;
}

static void swap_rows(const struct strobe_tensor *t, int64_t i, int64_t j) {
  for (int x = 0; x < D; x++) {
    float *a = element(t, i, 0) + x, *b = element(t, j, 0) + x, old = *a;
    *a = *b, *b = old;
  }
}

static void properties(void **state) {
  (void)state;
  struct tensors t = tensors_of(DT_F32, MASK_FULL, LAYOUT_BNHD, 0, "large");
  struct head before, after;
  run_head(&t, 1, &before);
  for (int i = 0; i < N / 2; i++) swap_rows(&t.args.k, i, N - 1 - i), swap_rows(&t.args.v, i, N - 1 - i);
  run_head(&t, 1, &after);
  same_heads(&before, &after, 1e-13);
  for (int i = 0; i < N; i++) // K times 4, scale by 1/4: exact
    for (int x = 0; x < D; x++) element(&t.args.k, i, 0)[x] *= 4;
  t.args.scale /= 4;
  before = after;
  run_head(&t, 1, &after);
  assert_memory_equal(&before, &after, sizeof before);
  for (int i = 0; i < N; i++)
    for (int x = 0; x < D; x++) element(&t.args.v, i, 0)[x] = (float)(x - 3);
  run_head(&t, 1, &after);
  for (int i = 0; i < M; i++)
    for (int x = 0; x < D; x++) assert_true(fabs(after.o[i][x] - (x - 3)) < 1e-14);
  tensors_free(&t);
}

// O of all keys from O and lse of two parts: the formula of split KV.
static void split_and_merge(void **state) {
  (void)state;
  struct tensors t = tensors_of(DT_F32, MASK_FULL, LAYOUT_BNHD, 0, "large");
  struct head all, first, second;
  run_head(&t, 3, &all);
  const int64_t cut = 67;
  t.args.kv_len = cut;
  run_head(&t, 3, &first);
  t.args.k.data = element(&t.args.k, cut, 0), t.args.v.data = element(&t.args.v, cut, 0), t.args.kv_len = N - cut;
  run_head(&t, 3, &second);
  for (int i = 0; i < M; i++) {
    const double w1 = exp(first.lse[i] - all.lse[i]), w2 = exp(second.lse[i] - all.lse[i]);
    assert_true(fabs(w1 + w2 - 1) < 1e-13);
    for (int x = 0; x < D; x++) assert_true(fabs(w1 * first.o[i][x] + w2 * second.o[i][x] - all.o[i][x]) < 1e-13);
  }
  tensors_free(&t);
}

static void future_keys_and_one_hot(void **state) {
  (void)state;
  struct tensors t = tensors_of(DT_F32, MASK_CAUSAL_TOP_LEFT, LAYOUT_BHND, 2, "one-hot");
  struct head before, after;
  run_head(&t, 2, &before);
  for (int i = 20; i < N; i++)
    for (int x = 0; x < D; x++) element(&t.args.k, i, 1)[x] = element(&t.args.v, i, 1)[x] = NAN;
  run_head(&t, 2, &after);
  assert_memory_equal(before.o, after.o, 20 * sizeof before.o[0]);
  assert_memory_equal(before.lse, after.lse, 20 * sizeof before.lse[0]);
  for (int i = 20; i < M; i++) assert_true(isnan(after.o[i][0]) && isnan(after.lse[i]));
  assert_memory_equal(before.o[0], after.o[0], sizeof before.o[0]);
  for (int x = 0; x < D; x++) assert_true(before.o[0][x] == (double)element(&t.args.v, 0, 1)[x]); // row 0 sees one key
  tensors_free(&t);
}

// ---- conversions ----

static void conversions(void **state) {
  (void)state;
  for (uint32_t u = 0; u < 65536; u++) {
    const uint16_t x = (uint16_t)u;
    assert_true(isnan(bf16_to_f32(x)) ? isnan(bf16_to_f32(f32_to_bf16(bf16_to_f32(x))))
                                      : f32_to_bf16(bf16_to_f32(x)) == x);
    assert_true(isnan(f16_to_f32(x)) ? isnan(f16_to_f32(f32_to_f16(f16_to_f32(x)))) : f32_to_f16(f16_to_f32(x)) == x);
    if ((x & 0x7fff) >= 0x7c00) continue; // a number and its neighbour: half-way goes to the even one, a little more up
    const float a = f16_to_f32(x), b = (x & 0x7fff) == 0x7bff ? copysignf(65536, a) : f16_to_f32((uint16_t)(x + 1)),
                mid = (a + b) / 2;
    assert_int_equal(f32_to_f16(mid), x + (x & 1));
    assert_int_equal(f32_to_f16(nextafterf(mid, b)), x + 1);
    assert_int_equal(f32_to_f16(nextafterf(mid, a)), x);
  }
  assert_int_equal(f32_to_bf16(1 + 0x1p-8f), 0x3f80); // half-way: to even
  assert_int_equal(f32_to_bf16(1 + 0x3p-8f), 0x3f82);
  assert_int_equal(f32_to_bf16(1 + 0x1.01p-8f), 0x3f81);
  assert_int_equal(f32_to_bf16(0x1.fffffep127f), 0x7f80);
  assert_true(fabsf(bf16_to_f32(f32_to_bf16(1.3f)) - 1.3f) <= 1.3f * (float)dtype_table[DT_BF16].eps);
}

// ---- trained models ----

static struct npy load(const char *prefix, const char *what, enum npy_type type, int rank, int64_t last) {
  char path[128];
  struct npy a;
  struct error err = {0};
  snprintf(path, sizeof path, "examples/data/%s-%s.npy", prefix, what);
  const int64_t shape[] = {1, -1, rank == 3 ? last : -1, last};
  if (npy_read(path, &a, &err) || npy_expect(&a, path, 1u << type, rank, shape, &err)) fail_msg("%s", err.text);
  return a;
}

static void compare_model(const char *prefix, int head_dim, enum mask mask, const char *o_name, const char *lse_name) {
  struct npy q = load(prefix, "q", NPY_F4, 4, head_dim), k = load(prefix, "k", NPY_F4, 4, head_dim);
  struct npy v = load(prefix, "v", NPY_F4, 4, head_dim), lse = load(prefix, lse_name, NPY_F8, 3, q.shape[1]), o = {0};
  if (o_name) o = load(prefix, o_name, NPY_F8, 4, head_dim);
  const int64_t n = q.shape[1], heads = q.shape[2], heads_kv = k.shape[2];
  struct problem p = problem_of(head_dim, DT_F32, mask, heads, heads_kv, n, n);
  const struct strobe_tensor query = {q.data, 0, head_dim, heads * head_dim},
                             key = {k.data, 0, head_dim, heads_kv * head_dim},
                             value = {v.data, 0, head_dim, heads_kv * head_dim};
  const struct strobe_args a = {.q = query,
                                .k = key,
                                .v = value,
                                .batch = 1,
                                .heads = heads,
                                .heads_kv = heads_kv,
                                .q_len = n,
                                .kv_len = n,
                                .diagonal = problem_diagonal(&p)};
  const double scale = 1 / sqrt((double)head_dim); // the outputs' scale is a double; a kernel's is an f32
  const struct reference_rows rows = {.count = n, .scale = &scale};
  double *mine = malloc((size_t)n * (size_t)(head_dim + 1) * sizeof *mine), worst = 0;
  assert_non_null(mine);
  const struct reference_out out = {.o = mine, .lse = mine + n * head_dim};
  for (int64_t h = 0; h < heads; h++) {
    assert_int_equal(reference_some(&p.spec, &a, 0, h, &rows, &out, NULL), 0);
    for (int64_t i = 0; i < n; i++) {
      worst = fmax(worst, fabs(out.lse[i] - ((double *)lse.data)[h * n + i]));
      for (int x = 0; o.data && x < head_dim; x++)
        worst = fmax(worst, fabs(mine[i * head_dim + x] - ((double *)o.data)[(i * heads + h) * head_dim + x]));
    }
  }
  if (!(worst < 1e-12)) fail_msg("%s: largest difference %g", prefix, worst);
  free(mine);
  npy_free(&q), npy_free(&k), npy_free(&v), npy_free(&o), npy_free(&lse);
}

static void trained_models(void **state) {
  (void)state;
  compare_model("smollm2-l0", 64, MASK_FULL, "o", "lse");
  compare_model("smollm2-l0", 64, MASK_CAUSAL, "causal-o", "causal-lse");
  compare_model("minilm-l0", 32, MASK_FULL, "o", "lse");
  compare_model("minilm-l0", 32, MASK_CAUSAL_TOP_LEFT, NULL, "causal-lse");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(by_hand),         cmocka_unit_test(masks_and_rows_without_keys), cmocka_unit_test(non_finite),
      cmocka_unit_test(refuses),         cmocka_unit_test(layouts_and_row_lists_agree), cmocka_unit_test(properties),
      cmocka_unit_test(split_and_merge), cmocka_unit_test(future_keys_and_one_hot),     cmocka_unit_test(conversions),
      cmocka_unit_test(trained_models),
  };
  return cmocka_run_group_tests_name("reference", tests, NULL, NULL);
}
