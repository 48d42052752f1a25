// The tuner: its database (never loses a record, whoever is killed), its search space, its statistics, and plans that
// use it.
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

// cmocka has a macro of the same name as a function of ours.
#include "../gen/file.h"
#include "../runtime/cpu.h"
#include "../runtime/tune.h"
#include "../runtime/tune_stats.h"

#include <cmocka.h>

static char directory[64], db_path[96];

static int set_up(void **state) {
  (void)state;
  strcpy(directory, "/tmp/strobe-tune-XXXXXX");
  if (!mkdtemp(directory)) return -1;
  snprintf(db_path, sizeof db_path, "%s/sub/tunings.txt", directory);
  return setenv("STROBE_DB", db_path, 1);
}

static int tear_down(void **state) {
  (void)state;
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s", directory);
  return system(command);
}

static struct tune_record record_of(const char *spec, const char *config, enum tune_mark mark, double ms, int runs) {
  struct tune_record r = {.mark = mark, .ms = ms, .default_ms = 2, .runs = runs, .noise = 0.5};
  struct problem p;
  assert_int_equal(problem_parse("d64:f32:b1h2q128k128", &p, NULL), 0);
  tune_key_of(&p, target_find("c99"), 1, &r.key);
  snprintf(r.key.spec, sizeof r.key.spec, "%s", spec);
  snprintf(r.config, sizeof r.config, "%s", config);
  return r;
}

static struct buf text_of(const struct tune_db *db) {
  struct buf b = {0};
  tune_db_print(db, &b);
  assert_false(b.failed);
  return b;
}

// ---- text ----

static void text_round_trip(void **state) {
  (void)state;
  struct tune_db a = {0}, b = {0};
  const struct tune_record r[] = {record_of("d64:f32", "stages=2", TUNE_BEST, 1.5, 30),
                                  record_of("d128:f32", "stages=1", TUNE_TRIED, 3, 4),
                                  record_of("d64:f32", "stages=1", TUNE_TRIED, 2.25, 10)};
  for (int i = 0; i < 3; i++) assert_int_equal(tune_db_add(&a, &r[i], NULL), 0);
  struct buf first = text_of(&a);
  assert_int_equal(tune_db_parse(&b, first.data, first.len, "text", NULL), 0);
  struct buf second = text_of(&b);
  assert_string_equal(first.data, second.data);
  assert_int_equal(b.n, 3);
  assert_int_equal(b.malformed, 0);
  const char *at = strstr(first.data, "d128"); // sorted
  assert_non_null(at);
  assert_true(at < strstr(first.data, "d64"));
  const struct tune_record *found = tune_db_find(&b, &r[0].key);
  assert_non_null(found);
  assert_string_equal(found->config, "stages=2");
  assert_null(tune_db_find(&b, &r[1].key)); // tried, but nothing was decided
  buf_free(&first);
  buf_free(&second);
  tune_db_free(&a);
  tune_db_free(&b);
}

static void malformed_lines_are_skipped(void **state) {
  (void)state;
  struct tune_db db = {0};
  struct buf good = {0}, text = {0};
  const struct tune_record r = record_of("d64:f32", "stages=2", TUNE_BEST, 1.5, 30);
  tune_record_print(&r, &good);
  buf_printf(&text, "# strobe tuning database 1\nnonsense\n%s\t\t\t\nd64:f32\tq1\n%.*sextra\tfield\n# a comment\n\n",
             good.data, (int)good.len - 1, good.data);
  assert_int_equal(tune_db_parse(&db, text.data, text.len, "text", NULL), 0);
  assert_int_equal(db.n, 1);
  assert_int_equal(db.malformed, 4);
  // Any cut and any changed byte: no crash, nothing but records and counts.
  for (size_t i = 0; i < good.len; i++) {
    struct tune_db other = {0};
    assert_int_equal(tune_db_parse(&other, good.data, i, "text", NULL), 0);
    tune_db_free(&other);
    good.data[i] ^= 5;
    tune_db_parse(&other, good.data, good.len, "text", NULL);
    good.data[i] ^= 5;
    tune_db_free(&other);
  }
  buf_free(&good);
  buf_free(&text);
  tune_db_free(&db);
}

