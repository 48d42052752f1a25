// Kernels without vector instructions, compiled in and by libtcc, under valgrind: every byte that they read was
// written, and every block was freed. (It knows AVX2 at most, so it is also a CPU that lacks AVX-512.) Runs
// $STROBE_BIN, or ../strobe seen from this test's directory.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char binary[4096];

static int find_binary(void **state) {
  char self[4000];
  const char *given = getenv("STROBE_BIN");
  const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  (void)state;
  if (n <= 0) return -1;
  self[n] = 0;
  snprintf(binary, sizeof binary, "%s/../strobe", dirname(self));
  return given && !realpath(given, binary) ? -1 : 0;
}

static void runs_clean(const char *arguments) {
  char command[5000];
  snprintf(
      command, sizeof command,
      "OMP_NUM_THREADS=2 valgrind -q --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite %s %s 2>&1",
      binary, arguments);
  const int status = system(command);
  if (status) fail_msg("%s: status %x", arguments, (unsigned)status);
}

static void test_c99(void **state) {
  (void)state;
  if (system("command -v valgrind > /dev/null")) {
    print_message("note: valgrind is not installed\n");
    skip();
  }
  if (STROBE_TCC) runs_clean("verify d8:bf16:causal:b1h2/1q5k20 --target c99 --kind normal");
  runs_clean("verify d32:f32:b1h2/1q17k33 --backend builtin --kind normal");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_c99)};
  return cmocka_run_group_tests(tests, find_binary, NULL);
}
