// The tuner: its search space, its statistics, and plans that use it.
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

// cmocka has a macro of the same name as a function of ours.
#include "../gen/config_queries.h"
#include "../gen/file.h"
#include "../runtime/cpu.h"
#include "../runtime/tune.h"
#include "../runtime/tune_run.h"
#include "../runtime/tune_stats.h"

#include <cmocka.h>

#include "tune_records.h"

// ---- the space, the model, the statistics ----

static void space_of(const char *text, const char *target, const char *base, bool same_bits, struct tune_space *s) {
  struct problem p;
  struct config c;
  struct error err = {0};
  config_clear(&c);
  assert_int_equal(problem_parse(text, &p, NULL), 0);
  assert_int_equal(config_parse(base, &c, NULL), 0);
  if (tune_space_make(&p.spec, target_find(target), &p, 1, &c, same_bits, s, &err)) fail_msg("%s", err.text);
}

static void spaces(void **state) {
  (void)state;
  struct tune_space s;
  space_of("d128:f32:b1h8q2048k2048", "avx512", "", false, &s);
  assert_true(s.n > 500);
  assert_int_equal(s.enumerated, s.n + s.infeasible + s.alike);
  int pruned = 0;
  for (int i = 0; i < CFG_COUNT; i++) pruned += s.pruned[i].count;
  assert_int_equal(pruned, s.infeasible);
  for (int i = 1; i < s.n; i++) assert_true(s.points[i - 1].cost <= s.points[i].cost);
  tune_space_free(&s);

  space_of("d64:bf16:causal:b1h8q512k512", "avx512bf16", "", true, &s);
  const struct config *base = &s.points[s.default_point].config;
  for (int i = 0; i < s.n; i++) {
    assert_int_equal(s.points[i].config.v[CFG_BLOCK_N], base->v[CFG_BLOCK_N]);
    assert_int_equal(s.points[i].config.v[CFG_EXP], base->v[CFG_EXP]);
  }
  tune_space_free(&s);

  space_of("d64:f32:b1h8q512k512", "avx512", "block_n=64,stages=1", false, &s);
  for (int i = 0; i < s.n; i++) {
    assert_int_equal(s.points[i].config.v[CFG_BLOCK_N], 64);
    assert_int_equal(s.points[i].config.v[CFG_STAGES], 1);
  }
  tune_space_free(&s);

  // Decode: no prefetch is far from the front.
  space_of("d128:f32:b1h32/8q1k8192", "avx512", "", false, &s);
  bool split = false;
  for (int i = 0; i < 3; i++) assert_true(s.points[i].config.v[CFG_PREFETCH] > 0);
  for (int i = 0; i < s.n; i++) {
    const int *v = s.points[i].config.v;
    assert_true(v[CFG_BLOCK_H] <= 8 && v[CFG_SPLIT] < 8192); // more would be these again
    split |= v[CFG_SPLIT] != s.points[s.default_point].config.v[CFG_SPLIT];
  }
  assert_true(split);
  tune_space_free(&s);

  // A number of heads that is no power of two: the default's is among the values.
  space_of("d64:f32:b4h6/6q1k500", "avx512", "prefetch=8,block_n=512", false, &s);
  bool all = false;
  for (int i = 0; i < s.n; i++) all |= s.points[i].config.v[CFG_BLOCK_H] == 6;
  assert_true(all && s.n >= 4);
  tune_space_free(&s);
}

static void statistics(void **state) {
  (void)state;
  const double x[] = {3, 1, 2}, same[] = {0.9, 0.9, 0.9, 0.9}, wide[] = {0.5, 1.5, 0.6, 1.4};
  assert_float_equal(tune_median(x, 3), 2, 1e-12);
  assert_float_equal(tune_median(x, 2), 2, 1e-12);
  assert_float_equal(tune_upper_bound(same, 4), 0.9, 1e-9);
  assert_true(tune_upper_bound(wide, 4) > 1);
  struct tune_candidate c[5] = {{.predicted = 1, .ratio = 0.1},
                                {.predicted = 2, .ratio = 0.2},
                                {.predicted = 3, .ratio = 0.3},
                                {.predicted = 4, .ratio = 0.4},
                                {.predicted = 9}}; // the last was not timed
  assert_float_equal(tune_rank_correlation(c, 5), 1, 1e-12);
  for (int i = 0; i < 4; i++) c[i].predicted = -c[i].predicted;
  assert_float_equal(tune_rank_correlation(c, 5), -1, 1e-12);
}

