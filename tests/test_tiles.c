// Products of matrix tiles (AMX), kernel=tiles and decode of some rows: the two printers give the same bits, and the
// oracle's result; what V hides behind the mask reaches nobody. Without AMX the lane loops alone are compared with the
// oracle.
#include "kernels.h" // before cmocka.h, which has a macro named fail

#include <float.h>

static const struct tiles_case {
  const char *problem, *config;
} cases[] = {
    {"d64:bf16:b1h2/1q70k300", ""},
    {"d64:bf16:causal:b1h2/1q300k300", "block_n=64"},
    {"d128:bf16:o=f32:b1h1q33k513", "block_m=16"},       // four rows of V^T to a column of queries
    {"d40v24:bf16:causal:b2h2q50k70", "block_m=32"},     // padded to 64 and to 32: two rows
    {"d33v7:bf16:causal:b1h3/1q49k77", "block_m=48"},    // odd: a last element without the other of its pair
    {"d16v80:bf16:b1h1q17k31", "block_m=64,block_n=32"}, // fewer keys than a block; five rows of V^T
    {"d96v112:bf16:causal_top_left:b1h2q100k40", "exp=poly5,block_n=96"},
    {"d256:bf16:causal:b1h1q80k200", "exp=table2"},
    {"d2v1:bf16:b1h1q20k1", ""},
    {"d64:bf16:b1h1q20k0", ""},
    {"d64:bf16:causal:b1h2q300k290", "block_m=128,block_n=64"}, // items of four tiles, the last of two
    {"d64:f32:b1h2/1q70k300", ""},                              // sums of three bf16
    {"d128:f32:causal:b1h1q300k300", "block_m=128,block_n=64"},
    {"d40v24:f16:causal:b2h2q50k70", ""}, // of two
    {"d33v7:q=bf16,kv=f32,o=f16:b1h3/1q49k77", "kernel=tiles,block_m=48"},
    {"d16v80:q=f32,kv=f16,o=f32:b1h1q17k31", "block_m=64,block_n=32"},
    {"d48:q=f16,kv=bf16,o=f32:causal:b1h2q20k65", "block_m=16"},
    {"d96v112:f32:causal_top_left:b1h2q300k40", "exp=poly5,block_m=96,block_n=96"},
    {"d256:f16:causal:b1h2q300k200", "block_m=256"},
    {"d2v1:f32:b1h1q20k1", "kernel=tiles"},
    {"d64:f32:b1h1q20k0", ""},
    {"d128:bf16:b1h8/2q1k300", "kernel=decode,block_m=4,block_h=2"},
    {"d64:bf16:causal:b2h12/4q1k200", "kernel=decode,block_m=3,block_h=3"}, // filled up to 4; heads that are left over
    {"d96v32:bf16:o=f32:b1h16/2q1k100", "kernel=decode,block_m=8,block_h=2,block_n=32,prefetch=3"}, // chunks
    {"d32v64:bf16:causal:b1h4/2q6k333", "kernel=decode,block_m=12,block_h=2,prefetch=0"},
    {"d256:bf16:b1h8/2q5k160", "kernel=decode,block_m=20,block_h=2,split=64"}, // filled up to 32, by 16
    {"d160v192:bf16:causal_top_left:b1h10/1q5k90", "kernel=decode,block_m=50,block_h=1,exp=poly5"},
    {"d64:bf16:b1h4/1q1k31", "kernel=decode,block_m=4"},      // less than a tile of keys
    {"d576v512:bf16:b1h9/1q1k70", "kernel=decode,block_m=9"}, // eight rows of V a line of units
};
// Decode of a target with tiles.
static const struct tiles_case by_vectors[] = {
    {"d128:bf16:b1h20/4q1k200", "kernel=decode,block_m=5,block_h=4,block_n=48"}, // chunks of other sizes
    {"d64:bf16:b1h8/4q1k200", "kernel=decode,block_m=2,block_h=4"},
};
static const char *const kinds[] = {"normal",   "large", "ramp-up", "spikes",  "outliers",
                                    "denormal", "nan",   "inf",     "inf-keys"};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static const enum printer printers[] = {PRINTER_SCALAR, PRINTER_CODE};

static const struct target *amx(void) { return target_find("amxbf16"); }

static struct verify_case case_of(const struct problem *p, int kind, double scale) {
  return (struct verify_case){.problem = *p,
                              .kind = input_kind_find(kinds[kind]),
                              .seed = (uint64_t)kind + 1,
                              .layout = (enum layout)(kind % 2),
                              .pad = kind % 3,
                              .scale = scale * default_scale(&p->spec)};
}

