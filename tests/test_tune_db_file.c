// The tuning database on disk: it never loses a record, whoever is killed, nor what is not its own.
#include <fcntl.h>
#include <locale.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

// cmocka has a macro of the same name as a function of ours.
#include "../gen/file.h"
#include "../runtime/cpu.h"
#include "../runtime/tune_db.h"

#include <cmocka.h>

#include "tune_records.h"

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

// ---- whose file it is ----

static char *file_of(const char *name) {
  static char path[200];
  snprintf(path, sizeof path, "%s/%s", directory, name);
  return path;
}

static void write_text(const char *path, const char *text) {
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  fputs(text, f);
  assert_int_equal(fclose(f), 0);
}

static void holds(const char *path, const char *text) {
  struct buf all = {0};
  assert_int_equal(file_read(path, &all, NULL), 0);
  if (!strstr(all.data, text)) fail_msg("%s is not in: %s", text, all.data);
  buf_free(&all);
}

static void a_file_of_another_kind_is_left_alone(void **state) {
  (void)state;
  const struct tune_record r = record_of("d64:f32", "stages=2", TUNE_BEST, 1.5, 30);
  struct error err = {0};
  const char *const diary = file_of("diary.txt");
  write_text(diary, "dear diary\n");
  assert_int_equal(tune_db_update(diary, &r, 1, &err), STROBE_INVALID);
  assert_non_null(strstr(err.text, "no tuning database"));
  holds(diary, "dear diary\n");
  write_text(diary, ""); // as touch makes it
  assert_int_equal(tune_db_update(diary, &r, 1, NULL), 0);
  holds(diary, "stages=2");
}

static void lines_that_are_no_records_stay(void **state) {
  (void)state;
  const struct tune_record r = record_of("d64:f32", "stages=2", TUNE_BEST, 1.5, 30);
  const char *const path = file_of("others.txt");
  write_text(path, "# strobe tuning database 1\r\n# mine\r\na line of a later version\r\n");
  for (int i = 0; i < 2; i++) assert_int_equal(tune_db_update(path, &r, 1, NULL), 0);
  holds(path, "# strobe tuning database 1\n# mine\na line of a later version\nd64:f32\t");
  struct tune_db db = {0};
  assert_int_equal(tune_db_read(path, &db, NULL), 0);
  assert_int_equal(db.n, 1);
  assert_int_equal(db.malformed, 1);
  tune_db_free(&db);
}

static void a_link_stays_a_link(void **state) {
  (void)state;
  const struct tune_record r = record_of("d64:f32", "stages=2", TUNE_BEST, 1.5, 30);
  char link[200];
  struct stat st;
  snprintf(link, sizeof link, "%s", file_of("link.txt"));
  write_text(file_of("real.txt"), "");
  assert_int_equal(symlink("real.txt", link), 0);
  assert_int_equal(tune_db_update(link, &r, 1, NULL), 0);
  assert_int_equal(lstat(link, &st), 0);
  assert_true(S_ISLNK(st.st_mode));
  holds(file_of("real.txt"), "stages=2");
}

// In a child: a limit on the size of files whose signal has its default action, or a locale with a decimal comma.
static void in_child(void (*run)(void)) {
  const pid_t child = fork();
  if (!child) run(), _exit(0);
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  if (!WIFEXITED(status) || WEXITSTATUS(status)) fail_msg("the child ended with status %x", status);
}

static void write_with_a_limit(void) {
  const struct rlimit limit = {100, RLIM_INFINITY};
  const struct tune_record r = record_of("d64:f32", "stages=2", TUNE_BEST, 1.5, 30);
  struct error err = {0};
  signal(SIGXFSZ, SIG_DFL);
  if (setrlimit(RLIMIT_FSIZE, &limit) || tune_db_update(file_of("limit.txt"), &r, 1, &err) != STROBE_IO ||
      !strstr(err.text, "File too large"))
    _exit(1);
}

static void a_limit_is_an_error(void **state) {
  (void)state;
  in_child(write_with_a_limit);
  struct stat st;
  assert_int_equal(stat(file_of("limit.txt"), &st), -1);
}

static void write_and_read_with_commas(void) {
  const struct tune_record r = record_of("d64:f32", "stages=2", TUNE_BEST, 1.5, 30);
  struct tune_record found;
  if (!setlocale(LC_ALL, "de_DE.UTF-8") || strtod("1,5", NULL) != 1.5) _exit(2);
  if (tune_db_update(file_of("comma.txt"), &r, 1, NULL) || !tune_db_lookup(file_of("comma.txt"), &r.key, &found) ||
      found.ms != 1.5 || strtod("1,5", NULL) != 1.5)
    _exit(1);
}

static void numbers_have_a_point_in_every_locale(void **state) {
  (void)state;
  char command[300];
  snprintf(command, sizeof command, "localedef -i de_DE -f UTF-8 %s/de_DE.UTF-8 >%s/localedef.log 2>&1", directory,
           directory);
  if (system(command)) {
    print_message("could not make a locale with a decimal comma\n");
    skip();
  }
  setenv("LOCPATH", directory, 1);
  in_child(write_and_read_with_commas);
  unsetenv("LOCPATH");
  holds(file_of("comma.txt"), "\t1.5\t2\t30\t0.5\n");
}

static void a_lock_that_is_never_given_back(void **state) {
  (void)state;
  const struct tune_record r = record_of("d64:f32", "stages=2", TUNE_BEST, 1.5, 30);
  struct error err = {0};
  const int fd = open(file_of("held.txt.lock"), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  assert_true(fd >= 0);
  assert_int_equal(flock(fd, LOCK_EX), 0);
  assert_int_equal(tune_db_update(file_of("held.txt"), &r, 1, &err), STROBE_IO);
  assert_non_null(strstr(err.text, "another process"));
  close(fd);
}

// A database that is merged keeps what decides here if that is better measured; a search's records decide.
static void a_merge_is_no_search(void **state) {
  (void)state;
  const struct tune_record here = record_of("d64:f32", "stages=2", TUNE_BEST, 1.5, 40),
                           there = record_of("d64:f32", "stages=1", TUNE_BEST, 1.2, 10);
  struct tune_db other = {0};
  struct tune_record found;
  assert_int_equal(tune_db_add(&other, &there, NULL), 0);
  assert_int_equal(tune_db_update(file_of("merged.txt"), &here, 1, NULL), 0);
  assert_int_equal(tune_db_merge(file_of("merged.txt"), &other, NULL), 0);
  assert_true(tune_db_lookup(file_of("merged.txt"), &here.key, &found));
  assert_string_equal(found.config, "stages=2");
  assert_int_equal(tune_db_update(file_of("merged.txt"), &there, 1, NULL), 0);
  assert_true(tune_db_lookup(file_of("merged.txt"), &here.key, &found));
  assert_string_equal(found.config, "stages=1");
  tune_db_free(&other);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(newer_format_is_left_alone),
      cmocka_unit_test(unwritable_places),
      cmocka_unit_test(many_processes_lose_nothing),
      cmocka_unit_test(kills_lose_nothing),
      cmocka_unit_test(a_file_of_another_kind_is_left_alone),
      cmocka_unit_test(lines_that_are_no_records_stay),
      cmocka_unit_test(a_link_stays_a_link),
      cmocka_unit_test(a_merge_is_no_search),
      cmocka_unit_test(a_limit_is_an_error),
      cmocka_unit_test(numbers_have_a_point_in_every_locale),
      cmocka_unit_test(a_lock_that_is_never_given_back),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