// ---- tuning ----

static bool stop_after(void *calls, const struct tune_progress *p) {
  (void)p;
  return --*(int *)calls > 0;
}

static struct tune_request request(const char *text, double budget) {
  struct tune_request r = {.workers = 1, .budget_s = budget, .most = 12};
  assert_int_equal(problem_parse(text, &r.problem, NULL), 0);
  assert_int_equal(problem_complete(&r.problem, NULL), 0);
  r.target = cpu_best_target(&r.problem.spec);
  config_clear(&r.base);
  return r;
}

static int count_timed(const struct tune_result *result) {
  int timed = 0;
  for (int c = 0; c < result->n; c++) timed += result->candidates[c].ratio > 0;
  return timed;
}

// With as much time as this machine, which others may be using, wants for two candidates.
static void tune_some(const char *text, struct tune_result *result) {
  struct error err = {0};
  for (double budget = 0.8; budget < 60; budget *= 4) {
    const struct tune_request r = request(text, budget);
    if (tune(&r, result, &err)) fail_msg("%s: %s", text, err.text);
    if (count_timed(result) >= 2) return;
    tune_result_free(result);
  }
  fail_msg("%s: a minute is too short", text);
}

static void finds_and_verifies(void **state) {
  (void)state;
  static const char *const problems[] = {"d64:f32:b1h2q256k256", "d64:bf16:causal:b1h2q256k300",
                                         "d64:f32:b1h8/2q1k2000"};
  for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) {
    struct tune_result result;
    tune_some(problems[i], &result);
    assert_int_equal(result.wrong, 0);
    assert_true(result.n >= 2);
    assert_true(result.candidates[result.default_at].is_default);
    assert_true(result.best == result.default_at || result.gain_bound < 1);
    for (int c = 0; c < result.n; c++)
      if (result.candidates[c].ratio > 0) assert_true(result.candidates[c].verified);
    struct tune_record records[16];
    const int n = tune_records(&result, records);
    assert_int_equal(n, count_timed(&result));
    int decided = 0;
    for (int c = 0; c < n; c++) decided += records[c].mark != TUNE_TRIED;
    assert_int_equal(decided, 1);
    tune_result_free(&result);
  }
}

// Whatever was measured is kept, from the default's first run on, but nothing is decided.
static void stops_when_asked(void **state) {
  (void)state;
  for (int after = 1; after < 6; after += 2) {
    struct tune_request r = request("d64:f32:b1h2q256k256", 60);
    struct tune_result result;
    int calls = after;
    r.progress = stop_after;
    r.context = &calls;
    assert_int_equal(tune(&r, &result, NULL), 0);
    assert_true(result.stopped);
    assert_true(result.seconds < 30);
    struct tune_record records[16];
    const int n = tune_records(&result, records);
    assert_int_equal(n, after); // the default, and a candidate a call
    for (int i = 0; i < n; i++) assert_int_equal(records[i].mark, TUNE_TRIED);
    tune_result_free(&result);
  }
}

// A search without a context ends with what the context said.
static void passes_errors_on(void **state) {
  (void)state;
  struct tune_request r = request("d64:f32:b1h2q256k256", 1);
  struct tune_result result;
  struct error err = {0};
  r.workers = 5000;
  assert_int_equal(tune(&r, &result, &err), STROBE_INVALID);
  assert_int_equal(err.status, STROBE_INVALID);
  assert_non_null(strstr(err.text, "n_workers 5000"));
}

// What is timed in place of a large problem: little work, and K and V of a few hundred megabytes at most, which must be
// made before a budget of a second or two ends.
static void large_problems_are_cut(void **state) {
  (void)state;
  static const char *const problems[] = {
      "d128:f32:b1h8q1k250000",   "d128:f32:b1h1q2048k1000000", "d128:f32:b1h1q16384k262144", "d128:bf16:b64h32q1k4000",
      "d128:bf16:h128q64k262144", "d64:f32:b64h8q1k100000000",  "d576:f32:h128/1q1k1000000"};
  for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) {
    struct problem p, s;
    assert_int_equal(problem_parse(problems[i], &p, NULL), 0);
    assert_int_equal(problem_complete(&p, NULL), 0);
    s = tuner_smaller(&p, target_find("c99"));
    assert_int_equal(problem_check(&s, NULL), 0);
    assert_int_equal(s.heads / s.heads_kv, s.heads_kv == s.heads ? 1 : p.heads / p.heads_kv);
    const int64_t heads = p.heads_kv < 16 ? p.heads_kv : s.heads_kv < 16 ? 16 : s.heads_kv; // rows are as far apart
    const double bytes = (double)dtype_table[s.spec.kv].bytes * 2.0 * s.spec.head_dim * (double)s.batch *
                         (double)heads * (double)s.kv_len;
    if (bytes > 520e6 || (s.q_len > 16 && problem_flops(&s) > 4e9))
      fail_msg("%s: %.3g bytes, %.3g flops", problems[i], bytes, problem_flops(&s));
    assert_true(s.kv_len >= 4000);
  }
}