static void check_all(const struct tiles_case *all, int n_cases, bool tiles) {
  const bool here = cpu_has_target(amx());
  for (int n = 0; n < n_cases; n++) {
    struct problem p = problem_of(all[n].problem);
    assert_int_equal(problem_complete(&p, NULL), 0);
    for (int printer = 0; printer < 2; printer++) {
      struct test_kernel k;
      if (printer && !here) continue;
      assert_true(make_kernel(&p.spec, amx(), all[n].config, printers[printer], &k));
      assert_true(instance_by_tiles(&k.instance) == tiles);
      for (int kind = 0; kind < N_KINDS; kind++) {
        const struct verify_case c = case_of(&p, kind, kind == 2 ? -1 : 1); // negative: the order of scores turns
        check_case(&k, &c, (enum guard_side)(kind % 2), VERIFY_ALL_ROWS);
      }
      free_kernel(&k);
    }
  }
}

static void both_printers_agree_with_the_oracle(void **state) {
  (void)state;
  if (!STROBE_TCC) skip();
  if (!cpu_has_target(amx()))
    print_message("could not check: kernels of amxbf16, which this CPU or its system lacks\n");
  check_all(cases, sizeof cases / sizeof *cases, true);
  check_all(by_vectors, sizeof by_vectors / sizeof *by_vectors, false);
}

// Workers that have whole KV heads copy K and V of each themselves, over those of the one before.
static void copies_of_one_head_after_another(void **state) {
  (void)state;
  static const struct tiles_case by_heads[] = {{"d64:bf16:causal:b2h8/4q70k100", "block_m=32,block_n=64"},
                                               {"d40v24:f16:b1h8q50k70", "kernel=tiles"},
                                               {"d64:f32:causal:b1h8q300k130", "block_m=128,block_n=64"}};
  if (!STROBE_TCC) skip();
  for (int n = 0; n < 3; n++)
    for (int printer = 0; printer < 2; printer++) {
      struct problem p = problem_of(by_heads[n].problem);
      struct test_kernel k;
      if (printer && !cpu_has_target(amx())) continue;
      assert_int_equal(problem_complete(&p, NULL), 0);
      assert_true(make_kernel(&p.spec, amx(), by_heads[n].config, printers[printer], &k));
      for (k.workers = 1; k.workers <= 2; k.workers++) {
        const struct verify_case c = case_of(&p, 0, 1);
        check_case(&k, &c, (enum guard_side)(n % 2), VERIFY_ALL_ROWS);
      }
      free_kernel(&k);
    }
}

// One Inf and one NaN in V, behind the diagonal for some queries: rows that see neither keep every bit.
static void check_hidden(const char *problem, enum dtype type) {
  struct problem p = problem_of(problem);
  assert_int_equal(problem_complete(&p, NULL), 0);
  const struct verify_case c = case_of(&p, 0, 1);
  for (int printer = 0; printer < 2; printer++) {
    struct test_kernel k;
    if (printer && !cpu_has_target(amx())) continue;
    assert_true(make_kernel(&p.spec, amx(), "block_m=32,block_n=64", printers[printer], &k));
    struct tensors clean = guarded_tensors(&c, GUARD_AFTER), wild = guarded_tensors(&c, GUARD_AFTER);
    set_current(&k, &c);
    dtype_store(type, wild.args.v.data, 70 * wild.args.v.row_stride + 3, INFINITY);
    dtype_store(type, wild.args.v.data, 101 * wild.args.v.row_stride + 63, NAN);
    run_steps(k.kernel, &clean.args, GUARD_AFTER);
    run_steps(k.kernel, &wild.args, GUARD_AFTER);
    for (int i = 0; i < 128; i++)
      for (int x = 0; x < 64; x++) {
        const double was = dtype_load(type, clean.args.o.data, i * clean.args.o.row_stride + x);
        const double is = dtype_load(type, wild.args.o.data, i * wild.args.o.row_stride + x);
        const bool inf = x == 3 && i >= 70, nan = x == 63 && i >= 101;
        if (nan ? !isnan(is) : inf ? !(isinf(is) && is > 0) : is != was)
          fail_msg("%s: row %d column %d is %g, without Inf and NaN %g", current, i, x, is, was);
      }
    tensors_free(&clean);
    tensors_free(&wild);
    free_kernel(&k);
    current[0] = 0;
  }
}