static void better_measured_wins(void **state) {
  (void)state;
  struct tune_db db = {0};
  const struct tune_record many = record_of("d64:f32", "stages=2", TUNE_BEST, 1.5, 30),
                           few = record_of("d64:f32", "stages=2", TUNE_TRIED, 1, 3),
                           other = record_of("d64:f32", "stages=1", TUNE_BEST, 1.4, 31);
  tune_db_add(&db, &many, NULL);
  tune_db_add(&db, &few, NULL); // rests on fewer runs
  assert_int_equal(db.n, 1);
  assert_int_equal(db.records[0].runs, 30);
  tune_db_add(&db, &other, NULL); // a new best takes the mark
  assert_string_equal(tune_db_find(&db, &many.key)->config, "stages=1");
  const struct tune_record late = record_of("d64:f32", "block_n=64", TUNE_BEST, 0.1, 2);
  tune_db_add(&db, &late, NULL); // but not one that rests on less
  assert_string_equal(tune_db_find(&db, &many.key)->config, "stages=1");
  int marked = 0;
  for (int i = 0; i < db.n; i++) marked += db.records[i].mark != TUNE_TRIED;
  assert_int_equal(marked, 1);
  tune_db_free(&db);
}

static void other_machines_miss(void **state) {
  (void)state;
  struct tune_db db = {0};
  const struct tune_record r = record_of("d64:f32", "stages=2", TUNE_BEST, 1.5, 30);
  tune_db_add(&db, &r, NULL);
  struct tune_key k = r.key;
  assert_non_null(tune_db_find(&db, &k));
  strcpy(k.machine, "another CPU");
  assert_null(tune_db_find(&db, &k));
  k = r.key, strcpy(k.version, "9.9.9");
  assert_null(tune_db_find(&db, &k));
  k = r.key, strcpy(k.templates, "0");
  assert_null(tune_db_find(&db, &k));
  k = r.key, k.workers = 2;
  assert_null(tune_db_find(&db, &k));
  struct tune_record old = r;
  strcpy(old.key.version, "0.0.1");
  tune_db_add(&db, &old, NULL);
  assert_int_equal(tune_db_prune(&db), 1);
  assert_int_equal(db.n, 1);
  tune_db_free(&db);
}

static void buckets(void **state) {
  (void)state;
  static const struct {
    const char *problem, *bucket;
  } row[] = {{"d64:f32:b1h1q1k1", "q1k64g1"},
             {"d64:f32:b1h32/8q1k8192", "q1k16384g4"},
             {"d64:f32:b2h8q1024k1024", "q1024k1024g1"},
             {"d64:f32:b2h8q1025k1024", "q4096k1024g1"},
             {"d64:f32:b1h64/2q5000k20000", "q+k+g+"}};
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    struct problem p;
    char text[40];
    assert_int_equal(problem_parse(row[i].problem, &p, NULL), 0);
    assert_int_equal(problem_complete(&p, NULL), 0);
    tune_bucket(&p, text, sizeof text);
    assert_string_equal(text, row[i].bucket);
  }
}

// ---- the file ----

static void newer_format_is_left_alone(void **state) {
  (void)state;
  struct error err = {0};
  struct buf before = {0};
  const char text[] = "# strobe tuning database 2\nwhatever comes then\n";
  char path[128];
  snprintf(path, sizeof path, "%s/newer.txt", directory);
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  fputs(text, f);
  fclose(f);
  const struct tune_record r = record_of("d64:f32", "stages=2", TUNE_BEST, 1.5, 30);
  assert_int_equal(tune_db_update(path, &r, 1, &err), STROBE_UNSUPPORTED);
  assert_non_null(strstr(err.text, "format"));
  assert_int_equal(file_read(path, &before, NULL), 0);
  assert_string_equal(before.data, text);
  buf_free(&before);
}

