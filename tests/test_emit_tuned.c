// emit --tuned: which record of a database a kernel takes, what the files say of it, and that they can be written and
// checked again without the database.
#include "../gen/emit.h"
#include "../runtime/cpu.h"
#include "../runtime/tune_db.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli_run.h"

static const char best[] = "block_m=32,block_n=96,tile_n=8,stages=1,unroll=64,exp=table2,prefetch=0,pack_k=1,pack_v=1";

static bool shell(const char *command) { // in dir
  char line[2048];
  snprintf(line, sizeof line, "cd %s && { %s; } > /dev/null", dir, command);
  return system(line) == 0;
}

struct row {
  const char *problem, *target, *config;
  enum tune_mark mark;
  int workers;
  const char *machine, *version; // NULL: this one
};

// A database of these records: 8.1 ms against 9 ms, 30 runs.
static void write_db(const char *name, const struct row *rows, int n) {
  struct tune_db db = {0};
  struct buf text = {0};
  for (int i = 0; i < n; i++) {
    struct problem p;
    struct tune_record r = {.mark = rows[i].mark, .ms = 8.1, .default_ms = 9, .noise = 0.5, .runs = 30};
    assert_int_equal(problem_parse(rows[i].problem, &p, NULL), 0);
    assert_int_equal(problem_complete(&p, NULL), 0);
    tune_key_of(&p, target_find(rows[i].target), rows[i].workers ? rows[i].workers : 1, &r.key);
    if (rows[i].machine) snprintf(r.key.machine, sizeof r.key.machine, "%s", rows[i].machine);
    if (rows[i].version) snprintf(r.key.version, sizeof r.key.version, "%s", rows[i].version);
    snprintf(r.config, sizeof r.config, "%s", rows[i].config);
    assert_int_equal(tune_db_add(&db, &r, NULL), 0);
  }
  tune_db_print(&db, &text);
  FILE *f = fopen(path_of(name), "wb");
  assert_non_null(f);
  assert_true(fwrite(text.data, 1, text.len, f) == text.len && !fclose(f));
  buf_free(&text);
  tune_db_free(&db);
}

static const char *with(const char *config, const char *fields) { // the later of two equal fields counts
  static char texts[8][400];
  static int n;
  char *text = texts[n++ % 8];
  struct config c;
  struct buf b = {0};
  config_clear(&c);
  assert_int_equal(config_parse(config, &c, NULL), 0);
  assert_int_equal(config_parse(fields, &c, NULL), 0);
  config_print(&c, target_find("avx512"), &b);
  snprintf(text, sizeof *texts, "%s", b.data);
  buf_free(&b);
  return text;
}

// ---- one kernel ----

static void the_record_is_taken_and_cited(void **state) {
  (void)state;
  const struct row rows[] = {{"d64:f32:q2048", "avx512", best, .mark = TUNE_BEST},
                             {"d64:f32:q2048", "avx512", with(best, "block_n=128"), .mark = TUNE_TRIED}};
  write_db("t.txt", rows, 2);
  const struct outcome *o = works("emit d64:f32 --target avx512 --tuned --db t.txt -o one");
  assert_non_null(strstr(o->out, "tuned   1 of 1 kernels, by records of "));
  assert_string_equal(o->err, "");
  assert_true(shell("grep -q 'config     block_m=32,block_n=96,tile_n=8,stages=1' one/*.c"));
  assert_true(
      shell("grep -q '^//   tuned      10.0 % less time than the default: 8.1 against 9 ms, 30 runs, noise 0.5 %, "
            "best of 2 configs; bucket q4096k4096g1, 1 worker, ' one/*.c one/*.h"));
}

// The command in the header writes the same files, citation and all, with no database.
static void its_command_writes_it_again(void **state) {
  (void)state;
  assert_true(shell("cp -r one two && sed -n 's,^//   strobe ,,p' two/*.h > command && cd two && rm * && "
                    "HOME=/nonexistent sh -c \"$PROGRAM $(cat ../command)\" && cd .. && diff -r one two"));
}

