// What attention must satisfy, whatever the oracle says: each property over every target, dtype and kind of kernel. The
// oracle lends only the terms of its error bound, F and A.
#include "kernels.h" // before cmocka.h, which has a macro named fail

static const char *const specs[] = {"d64:f32", "d64:bf16", "d40:bf16:o=f32", "d48v24:f16", "d24:q=f32,kv=bf16,o=f32"};
static const char *const configs[] = {"",
                                      "block_n=32,stages=1",
                                      "kernel=decode,block_m=5,block_n=64",
                                      "algo=standard,block_n=64",
                                      "algo=fa1,block_n=32",
                                      "diagonal=mask,block_n=64"};
static const char *const masks[] = {"full", "causal"};
enum {
  N_SPECS = sizeof specs / sizeof *specs,
  N_CONFIGS = sizeof configs / sizeof *configs,
  Q_LEN = 70,
  KV_LEN = 150,
  HEADS = 2,
  HEADS_KV = 1
};

typedef void property(const struct test_kernel *k);

// Calls check for every kernel of the tables with one of the masks ("": both).
static void for_kernels(const char *mask, property *check) {
  int made = 0;
  if (!STROBE_TCC) skip();
  for (int n = 0; n < N_SPECS * 2; n++) {
    char text[80];
    snprintf(text, sizeof text, "%s:%s", specs[n / 2], masks[n % 2]);
    if (!strstr(text, mask)) continue;
    const struct spec s = problem_of(text).spec;
    for (int i = 0; i < target_count * N_CONFIGS; i++) {
      const struct target *t = &target_table[i / N_CONFIGS];
      struct test_kernel k;
      const bool slow = !t->vregs || SANITIZED; // lane loops through libtcc: two dtypes and the default config
      if (t->family != FAMILY_CPU || !cpu_has_target(t) || (slow && (n > 3 || i % N_CONFIGS))) continue;
      if (!make_best_kernel(&s, t, configs[i % N_CONFIGS], &k)) continue;
      check(&k);
      free_kernel(&k);
      made++;
    }
  }
  assert_true(made >= 2 * N_CONFIGS || SANITIZED);
}

// ---- tensors of one kernel, and what it made of them ----

static struct tensors tensors_for(const struct test_kernel *k, const char *kind, float scale) {
  const struct verify_case c = {.problem = {.spec = k->instance.spec,
                                            .batch = 1,
                                            .heads = HEADS,
                                            .heads_kv = HEADS_KV,
                                            .q_len = Q_LEN,
                                            .kv_len = KV_LEN},
                                .kind = input_kind_find(kind),
                                .seed = 5,
                                .layout = LAYOUT_BHND,
                                .pad = 3,
                                .scale = scale != 0 ? scale : default_scale(&k->instance.spec)};
  set_current(k, &c);
  return guarded_tensors(&c, GUARD_AFTER);
}

struct outcome {
  void *o;
  float *lse;
};

static struct outcome run(const struct test_kernel *k, struct tensors *t) {
  tensors_poison(t);
  run_steps(k->kernel, &t->args, GUARD_AFTER);
  struct outcome r = {malloc(t->bytes[TENSOR_O]), malloc(t->bytes[TENSOR_LSE])};
  assert_true(r.o && r.lse);
  memcpy(r.o, t->memory[TENSOR_O], t->bytes[TENSOR_O]);
  memcpy(r.lse, t->memory[TENSOR_LSE], t->bytes[TENSOR_LSE]);
  return r;
}

static void free_outcome(struct outcome *r) { free(r->o), free(r->lse); }

static void expect_same_bits(const struct tensors *t, const struct outcome *a, const struct outcome *b,
                             const char *what) {
  if (memcmp(a->o, b->o, t->bytes[TENSOR_O])) fail_msg("%s: %s changed bits of O", current, what);
  if (memcmp(a->lse, b->lse, t->bytes[TENSOR_LSE])) fail_msg("%s: %s changed bits of lse", current, what);
}

static int64_t at(const struct strobe_tensor *t, int64_t h, int64_t n) {
  return h * t->head_stride + n * t->row_stride;
}
static double get_o(const struct tensors *t, const struct outcome *r, int64_t h, int64_t i, int x) {
  return dtype_load(t->spec.o, r->o, at(&t->args.o, h, i) + x);
}
static double get_v(const struct tensors *t, int64_t h, int64_t n, int x) {
  return dtype_load(t->spec.kv, t->args.v.data, at(&t->args.v, h / (HEADS / HEADS_KV), n) + x);
}
static void fill_row(const struct tensors *t, const struct strobe_tensor *to, enum dtype type, int dim, int64_t n,
                     double value) {
  const int64_t heads = to == &t->args.q ? HEADS : HEADS_KV;
  for (int64_t h = 0; h < heads; h++)
    for (int x = 0; x < dim; x++) dtype_store(type, to->data, at(to, h, n) + x, value);
}

