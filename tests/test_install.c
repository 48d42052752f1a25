// An installed Strobe as its users find it: files in their places, pkg-config's flags enough for C and C++, shared and
// static, the manual page readable, and nothing left by make uninstall.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "shell.h"

#include <libgen.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char build[1024]; // the directory above the one this binary is in
static char work[] = "/tmp/strobe-install-XXXXXX";

#define RUNS(...)                                                                                                      \
  do                                                                                                                   \
    if (shell(__VA_ARGS__)) fail_msg("failed: " __VA_ARGS__);                                                          \
  while (0)

static const char files[] =
    "./bin/strobe ./include/strobe.h ./lib/cmake/strobe/strobeConfig.cmake "
    "./lib/cmake/strobe/strobeConfigVersion.cmake ./lib/libstrobe.a ./lib/libstrobe.so ./lib/libstrobe.so.0 "
    "./lib/pkgconfig/strobe.pc ./share/man/man1/strobe.1";

static int install(void **state) {
  (void)state;
  char self[900];
  ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  if (n <= 0 || !mkdtemp(work)) return 1;
  self[n] = 0;
  snprintf(build, sizeof build, "%s", dirname(dirname(self)));
  return shell("make -s install BUILD=%s DESTDIR=%s/stage PREFIX=/opt/strobe > %s/log 2>&1 || { cat %s/log; false; }",
               build, work, work, work);
}

static int clean_up(void **state) {
  (void)state;
  return shell("rm -rf %s", work);
}

static void test_files(void **state) {
  (void)state;
  RUNS("cd %s/stage/opt/strobe && test \"$(find . -not -type d | sort | tr '\\n' ' ')\" = '%s '", work, files);
  RUNS("test \"$(readlink %s/stage/opt/strobe/lib/libstrobe.so)\" = libstrobe.so.0", work);
  RUNS("test -x %s/stage/opt/strobe/bin/strobe && test ! -x %s/stage/opt/strobe/lib/libstrobe.a", work, work);
  RUNS("cmp -s runtime/strobe.h %s/stage/opt/strobe/include/strobe.h", work);
  RUNS("%s/stage/opt/strobe/bin/strobe list d64 > %s/list && grep -q c99 %s/list", work, work, work);
}

static void test_man_page(void **state) {
  (void)state;
  RUNS("grep -q '^.SH SYNOPSIS' %s/stage/opt/strobe/share/man/man1/strobe.1", work);
  if (shell("command -v man > /dev/null")) {
    print_message("could not check the manual page: no man\n");
    skip();
  }
  RUNS("LC_ALL=C.UTF-8 man --warnings -l %s/stage/opt/strobe/share/man/man1/strobe.1 > %s/man.txt 2> %s/man.err && "
       "test ! -s "
       "%s/man.err && grep -q 'strobe - generate' %s/man.txt",
       work, work, work, work, work);
}

static void test_pkg_config(void **state) {
  (void)state;
  static const char pc[] = "/stage/opt/strobe/lib/pkgconfig/strobe.pc";
  RUNS("grep -qx 'prefix=/opt/strobe' %s%s", work, pc);
  RUNS("grep -qx 'libdir=${prefix}/lib' %s%s && grep -qx 'includedir=${prefix}/include' %s%s", work, pc, work, pc);
  RUNS("grep -qx \"Version: $(%s/stage/opt/strobe/bin/strobe --version | sed 's/strobe \\(.*\\),.*/\\1/')\" %s%s", work,
       work, pc);
  // Everything that the shared library needs besides the C library stands in Libs.private.
  RUNS("for l in $(readelf -d %s/libstrobe.so | sed -n 's/.*(NEEDED).*\\[lib\\(.*\\)\\.so\\..*\\]/\\1/p'); do "
       "test $l = c || grep -q \"^Libs.private:.* -l$l\" %s%s || exit 1; done",
       build, work, pc);
}

// Valid C and C++.
static const char program[] =
    "#include <strobe.h>\n"
    "#include <stdio.h>\n"
    "#include <string.h>\n"
    "int main(void) {\n"
    "  static float q[2*20*32], k[2*20*32], v[2*20*32], o[2*20*32];\n"
    "  for (int i = 0; i < 2*20*32; i++) { q[i] = k[i] = (float)(i % 7) * 0.1f; v[i] = 3.5f; }\n"
    "  strobe_context *ctx; strobe_plan *plan;\n"
    "  if (strcmp(strobe_version(), STROBE_VERSION)) return 3;\n"
    "  if (strobe_context_create(NULL, &ctx) || strobe_plan_create(ctx, \"d32:f32:h2q20k20\", NULL, &plan))\n"
    "    return puts(strobe_error()), 1;\n"
    "  struct strobe_io io = {};\n"
    "  io.size = sizeof io; io.q.data = q; io.k.data = k; io.v.data = v; io.o.data = o;\n"
    "  if (strobe_execute(plan, &io)) return puts(strobe_error()), 1;\n"
    "  strobe_plan_destroy(plan); strobe_context_destroy(ctx);\n"
    "  for (int i = 0; i < 2*20*32; i++) if (!(o[i] > 3.499f && o[i] < 3.501f)) return 2;\n"
    "  return 0;\n"
    "}\n";