static void sizes_choose_among_buckets(void **state) {
  (void)state;
  const struct row rows[] = {
      {"d64:f32:q1024", "avx512", with(best, "block_n=32"), .mark = TUNE_BEST},
      {"d64:f32:q2048", "avx512", with(best, "block_n=64"), .mark = TUNE_BEST},
      {"d64:f32:q2048", "avx512", with(best, "block_n=96"), .mark = TUNE_BEST, .workers = 8},
      {"d64:f32:q2048k9000", "avx512", with(best, "block_n=192"), .mark = TUNE_DEFAULT},
      {"d64:f32:h8q1k65536", "avx512", "block_n=1024,prefetch=12,kernel=decode", .mark = TUNE_BEST},
      {"d64:f32:causal:q256", "avx512", with(best, "block_n=256"), .mark = TUNE_BEST},
      {"d64:f32:q2048", "avx2", best, .mark = TUNE_BEST, .machine = "Other"},
      {"d64:f32:q512k100", "avx512", best, .mark = TUNE_BEST, .version = "9.9.9"},
  };
  write_db("many.txt", rows, sizeof rows / sizeof *rows);
  static const struct {
    const char *spec, *block_n;
  } want[] = {{"d64:f32", "192"},         {"d64:f32:k3000", "64"},
              {"d64:f32:q600", "32"},     {"d64:f32:h4q2000", "64"},
              {"d64:f32:q300k100", NULL}, {"d64:f32:h8/1q512k512", NULL},
              {"d64:f32:q1", "1024"},     {"d64:f32:causal_top_left", "256"},
              {"d32:f32", NULL}};
  for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
    char command[200];
    snprintf(command, sizeof command, "emit %s --target avx512 --tuned --db many.txt -o s%zu", want[i].spec, i);
    const struct outcome *o = works(command);
    if (!want[i].block_n) {
      assert_non_null(strstr(o->out, "tuned   0 of 1"));
      assert_non_null(strstr(o->err, "no record of "));
      assert_null(strchr(strchr(o->err, '\n') + 1, '\n'));
      snprintf(command, sizeof command, "! grep tuned s%zu/*", i);
    } else {
      assert_string_equal(o->err, "");
      snprintf(command, sizeof command, "grep -q 'config .*block_n=%s,' s%zu/*.c", want[i].block_n, i);
    }
    if (!shell(command)) fail_msg("%s: not block_n=%s", want[i].spec, want[i].block_n ? want[i].block_n : "(default)");
  }
}

static void another_processor_by_its_name(void **state) {
  (void)state;
  const struct outcome *o = works("emit d64:f32 --target avx2 --tuned --db many.txt -o mine");
  assert_non_null(strstr(o->err, "for d64:f32 on avx2 in many.txt"));
  o = works("emit d64:f32 --target avx512 --tuned --db many.txt --machine Other -o other");
  assert_non_null(strstr(o->err, "no record of Other for d64:f32 on avx512"));
}

static void a_text_that_no_comment_can_hold(void **state) {
  (void)state;
  const struct row rows[] = {
      {"d16:f32:q2048", "avx512", with(best, "unroll=16"), .mark = TUNE_BEST, .machine = "Odd?\?/\\"}};
  write_db("odd.txt", rows, 1);
  works("emit d16:f32 --target avx512 --tuned --db odd.txt --machine Odd?\?/\\ -o odd");
  assert_true(
      shell("grep -q 'worker, Odd[.][.]/[.]$' odd/*.c && cc -c -std=c99 -Wall -Wextra -Werror odd/*.c -o odd.o"));
  refuses("emit d16:f32 --target avx512 --cite a\\ -o bad", "character 2", "printable");
}

// ---- sets ----

