// libtcc, the object loader and code memory: what generated code may rely on, and what a host process may rely on.
#include "../runtime/jit.h"
#include "../runtime/tcc_host.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_MDWE_REFUSE_EXEC_GAIN 1
#endif

static struct jit_module *build(const char *source, struct error *err) {
  struct buf object = {0};
  struct jit_module *m = NULL;
  if (jit_compile(source, &object, err) == STROBE_OK) jit_load(object.data, object.len, "test", &m, err);
  buf_free(&object);
  return m;
}

static void expect_error(const char *source, enum strobe_status status, const char *part) {
  struct error err = {0};
  struct jit_module *m = build(source, &err);
  assert_null(m);
  if (!strstr(err.text, part)) fail_msg("\"%s\" does not hold \"%s\"", err.text, part);
  assert_int_equal(err.status, status);
}

#if STROBE_TCC

typedef int int_function(int);

static struct jit_module *must_build(const char *source) {
  struct error err = {0};
  struct jit_module *m = build(source, &err);
  if (!m) fail_msg("%s", err.text);
  return m;
}

static int_function *function(const struct jit_module *m, const char *name) {
  int_function *f = (int_function *)jit_symbol(m, name);
  assert_non_null(f);
  return f;
}

static int open_fds(void) {
  int n = 0;
  DIR *d = opendir("/proc/self/fd");
  if (!d) return -1;
  while (readdir(d)) n++;
  closedir(d);
  return n;
}

// Lines of /proc/self/maps that name memory both writable and executable. Reads without stdio, so that it can run
// beside other threads while they map and unmap.
static int writable_executable_maps(void) {
  static _Thread_local char text[1 << 20];
  int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC), n = 0;
  if (fd < 0) return 0;
  size_t len = 0;
  for (ssize_t got; len < sizeof text - 1 && (got = read(fd, text + len, sizeof text - 1 - len)) > 0;)
    len += (size_t)got;
  close(fd);
  text[len] = 0;
  for (char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
    char *mode = strchr(line, ' ');
    n += mode && mode[2] == 'w' && mode[3] == 'x';
  }
  return n;
}

static const char program[] =
    "static const float table[16] __attribute__((aligned(64))) = {1, 2, 3, 4};\n"
    "static int twice(int x) { return 2 * x; }\n"
    "static int plus1(int x) { return x + 1; }\n"
    "struct ops { int n; int (*f[2])(int); };\n"
    "const struct ops ops = {2, {twice, plus1}};\n"
    "const float *table_address(void) { return table; }\n"
    "int sum(int n) { int s = 0; for (int i = 0; i < n; i++) s += i * i; return s; }\n"
    "int through(int x) { for (int i = 0; i < ops.n; i++) x = ops.f[i](x); return x; }\n"
    "int raw(int x) { int r; asm volatile(\".byte 0x8d, 0x47, 0x05\\n\" // lea eax, [rdi + 5]\n"
    "  : \"=a\"(r) : \"D\"((long)x)); return r; }\n";

static void test_runs(void **state) {
  (void)state;
  struct jit_module *m = must_build(program);
  assert_int_equal(function(m, "sum")(10), 285);
  assert_int_equal(function(m, "through")(20), 41);
  assert_int_equal(function(m, "raw")(37), 42);
  const float *(*table)(void) = (const float *(*)(void))jit_symbol(m, "table_address");
  assert_int_equal((uintptr_t)table() % 64, 0);
  assert_true(table()[3] == 4.0f && table()[15] == 0.0f);
  struct ops {
    int n;
    int_function *f[2];
  } const *ops = jit_symbol(m, "ops");
  assert_int_equal(ops->n, 2);
  assert_int_equal(ops->f[0](21), 42);
  assert_null(jit_symbol(m, "twice")); // static
  assert_null(jit_symbol(m, "nothing"));
  jit_unload(m);
  jit_unload(NULL);
}

