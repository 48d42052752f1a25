// The emitter and what it is made of: emitted files compile without a warning, compute the right thing and name the
// command that writes them again; files are written whole or not at all.
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

// ---- emitted kernels ----

static const struct emit_case {
  const char *problem, *target;
  enum printer printer;
} cases[] = {
    {"d32:f32:causal:b1h2q37k70", "avx512", PRINTER_INTRIN},
    {"d32:f32:causal:b1h1q70k90", "avx512", PRINTER_INTRIN}, // a last tile of one vector
    {"d32:bf16:b1h2/1q37k71", "avx512bf16", PRINTER_INTRIN},
    {"d32:bf16:o=f32:causal:b1h1q17k40", "avx512bf16", PRINTER_INTRIN},
    {"d64:f32:b1h1q20k130", "avx512", PRINTER_CODE},
    {"d40:bf16:causal:b1h6/1q2k70", "avx512bf16", PRINTER_INTRIN}, // decode kernels
    {"d33:bf16:b1h3/1q1k50", "avx512bf16", PRINTER_CODE},
    {"d40:f32:causal:b1h2q37k170", "avx2", PRINTER_INTRIN},
    {"d36:f32:b1h2/1q29k150", "avx2", PRINTER_CODE},
    {"d33:q=f32,kv=f16,o=bf16:causal:b1h1q30k140", "avx2", PRINTER_INTRIN},
    {"d40:bf16:o=f16:b1h1q30k50", "avx512", PRINTER_INTRIN},
    {"d64:bf16:causal:b1h1q65k200", "avx512bf16", PRINTER_CODE},
    {"d32:f32:causal_top_left:b2h1q20k30", "c99", PRINTER_SCALAR},
    {"d32:bf16:b1h2q5k9", "c99", PRINTER_SCALAR},
    {"d32:f32:causal:b1h1q30k20", "avx512", PRINTER_SCALAR},
    {"d16v128:bf16:o=f32:b1h1q40k100", "amxbf16", PRINTER_INTRIN}, // four rows fetched at a time
    {"d32:bf16:causal:b1h2q40k100", "amxbf16", PRINTER_INTRIN},
};
enum { N_CASES = sizeof cases / sizeof *cases };

static void instance_of(const struct emit_case *c, struct problem *p, struct instance *i) {
  struct error err = {0};
  i->target = target_find(c->target);
  config_clear(&i->config);
  if (problem_parse(c->problem, p, &err) || problem_complete(p, &err)) fail_msg("%s: %s", c->problem, err.text);
  i->spec = p->spec;
  if (config_resolve(&p->spec, i->target, NULL, &i->config, &err)) fail_msg("%s: %s", c->problem, err.text);
}

// False: this build has no encoder.
static bool emit_case(const struct emit_case *c, struct problem *p, struct instance *i, struct emitted *e) {
  struct error err = {0};
  instance_of(c, p, i);
  const int status = emit_kernel(&(struct emit_request){.instance = i, .printer = c->printer}, e, &err);
  if (status == STROBE_UNSUPPORTED && c->printer == PRINTER_CODE) return false;
  if (status) fail_msg("%s: %s", c->problem, err.text);
  return true;
}

static void texts_say_where_they_come_from(void **state) {
  (void)state;
  for (int n = 0; n < N_CASES; n++) {
    struct problem p;
    struct instance i;
    struct emitted e, again;
    char hash[20];
    if (!emit_case(&cases[n], &p, &i, &e)) continue;
    assert_int_equal(e.stats.scratch_bytes % 64, 0); // what its _bytes says goes to aligned_alloc(64, ...)
    assert_null(strstr(e.header.data, "= 1f"));      // head_dim 1
    emit_case(&cases[n], &p, &i, &again);
    assert_string_equal(e.source.data, again.source.data);
    assert_string_equal(e.header.data, again.header.data);
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)templates_hash());
    const char *const texts[] = {e.source.data, e.header.data};
    for (int t = 0; t < 2; t++) {
      assert_non_null(strstr(texts[t], STROBE_VERSION));
      assert_non_null(strstr(texts[t], hash));
      assert_non_null(strstr(texts[t], "no licence obligation"));
      assert_non_null(strstr(texts[t], "floating-point operations per query and visible key"));
      assert_null(strstr(texts[t], "/tmp"));
    }
    struct buf config = {0};
    config_print(&i.config, i.target, &config);
    assert_non_null(strstr(e.header.data, config.data)); // every field: a later heuristic does not matter
    assert_null(strstr(e.header.data, "causal_top_left"));
    buf_free(&config);
    emit_free(&e);
    emit_free(&again);
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

static bool have(const char *compiler) {
  char command[80];
  snprintf(command, sizeof command, "command -v %s >/dev/null 2>&1", compiler);
  return system(command) == 0;
}

static void write_case(const struct emitted *e) {
  struct buf path[2] = {{0}};
  buf_printf(&path[0], "%s/%s.c", dir, e->name.data);
  buf_printf(&path[1], "%s/%s.h", dir, e->name.data);
  const struct file_text both[] = {{path[0].data, e->source.data, e->source.len},
                                   {path[1].data, e->header.data, e->header.len}};
  assert_int_equal(files_write(both, 2, NULL, NULL), 0);
  buf_free(&path[0]);
  buf_free(&path[1]);
}