static void unwritable_places(void **state) {
  (void)state;
  const struct tune_record r = record_of("d64:f32", "stages=2", TUNE_BEST, 1.5, 30);
  struct error err = {0};
  assert_int_equal(tune_db_update("/proc/nowhere/tunings.txt", &r, 1, &err), STROBE_IO);
  assert_true(strlen(err.text) > 10);
  struct tune_db db = {0};
  assert_int_equal(tune_db_read("/nonexistent/tunings.txt", &db, NULL), 0); // nothing recorded yet
  assert_int_equal(db.n, 0);
  struct buf path = {0};
  unsetenv("STROBE_DB");
  char *home = strdup(getenv("HOME") ? getenv("HOME") : "");
  unsetenv("HOME");
  unsetenv("XDG_CACHE_HOME");
  tune_db_path(NULL, &path);
  assert_string_equal(path.data, "");
  buf_free(&path);
  setenv("HOME", home, 1);
  setenv("STROBE_DB", db_path, 1);
  free(home);
}

static void write_one(const char *path, int process, int i) {
  char spec[64];
  snprintf(spec, sizeof spec, "d%d:f32", 1000 * process + i);
  const struct tune_record r = record_of(spec, "stages=2", TUNE_BEST, 1.5, 30);
  if (tune_db_update(path, &r, 1, NULL)) _exit(1);
}

static void many_processes_lose_nothing(void **state) {
  (void)state;
  enum { PROCESSES = 16, EACH = 12 };
  char path[128];
  snprintf(path, sizeof path, "%s/many.txt", directory);
  for (int p = 0; p < PROCESSES; p++)
    if (fork() == 0) {
      for (int i = 0; i < EACH; i++) write_one(path, p, i);
      _exit(0);
    }
  int status, failed = 0;
  while (wait(&status) > 0) failed += !WIFEXITED(status) || WEXITSTATUS(status);
  struct tune_db db = {0};
  assert_int_equal(failed, 0);
  assert_int_equal(tune_db_read(path, &db, NULL), 0);
  assert_int_equal(db.n, PROCESSES * EACH);
  assert_int_equal(db.malformed, 0);
  tune_db_free(&db);
}

// A writer is killed at random moments; every record that it has reported is there afterwards.
static void kills_lose_nothing(void **state) {
  (void)state;
  enum { KILLS = 200 };
  char path[128];
  int reported = 0, next = 0, patience = 0; // a busy machine lets the writer begin late
  unsigned seed = 7;
  snprintf(path, sizeof path, "%s/killed.txt", directory);
  for (int k = 0; k < KILLS; k++) {
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    pid_t child = fork();
    if (child == 0) {
      for (int i = next;; i++) {
        write_one(path, 0, i % 900);
        if (write(pipes[1], &i, sizeof i) != sizeof i) _exit(1);
      }
    }
    close(pipes[1]);
    seed = seed * 1664525u + 1013904223u;
    usleep(200 + (seed >> 16) % (3000u << patience));
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    const int before = reported;
    for (int i; read(pipes[0], &i, sizeof i) == sizeof i;) next = i + 1, reported++;
    patience += reported == before && patience < 6 ? 1 : reported > before && patience ? -1 : 0;
    close(pipes[0]);
    struct tune_db db = {0};
    assert_int_equal(tune_db_read(path, &db, NULL), 0);
    assert_int_equal(db.malformed, 0);
    assert_true(db.n >= (next < 900 ? next : 900));
    tune_db_free(&db);
  }
  assert_true(reported > 0);
}

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

// ---- plans ----

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
  buf_free(&text), buf_free(&larger), buf_free(&line);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(text_round_trip),
                                     cmocka_unit_test(malformed_lines_are_skipped),
                                     cmocka_unit_test(better_measured_wins),
                                     cmocka_unit_test(other_machines_miss),
                                     cmocka_unit_test(buckets),
                                     cmocka_unit_test(newer_format_is_left_alone),
                                     cmocka_unit_test(unwritable_places),
                                     cmocka_unit_test(many_processes_lose_nothing),
                                     cmocka_unit_test(kills_lose_nothing),
                                     cmocka_unit_test(spaces),
                                     cmocka_unit_test(statistics),
                                     cmocka_unit_test(finds_and_verifies),
                                     cmocka_unit_test(stops_when_asked),
                                     cmocka_unit_test(plans_remember),
                                     cmocka_unit_test(plans_take_compiled_in_tunings)};
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
