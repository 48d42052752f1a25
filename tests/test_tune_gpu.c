// The tuner on a GPU target, with tests/fake_cuda.c in place of the driver and of NVRTC: results are computed on the
// host, times are made up.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// cmocka has a macro of the same name as a function of ours.
#include "../runtime/strobe.h"
#include "../runtime/tune.h"

#include <cmocka.h>

#include "fake_driver.h"

static char home[] = "/tmp/strobe-tune-gpu-XXXXXX", db_path[96];

static int start(void **state) {
  (void)state;
  if (use_fake_driver(home)) return -1;
  snprintf(db_path, sizeof db_path, "%s/tunings.txt", home);
  setenv("STROBE_DB", db_path, 1);
  fake->head_dim = 64;
  return 0;
}

static int end(void **state) {
  (void)state;
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s", home);
  return system(command);
}

static struct tune_request request(double budget_s, int most) {
  struct tune_request r = {.workers = 1, .budget_s = budget_s, .most = most, .target = target_find("sm90a")};
  assert_int_equal(problem_parse("d64:bf16:b1h2q64k80", &r.problem, NULL), 0);
  assert_int_equal(problem_complete(&r.problem, NULL), 0);
  config_clear(&r.base);
  return r;
}

static void nothing_left(void) {
  assert_int_equal(fake->retained + fake->pushed + fake->modules + fake->allocations + fake->events + fake->programs,
                   0);
}

static void the_space(void **state) {
  (void)state;
  const struct tune_request r = request(1, 2);
  struct tune_space s;
  struct error err = {0};
  assert_int_equal(tune_space_make(&r.problem.spec, r.target, &r.problem, 1, &r.base, false, &s, &err), 0);
  assert_true(s.n > 50);
  assert_int_equal(s.default_point, 0); // what was measured comes first, its neighbours next
  const int *first = s.points[0].config.v;
  for (int i = 1; i < s.n; i++) {
    assert_int_equal(s.points[i].config.v[CFG_SOFTMAX], first[CFG_SOFTMAX]);
    assert_int_equal(s.points[i].config.v[CFG_HEAVY_KEYS], first[CFG_HEAVY_KEYS]);
    assert_true(s.points[i].cost > s.points[0].cost);
  }
  tune_space_free(&s);
  assert_int_equal(tune_space_make(&r.problem.spec, r.target, &r.problem, 1, &r.base, true, &s, &err),
                   STROBE_UNSUPPORTED);
}

static void tunes_and_remembers(void **state) {
  (void)state;
  struct tune_result result;
  struct error err = {0};
  struct tune_record records[8];
  int n = 0;
  for (double budget = 4; budget < 300 && n < 2; budget *= 4) {
    const struct tune_request r = request(budget, 4);
    if (tune(&r, &result, &err)) fail_msg("%s", err.text);
    assert_int_equal(result.wrong, 0);
    n = tune_records(&result, records);
    for (int c = 0; c < result.n; c++)
      if (result.candidates[c].ratio > 0) {
        assert_true(result.candidates[c].verified);
        assert_true(result.candidates[c].ms >= 0.5 && result.candidates[c].ms <= 1); // the driver's clock, not ours
      }
    tune_result_free(&result);
  }
  assert_true(n >= 2);
  nothing_left();
  assert_string_equal(records[0].key.machine, "fake");
  assert_string_equal(records[0].key.target, "sm90a");
  // A plan takes what is recorded.
  records[0].mark = TUNE_BEST;
  assert_int_equal(tune_db_update(db_path, records, 1, NULL), 0);
  strobe_context *ctx;
  strobe_plan *plan;
  const struct strobe_plan_options o = {.size = sizeof o, .target = "sm90a"};
  struct strobe_plan_info info = {.size = sizeof info};
  assert_int_equal(strobe_context_create(NULL, &ctx), 0);
  if (strobe_plan_create(ctx, "d64:bf16:b1h2q64k80", &o, &plan)) fail_msg("%s", strobe_error());
  assert_int_equal(strobe_plan_describe(plan, &info), 0);
  assert_string_equal(info.config, records[0].config);
  assert_true(strlen(info.tuned) > 0);
  strobe_plan_destroy(plan);
  strobe_context_destroy(ctx);
  nothing_left();
}

// A call of the driver fails, early or late: a sentence or fewer candidates, and nothing is left.
static void failures(void **state) {
  (void)state;
  int failed = 0;
  for (long n = 3; n < 3000; n = n * 3 / 2 + 1) {
    const struct tune_request r = request(0.5, 2);
    struct tune_result result;
    struct error err = {0};
    fake->calls = 0, fake->fail_at = n, fake->error = 719, *fake->failed = 0;
    const int status = tune(&r, &result, &err);
    fake->fail_at = 0;
    if (status) assert_true(strlen(err.text) > 10);
    if (!status) tune_result_free(&result);
    failed += status != 0;
    nothing_left();
  }
  assert_true(failed > 5);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(the_space), cmocka_unit_test(tunes_and_remembers),
                                     cmocka_unit_test(failures)};
  return cmocka_run_group_tests(tests, start, end);
}