static void expect_near(double got, double want, double bound, int64_t h, int64_t i, int x, const char *what) {
  if (fabs(got - want) <= bound) return;
  fail_msg("%s: %s: head %lld, row %lld, column %d is %.9g, not %.9g within %.3g", current, what, (long long)h,
           (long long)i, x, got, want, bound);
}

static void done(struct tensors *t) {
  if (tensors_padding_changed(t)) fail_msg("%s: padding was overwritten", current);
  tensors_free(t);
  current[0] = 0;
}

// F and A of every row of a head, and the reference's own o and lse.
struct terms {
  double o[Q_LEN * 64], lse[Q_LEN], F[Q_LEN * 64], A[Q_LEN];
};
static void terms_of(const struct tensors *t, int64_t head, struct terms *e) {
  const struct reference_out out = {e->o, e->lse, e->F, e->A};
  assert_true(t->spec.head_dim_v <= 64);
  assert_int_equal(reference_head(&t->spec, &t->args, 0, head, &out, NULL), 0);
}
static double bound_o(const struct test_kernel *k, const struct tensors *t, const struct terms *e, int64_t i, int x) {
  const int64_t n = i * t->spec.head_dim_v + x, keys = reference_visible(&t->spec, &t->args, 0, i);
  return reference_bound_o(&t->spec, &k->instance, keys, e->o[n], e->F[n], e->A[i]);
}
static double bound_lse(const struct test_kernel *k, const struct tensors *t, const struct terms *e, int64_t i) {
  const int64_t keys = reference_visible(&t->spec, &t->args, 0, i);
  return keys ? reference_bound_lse(&t->spec, &k->instance, keys, e->lse[i], e->A[i]) : 0;
}

// ---- the properties ----

// Weights that sum to 1 give a constant back; errors of the scores and of exp cancel.
static void constant_v(const struct test_kernel *k) {
  struct tensors t = tensors_for(k, "large", 0);
  const struct spec *s = &t.spec;
  for (int64_t n = 1; n < KV_LEN; n++)
    for (int64_t h = 0; h < HEADS_KV; h++)
      for (int x = 0; x < s->head_dim_v; x++)
        dtype_store(s->kv, t.args.v.data, at(&t.args.v, h, n) + x,
                    dtype_load(s->kv, t.args.v.data, at(&t.args.v, h, 0) + x));
  struct outcome r = run(k, &t);
  for (int64_t h = 0; h < HEADS; h++)
    for (int64_t i = 0; i < Q_LEN; i++)
      for (int x = 0; x < s->head_dim_v; x++) {
        const double want = get_v(&t, h, 0, x);
        expect_near(get_o(&t, &r, h, i, x), want, reference_bound_o(s, NULL, KV_LEN, want, fabs(want), 0), h, i, x,
                    "constant V");
      }
  free_outcome(&r);
  done(&t);
}
static void test_constant_v(void **state) { (void)state, for_kernels("", constant_v); }

// The order of the keys does not matter. 83 has no factor in common with 150.
static void permuted_keys(const struct test_kernel *k) {
  struct tensors t = tensors_for(k, "normal", 0), p = tensors_for(k, "normal", 0);
  const struct spec *s = &t.spec;
  for (int64_t n = 0; n < KV_LEN; n++)
    for (int64_t h = 0; h < HEADS_KV; h++) {
      const int64_t m = (n * 83 + 7) % KV_LEN;
      const int bytes = dtype_table[s->kv].bytes;
      memcpy((char *)p.args.k.data + at(&p.args.k, h, m) * bytes, (char *)t.args.k.data + at(&t.args.k, h, n) * bytes,
             (size_t)(s->head_dim * bytes));
      memcpy((char *)p.args.v.data + at(&p.args.v, h, m) * bytes, (char *)t.args.v.data + at(&t.args.v, h, n) * bytes,
             (size_t)(s->head_dim_v * bytes));
    }
  struct outcome a = run(k, &t), b = run(k, &p);
  static struct terms e;
  for (int64_t h = 0; h < HEADS; h++) {
    terms_of(&t, h, &e);
    for (int64_t i = 0; i < Q_LEN; i++) {
      for (int x = 0; x < s->head_dim_v; x++)
        expect_near(get_o(&p, &b, h, i, x), get_o(&t, &a, h, i, x), 2 * bound_o(k, &t, &e, i, x), h, i, x, "permuted");
      expect_near(b.lse[h * Q_LEN + i], a.lse[h * Q_LEN + i], 2 * bound_lse(k, &t, &e, i), h, i, 0, "permuted, lse");
    }
  }
  free_outcome(&a), free_outcome(&b);
  done(&p), done(&t);
}
static void test_permuted_keys(void **state) { (void)state, for_kernels("full", permuted_keys); }

