// strobe tune and strobe db from outside: what they print, record and refuse.
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli_run.h"

static bool shell(const char *command) { // in dir
  char line[1024];
  snprintf(line, sizeof line, "cd %s && %s", dir, command);
  return system(line) == 0;
}

static void bad_input(void **state) {
  (void)state;
  assert_true(shell("echo 'dear diary' >diary.txt"));
  static const struct {
    const char *arguments, *word, *other;
  } row[] = {
      {"tune d64:f32:q64k64 --budget soon --db t.txt", "--budget \"soon\"", "30s"},
      {"tune d64:f32:q64k64 --budget 1h --db t.txt", "--budget \"1h\"", "30s"},
      {"tune d64:f32:q64k64 --budget 0.01s --db t.txt", "0.01s", "0.5s"},
      {"tune d64:f32:q0k64 --db t.txt", "no query", "1 or more"},
      {"tune d64:bf16:q64k64 --target sm90a --db t.txt", "sm90a", ""},
      {"tune d64:f32:q64k64 d32:f32:q64k64 --plot p.svg --db t.txt", "--plot", "one problem"},
      {"tune d64:f32:q64k64 --set block_n=7 --db t.txt", "block_n 7", "nearest"},
      {"db shwo --db t.txt", "shwo", "show"},
      {"db show other.txt --db t.txt", "other.txt", "--db"},
      {"db export a.c -o b.c --db t.txt", "a.c", "--db"},
      {"db merge --db t.txt", "no file", "usage"},
      {"db show -o x.txt --db t.txt", "--output", "db export"},
      {"db show --c --db t.txt", "--c", "db export"},
      {"db export --json --db t.txt", "--json", "db show"},
      {"db prune --all --db t.txt", "--all", "db show"},
      {"db show --db diary.txt", "diary.txt", "no tuning database"},
      {"db merge diary.txt --db t.txt", "diary.txt", "no tuning database"},
      {"emit d64:f32 --target c99 --tuned --db diary.txt -o new", "diary.txt", "no tuning database"},
      {"db merge nothing.txt --db t.txt", "nothing.txt", "No such file"},
  };
  for (size_t i = 0; i < sizeof row / sizeof *row; i++)
    if (!strstr(row[i].arguments, "sm90a") || access("/dev/nvidia0", F_OK)) // a GPU would be tuned
      refuses(row[i].arguments, row[i].word, row[i].other);
}

// Runs a search until its output, or a database, has a text: with as much time as this machine, which others may be
// using, wants.
static const struct outcome *tune_until(const char *command, const char *text, const char *database) {
  static const char *const budgets[] = {"0.7s", "3s", "12s", "50s"};
  const struct outcome *o = NULL;
  for (size_t i = 0; i < sizeof budgets / sizeof *budgets; i++) {
    char line[400], grep[200];
    snprintf(line, sizeof line, "%s --budget %s", command, budgets[i]);
    snprintf(grep, sizeof grep, "grep -q '%s' %s", text, database ? database : "");
    o = works(line);
    if (database ? shell(grep) : strstr(o->out, text) != NULL) return o;
  }
  fail_msg("%s: no %s within 50 s", command, text);
  return o;
}