static void test_aggregates_call_libc(void **state) {
  (void)state;
  struct jit_module *m =
      must_build("struct big { int x[100]; };\n"
                 "static struct big copy(struct big *p) { return *p; }\n"
                 "int f(int n) { struct big a = {{0}}, b; a.x[99] = n; b = copy(&a); return b.x[99]; }\n");
  assert_int_equal(function(m, "f")(12345), 12345);
  jit_unload(m);
}

static void test_errors_name_the_cause(void **state) {
  (void)state;
  expect_error("int f(void) { return 1 }", STROBE_INTERNAL, "<string>:1: error: ';' expected");
  expect_error("#include <stdio.h>\nint x(void);", STROBE_INTERNAL, "stdio.h");
  expect_error("#include \"/etc/passwd\"\n", STROBE_INTERNAL, "not found");
  expect_error("#include \"" TCC_HOST_OUTPUT "\"\n", STROBE_INTERNAL, "not found");
  expect_error("#error no way\n", STROBE_INTERNAL, "no way");
  expect_error("void f(void) { asm(\"vfoo %eax\"); }", STROBE_INTERNAL, "vfoo");
  expect_error("int puts(const char *); int f(void) { return puts(\"x\"); }", STROBE_INVALID,
               "\"puts\" is not defined");
  expect_error("extern int v; int f(void) { return v; }", STROBE_INVALID, "\"v\" is not defined");
  expect_error("static int v; int f(void) { return ++v; }", STROBE_INVALID, ".bss");
  expect_error("int v; int f(void) { return v; }", STROBE_INVALID, "no state");
  expect_error("__attribute__((constructor)) void f(void) {}", STROBE_INVALID, "constructors");
  struct jit_module *m = must_build("int f(int x) { return x; }"); // and none of that did harm
  assert_int_equal(function(m, "f")(3), 3);
  jit_unload(m);
}

// libtcc reads numbers with strtod, which in many locales takes a comma for the decimal point.
static void test_locale_of_the_host(void **state) {
  (void)state;
  static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "pl_PL.UTF-8", "de_DE"};
  bool comma = false;
  for (size_t i = 0; !comma && i < sizeof names / sizeof *names; i++)
    comma = setlocale(LC_ALL, names[i]) && strtod("1,5", NULL) == 1.5;
  struct jit_module *m =
      must_build("static const double d[] = {1.5, 2.25e1}; int f(int i) { return (int)(d[i] * 100); }");
  if (comma) assert_true(strtod("1,5", NULL) == 1.5); // the thread still has its own locale
  setlocale(LC_ALL, "C");
  assert_int_equal(function(m, "f")(0), 150);
  assert_int_equal(function(m, "f")(1), 2250);
  jit_unload(m);
  if (!comma) print_message("no locale with a decimal comma is installed: tested in \"C\" only\n");
}

static void test_source_too_large(void **state) {
  (void)state;
  size_t n = (64u << 20) + 1;
  char *source = malloc(n + 1);
  assert_non_null(source);
  memset(source, ' ', n);
  source[n] = 0;
  expect_error(source, STROBE_UNSUPPORTED, "larger than 64 MiB");
  free(source);
}

// Every allocation of libtcc fails once: some end in its longjmp, some in exit(). Each is an error, and nothing is
// lost.
static void test_out_of_memory(void **state) {
  (void)state;
  int before = open_fds(), failures = 0;
  size_t usual = tcc_host.limit, limit = 0;
  for (;; limit += limit < 20000 ? 97 : 4999) {
    struct buf object = {0};
    struct error err = {0};
    tcc_host.limit = limit;
    int status = jit_compile(program, &object, &err);
    tcc_host.limit = usual;
    if (status == STROBE_OK) {
      buf_free(&object);
      break;
    }
    failures++;
    assert_int_equal(status, STROBE_NO_MEMORY);
    assert_non_null(strstr(err.text, "out of memory"));
    assert_null(object.data);
    assert_int_equal(tcc_host.used, 0);
    if (failures % 16) continue;
    struct jit_module *m = must_build(program);
    assert_int_equal(function(m, "sum")(10), 285);
    jit_unload(m);
  }
  assert_true(failures > 100);
  assert_int_equal(open_fds(), before);
}