// A power of two moves between K and the scale without a rounding.
static void doubled_keys(const struct test_kernel *k) {
  struct tensors t = tensors_for(k, "normal", 0);
  struct outcome a = run(k, &t);
  for (int64_t n = 0; n < KV_LEN; n++)
    for (int64_t h = 0; h < HEADS_KV; h++)
      for (int x = 0; x < t.spec.head_dim; x++) {
        const int64_t place = at(&t.args.k, h, n) + x;
        dtype_store(t.spec.kv, t.args.k.data, place, 2 * dtype_load(t.spec.kv, t.args.k.data, place));
      }
  t.args.scale /= 2;
  struct outcome b = run(k, &t);
  expect_same_bits(&t, &a, &b, "2 K with half the scale");
  free_outcome(&a), free_outcome(&b);
  done(&t);
}
static void test_doubled_keys(void **state) { (void)state, for_kernels("", doubled_keys); }

// ---- NaN goes where the formula takes it, and nowhere else ----

enum spoiled { SPOILED_Q, SPOILED_K, SPOILED_V };
static const char *const spoiled_names[] = {"Q", "K", "V"};

// After a NaN in column 5 of row n: what should be NaN is, everything else has the bits of the clean run.
static void expect_reach(const struct tensors *t, const struct outcome *clean, const struct outcome *r,
                         enum spoiled which, int64_t n) {
  const int bytes = dtype_table[t->spec.o].bytes;
  for (int64_t h = 0; h < HEADS; h++)
    for (int64_t i = 0; i < Q_LEN; i++) {
      const bool hit = which == SPOILED_Q ? i == n : n < reference_visible(&t->spec, &t->args, 0, i);
      const float lse = r->lse[h * Q_LEN + i], before = clean->lse[h * Q_LEN + i];
      bool ok = hit && which != SPOILED_V ? isnan(lse) : !memcmp(&lse, &before, sizeof lse);
      for (int x = 0; x < t->spec.head_dim_v && ok; x++) {
        const int64_t place = (at(&t->args.o, h, i) + x) * bytes;
        ok = hit && (which != SPOILED_V || x == 5)
                 ? isnan(get_o(t, r, h, i, x))
                 : !memcmp((char *)r->o + place, (char *)clean->o + place, (size_t)bytes);
      }
      if (!ok)
        fail_msg("%s: NaN in row %lld of %s: row %lld of head %lld %s", current, (long long)n, spoiled_names[which],
                 (long long)i, (long long)h, hit ? "should be NaN" : "should be as without it");
    }
}

static void nan_reach(const struct test_kernel *k) {
  static const int64_t rows[] = {0, 31, 32, 69, 80, 81, 127, 128, 149};
  struct tensors t = tensors_for(k, "normal", 0);
  struct outcome clean = run(k, &t);
  const struct strobe_tensor *const tensor[] = {&t.args.q, &t.args.k, &t.args.v};
  for (int which = SPOILED_Q; which <= SPOILED_V; which++)
    for (size_t n = 0; n < sizeof rows / sizeof *rows; n++) {
      const enum dtype type = which == SPOILED_Q ? t.spec.q : t.spec.kv;
      double saved[HEADS];
      if (rows[n] >= (which == SPOILED_Q ? Q_LEN : KV_LEN) || (SANITIZED && n % 4)) continue;
      for (int h = 0; h < (which == SPOILED_Q ? HEADS : HEADS_KV); h++) {
        saved[h] = dtype_load(type, tensor[which]->data, at(tensor[which], h, rows[n]) + 5);
        dtype_store(type, tensor[which]->data, at(tensor[which], h, rows[n]) + 5, NAN);
      }
      struct outcome r = run(k, &t);
      expect_reach(&t, &clean, &r, (enum spoiled)which, rows[n]);
      free_outcome(&r);
      for (int h = 0; h < (which == SPOILED_Q ? HEADS : HEADS_KV); h++)
        dtype_store(type, tensor[which]->data, at(tensor[which], h, rows[n]) + 5, saved[h]);
    }
  free_outcome(&clean);
  done(&t);
}
static void test_nan_reach(void **state) { (void)state, for_kernels("", nan_reach); }