static void tunes_and_records(void **state) {
  (void)state;
  const struct outcome *o =
      tune_until("tune d32:f32:b1h2q128k128 --candidates 6 --db t.txt --plot map.svg --explain", "d32:f32", "t.txt");
  assert_non_null(strstr(o->out, "the default"));
  assert_non_null(strstr(o->out, "rank correlation"));
  assert_non_null(strstr(o->out, "recorded in t.txt"));
  assert_true(shell("grep -q '^<svg' map.svg"));
  o = works("db show --db t.txt");
  assert_non_null(strstr(o->out, "d32:f32"));
  works("db show --all --json --db t.txt");
  setenv("STROBE_DB", "t.txt", 1);
  o = works("explain d32:f32:b1h2q128k128 --json");
  assert_non_null(strstr(o->out, "\"from\": \"tuned\""));
  assert_non_null(strstr(o->out, "\"why\": \"measured on this machine\""));
  unsetenv("STROBE_DB");
  assert_true(shell("{ cat t.txt; printf '# a \"remark\"\\nof a later version\\n'; } > more.txt"));
  works("db export --db t.txt -o plain.txt"); // what decides, and nothing else
  works("db export --db more.txt -o same.txt");
  assert_true(shell("cmp -s plain.txt same.txt && ! grep -q 'tried\\|remark\\|later' plain.txt"));
  works("db export --c --db t.txt -o tunings.c");
  works("db export --c same.c --db t.txt");
  assert_true(shell("cmp -s tunings.c same.c"));
  assert_true(shell("cc -std=c99 -Wall -Wextra -Werror -c tunings.c"));
  works("db merge t.txt --db merged.txt");
  assert_true(shell("cmp -s t.txt merged.txt"));
  works("db prune --db merged.txt"); // nothing of another version is in it
  assert_true(shell("cmp -s t.txt merged.txt"));
  o = works("db path --db t.txt");
  assert_string_equal(o->out, "t.txt\n");
}

// As a compiler reads it, the string is the database, whatever a processor is called.
static void an_export_as_c_is_the_same_text(void **state) {
  (void)state;
  FILE *f = fopen(path_of("odd.txt"), "w");
  assert_non_null(f);
  fputs("# strobe tuning database 1\n"
        "d64:f32\tq1k64g1\tc99\t1\t\"A\" \\n %d \xc2\xae ?\?/ ?\?!\t1\t2\tstages=1\tbest\t1\t2\t30\t0.5\n",
        f);
  assert_int_equal(fclose(f), 0);
  f = fopen(path_of("print.c"), "w");
  assert_non_null(f);
  fputs("#include <stdio.h>\n#include \"odd.c\"\nint main(void) { return fputs(strobe_tunings, stdout) < 0; }\n", f);
  assert_int_equal(fclose(f), 0);
  works("db export --db odd.txt -o plain.txt");
  works("db export --c --db odd.txt -o odd.c");
  assert_true(shell("cmp odd.txt plain.txt"));
  assert_true(shell("cc -std=c99 -Wall -Wextra -Werror print.c -o print && ./print | cmp - plain.txt"));
}

// Every config of a small space; what the database has meets the winner.
static void an_exhaustive_search_meets_the_record(void **state) {
  (void)state;
#define SEARCH                                                                                                         \
  "tune d32:f32:b1h2q64k64 --db e.txt --set tile_n=4,stages=1,unroll=32,exp=poly5,prefetch=0,pack_k=1,pack_v=1"
  const struct outcome *o = tune_until(SEARCH, "d32:f32", "e.txt");
  assert_null(strstr(o->out, "the record takes"));
  tune_until(SEARCH " --exhaustive", "the record takes", NULL);
  tune_until(SEARCH " --exhaustive --json", "\"record_ratio_upper_bound\": ", NULL);
#undef SEARCH
}

// Said before the search, which would be for nothing; with --dry there is nothing to record.
static void an_unwritable_database_is_refused(void **state) {
  (void)state;
  refuses("tune d32:f32:b1h2q64k64 --budget 10m --db /proc/none/t.txt", "/proc/none", "No such file");
  const struct outcome *o = works("tune d32:f32:b1h2q64k64 --budget 0.5s --candidates 3 --dry --json");
  assert_non_null(strstr(o->out, "\"candidates\""));
  assert_non_null(strstr(o->out, "\"recorded\": false"));
  assert_string_equal(o->err, "");
}