static void a_set_is_tuned_and_checked_without_the_database(void **state) {
  (void)state;
  FILE *f = fopen(path_of("set.txt"), "w");
  assert_non_null(f);
  fputs("d64:f32 target=avx512,c99\nd64:f32:causal target=avx512 set=block_n=32\n", f);
  assert_int_equal(fclose(f), 0);
  const struct outcome *o = works("emit --set-file set.txt --tuned --db t.txt -o set --depfile set.d");
  assert_non_null(strstr(o->out, "tuned   1 of 2 kernels"));
  assert_non_null(strstr(o->err, "for d64:f32 on c99 in t.txt"));
  assert_true(shell("grep -q '\"tuned\": \"10.0 % less' set/manifest.json && grep -q t.txt set.d && "
                    "grep -q block_n=32 set/*causal*.c"));
  works("emit --check set"); // by the manifest
  o = strobe("emit --check set --set-file set.txt --tuned --db t.txt");
  assert_int_equal(o->code, 0);
  works("emit --set-file set/manifest.json -o again");
  assert_true(shell("diff -r set again"));
  o = strobe("emit --check set --set-file set.txt"); // the heuristic's are others
  assert_int_equal(o->code, 1);
  assert_true(shell("sed -i 's/\\t8.1\\t/\\t8.2\\t/' t.txt")); // measured again
  o = strobe("emit --check set --set-file set.txt --tuned --db t.txt");
  assert_int_equal(o->code, 1);
  assert_non_null(strstr(o->out, "--set-file set.txt --tuned -o set writes"));
  works("emit --check set");
  assert_true(
      shell("sed -i 's/10.0 % less/20.0 % less/' set/attn_fwd_d64_f32_m*.c")); // nobody changes a citation unnoticed
  o = strobe("emit --check set");
  assert_int_equal(o->code, 1);
}

static void a_manifest_may_cite_only_what_a_comment_can_hold(void **state) {
  (void)state;
  assert_true(shell("cp -r again evil && sed -i 's/\"tuned\": \"/&\\\\n#error /' evil/manifest.json"));
  refuses("emit --set-file evil/manifest.json -o evil", "evil/manifest.json", "character 1 ");
}

static void bad_input(void **state) {
  (void)state;
  assert_true(shell("printf '# strobe tuning database 2\\nx\\n' > newer.txt"));
  static const char *const row[][3] = {
      {"emit d64:f32 --target avx512 --tuned --set block_n=32 -o bad", "--tuned and --set", "only one"},
      {"emit d64:f32 --target avx512 --tuned --template-dir . -o bad", "--template-dir", "built-in"},
      {"emit d64:f32 --target avx512 --db t.txt -o bad", "--db", "--tuned"},
      {"emit d64:f32 --target avx512 --machine x -o bad", "--machine", "--tuned"},
      {"emit d64:f32 --target avx512 --tuned --db none.txt -o bad", "none.txt", "strobe tune"},
      {"emit d64:f32 --target avx512 --tuned --db newer.txt -o bad", "format", "reads up to"},
      {"emit --set-file again/manifest.json --tuned --db t.txt -o bad", "manifest", "leave out --tuned"},
      {"emit --check set --tuned --db t.txt", "manifest", "leave out --tuned"},
      {"emit --set-file set.txt --cite x -o bad", "--cite", "SPEC"},
  };
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) refuses(row[i][0], row[i][1], row[i][2]);
}

static int set_up(void **state) {
  (void)state;
  return make_directory() && !setenv("PROGRAM", binary, 1) ? 0 : -1;
}

int main(int argc, char **argv) {
  (void)argc;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_record_is_taken_and_cited),
      cmocka_unit_test(its_command_writes_it_again),
      cmocka_unit_test(sizes_choose_among_buckets),
      cmocka_unit_test(another_processor_by_its_name),
      cmocka_unit_test(a_text_that_no_comment_can_hold),
      cmocka_unit_test(a_set_is_tuned_and_checked_without_the_database),
      cmocka_unit_test(a_manifest_may_cite_only_what_a_comment_can_hold),
      cmocka_unit_test(bad_input),
  };
  return find_binary(argv[0]) ? cmocka_run_group_tests(tests, set_up, remove_directory) : 1;
}
