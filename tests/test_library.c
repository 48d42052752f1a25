// The library as a stranger meets it: it links from C and from C++, shared and static, exports its API and nothing
// else, and needs no executable stack.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "shell.h"

#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char build[1024]; // the directory above the one this binary is in
static char work[] = "/tmp/strobe-library-XXXXXX";

static int find_build(void **state) {
  (void)state;
  char self[900];
  ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  if (n <= 0 || !mkdtemp(work)) return 1;
  self[n] = 0;
  snprintf(build, sizeof build, "%s/..", dirname(self));
  return 0;
}

static int clean_up(void **state) {
  (void)state;
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s", work);
  return system(command);
}

// Valid C and C++.
static const char program[] =
    "#include \"strobe.h\"\n"
    "#include <stdio.h>\n"
    "int main(void) {\n"
    "  static float q[2*20*32], k[2*20*32], v[2*20*32], o[2*20*32];\n"
    "  for (int i = 0; i < 2*20*32; i++) { q[i] = k[i] = (float)(i % 7) * 0.1f; v[i] = 3.5f; }\n"
    "  strobe_context *ctx; strobe_plan *plan;\n"
    "  if (strobe_context_create(NULL, &ctx) || strobe_plan_create(ctx, \"d32:f32:h2q20k20\", NULL, &plan))\n"
    "    return puts(strobe_error()), 1;\n"
    "  struct strobe_io io = {};\n"
    "  io.size = sizeof io; io.q.data = q; io.k.data = k; io.v.data = v; io.o.data = o;\n"
    "  if (strobe_execute(plan, &io)) return puts(strobe_error()), 1;\n"
    "  strobe_plan_destroy(plan); strobe_context_destroy(ctx);\n"
    "  for (int i = 0; i < 2*20*32; i++) if (!(o[i] > 3.499f && o[i] < 3.501f)) return 2;\n"
    "  return 0;\n"
    "}\n";

static void write_program(const char *name) {
  char path[128];
  snprintf(path, sizeof path, "%s/%s", work, name);
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  assert_true(fputs(program, f) >= 0);
  assert_int_equal(fclose(f), 0);
}

static void links_and_runs(const char *compiler, const char *source) {
  write_program(source);
  assert_int_equal(shell("%s -Wall -Wextra -Werror -Iruntime %s/%s -o %s/shared -L%s -lstrobe -Wl,-rpath,%s", compiler,
                         work, source, work, build, build),
                   0);
  assert_int_equal(shell("LD_LIBRARY_PATH=%s %s/shared", build, work), 0);
  // libZydis is there when the JIT is.
  assert_int_equal(
      shell("%s -Iruntime %s/%s %s/libstrobe.a -o %s/static $(readelf -d %s/libstrobe.so | grep -q Zydis && "
            "echo -lZydis) -lm -ldl -lpthread",
            compiler, work, source, build, work, build),
      0);
  assert_int_equal(shell("%s/static", work), 0);
}

// A library with a sanitizer in it links only where that comes first.
static void skip_if_sanitized(void) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  skip();
#endif
}

static void test_c(void **state) {
  (void)state;
  skip_if_sanitized();
  links_and_runs("cc -std=gnu11", "program.c");
}

static void test_cxx(void **state) {
  (void)state;
  skip_if_sanitized();
  if (shell("command -v g++ > /dev/null")) skip();
  links_and_runs("g++ -std=c++11", "program.cc");
}

static const char api[] =
    "strobe_context_create\\|strobe_context_destroy\\|strobe_error\\|strobe_execute\\|strobe_plan_create\\|"
    "strobe_plan_describe\\|strobe_plan_destroy\\|strobe_version\\|strobe_workspace_bytes";

static void exports_only_the_api(const char *flags, const char *file) {
  // STROBE_0 is the version itself, an absolute symbol.
  assert_int_equal(
      shell("nm %s --defined-only %s/%s | sed -n 's/.* [A-Z] \\([^@]*\\).*/\\1/p' | grep -v '^STROBE_0$' | sort "
            "> %s/names && test $(grep -c '^\\(%s\\)$' %s/names) = 9 && ! grep -v '^\\(%s\\)$' %s/names",
            flags, build, file, work, api, work, api, work),
      0);
}

static void test_exports(void **state) {
  (void)state;
  skip_if_sanitized();
  exports_only_the_api("-D", "libstrobe.so");
  exports_only_the_api("-g", "libstrobe.a");
}

static void test_shape(void **state) {
  (void)state;
  assert_int_equal(shell("readelf -d %s/libstrobe.so | grep -q 'SONAME.*\\[libstrobe.so.0\\]'", build), 0);
  assert_int_not_equal(shell("readelf -d %s/libstrobe.so | grep -q TEXTREL", build), 0);
  assert_int_equal(shell("readelf -lW %s/libstrobe.so | grep GNU_STACK | grep -q 'RW '", build), 0);
  assert_int_not_equal(shell("readelf -lW %s/libstrobe.so | grep -q RWE", build), 0);
  // What ends a process has no place in the library, nor what writes to its streams.
  assert_int_not_equal(shell("nm -D --undefined-only %s/libstrobe.so | sed 's/@.*//' | "
                             "grep -w 'exit\\|_exit\\|quick_exit\\|abort\\|stdout\\|stderr\\|chdir\\|printf\\|"
                             "__printf_chk\\|vprintf\\|__vprintf_chk\\|puts\\|putchar\\|perror\\|__assert_fail'",
                             build),
                       0);
  assert_int_not_equal(
      shell("nm --undefined-only %s/runtime/*.o | "
            "grep -w 'printf\\|__printf_chk\\|puts\\|putchar\\|perror\\|stdout\\|stderr\\|__assert_fail'",
            build),
      0);
}

// libtcc takes from the C library what works on memory, and the rest from runtime/tcc_host.c: no files, streams, clock,
// environment, signals, shared objects, nor memory that it makes executable.
static void test_libtcc_is_shut_in(void **state) {
  (void)state;
  skip_if_sanitized();                          // which adds calls of its own
  if (shell("test -e %s/tcc.o", build)) skip(); // TCC=0
  assert_int_equal(
      shell("nm -u %s/tcc.o | awk '{print $2}' | grep -v '^strobe_tcc_\\|^mem\\|^str\\|^__mem[a-z]*_chk$\\|"
            "^__v*sn*printf_chk$' | grep -vw '_GLOBAL_OFFSET_TABLE_\\|__errno_location\\|__isoc99_sscanf\\|"
            "_setjmp\\|__longjmp_chk\\|__stack_chk_fail\\|ldexp\\|qsort\\|sem_init\\|sem_post\\|sem_wait' > "
            "%s/escapes; cat %s/escapes; ! test -s %s/escapes",
            build, work, work, work),
      0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_c),
      cmocka_unit_test(test_cxx),
      cmocka_unit_test(test_exports),
      cmocka_unit_test(test_shape),
      cmocka_unit_test(test_libtcc_is_shut_in),
  };
  return cmocka_run_group_tests(tests, find_build, clean_up);
}