// ---- one-hot weights, and equal ones ----

// All scores are 0 but those of one key, which are 100: a row that sees it is its row of V, others are the mean.
static void one_hot(const struct test_kernel *k) {
  static const int64_t hot_keys[] = {0, 80, 127, 149};
  struct tensors t = tensors_for(k, "normal", 100.0f / (float)k->instance.spec.head_dim);
  const struct spec *s = &t.spec;
  for (int64_t n = 0; n < Q_LEN; n++) fill_row(&t, &t.args.q, s->q, s->head_dim, n, 1);
  for (size_t hot = 0; hot < sizeof hot_keys / sizeof *hot_keys; hot++) {
    for (int64_t n = 0; n < KV_LEN; n++) fill_row(&t, &t.args.k, s->kv, s->head_dim, n, n == hot_keys[hot]);
    struct outcome r = run(k, &t);
    for (int64_t h = 0; h < HEADS; h++)
      for (int64_t i = 0; i < Q_LEN; i++) {
        const int64_t keys = reference_visible(s, &t.args, 0, i);
        for (int x = 0; x < s->head_dim_v; x++) {
          double want = get_v(&t, h, hot_keys[hot], x), floor = fabs(want);
          if (hot_keys[hot] >= keys) {
            want = floor = 0;
            for (int64_t n = 0; n < keys; n++) want += get_v(&t, h, n, x), floor += fabs(get_v(&t, h, n, x));
            want /= (double)keys, floor /= (double)keys;
          }
          expect_near(get_o(&t, &r, h, i, x), want, reference_bound_o(s, &k->instance, keys, want, floor, 0), h, i, x,
                      "one-hot");
        }
      }
    free_outcome(&r);
  }
  done(&t);
}
static void test_one_hot(void **state) { (void)state, for_kernels("", one_hot); }

// ---- split and merge ----

// Attention over keys `first` to `first + count` alone; the diagonal moves along.
static struct outcome run_part(const struct test_kernel *k, struct tensors *t, int64_t first, int64_t count,
                               struct terms *e) {
  const struct strobe_args whole = t->args;
  const int bytes = dtype_table[t->spec.kv].bytes;
  t->args.k.data = (char *)whole.k.data + first * whole.k.row_stride * bytes;
  t->args.v.data = (char *)whole.v.data + first * whole.v.row_stride * bytes;
  t->args.kv_len = count, t->args.diagonal = whole.diagonal - first;
  struct outcome r = run(k, t);
  for (int64_t h = 0; h < HEADS; h++) terms_of(t, h, &e[h]);
  for (int64_t h = 0; h < HEADS; h++) // what the merge needs of e: bounds, in place of F and A
    for (int64_t i = 0; i < Q_LEN; i++) {
      for (int x = 0; x < t->spec.head_dim_v; x++) e[h].F[i * t->spec.head_dim_v + x] = bound_o(k, t, &e[h], i, x);
      e[h].A[i] = bound_lse(k, t, &e[h], i);
    }
  t->args = whole;
  return r;
}

