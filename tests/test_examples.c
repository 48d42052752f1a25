// The examples and the CMake package, as a reader of the README tries them: against an installed Strobe, in a directory
// of their own. Without cmake or pkg-config what needs them is skipped.
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

static char build[1024], work[] = "/tmp/strobe-examples-XXXXXX";

// In the work directory, strobe in the PATH; output to a log that is shown if it fails.
static void runs(const char *script) {
  if (shell("cd %s && export PATH=$PWD/strobe/bin:$PATH && { %s\n} > log 2>&1 || { cat log; exit 1; }", work, script))
    fail_msg("failed: %s", script);
}

static int install(void **state) {
  (void)state;
  char self[900];
  const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  if (n <= 0 || !mkdtemp(work)) return 1;
  self[n] = 0;
  snprintf(build, sizeof build, "%s", dirname(dirname(self)));
  return shell("{ make -s install BUILD=%s PREFIX=%s/strobe && cp -r examples/vendored examples/embed examples/python "
               "examples/peers "
               "examples/autotune %s/; } > %s/log 2>&1 || "
               "{ cat %s/log; false; }",
               build, work, work, work, work);
}

static int clean_up(void **state) {
  (void)state;
  return shell("rm -rf %s", work);
}

static void needs(const char *program) {
  if (!shell("command -v %s > /dev/null", program)) return;
  print_message("could not check: no %s\n", program);
  skip();
}

// What `make demo` runs. It fails if a row is not within its bounds.
static void the_demo_is_within_its_bounds(void **state) {
  (void)state;
  if (shell("CC=cc %s/demo %s/strobe %s/emitted examples/data > %s/log 2>&1 || { cat %s/log; exit 1; }", build, build,
            work, work, work))
    fail_msg("the demo failed");
}

static void embed_plans_and_executes(void **state) {
  (void)state;
  needs("pkg-config");
  runs("cd embed && cc -Wall -Wextra -Werror embed.c -o embed $(PKG_CONFIG_PATH=../strobe/lib/pkgconfig pkg-config "
       "--cflags "
       "--libs strobe) && LD_LIBRARY_PATH=../strobe/lib ./embed");
}

static void openmp_threads_give_the_same_bits(void **state) {
  (void)state;
  needs("pkg-config");
  runs("cd embed && cc -fopenmp -Wall -Wextra -Werror openmp.c -o openmp $(PKG_CONFIG_PATH=../strobe/lib/pkgconfig "
       "pkg-config --cflags --libs strobe) && LD_LIBRARY_PATH=../strobe/lib OMP_NUM_THREADS=3 ./openmp | grep '^3 "
       ".*same'");
}

// Tunes, finds the record, ships it; with as much time as this machine, which others may be using, wants.
static void autotune_finds_what_it_recorded(void **state) {
  (void)state;
  needs("pkg-config");
  runs("cd autotune && export PKG_CONFIG_PATH=$PWD/../strobe/lib/pkgconfig LD_LIBRARY_PATH=$PWD/../strobe/lib && "
       "for s in 0.6 3 12 50; do make run SECONDS=$s PROBLEM=d32:f32:b1h2q128 > out && break; done; cat out; "
       "test $(grep -c '^second plan .*of the default' out) = 2 && grep -q strobe_tunings tunings.c");
}

static void python_agrees_with_numpy(void **state) {
  (void)state;
  needs("python3");
  if (shell("python3 -c 'import numpy' 2> /dev/null")) {
    print_message("could not check: no numpy\n");
    skip();
  }
  runs("cd python && LD_LIBRARY_PATH=../strobe/lib python3 -B -W error example.py > out && grep -q '^refused: "
       ".*float64' out && "
       "! grep WRONG out && test $(grep -c ok$ out) -ge 18");
}