// ---- plans ----

static int plan_with_little_memory(void) {
  strobe_context *ctx;
  strobe_plan *plan;
  long pages = 0;
  const struct strobe_context_options one = {.size = sizeof one, .n_workers = 1};
  const struct strobe_plan_options measure = {.size = sizeof measure, .effort = STROBE_MEASURE, .budget_s = 0.5};
  struct strobe_plan_info info = {.size = sizeof info};
  if (strobe_context_create(&one, &ctx)) return 1;
  FILE *f = fopen("/proc/self/statm", "r");
  if (!f || fscanf(f, "%ld", &pages) != 1) return 2;
  fclose(f);
  const struct rlimit limit = {(rlim_t)pages * 4096 + (60 << 20), RLIM_INFINITY};
  if (setrlimit(RLIMIT_AS, &limit)) return 3;
  if (strobe_plan_create(ctx, "d128:f32:b1h16q1k40000", &measure, &plan)) return 4;
  if (strobe_plan_describe(plan, &info) || !strstr(info.why, "not tuned: no memory")) return 5;
  return *info.tuned ? 6 : 0;
}

// A search that fails is no reason to have no plan.
static void plans_do_without_a_search(void **state) {
  (void)state;
#ifdef __SANITIZE_ADDRESS__
  skip(); // it reserves more
#endif
  const pid_t child = fork();
  if (!child) _exit(plan_with_little_memory());
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  if (!WIFEXITED(status) || WEXITSTATUS(status)) fail_msg("the child ended with status %x", status);
}

static void describe(strobe_context *ctx, double budget_s, char config[256], char tuned[256]) {
  const struct strobe_plan_options o = {
      .size = sizeof o, .effort = budget_s > 0 ? STROBE_MEASURE : STROBE_ESTIMATE, .budget_s = budget_s};
  strobe_plan *plan;
  if (strobe_plan_create(ctx, "d32:f32:b1h2q200k200", &o, &plan)) fail_msg("%s", strobe_error());
  struct strobe_plan_info info = {.size = sizeof info};
  assert_int_equal(strobe_plan_describe(plan, &info), 0);
  snprintf(config, 256, "%s", info.config);
  snprintf(tuned, 256, "%s", info.tuned);
  strobe_plan_destroy(plan);
}

static void plans_remember(void **state) {
  (void)state;
  char heuristic[256], measured[256], later[256], tuned[256];
  strobe_context *ctx;
  unlink(db_path);
  const struct strobe_context_options one = {.size = sizeof one, .n_workers = 1};
  assert_int_equal(strobe_context_create(&one, &ctx), 0);
  describe(ctx, 0, heuristic, tuned);
  assert_string_equal(tuned, "");
  for (double budget = 0.8; budget < 60 && !tuned[0]; budget *= 4) describe(ctx, budget, measured, tuned);
  assert_true(strlen(tuned) > 0);
  strobe_context_destroy(ctx);

  // Another context, as another process would: the record is found, nothing is timed.
  assert_int_equal(strobe_context_create(&one, &ctx), 0);
  describe(ctx, 0, later, tuned);
  assert_string_equal(later, measured);
  assert_true(strlen(tuned) > 0);
  strobe_context_destroy(ctx);
}