static void test_no_descriptor_leaks(void **state) {
  (void)state;
  int before = open_fds();
  for (int i = 0; i < 20; i++) {
    struct error err = {0};
    jit_unload(must_build(program));
    assert_null(build("int f(", &err));
    assert_null(build("int v;", &(struct error){0}));
  }
  assert_int_equal(open_fds(), before);
}

static atomic_bool stop_watching;

static void *watch(void *found) {
  while (!stop_watching) *(int *)found += writable_executable_maps();
  return NULL;
}

static void test_never_writable_and_executable(void **state) {
  (void)state;
  int already = writable_executable_maps(), found = 0;
  if (already) skip(); // a sanitizer's own
  pthread_t watcher;
  stop_watching = false;
  assert_int_equal(pthread_create(&watcher, NULL, watch, &found), 0);
  struct jit_module *m[100];
  for (int i = 0; i < 100; i++) m[i] = must_build(program);
  assert_int_equal(writable_executable_maps(), 0);
  for (int i = 0; i < 100; i++) jit_unload(m[i]);
  stop_watching = true;
  pthread_join(watcher, NULL);
  assert_int_equal(found, 0);
}

static int run_in_child(int (*body)(void)) {
  fflush(NULL);
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) _exit(body());
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

enum { CHILD_OK = 0, CHILD_WRONG = 1, CHILD_SKIP = 77 };

static int compile_and_check(void) {
  struct error err = {0};
  struct jit_module *m = build(program, &err);
  if (!m) return fprintf(stderr, "%s\n", err.text), CHILD_WRONG;
  int_function *sum = (int_function *)jit_symbol(m, "sum"), *through = (int_function *)jit_symbol(m, "through");
  bool ok = sum(10) == 285 && through(20) == 41;
  jit_unload(m);
  return ok ? CHILD_OK : CHILD_WRONG;
}

static int child_mdwe(void) {
  if (prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)) return CHILD_SKIP;
  return compile_and_check();
}

static int child_no_descriptors(void) { // memfd_create fails: one private mapping, RW and then RX
  struct rlimit none = {0, 0};
  return setrlimit(RLIMIT_NOFILE, &none) ? CHILD_SKIP : compile_and_check();
}

static int child_small_files(void) { // RLIMIT_FSIZE must not end the process with SIGXFSZ
  struct rlimit none = {16, 16};
  return setrlimit(RLIMIT_FSIZE, &none) ? CHILD_SKIP : compile_and_check();
}

static int child_neither(void) { // no memfd and no mprotect to executable: an error, and the process lives on
  struct rlimit none = {0, 0};
  struct error err = {0};
  if (prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) || setrlimit(RLIMIT_NOFILE, &none)) return CHILD_SKIP;
  return !build(program, &err) && err.status == STROBE_UNSUPPORTED && strstr(err.text, "executable") ? CHILD_OK
                                                                                                     : CHILD_WRONG;
}

static void test_restricted_processes(void **state) {
  (void)state;
  static int (*const children[])(void) = {child_mdwe, child_no_descriptors, child_small_files, child_neither};
  for (size_t i = 0; i < sizeof children / sizeof *children; i++) {
    int rc = run_in_child(children[i]);
    if (rc == CHILD_SKIP)
      print_message("restricted process %zu: not offered by this kernel, skipped\n", i);
    else
      assert_int_equal(rc, CHILD_OK);
  }
}