// The comparison with other libraries, with none of them: Strobe beside numpy, both checked.
static void peers_are_checked(void **state) {
  (void)state;
  needs("python3");
  if (shell("python3 -c 'import numpy' 2> /dev/null")) {
    print_message("could not check: no numpy\n");
    skip();
  }
  runs("cd peers && export STROBE_LIBRARY=../strobe/lib/libstrobe.so.0 && python3 -B peers.py --check --peers numpy > "
       "out && "
       "test $(grep -c 'ok$' out) = 8 && test $(grep -c 'numpy [0-9.e-]*  *ok$' out) = 4 && "
       "python3 -B peers.py --check --batch 2 --heads 3 --peers numpy | grep -c 'ok$' | grep -qx 8 && "
       "python3 -B peers.py --check --decode --peers numpy --dtype f32 f16 | grep -c 'ok$' | grep -qx 2 && "
       "python3 -B peers.py --peers numpy --dtype f32 --d 64 --n 128 --runs 2 --json | grep -q strobe_times_as_fast && "
       "python3 -B peers.py --peers numpy torchh --check | grep -q 'torchh'");
}

// The program that was built from owned files knows nothing of Strobe.
static void vendored_needs_no_strobe(void **state) {
  (void)state;
  needs("cmake");
  runs("cd vendored && strobe emit --set-file kernels.txt --prefix my_ -o third_party/attn && "
       "mv ../strobe ../away && cmake -B build -DATTN_DIR=third_party/attn && cmake --build build -j 2 && "
       "build/vendored && "
       "! ldd build/vendored | grep -i strobe && mv ../away ../strobe && strobe emit --check third_party/attn");
}

static const char project[] = "cmake_minimum_required(VERSION 3.20)\nproject(p LANGUAGES C)\n"
                              "find_package(strobe 0.1 REQUIRED)\n"
                              "strobe_add_kernels(kernels SPECS ${SPECS} TARGETS c99 PREFIX k_ NAME at)\n"
                              "add_executable(p main.c)\ntarget_link_libraries(p PRIVATE kernels strobe::strobe)\n";
static const char program[] =
    "#include <at_dispatch.h>\n#include <strobe.h>\n#include <stdio.h>\n"
    "int main(void) { struct k_at_problem p = {8, 8, K_AT_F32, K_AT_F32, K_AT_F32, K_AT_FULL};\n"
    "const char *name = strobe_version(); k_at_kernel(&p, 0, &name, 0, 0);\n"
    "return puts(name ? name : \"none\"), 0; }\n";

static void write_text(const char *name, const char *text) {
  char path[128];
  snprintf(path, sizeof path, "%s/%s", work, name);
  FILE *f = fopen(path, "w");
  assert_non_null(f);
  assert_true(fputs(text, f) >= 0 && !fclose(f));
}

static void cmake_writes_kernels_during_the_build(void **state) {
  (void)state;
  needs("cmake");
  runs("mkdir -p p");
  write_text("p/CMakeLists.txt", project);
  write_text("p/main.c", program);
  runs("cd p && cmake -B build -DCMAKE_PREFIX_PATH=../strobe '-DSPECS=d8:f32 set=block_n=32' && test ! -e "
       "build/kernels_kernels/manifest.json && cmake --build build && build/p | grep -q ^k_attn_fwd_d8_f32.*n32");
  runs("cd p && touch now && sleep 1 && cmake --build build && ! find build -newer now -name '*.o' | grep .");
  runs("cd p && cmake -B build '-DSPECS=d8:f32 set=block_n=48' && cmake --build build && build/p | grep -q "
       "^k_attn_fwd_d8_f32.*n48");
  runs("cd p && ! cmake -B bad -DCMAKE_PREFIX_PATH=../strobe '-DSPECS=d8:f32;d8:f33' > out 2>&1 && "
       "grep -q 'kernels_kernels.txt:2: ' out");
  runs("cd p && sed -i 's/strobe 0.1/strobe 0.2/' CMakeLists.txt && ! cmake -B newer -DCMAKE_PREFIX_PATH=../strobe");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_demo_is_within_its_bounds),     cmocka_unit_test(embed_plans_and_executes),
      cmocka_unit_test(openmp_threads_give_the_same_bits), cmocka_unit_test(autotune_finds_what_it_recorded),
      cmocka_unit_test(python_agrees_with_numpy),          cmocka_unit_test(peers_are_checked),
      cmocka_unit_test(vendored_needs_no_strobe),          cmocka_unit_test(cmake_writes_kernels_during_the_build),
  };
  return cmocka_run_group_tests(tests, install, clean_up);
}
