// What the emitter is made of: files are written whole or not at all, JSON, tables, words of a shell, names and
// citations.
#include "../gen/emit.h"
#include "../gen/file.h"
#include "../gen/json.h"
#include "../gen/table.h"
#include "../runtime/cpu.h"
#include "../runtime/verify.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[64]; // of this run

static const char *in_dir(const char *name) {
  static char path[8][256];
  static int next;
  char *p = path[next++ % 8];
  snprintf(p, sizeof path[0], "%s/%s", dir, name);
  return p;
}

static int make_dir(void **state) {
  (void)state;
  strcpy(dir, "/tmp/strobe-emit-XXXXXX");
  return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
  (void)state;
  char command[96];
  snprintf(command, sizeof command, "rm -rf %s", dir);
  return system(command);
}

static int entries(const char *path) {
  int n = 0;
  DIR *d = opendir(path);
  if (!d) return -1;
  for (struct dirent *e; (e = readdir(d));) n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
  closedir(d);
  return n;
}

static void assert_holds(const char *path, const char *text) {
  struct buf b = {0};
  assert_int_equal(file_read(path, &b, NULL), 0);
  assert_string_equal(b.data ? b.data : "", text);
  buf_free(&b);
}

// ---- files ----

static void files_are_written_together(void **state) {
  (void)state;
  const char *a = in_dir("a"), *b = in_dir("b");
  struct file_text two[] = {{a, "one", 3}, {b, "two", 3}};
  int changed;
  assert_int_equal(files_write(two, 2, &changed, NULL), 0);
  assert_int_equal(changed, 2);
  struct stat before, after;
  assert_int_equal(stat(a, &before), 0);
  two[1] = (struct file_text){b, "TWO", 3};
  assert_int_equal(files_write(two, 2, &changed, NULL), 0);
  assert_int_equal(changed, 1); // a holds the same bytes: not touched
  assert_int_equal(stat(a, &after), 0);
  assert_true(before.st_ino == after.st_ino);
  assert_holds(b, "TWO");
  assert_int_equal(entries(dir), 2);
}

static void a_link_is_written_through(void **state) {
  (void)state;
  const char *a = in_dir("a"), *link = in_dir("link");
  struct stat st;
  const struct file_text text[] = {{link, "by link", 7}, {a, "one", 3}};
  assert_int_equal(symlink("a", link), 0);
  assert_int_equal(chmod(a, 0640), 0);
  assert_int_equal(files_write(text, 1, NULL, NULL), 0);
  assert_holds(a, "by link");
  assert_int_equal(lstat(link, &st), 0);
  assert_true(S_ISLNK(st.st_mode));
  assert_int_equal(stat(a, &st), 0);
  assert_int_equal(st.st_mode & 0777, 0640); // of the file that was replaced
  assert_int_equal(unlink(link), 0);
  assert_int_equal(files_write(text + 1, 1, NULL, NULL), 0);
}

static void a_failure_leaves_everything_as_it_was(void **state) {
  (void)state;
  const char *a = in_dir("a"), *fresh = in_dir("fresh"), *blocked = in_dir("blocked");
  struct error err = {0};
  assert_int_equal(mkdir(blocked, 0777), 0);
  const struct file_text three[] = {{a, "changed", 7}, {fresh, "new", 3}, {blocked, "x", 1}};
  assert_int_equal(files_write(three, 3, NULL, &err), STROBE_IO);
  assert_non_null(strstr(err.text, "blocked"));
  assert_holds(a, "one");
  assert_int_equal(access(fresh, F_OK), -1);
  assert_int_equal(entries(dir), 3);
  assert_int_equal(rmdir(blocked), 0);
  const struct file_text nowhere = {"/proc/no-such-directory/x", "x", 1};
  err = (struct error){0};
  assert_int_equal(files_write(&nowhere, 1, NULL, &err), STROBE_IO);
  assert_non_null(strstr(err.text, "/proc/no-such-directory/x"));
}

static void directories_are_made_and_unmade(void **state) {
  (void)state;
  struct buf made = {0};
  assert_int_equal(directory_make(in_dir("x/y/z"), &made, NULL), 0);
  assert_string_equal(made.data, in_dir("x"));
  directory_unmake(in_dir("x/y/z"), &made);
  assert_int_equal(access(in_dir("x"), F_OK), -1);
  buf_free(&made);
  struct error err = {0};
  assert_int_equal(directory_make(in_dir("a/b"), &made, &err), STROBE_IO); // a is a file
  buf_free(&made);
}

// ---- JSON and tables ----

static void json_is_escaped_and_nested(void **state) {
  (void)state;
  struct buf out = {0};
  struct json j = {.out = &out};
  json_array(&j, NULL);
  json_object(&j, NULL);
  json_string(&j, "a\"b", "tab\t \xff \xc3\xa9\n");
  json_number(&j, "nan", 0.0 / 0.0, 6);
  json_bool(&j, "yes", true);
  json_end(&j);
  json_string(&j, NULL, "\xed\xa0\x80|\xe0\x80\xaf|\xf4\x90"); // a surrogate, too long a form, beyond Unicode
  json_integer(&j, NULL, -5);
  json_array(&j, NULL);
  json_end(&j);
  json_end(&j);
  assert_string_equal(
      out.data,
      "[\n  {\n    \"a\\\"b\": \"tab\\u0009 \\ufffd \xc3\xa9\\n\",\n    \"nan\": null,\n"
      "    \"yes\": true\n  },\n  \"\\ufffd\\ufffd\\ufffd|\\ufffd\\ufffd\\ufffd|\\ufffd\\ufffd\",\n  -5,\n  []\n]\n");
  buf_free(&out);
}

