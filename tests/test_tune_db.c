// The tuning database: its text, and which of its records decides.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../runtime/cpu.h"
#include "../runtime/tune_db.h"

#include <cmocka.h>

#include "tune_records.h"

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

// What is read is written again: a character that ends a field or a line, or is none, makes no record.
static void control_characters_make_no_record(void **state) {
  (void)state;
  struct tune_record r = record_of("d64:f32", "stages=2", TUNE_BEST, 1.5, 30);
  struct buf line = {0};
  strcpy(r.key.machine, "a CPU");
  tune_record_print(&r, &line);
  const size_t at[] = {(size_t)(strstr(line.data, "a CPU") - line.data),
                       (size_t)(strstr(line.data, "stages=2") - line.data)};
  for (size_t i = 0; i < sizeof at / sizeof *at; i++)
    for (int c = 0; c < 256; c++) {
      const char kept = line.data[at[i]];
      struct tune_db db = {0};
      line.data[at[i]] = (char)c;
      assert_int_equal(tune_db_parse(&db, line.data, line.len, "text", NULL), 0);
      if (db.n != (c >= ' ') || !db.malformed != (c >= ' ')) fail_msg("byte %zu: character %d: %d", at[i], c, db.n);
      line.data[at[i]] = kept;
      tune_db_free(&db);
    }
  buf_free(&line);
}

// ---- which record decides ----

static void add(struct tune_db *db, const char *config, enum tune_mark mark, double ms, int runs) {
  const struct tune_record r = record_of("d64:f32", config, mark, ms, runs);
  assert_int_equal(tune_db_add(db, &r, NULL), 0);
}

static void decide(struct tune_db *db, const char *config, enum tune_mark mark, double ms, int runs) {
  const struct tune_record r = record_of("d64:f32", config, mark, ms, runs);
  assert_int_equal(tune_db_decide(db, &r, NULL), 0);
}

// One record is marked: this one, of so many runs.
static void decided(struct tune_db *db, const char *config, enum tune_mark mark, int runs) {
  const struct tune_record *found = tune_db_find(db, &db->records[0].key);
  int marked = 0;
  for (int i = 0; i < db->n; i++) marked += db->records[i].mark != TUNE_TRIED;
  assert_int_equal(marked, 1);
  assert_non_null(found);
  assert_string_equal(found->config, config);
  assert_int_equal(found->mark, mark);
  assert_int_equal(found->runs, runs);
}

static void better_measured_wins(void **state) {
  (void)state;
  struct tune_db db = {0};
  add(&db, "stages=2", TUNE_BEST, 1.5, 30);
  add(&db, "stages=2", TUNE_TRIED, 1, 3); // rests on fewer runs
  assert_int_equal(db.n, 1);
  decided(&db, "stages=2", TUNE_BEST, 30);
  add(&db, "stages=2", TUNE_TRIED, 1, 32); // on more, and takes no mark away
  decided(&db, "stages=2", TUNE_BEST, 32);
  add(&db, "stages=1", TUNE_BEST, 1.4, 33);
  decided(&db, "stages=1", TUNE_BEST, 33);
  add(&db, "block_n=64", TUNE_BEST, 0.1, 2); // rests on less
  decided(&db, "stages=1", TUNE_BEST, 33);
  add(&db, "stages=1", TUNE_BEST, 1.3, 33); // of as many runs the later one
  assert_true(tune_db_find(&db, &db.records[0].key)->ms == 1.3);
  add(&db, "stages=2", TUNE_BEST, 1.2, 33);
  decided(&db, "stages=2", TUNE_BEST, 33);
  tune_db_free(&db);
}

// Of the default there are more runs than of anything else.
static void a_best_decides_before_a_default(void **state) {
  (void)state;
  for (int swapped = 0; swapped < 2; swapped++) {
    struct tune_db db = {0};
    if (swapped) add(&db, "stages=1", TUNE_BEST, 1.9, 40);
    add(&db, "stages=2", TUNE_DEFAULT, 2, 200);
    if (!swapped) add(&db, "stages=1", TUNE_BEST, 1.9, 40);
    decided(&db, "stages=1", TUNE_BEST, 40);
    tune_db_free(&db);
  }
}

static void a_search_always_decides(void **state) {
  (void)state;
  for (int swapped = 0; swapped < 2; swapped++) {
    struct tune_db db = {0};
    add(&db, "block_m=32", TUNE_BEST, 1, 35);
    add(&db, "block_m=64", TUNE_DEFAULT, 1.2, 200);
    if (swapped) decide(&db, "block_n=64", TUNE_BEST, 0.9, 10);
    decide(&db, "block_m=32", TUNE_TRIED, 1.1, 36);
    if (!swapped) decide(&db, "block_n=64", TUNE_BEST, 0.9, 10);
    decided(&db, "block_n=64", TUNE_BEST, 10);
    decide(&db, "block_m=64", TUNE_DEFAULT, 1, 20); // its own numbers, which are what was decided by
    decided(&db, "block_m=64", TUNE_DEFAULT, 20);
    decide(&db, "block_n=64", TUNE_TRIED, 1, 200); // of a search that was stopped
    decided(&db, "block_m=64", TUNE_DEFAULT, 20);
    decide(&db, "block_m=64", TUNE_TRIED, 1, 200);
    decided(&db, "block_m=64", TUNE_DEFAULT, 200);
    tune_db_free(&db);
  }
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

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(text_round_trip),
      cmocka_unit_test(malformed_lines_are_skipped),
      cmocka_unit_test(control_characters_make_no_record),
      cmocka_unit_test(better_measured_wins),
      cmocka_unit_test(a_best_decides_before_a_default),
      cmocka_unit_test(a_search_always_decides),
      cmocka_unit_test(other_machines_miss),
      cmocka_unit_test(buckets),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