// With same_bits a search tries nothing that would change a bit of the default's result.
static void plans_keep_bits(void **state) {
  (void)state;
  const struct strobe_context_options one = {.size = sizeof one, .n_workers = 1};
  const struct strobe_plan_options o = {.size = sizeof o, .effort = STROBE_MEASURE, .budget_s = 1, .same_bits = 1};
  strobe_context *ctx;
  strobe_plan *plan;
  struct tune_db db = {0};
  struct problem p;
  struct config base, c;
  unlink(db_path);
  assert_int_equal(problem_parse("d32:f32:b1h2q200k200", &p, NULL), 0);
  assert_int_equal(problem_complete(&p, NULL), 0);
  config_clear(&base);
  assert_int_equal(config_resolve(&p.spec, cpu_best_target(&p.spec), &p, &base, NULL), 0);
  assert_int_equal(strobe_context_create(&one, &ctx), 0);
  if (strobe_plan_create(ctx, "d32:f32:b1h2q200k200", &o, &plan)) fail_msg("%s", strobe_error());
  strobe_plan_destroy(plan);
  strobe_context_destroy(ctx);
  assert_int_equal(tune_db_read(db_path, &db, NULL), 0);
  assert_true(db.n > 0);
  for (int i = 0; i < db.n; i++) {
    config_clear(&c);
    assert_int_equal(config_parse(db.records[i].config, &c, NULL), 0);
    for (int f = 0; f < CFG_COUNT; f++)
      if (config_changes_bits((enum config_field)f, &base) && c.v[f] != base.v[f])
        fail_msg("%s was tried", db.records[i].config);
  }
  tune_db_free(&db);
  unlink(db_path);
}

static void plans_take_compiled_in_tunings(void **state) {
  (void)state;
  struct tune_record r = record_of("d32:f32", "", TUNE_BEST, 1, 30);
  struct problem p;
  struct instance i = {0};
  char config[256], tuned[256];
  unlink(db_path);
  assert_int_equal(problem_parse("d32:f32:b1h2q200k200", &p, NULL), 0);
  assert_int_equal(problem_complete(&p, NULL), 0);
  i.target = cpu_best_target(&p.spec);
  tune_key_of(&p, i.target, 1, &r.key);
  config_clear(&i.config);
  assert_int_equal(config_parse("block_n=32,stages=1", &i.config, NULL), 0);
  assert_int_equal(config_resolve(&p.spec, i.target, &p, &i.config, NULL), 0);
  struct buf text = {0}, line = {0};
  config_print(&i.config, i.target, &text);
  // As for another length of the bucket: a larger tile, of which these 200 queries would leave more empty.
  struct buf larger = {0};
  i.config.v[CFG_BLOCK_M] = prefill_block_m_max(i.target);
  config_print(&i.config, i.target, &larger);
  for (int n = 0; n < 2; n++) {
    snprintf(r.config, sizeof r.config, "%s", n ? larger.data : text.data);
    line.len = 0;
    buf_str(&line, "# strobe tuning database 1\n");
    tune_record_print(&r, &line);
    strobe_context *ctx;
    struct strobe_context_options o = {.size = sizeof o, .n_workers = 1, .tunings = line.data};
    assert_int_equal(strobe_context_create(&o, &ctx), 0);
    describe(ctx, 0, config, tuned);
    assert_string_equal(config, text.data);
    assert_true(tuned[0]);
    strobe_context_destroy(ctx);
    o.tunings = "nonsense";
    assert_int_equal(strobe_context_create(&o, &ctx), STROBE_INVALID);
  }
  // What was measured here counts for more than what came with the program.
  struct strobe_context_options o = {.size = sizeof o, .n_workers = 1, .tunings = line.data};
  strobe_context *ctx;
  struct tune_record here = r;
  snprintf(here.config, sizeof here.config, "%s", "block_n=64,stages=1");
  assert_int_equal(tune_db_update(db_path, &here, 1, NULL), 0);
  assert_int_equal(strobe_context_create(&o, &ctx), 0);
  describe(ctx, 0, config, tuned);
  assert_non_null(strstr(config, "block_n=64,"));
  strobe_context_destroy(ctx);
  unlink(db_path);
  buf_free(&text), buf_free(&larger), buf_free(&line);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(spaces),
                                     cmocka_unit_test(statistics),
                                     cmocka_unit_test(finds_and_verifies),
                                     cmocka_unit_test(stops_when_asked),
                                     cmocka_unit_test(passes_errors_on),
                                     cmocka_unit_test(large_problems_are_cut),
                                     cmocka_unit_test(plans_do_without_a_search),
                                     cmocka_unit_test(plans_remember),
                                     cmocka_unit_test(plans_keep_bits),
                                     cmocka_unit_test(plans_take_compiled_in_tunings)};
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