static int child_faults(void) { // constants are read-only
  struct jit_module *m = build(program, NULL);
  if (!m) return CHILD_WRONG;
  signal(SIGSEGV, SIG_DFL); // not the sanitizer's
  signal(SIGBUS, SIG_DFL);
  *(volatile int *)jit_symbol(m, "ops") = 3;
  return CHILD_WRONG;
}

static void test_data_is_read_only(void **state) {
  (void)state;
  assert_int_equal(run_in_child(child_faults), 128 + SIGSEGV);
}

static void *compile_many(void *arg) {
  char source[200];
  intptr_t me = (intptr_t)arg, bad = 0;
  for (int i = 0; i < 5; i++) {
    snprintf(source, sizeof source, "static const int c[2] = {%d, %d}; int f(int x) { return x * c[0] + c[1]; }",
             (int)me, i);
    struct error err = {0};
    struct jit_module *m = build(source, &err);
    bad += !m || ((int_function *)jit_symbol(m, "f"))(7) != 7 * (int)me + i;
    jit_unload(m);
    bad += build(me % 2 ? "int f(" : "int f(void) { return g; }", &(struct error){0}) != NULL;
  }
  return (void *)bad;
}

static void test_threads(void **state) {
  (void)state;
  pthread_t threads[64];
  for (intptr_t i = 0; i < 64; i++) assert_int_equal(pthread_create(&threads[i], NULL, compile_many, (void *)i), 0);
#ifdef __SANITIZE_ADDRESS__ // its allocator takes no lock before a fork: a child may wait for a thread it lacks
  print_message("could not check: forks beside compilations under AddressSanitizer\n");
#else
  for (int i = 0; i < 4; i++) assert_int_equal(run_in_child(compile_and_check), CHILD_OK); // fork beside compilations
#endif
  for (int i = 0; i < 64; i++) {
    void *bad;
    assert_int_equal(pthread_join(threads[i], &bad), 0);
    assert_null(bad);
  }
}

static void load_exact(const unsigned char *bytes, size_t len) { // from the end of a block: an overrun is seen by ASan
  unsigned char *copy = malloc(len ? len : 1);
  assert_non_null(copy);
  memcpy(copy, bytes, len);
  struct jit_module *m;
  struct error err = {0};
  int status = jit_load(copy, len, "malformed", &m, &err);
  assert_true((status == STROBE_OK) == (m != NULL));
  if (status) assert_true(err.text[0] != 0);
  jit_unload(m);
  free(copy);
}

static void test_malformed_objects(void **state) {
  (void)state;
  struct buf object = {0};
  struct error err = {0};
  int before = open_fds();
  assert_int_equal(jit_compile(program, &object, &err), STROBE_OK);
  unsigned char *bytes = (unsigned char *)object.data;
  for (size_t len = 0; len < object.len; len++) load_exact(bytes, len);
  unsigned long long x = 88172645463325252ull;
  for (int i = 0; i < 200000; i++) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    size_t at = (size_t)(x >> 16) % object.len;
    unsigned char old = bytes[at];
    bytes[at] = (unsigned char)(x >> 8);
    struct jit_module *m;
    struct error why = {0};
    if (jit_load(bytes, object.len, "flipped", &m, &why)) assert_true(why.text[0] != 0);
    jit_unload(m);
    bytes[at] = old;
  }
  buf_free(&object);
  assert_int_equal(open_fds(), before);
}