// O of all keys from O and lse of two parts of them: w O + w' O' with w = exp(lse part - lse).
static void split_and_merge(const struct test_kernel *k) {
  static const int64_t cuts[] = {1, 80, 131, 150};
  static struct terms all[HEADS], part[2][HEADS];
  struct tensors t = tensors_for(k, "large", 0);
  const int dv = t.spec.head_dim_v;
  struct outcome whole = run_part(k, &t, 0, KV_LEN, all);
  for (size_t c = 0; c < sizeof cuts / sizeof *cuts; c++) {
    struct outcome r[2] = {run_part(k, &t, 0, cuts[c], part[0]), run_part(k, &t, cuts[c], KV_LEN - cuts[c], part[1])};
    for (int64_t h = 0; h < HEADS; h++)
      for (int64_t i = 0; i < Q_LEN; i++) {
        const double l0 = r[0].lse[h * Q_LEN + i], l1 = r[1].lse[h * Q_LEN + i], most = fmax(l0, l1);
        const double lse = most + log(exp(l0 - most) + exp(l1 - most)), w[2] = {exp(l0 - lse), exp(l1 - lse)};
        const double lse_error = part[0][h].A[i] + part[1][h].A[i];
        expect_near(lse, whole.lse[h * Q_LEN + i], lse_error + all[h].A[i], h, i, 0, "merged lse");
        for (int x = 0; x < dv; x++) {
          double o = 0, bound = all[h].F[i * dv + x];
          for (int p = 0; p < 2; p++) {
            const double value = get_o(&t, &r[p], h, i, x);
            o += w[p] * value;
            bound += w[p] * (part[p][h].F[i * dv + x] + fabs(value) * lse_error);
          }
          expect_near(o, get_o(&t, &whole, h, i, x), bound, h, i, x, "merged");
        }
      }
    free_outcome(&r[0]), free_outcome(&r[1]);
  }
  free_outcome(&whole);
  done(&t);
}
static void test_split_and_merge(void **state) { (void)state, for_kernels("", split_and_merge); }

// ---- what may not change a bit ----

static const char *const bases[] = {"block_n=64,stages=2", "block_n=128,stages=1", "kernel=decode,block_n=64",
                                    "algo=standard,block_n=64", "algo=fa1,block_n=64"};
static const char *const changes[] = {"unroll=full", "unroll=8",   "unroll=16",  "prefetch=3", "prefetch=64",
                                      "block_m=8",   "block_m=16", "block_m=32", "block_m=48", "pack_k=0",
                                      "pack_v=0",    "pack_k=1",   "tile_n=2",   "tile_n=1",   "diagonal=mask"};
enum { N_BASES = sizeof bases / sizeof *bases, N_CHANGES = sizeof changes / sizeof *changes };

// The decode kernel gives keys that not all rows of a tile see to another loop, so there block_m may. So it may with
// algo=fa1, which also divides the rows of a tile that see nothing of a block that others see.
static bool may_change(const char *base, const char *change) {
  return (strstr(base, "decode") || strstr(base, "fa1")) && strstr(change, "block_m");
}

static int compare_changes(const struct spec *s, const struct target *t, const char *base) {
  struct test_kernel first;
  int compared = 0;
  if (!make_best_kernel(s, t, base, &first)) return 0;
  struct tensors in = tensors_for(&first, "large", 0);
  struct outcome want = run(&first, &in);
  for (int c = 0; c < N_CHANGES; c++) {
    char config[100];
    struct test_kernel k;
    snprintf(config, sizeof config, "%s,%s", base, changes[c]);
    if (may_change(base, changes[c]) || !make_best_kernel(s, t, config, &k)) continue;
    struct outcome got = run(&k, &in);
    expect_same_bits(&in, &want, &got, changes[c]);
    free_outcome(&got);
    free_kernel(&k);
    compared++;
  }
  free_outcome(&want);
  done(&in);
  free_kernel(&first);
  return compared;
}

static void test_bit_invariance(void **state) {
  (void)state;
  if (!STROBE_TCC) skip();
  for (int i = 0; i < target_count; i++) {
    const struct target *t = &target_table[i];
    int compared[N_BASES] = {0};
    if (t->family != FAMILY_CPU || !cpu_has_target(t)) continue;
    for (int n = 0; n < (SANITIZED || !t->vregs ? 2 : N_SPECS * 2); n++) {
      char text[80];
      snprintf(text, sizeof text, "%s:%s", specs[n / 2], masks[n % 2]);
      const struct spec s = problem_of(text).spec;
      for (int b = 0; b < N_BASES; b++) compared[b] += compare_changes(&s, t, bases[b]);
    }
    for (int b = 0; b < N_BASES; b++)
      if (compared[b] < (strstr(bases[b], "decode") ? 2 : 6))
        fail_msg("%s, %s: only %d configs", t->name, bases[b], compared[b]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_teardown(test_constant_v, tell_current),
      cmocka_unit_test_teardown(test_permuted_keys, tell_current),
      cmocka_unit_test_teardown(test_doubled_keys, tell_current),
      cmocka_unit_test_teardown(test_nan_reach, tell_current),
      cmocka_unit_test_teardown(test_one_hot, tell_current),
      cmocka_unit_test_teardown(test_split_and_merge, tell_current),
      cmocka_unit_test_teardown(test_bit_invariance, tell_current),
  };
  return cmocka_run_group_tests_name("properties", tests, NULL, NULL);
}