static void tables_are_aligned(void **state) {
  (void)state;
  static const char *const header[] = {"name", "n"};
  struct table t;
  struct buf out = {0};
  table_begin(&t, "lr", header);
  table_cell(&t, CELL_GOOD, "%s", "a,\"b\"");
  table_cell(&t, CELL_PLAIN, "%d", 1000);
  table_print(&t, false, &out);
  assert_string_equal(out.data, "name      n\na,\"b\"  1000\n");
  out.len = 0;
  table_print_csv(&t, &out);
  assert_string_equal(out.data, "name,n\n\"a,\"\"b\"\"\",1000\n");
  out.len = 0;
  table_print(&t, true, &out);
  assert_non_null(strstr(out.data, "\033[32ma,\"b\"\033[0m"));
  table_free(&t);
  buf_free(&out);
}

// Columns of UTF-8 are characters.
static void tables_count_characters(void **state) {
  (void)state;
  struct table t;
  struct buf out = {0};
  table_begin(&t, "lrl", NULL);
  static const char *const cells[] = {"\xce\xbcs", "\xe2\x88\x9e", "a", "abc", "1234", "b"};
  for (int i = 0; i < 6; i++) table_cell(&t, CELL_PLAIN, "%s", cells[i]);
  table_print(&t, false, &out);
  assert_string_equal(out.data, "\xce\xbcs      \xe2\x88\x9e  a\nabc  1234  b\n");
  table_free(&t);
  buf_free(&out);
}

static void csv_is_quoted(void **state) {
  (void)state;
  static const char *const row[][2] = {{"plain text", "plain text\n"}, {"", "\n"},
                                       {"a,b", "\"a,b\"\n"},           {"a\"b", "\"a\"\"b\"\n"},
                                       {"a\nb", "\"a\nb\"\n"},         {"\",\n", "\"\"\",\n\"\n"}};
  for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
    struct table t;
    struct buf out = {0};
    table_begin(&t, "l", NULL);
    table_cell(&t, CELL_PLAIN, "%s", row[i][0]);
    table_print_csv(&t, &out);
    assert_string_equal(out.data, row[i][1]);
    table_free(&t);
    buf_free(&out);
  }
}

static void shell_words_are_quoted(void **state) {
  (void)state;
  static const char *const words[][2] = {
      {"plain/dir-1", "plain/dir-1"}, {"a b", "'a b'"}, {"it's", "'it'\\''s'"}, {"", "''"}};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
    struct buf out = {0};
    shell_word(words[i][0], &out);
    assert_string_equal(out.data, words[i][1]);
    buf_free(&out);
  }
}

// ---- what goes into C ----

static void names_are_identifiers(void **state) {
  (void)state;
  for (int c = 1; c < 256; c++) {
    const char first[] = {(char)c, 'a', 0}, second[] = {'a', (char)c, 0};
    const bool digit = c >= '0' && c <= '9', letter = c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    assert_int_equal(emit_check_name("--name", first, NULL), letter ? 0 : STROBE_INVALID);
    assert_int_equal(emit_check_name("--name", second, NULL), letter || digit ? 0 : STROBE_INVALID);
  }
  char name[66];
  memset(name, 'a', 65), name[65] = 0;
  assert_int_equal(emit_check_name("--name", name, NULL), STROBE_INVALID);
  assert_int_equal(emit_check_name("--name", name + 1, NULL), 0);
}

static void citations_stay_in_their_comment(void **state) {
  (void)state;
  for (int c = 1; c < 256; c++) {
    const char text[] = {'a', (char)c, 0};
    const bool good = c >= ' ' && c <= '~' && c != '\\' && c != '?'; // a trigraph may be a backslash
    assert_int_equal(emit_check_cite(text, NULL), good ? 0 : STROBE_INVALID);
  }
  char text[EMIT_CITE_MAX + 2];
  memset(text, 'a', sizeof text - 1), text[sizeof text - 1] = 0;
  assert_int_equal(emit_check_cite(text, NULL), STROBE_INVALID);
  assert_int_equal(emit_check_cite(text + 1, NULL), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(files_are_written_together),
      cmocka_unit_test(a_link_is_written_through),
      cmocka_unit_test(a_failure_leaves_everything_as_it_was),
      cmocka_unit_test(directories_are_made_and_unmade),
      cmocka_unit_test(json_is_escaped_and_nested),
      cmocka_unit_test(tables_are_aligned),
      cmocka_unit_test(tables_count_characters),
      cmocka_unit_test(csv_is_quoted),
      cmocka_unit_test(shell_words_are_quoted),
      cmocka_unit_test(names_are_identifiers),
      cmocka_unit_test(citations_stay_in_their_comment),
  };
  return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