// Loads the object with its first relocation replaced; offset < 0 counts from the end of the relocated section.
static void load_patched(const struct buf *object, long offset, uint32_t type, uint32_t symbol, const char *part) {
  unsigned char *bytes = malloc(object->len);
  assert_non_null(bytes);
  memcpy(bytes, object->data, object->len);
  Elf64_Ehdr header; // libtcc aligns neither its section headers nor its tables
  Elf64_Shdr table = {0}, target;
  Elf64_Rela r;
  memcpy(&header, bytes, sizeof header);
  for (unsigned i = 0; table.sh_type != SHT_RELA; i++) {
    assert_true(i < header.e_shnum);
    memcpy(&table, bytes + header.e_shoff + i * sizeof table, sizeof table);
  }
  memcpy(&target, bytes + header.e_shoff + table.sh_info * sizeof target, sizeof target);
  memcpy(&r, bytes + table.sh_offset, sizeof r);
  r.r_offset = offset < 0 ? target.sh_size + (uint64_t)offset : (uint64_t)offset;
  r.r_info = ELF64_R_INFO((uint64_t)(symbol ? symbol : ELF64_R_SYM(r.r_info)), type);
  memcpy(bytes + table.sh_offset, &r, sizeof r);
  struct jit_module *m;
  struct error err = {0};
  int status = jit_load(bytes, object->len, "patched", &m, &err);
  if (!strstr(err.text, part)) fail_msg("\"%s\" does not hold \"%s\"", err.text, part);
  assert_int_equal(status, part[0] ? STROBE_INVALID : STROBE_OK);
  jit_unload(m);
  free(bytes);
}

static void test_malformed_relocations(void **state) {
  (void)state;
  struct buf object = {0};
  struct error err = {0};
  assert_int_equal(jit_compile(program, &object, &err), STROBE_OK);
  load_patched(&object, -4, R_X86_64_PC32, 0, "");
  load_patched(&object, -3, R_X86_64_PC32, 0, "outside of its section");
  load_patched(&object, -8, R_X86_64_64, 0, "");
  load_patched(&object, -7, R_X86_64_64, 0, "outside of its section");
  load_patched(&object, 1L << 62, R_X86_64_PC32, 0, "outside of its section");
  load_patched(&object, 0, R_X86_64_TPOFF32, 0, "type 23, which is not supported");
  load_patched(&object, 0, R_X86_64_32, 0, "does not fit in 32 bits");
  load_patched(&object, 0, R_X86_64_32S, 0, "does not fit in 32 bits");
  load_patched(&object, 0, R_X86_64_GOTPCREL, 0, "");
  load_patched(&object, 0, R_X86_64_PC32, 1u << 20, "names symbol 1048576");
  buf_free(&object);
}

static void test_perf_map(void **state) {
  (void)state;
  char path[64], text[4096] = "";
  snprintf(path, sizeof path, "/tmp/perf-%ld.map", (long)getpid());
  setenv("STROBE_PERF", "1", 1);
  struct jit_module *m = must_build(program);
  unsetenv("STROBE_PERF");
  FILE *f = fopen(path, "r");
  assert_non_null(f);
  size_t n = fread(text, 1, sizeof text - 1, f);
  fclose(f);
  unlink(path);
  text[n] = 0;
  char line[64];
  snprintf(line, sizeof line, "%lx ", (unsigned long)(uintptr_t)jit_symbol(m, "sum"));
  assert_non_null(strstr(text, line));
  assert_non_null(strstr(text, " sum\n"));
  assert_non_null(strstr(text, " test:twice\n"));
  jit_unload(m);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_runs),
      cmocka_unit_test(test_aggregates_call_libc),
      cmocka_unit_test(test_errors_name_the_cause),
      cmocka_unit_test(test_locale_of_the_host),
      cmocka_unit_test(test_source_too_large),
      cmocka_unit_test(test_out_of_memory),
      cmocka_unit_test(test_no_descriptor_leaks),
      cmocka_unit_test(test_never_writable_and_executable),
      cmocka_unit_test(test_restricted_processes),
      cmocka_unit_test(test_data_is_read_only),
      cmocka_unit_test(test_threads),
      cmocka_unit_test(test_malformed_objects),
      cmocka_unit_test(test_malformed_relocations),
      cmocka_unit_test(test_perf_map),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

static void test_says_so(void **state) {
  (void)state;
  expect_error("int f(void);", STROBE_UNSUPPORTED, "without libtcc");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_says_so)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}

#endif
