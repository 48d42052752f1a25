// The main of the fuzz targets finds what there is to find: a target that aborts on one token is caught, the input is
// left behind and repeats the crash, the same run is the same run, and a target without faults passes.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static const char trap[] = "=!"; // what the target can't bear
static int armed;
static unsigned long long sum;

static int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
  for (size_t i = 0; i < len; i++) sum = sum * 31 + data[i];
  for (size_t i = 0; armed && i + 1 < len; i++)
    if (!memcmp(data + i, trap, 2)) abort();
  return 0;
}

#include "fuzz_main.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const char *const tokens[] = {"=", "!", "a"};
static const struct fuzz_target target = {"trap", 64, tokens, 3};
static char dir[] = "/tmp/strobe-fuzz-XXXXXX", seed[64], crash[64];

static int begin(void **state) {
  (void)state;
  if (!mkdtemp(dir) || setenv("STROBE_FUZZ_OUT", dir, 1)) return -1;
  snprintf(seed, sizeof seed, "%s/seed", dir);
  snprintf(crash, sizeof crash, "%s/crash-trap", dir);
  FILE *f = fopen(seed, "wb");
  return !f || fputs("some text", f) < 0 || fclose(f);
}

static int finish(void **state) {
  (void)state;
  remove(crash);
  remove(seed);
  return rmdir(dir);
}

static int fuzz(const char *what, const char *runs) {
  char *argv[] = {"fuzz", (char *)(uintptr_t)what, (char *)(uintptr_t)runs, NULL};
  return fuzz_main(&target, runs ? 3 : 2, argv);
}

static void a_sound_target_passes(void **state) {
  (void)state;
  armed = 0;
  assert_int_equal(fuzz(dir, "2000"), 0);
  assert_int_equal(fuzz(seed, NULL), 0);
}

static void a_crash_is_found_and_repeats(void **state) {
  (void)state;
  armed = 1;
  assert_int_equal(fuzz(seed, NULL), 0);
  assert_int_equal(fuzz(dir, "20000"), 1);
  assert_int_equal(fuzz(crash, NULL), 1);
  char text[FUZZ_MAX_LEN];
  FILE *f = fopen(crash, "rb");
  assert_non_null(f);
  const size_t len = fread(text, 1, sizeof text - 1, f);
  fclose(f);
  text[len] = 0;
  assert_true(len >= 2 && memmem(text, len, trap, 2));
}

static void bad_arguments(void **state) {
  (void)state;
  assert_int_equal(fuzz("/no/such/file", NULL), 2);
  assert_int_equal(fuzz(dir, "many"), 2);
}

// The same seed makes the same inputs, another makes others.
static void a_run_repeats(void **state) {
  (void)state;
  unsigned long long sums[3];
  struct fuzz f = {.target = &target, .n_seeds = 1, .seed = {{(uint8_t *)(uintptr_t) "some text", 9}}};
  armed = 0;
  f.shared = calloc(1, sizeof *f.shared);
  assert_non_null(f.shared);
  for (int i = 0; i < 3; i++) {
    f.state = i < 2 ? 5 : 6;
    sum = 0;
    fuzz_mutations(&f, 500);
    sums[i] = sum;
  }
  free(f.shared);
  assert_true(sums[0] == sums[1] && sums[0] != sums[2]);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_sound_target_passes),
      cmocka_unit_test(a_crash_is_found_and_repeats),
      cmocka_unit_test(bad_arguments),
      cmocka_unit_test(a_run_repeats),
  };
  return cmocka_run_group_tests(tests, begin, finish);
}