// It was writable when the search began: what was found is printed, and the command fails.
static void a_database_that_is_lost_meanwhile(void **state) {
  (void)state;
  assert_true(shell("mkdir -p lost"));
  char command[8500];
  snprintf(command, sizeof command,
           "cd %s && %s tune d32:f32:b1h2q64k64 --budget 4s --candidates 3 --db lost/t.txt >l.out 2>l.err & "
           "for i in $(seq 300); do [ -e %s/lost/t.txt ] && break; sleep 0.1; done; "
           "cd %s && rm -r lost && touch lost; wait $!; exit $?",
           dir, binary, dir, dir);
  const int status = system(command);
  assert_int_equal(WIFEXITED(status) ? WEXITSTATUS(status) : -1, 2);
  assert_true(shell("grep -q 'the default' l.out && grep -q '^not recorded' l.out"));
  assert_true(shell("grep -q 'the result was not recorded' l.err"));
}

// What an earlier search decided is measured again, however much more the default was run then.
static void a_record_is_measured_again(void **state) {
  (void)state;
#define FIELDS "tile_n=4,stages=1,unroll=32,exp=poly5,prefetch=0,pack_k=1,pack_v=1"
#define SEARCH "tune d32:f32:b1h2q64k64 --set " FIELDS " --candidates 2 --budget 2s"
#define SLOW "block_m=16,block_n=32," FIELDS
  works(SEARCH " --db again.txt"); // for its key
  assert_true(shell("awk -F'\t' -v OFS='\t' 'NR == 1; NR == 2 {$8 = \"" SLOW
                    "\"; $9 = \"best\"; $10 = 1; $11 = 2; $12 = 200; print}' again.txt >slow.txt"));
  const struct outcome *o = works(SEARCH " --db slow.txt --json");
  assert_non_null(strstr(o->out, SLOW));
  assert_true(shell("grep -q '" SLOW "' slow.txt && ! grep -q '" SLOW ".*best' slow.txt"));
  assert_true(shell("[ $(awk -F'\t' 'NF > 5 && $9 != \"tried\"' slow.txt | wc -l) = 1 ]"));
#undef SLOW
#undef SEARCH
#undef FIELDS
}

// Ctrl-C, sooner or later: exit status 1, and what was measured until then is in the database.
static void an_interrupt_keeps_what_was_measured(void **state) {
  (void)state;
  static const char *const seconds[] = {"0.1", "0.4", "2", "10", "40"};
  bool kept = false;
  for (size_t i = 0; i < sizeof seconds / sizeof *seconds && !kept; i++) {
    char command[8500], out[4096];
    snprintf(command, sizeof command,
             "cd %s && rm -f i.txt; %s tune d64:f32:b1h4q512 --budget 10m --db i.txt >i.out 2>i.err & "
             "sleep %s; kill -INT $!; wait $!; exit $?",
             dir, binary, seconds[i]);
    const int status = system(command), code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    if (code == 128 + SIGINT) continue; // before it could listen
    assert_int_equal(code, 1);
    snprintf(command, sizeof command, "%s/i.out", dir);
    slurp(command, out, sizeof out);
    kept = strstr(out, "recorded in i.txt") != NULL;
    assert_non_null(strstr(out, kept ? "what was measured is kept" : "stopped before anything was measured"));
    if (kept) assert_true(shell("grep -q '^d64:f32' i.txt"));
  }
  assert_true(kept);
}

static int set_up(void **state) {
  (void)state;
  return make_directory() ? 0 : -1;
}

int main(int argc, char **argv) {
  (void)argc;
  const struct CMUnitTest tests[] = {cmocka_unit_test(bad_input),
                                     cmocka_unit_test(tunes_and_records),
                                     cmocka_unit_test(an_export_as_c_is_the_same_text),
                                     cmocka_unit_test(an_exhaustive_search_meets_the_record),
                                     cmocka_unit_test(an_interrupt_keeps_what_was_measured),
                                     cmocka_unit_test(an_unwritable_database_is_refused),
                                     cmocka_unit_test(a_database_that_is_lost_meanwhile),
                                     cmocka_unit_test(a_record_is_measured_again)};
  return find_binary(argv[0]) ? cmocka_run_group_tests(tests, set_up, remove_directory) : 1;
}