// With pkg-config's flags and no others; `prefix` is where DESTDIR has put things.
static void builds_and_runs(const char *compiler, const char *suffix) {
  char path[128];
  if (shell("command -v pkg-config > /dev/null") || shell("command -v %.3s > /dev/null", compiler)) {
    print_message("could not check: no pkg-config, or no %s\n", compiler);
    skip();
  }
  snprintf(path, sizeof path, "%s/program.%s", work, suffix);
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  assert_true(fputs(program, f) >= 0 && !fclose(f));
  RUNS("cd %s && export PKG_CONFIG_PATH=$PWD/stage/opt/strobe/lib/pkgconfig PREFIX=$PWD/stage/opt/strobe && "
       "%s -Wall -Wextra -Werror program.%s -o shared $(pkg-config --define-variable=prefix=$PREFIX --cflags --libs "
       "strobe) && "
       "LD_LIBRARY_PATH=$PREFIX/lib ./shared && readelf -d shared | grep -q 'NEEDED.*libstrobe.so.0'",
       work, compiler, suffix);
  RUNS("cd %s && export PKG_CONFIG_PATH=$PWD/stage/opt/strobe/lib/pkgconfig PREFIX=$PWD/stage/opt/strobe && "
       "%s program.%s -o static $(pkg-config --static --define-variable=prefix=$PREFIX --cflags --libs strobe | "
       "sed 's/-lstrobe/-l:libstrobe.a/') && env -u LD_LIBRARY_PATH ./static && "
       "! readelf -d static | grep -q libstrobe",
       work, compiler, suffix);
}

static void test_c(void **state) {
  (void)state;
  builds_and_runs("cc -std=gnu11", "c");
}

static void test_cxx(void **state) {
  (void)state;
  builds_and_runs("g++ -std=c++11", "cc");
}

// The soname is the name of the file, and the exports are those of the version script.
static void test_symbols(void **state) {
  (void)state;
  RUNS("readelf -d %s/stage/opt/strobe/lib/libstrobe.so | grep -q 'SONAME.*\\[libstrobe.so.0\\]'", work);
  RUNS("cd %s && nm -D --defined-only stage/opt/strobe/lib/libstrobe.so | sed -n 's/.* T \\(.*\\)@@STROBE_0/\\1/p' | "
       "sort > so && "
       "nm -g --defined-only stage/opt/strobe/lib/libstrobe.a | sed -n 's/.* T //p' | sort > a && cmp so a",
       work);
  RUNS("sed -n 's/^ *\\(strobe_[a-z_]*\\);$/\\1/p' runtime/strobe.map | sort | cmp - %s/so", work);
  RUNS("sed -n 's/^STROBE_API .*[ *]\\(strobe_[a-z_]*\\)(.*/\\1/p' runtime/strobe.h | sort | cmp - %s/so", work);
}

static void test_uninstall(void **state) {
  (void)state;
  RUNS("make -s uninstall BUILD=%s DESTDIR=%s/stage PREFIX=/opt/strobe > /dev/null", build, work);
  RUNS("test -z \"$(find %s/stage -not -type d)\"", work);
}

// Directories of their own, as a distribution gives them.
static void test_directories(void **state) {
  (void)state;
  RUNS("make -s install BUILD=%s DESTDIR=%s/deb PREFIX=/usr LIBDIR=/usr/lib/multi MANDIR=/usr/man > /dev/null", build,
       work);
  RUNS("cd %s/deb/usr && test -f lib/multi/libstrobe.so.0 && test -f man/man1/strobe.1 && test ! -e share && "
       "grep -qx 'libdir=${prefix}/lib/multi' lib/multi/pkgconfig/strobe.pc",
       work);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_files),     cmocka_unit_test(test_man_page),    cmocka_unit_test(test_pkg_config),
      cmocka_unit_test(test_c),         cmocka_unit_test(test_cxx),         cmocka_unit_test(test_symbols),
      cmocka_unit_test(test_uninstall), cmocka_unit_test(test_directories),
  };
  return cmocka_run_group_tests(tests, install, clean_up);
}