typedef int forward_function(const struct strobe_args *, void *, strobe_i64);
typedef strobe_i64 bytes_function(const struct strobe_args *);

static void *find(void *library, const struct emitted *e, const char *suffix) {
  char name[200];
  snprintf(name, sizeof name, "%s%s", e->symbol.data, suffix);
  void *found = dlsym(library, name);
  if (!found) fail_msg("%s is not defined", name);
  return found;
}

static void run_emitted(void *library, const struct emitted *e, const struct problem *p, const struct instance *i) {
  forward_function *forward;
  bytes_function *bytes;
  *(void **)&forward = find(library, e, "_forward");
  *(void **)&bytes = find(library, e, "_bytes");
  const struct verify_case c = {.problem = *p,
                                .kind = input_kind_find("normal"),
                                .seed = 3,
                                .layout = LAYOUT_BNHD,
                                .pad = 3,
                                .scale = default_scale(&p->spec)};
  struct tensors t;
  struct verify_result r;
  assert_int_equal(verify_create(&c, NULL, &t, NULL), 0);
  const strobe_i64 needed = bytes(&t.args);
  assert_true(needed > 0);
  char *memory = aligned_alloc(64, (size_t)(needed + 127) / 64 * 64);
  assert_non_null(memory);
  assert_int_equal(forward(&t.args, memory, needed - 1), 1);
  assert_int_equal(forward(&t.args, memory + 8, needed), 1);
  struct strobe_args wrong = t.args;
  wrong.abi++;
  assert_int_equal(forward(&wrong, memory, needed), 1);
  assert_int_equal(forward(&t.args, memory, needed), 0);
  assert_int_equal(verify_tensors(&c, &i->config, &t, VERIFY_ALL_ROWS, &r, NULL), 0);
  struct buf why = {0};
  verify_print(&r, &why);
  if (!r.ok) fail_msg("%s: %s", e->name.data, why.data);
  buf_free(&why);
  free(memory);
  tensors_free(&t);
}

static void compile_and_run(const char *compiler) {
  if (!have(compiler)) skip();
  for (int n = 0; n < N_CASES; n++) {
    struct problem p;
    struct instance i;
    struct emitted e;
    char command[700];
    if (!emit_case(&cases[n], &p, &i, &e)) continue;
    write_case(&e);
    snprintf(command, sizeof command,
             "cd %s && %s -std=c11 -O1 -fPIC -shared -ffp-contract=off -Wall -Wextra -Wpedantic -Wconversion -Werror "
             "%s.c -o %s-%d.so",
             dir, compiler, e.name.data, compiler, n);
    if (system(command)) fail_msg("%s does not compile %s", compiler, e.name.data);
    if (cpu_has_target(i.target)) {
      char path[128];
      snprintf(path, sizeof path, "%s/%s-%d.so", dir, compiler, n);
      void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
      if (!library) fail_msg("%s", dlerror());
      run_emitted(library, &e, &p, &i);
      dlclose(library);
    }
    emit_free(&e);
  }
}

static void gcc_takes_emitted_files(void **state) { (void)state, compile_and_run("gcc"); }
#ifndef __SANITIZE_ADDRESS__ // what a compiler takes is the same then: one of them is enough
static void clang_takes_emitted_files(void **state) { (void)state, compile_and_run("clang"); }
#endif

static void headers_are_cxx_and_live_together(void **state) {
  (void)state;
  if (!have("g++")) skip();
  struct buf text = {0}, path = {0};
  for (int n = 0; n < N_CASES; n++) {
    struct problem p;
    struct instance i;
    struct emitted e;
    if (!emit_case(&cases[n], &p, &i, &e)) continue;
    write_case(&e);
    buf_printf(&text, "#include \"%s.h\"\nconst struct strobe_kernel *kernel_%d() { return &%s; }\n", e.name.data, n,
               e.symbol.data);
    emit_free(&e);
  }
  buf_printf(&path, "%s/all.cc", dir);
  const struct file_text file = {path.data, text.data, text.len};
  assert_int_equal(files_write(&file, 1, NULL, NULL), 0);
  char command[200];
  snprintf(command, sizeof command, "cd %s && g++ -std=c++11 -Wall -Wextra -Wpedantic -Werror -fsyntax-only all.cc",
           dir);
  assert_int_equal(system(command), 0);
  buf_free(&text);
  buf_free(&path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(files_are_written_together),
      cmocka_unit_test(a_link_is_written_through),
      cmocka_unit_test(a_failure_leaves_everything_as_it_was),
      cmocka_unit_test(directories_are_made_and_unmade),
      cmocka_unit_test(json_is_escaped_and_nested),
      cmocka_unit_test(tables_are_aligned),
      cmocka_unit_test(shell_words_are_quoted),
      cmocka_unit_test(texts_say_where_they_come_from),
      cmocka_unit_test(gcc_takes_emitted_files),
#ifndef __SANITIZE_ADDRESS__
      cmocka_unit_test(clang_takes_emitted_files),
#endif
      cmocka_unit_test(headers_are_cxx_and_live_together),
  };
  return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