static void hidden_values_reach_nobody(void **state) {
  (void)state;
  if (!STROBE_TCC) skip();
  check_hidden("d64:bf16:causal:b1h1q128k128", DT_BF16);
  check_hidden("d64:f32:causal:b1h1q128k128", DT_F32);
  check_hidden("d64:f16:causal:b1h1q128k128", DT_F16);
}

// All 24 bits of f32 set, and the largest numbers: parts that are cut off, or that would round to an Inf, are missed
// here most. One query looks at two keys; what it sees of V is exact but for the last bits.
static void all_bits_count(void **state) {
  (void)state;
  if (!STROBE_TCC) skip();
  const float ones = 0x1.fffffep0f, most = FLT_MAX;
  struct problem p = problem_of("d32:f32:b1h1q1k2");
  assert_int_equal(problem_complete(&p, NULL), 0);
  const struct verify_case c = case_of(&p, 0, 1);
  for (int printer = 0; printer < 2; printer++) {
    struct test_kernel k;
    if (printer && !cpu_has_target(amx())) continue;
    assert_true(make_kernel(&p.spec, amx(), "kernel=tiles", printers[printer], &k));
    struct tensors t = guarded_tensors(&c, GUARD_AFTER);
    set_current(&k, &c);
    float *const q = t.args.q.data, *const key = t.args.k.data, *const v = t.args.v.data, *const o = t.args.o.data;
    for (int x = 0; x < 32; x++) {
      q[x] = ones;
      key[x] = x % 2 ? -ones : ones * (1 + 0x1p-20f); // scores that nearly cancel
      key[t.args.k.row_stride + x] = x == 5 ? most : 0;
      v[x] = x % 3 ? ones : most / 2;
      v[t.args.v.row_stride + x] = x % 3 ? ones : most / 2;
    }
    q[5] = -1e-37f; // -38 for the second key
    t.args.scale = 1;
    double first = 0, second = (double)q[5] * (double)most;
    for (int x = 0; x < 32; x++) first += (double)q[x] * (double)key[x];
    run_steps(k.kernel, &t.args, GUARD_AFTER);
    const double lse = log(exp(first) + exp(second));
    if (fabs((double)t.args.lse[0] - lse) > 2e-5) fail_msg("%s: lse %.9g for %.9g", current, t.args.lse[0], lse);
    for (int x = 0; x < 32; x++)
      if (fabs((double)o[x] / (double)v[x] - 1) > 1e-6) fail_msg("%s: o[%d] %.9g for %.9g", current, x, o[x], v[x]);
    tensors_free(&t);
    free_kernel(&k);
    current[0] = 0;
  }
}

// P of f16 is two bf16, the second rounded: cut off it would make every O smaller, by 2^-16 or so.
static void parts_of_p_are_not_biased(void **state) {
  (void)state;
  if (!STROBE_TCC) skip();
  struct problem p = problem_of("d64:q=f16,kv=f16,o=f32:b1h1q64k512");
  assert_int_equal(problem_complete(&p, NULL), 0);
  const struct verify_case c = case_of(&p, 0, 1);
  for (int printer = 0; printer < 2; printer++) {
    struct test_kernel k;
    double sum = 0;
    if (printer && !cpu_has_target(amx())) continue;
    assert_true(make_kernel(&p.spec, amx(), "kernel=tiles", printers[printer], &k));
    struct tensors t = guarded_tensors(&c, GUARD_AFTER);
    set_current(&k, &c);
    for (int i = 0; i < 512; i++)
      for (int x = 0; x < 64; x++) dtype_store(DT_F16, t.args.v.data, i * t.args.v.row_stride + x, 1);
    run_steps(k.kernel, &t.args, GUARD_AFTER);
    for (int i = 0; i < 64; i++) sum += (double)((const float *)t.args.o.data)[i * t.args.o.row_stride] - 1;
    if (fabs(sum / 64) > 2e-6) fail_msg("%s: O is larger than V by %.3g", current, sum / 64);
    tensors_free(&t);
    free_kernel(&k);
    current[0] = 0;
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_teardown(both_printers_agree_with_the_oracle, tell_current),
      cmocka_unit_test_teardown(copies_of_one_head_after_another, tell_current),
      cmocka_unit_test_teardown(hidden_values_reach_nobody, tell_current),
      cmocka_unit_test_teardown(all_bits_count, tell_current),
      cmocka_unit_test_teardown(parts_of_p_are_not_biased, tell_current),
  };
  return cmocka_run_group_tests_name("tiles", tests, NULL, NULL);
}
