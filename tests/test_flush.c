// Denormals: a P that is one flushes to zero (templates/cpu/around_step.inc), whatever the caller's mode of rounding,
// and that mode is the caller's again afterwards, flags included.
#include "kernels.h" // before cmocka.h, which has a macro named fail

#if defined(__x86_64__)
#include <xmmintrin.h>

enum { N = 40 };
static const char *const configs[] = {"",         "algo=standard", "algo=fa1",
                                      "algo=fa2", "kernel=decode", "kernel=decode,split=16",
                                      "stages=2", "exp=poly5",     "exp=table2"};
enum { N_CONFIGS = sizeof configs / sizeof *configs, D = 16 };

// The score of the key in the middle is 0, of all others -95, so that p is 2^-137 there; V is 2^100, but 0 in the
// middle.
static struct tensors tensors_for(const struct spec *s) {
  const struct verify_case c = {.problem = {.spec = *s, .batch = 1, .heads = 1, .heads_kv = 1, .q_len = 1, .kv_len = N},
                                .kind = input_kind_find("zeros"),
                                .scale = 1};
  struct tensors t = guarded_tensors(&c, GUARD_AFTER);
  for (int i = 0; i < N; i++)
    for (int x = 0; x < D; x++) {
      if (!i) dtype_store(s->q, t.args.q.data, x, x ? 0 : 1);
      dtype_store(s->kv, t.args.k.data, i * t.args.k.row_stride + x, x || i == N / 2 ? 0 : -95);
      dtype_store(s->kv, t.args.v.data, i * t.args.v.row_stride + x, i == N / 2 ? 0 : 0x1p100);
    }
  return t;
}

static void check_flush(const struct test_kernel *k, const struct verify_case *c) {
  static const unsigned modes[] = {_MM_MASK_MASK, _MM_MASK_MASK | _MM_ROUND_UP | _MM_EXCEPT_INEXACT,
                                   _MM_MASK_MASK | _MM_ROUND_TOWARD_ZERO | _MM_EXCEPT_DENORM | 0x40 /* DAZ */, 0};
  struct tensors t = tensors_for(&k->instance.spec);
  const unsigned before = _mm_getcsr();
  set_current(k, c);
  for (int m = 0; m < (int)(sizeof modes / sizeof *modes); m++) {
    tensors_poison(&t);
    _mm_setcsr(modes[m]);
    run_steps(k->kernel, &t.args, GUARD_AFTER);
    const unsigned after = _mm_getcsr();
    _mm_setcsr(before);
    assert_int_equal(after, modes[m]);
    for (int x = 0; x < D; x++) {
      const double o = dtype_load(k->instance.spec.o, t.args.o.data, x);
      if (o != 0) fail_msg("%s: O of denormal P is %g", current, o);
    }
    if (!(fabs((double)t.args.lse[0]) < fmax(1e-6, exp_table[k->instance.config.v[CFG_EXP]].eps)))
      fail_msg("%s: lse is %g", current, (double)t.args.lse[0]);
  }
  current[0] = 0;
  tensors_free(&t);
}

static void denormal_p_is_zero(void **state) {
  (void)state;
  static const char *const problems[] = {"d16:f32:b1h1q1k40", "d16:bf16:b1h1q1k40"};
  if (!STROBE_TCC) skip();
  int made = 0;
  for (int i = 0; i < target_count; i++)
    for (int n = 0; n < N_CONFIGS; n++)
      for (int p = 0; p < 4; p++) {
        static const enum printer printers[] = {PRINTER_CODE, PRINTER_SCALAR};
        const struct verify_case c = {.problem = problem_of(problems[p / 2]), .kind = input_kind_find("zeros")};
        struct test_kernel k;
        if (target_table[i].family != FAMILY_CPU || !cpu_has_target(&target_table[i]) ||
            !make_kernel(&c.problem.spec, &target_table[i], configs[n], printers[p % 2], &k))
          continue;
        check_flush(&k, &c);
        free_kernel(&k);
        made++;
      }
  assert_true(made >= N_CONFIGS / 2);
}
#else
static void denormal_p_is_zero(void **state) {
  (void)state;
  print_message("could not check: the mode of rounding is set on x86-64 only\n");
}
#endif

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test_teardown(denormal_p_is_zero, tell_current)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
