// The bounds that results are held against: wide enough for what a kernel may do, and no wider.
#include "../gen/spec.h" // before cmocka.h, which has a macro named fail
#include "../runtime/reference.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

// The bound holds for errors of exp that conspire: a heavy key with v 0 and a light one with v -1, each p off by
// eps(exp) in opposite directions. Both the numerator and the denominator of O are then off in the direction that
// hurts.
static void bound_of_o_counts_the_denominator(void **state) {
  (void)state;
  const struct spec s = {.head_dim = 64, .head_dim_v = 64};
  struct instance kernel = {.spec = s, .target = target_find("avx512")};
  config_clear(&kernel.config);
  kernel.config.v[CFG_EXP] = EXP_TABLE1;
  for (double light = 0x1p-10; light < 1; light *= 2) {
    const double e = exp_table[EXP_TABLE1].eps, want = -light / (1 + light);
    const double got = -light * (1 + e) / ((1 - e) + light * (1 + e));
    assert_true(fabs(got - want) <= reference_bound_o(&s, &kernel, 2, want, -want, 0));
    assert_true(fabs(got - want) * 4 >
                reference_bound_o(&s, &kernel, 2, want, -want, 0)); // and is no wider than it must be
  }
}

// P's rounding is granted to kernels that round it, and no others.
static void bound_of_o_knows_what_becomes_of_p(void **state) {
  (void)state;
  static const struct {
    const char *problem, *target, *config;
    double eps;
  } rows[] = {
      {"d64:f32", "avx512bf16", "", 0},
      {"d64:bf16", "avx512bf16", "", 0x1p-8},
      {"d64:bf16", "c99", "", 0x1p-8},
      {"d64:bf16", "avx512", "", 0},
      {"d64:bf16", "avx2", "kernel=decode", 0},
      {"d64:bf16", "avx512bf16", "kernel=decode", 0x1p-8},
      {"d64:bf16", "amxbf16", "kernel=decode,block_m=2", 0}, // widened
      {"d64:bf16", "amxbf16", "kernel=decode,block_m=16", 0x1p-8},
      {"d64:bf16", "amxbf16", "kernel=tiles", 0x1p-8},
      {"d64:f16", "avx512bf16", "", 0},
      {"d64:f16", "amxbf16", "kernel=tiles", 0x1p-14 + 0x1p-15}, // two of bf16
      {"d64:f32", "amxbf16", "kernel=tiles", 0},
      {"d64:q=f32,kv=bf16,o=f32", "avx512bf16", "", 0},
      {"d64:bf16", "sm90a", "", 0x1p-8},
      {"d64:f16", "sm90a", "", 0x1p-11},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    struct problem p;
    struct error err = {0};
    if (problem_parse(rows[i].problem, &p, &err)) fail_msg("%s", err.text);
    struct instance kernel = {.spec = p.spec, .target = target_find(rows[i].target)};
    config_clear(&kernel.config);
    if (config_parse(rows[i].config, &kernel.config, &err) ||
        config_resolve(&p.spec, kernel.target, NULL, &kernel.config, &err))
      fail_msg("%s", err.text);
    const double got =
                     reference_bound_o(&p.spec, &kernel, 2, 0, 1, 0) - reference_bound_o(&p.spec, &kernel, 2, 0, 0, 0),
                 sums = reference_bound_lse(&p.spec, &kernel, 2, 0, 0); // what is granted for p and l
    if (!(fabs(got - sums - rows[i].eps) < 1e-12))
      fail_msg("%s on %s %s: %g, not %g", rows[i].problem, rows[i].target, rows[i].config, got - sums, rows[i].eps);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(bound_of_o_counts_the_denominator),
      cmocka_unit_test(bound_of_o_knows_what_becomes_of_p),
  };
  return cmocka_run_group_tests_name("bounds", tests, NULL, NULL);
}
