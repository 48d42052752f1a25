// The command line on a GPU target, with tests/fake_cuda.c in place of the driver and of NVRTC: what is printed, and
// what is refused. Times are made up, results are not computed.
#include "../runtime/tune_db.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>

#include "cli_run.h"

static int count(const char *text, const char *word) {
  int n = 0;
  for (; (text = strstr(text, word)); text += strlen(word)) n++;
  return n;
}

static void suite(void **state) {
  (void)state;
  const struct outcome *o = works("bench --suite hopper --runs 1 --plot a.svg");
  assert_int_equal(count(o->out, "sm90a"), 36);
  for (const char *const *p =
           (const char *const[]){"d64:bf16:b32h32/32q512k512", "d64:bf16:causal:b1h32/32q16384k16384",
                                 "d128:bf16:b4h16/16q4096k4096", "d256:bf16:causal:b8h8/8q2048k2048", NULL};
       *p; p++)
    if (!strstr(o->out, *p)) fail_msg("%s is not in %s", *p, o->out);
  assert_non_null(strstr(o->out, "p90 ms  TFLOP/s"));
  static char svg[1 << 18];
  slurp(path_of("a.svg"), svg, sizeof svg);
  assert_int_equal(count(svg, "<g transform"), 6);
  assert_int_equal(count(svg, "fill=\"#3b6fb6\""), 36 + 1); // bars, and one in the legend
  assert_non_null(strstr(svg, "head dim 128, causal (TFLOP/s)"));
  assert_non_null(strstr(svg, ">16k</text>"));
  assert_int_equal(count(svg, "<g"), count(svg, "</g>"));
  unlink(path_of("a.svg"));
  o = works("bench --suite hopper --dtype f16 --runs 2 --csv");
  assert_int_equal(count(o->out, "\n"), 37);
  assert_int_equal(count(o->out, ":f16"), 36);
  o = works("bench d128:bf16:causal:b2h4/2q300k700 --target sm90a --runs 3 --json");
  assert_non_null(strstr(o->out, "\"p10_ms\": "));
  assert_non_null(strstr(o->out, "\"config\": \"block_m=64"));
}

static void jit(void **state) {
  (void)state;
  const struct outcome *o = works("bench d128:bf16 d64:f16:causal --jit --target sm90a --runs 3");
  assert_non_null(strstr(o->out, "render ms  nvrtc ms  cache ms  load ms  launch ms  fresh ms  cached ms"));
  o = works("bench d128:bf16 --jit --target sm90a --runs 3 --json");
  assert_non_null(strstr(o->out, "\"launch_ms\""));
  setenv("XDG_CACHE_HOME", "/dev/null", 1);
  refuses("bench d128:bf16 --jit --target sm90a --runs 1", "cache of cubins", "XDG_CACHE_HOME");
  setenv("XDG_CACHE_HOME", dir, 1);
}

// What a plan would take is what explain shows.
static void explain_knows_the_record(void **state) {
  (void)state;
  struct problem p;
  struct tune_record r = {.config = "block_n=64,stages=3", .mark = TUNE_BEST, .ms = 1, .default_ms = 2, .runs = 30};
  assert_int_equal(problem_parse("d128:bf16:b1h2q512k512", &p, NULL), 0);
  assert_int_equal(problem_complete(&p, NULL), 0);
  tune_key_of(&p, target_find("sm90a"), 1, &r.key);
  assert_string_equal(r.key.machine, "fake");
  assert_int_equal(tune_db_update(path_of("t.txt"), &r, 1, NULL), 0);
  const char *const kept = getenv("STROBE_DB");
  setenv("STROBE_DB", path_of("t.txt"), 1);
  const struct outcome *o = works("explain d128:bf16:b1h2q512k512 --target sm90a");
  assert_non_null(strstr(o->out, "64          tuned      measured on this machine"));
  if (kept) setenv("STROBE_DB", kept, 1);
  unlink(path_of("t.txt"));
  unlink(path_of("t.txt.lock"));
}

// The driver is none that computes; a kernel it can compile is what doctor tries.
static void doctor_tries_a_kernel_for_the_gpu(void **state) {
  (void)state;
  const struct outcome *o = strobe("doctor");
  const char *line = strstr(o->out, "JIT sm90a");
  assert_non_null(line);
  if (!strstr(line, "cuda: the kernel ran, but its output is wrong")) fail_msg("%s", line);
  assert_int_equal(o->code, 1);
}

static void refusals(void **state) {
  (void)state;
  refuses("bench --target sm90a", "PROBLEM... is missing", "--suite hopper");
  refuses("bench d128:bf16 --suite hopper", "d128:bf16", "--suite");
  refuses("bench --suite paper", "--suite", "hopper");
  refuses("bench d128:bf16 --dtype f16 --target sm90a", "--dtype", "--suite");
  refuses("bench d128:bf16 --threads 2 --target sm90a", "--threads", "for CPUs");
  refuses("bench d128:bf16 --layout bhnd --target sm90a", "--layout", "for CPUs");
  refuses("bench d128:bf16 --backend code --target sm90a", "--backend code", "must be cuda");
  refuses("bench d128:bf16 --jit --plot a.svg --target sm90a", "--jit", "--plot");
  refuses("bench d128:bf16:b1h1q0k8 --target sm90a", "d128:bf16:b1h1q0k8", "1 or more");
  refuses("bench d128:bf16:b1h1q8k8 --runs 1 --target sm90a --plot /nowhere/a.svg --json", "/nowhere/a.svg", "cannot");
}

static int start(void **state) {
  (void)state;
  static char fake[4200];
  snprintf(fake, sizeof fake, "%.*s/tests/fake_cuda.so", (int)(strrchr(binary, '/') - binary), binary);
  setenv("STROBE_CUDA_DRIVER", fake, 1);
  setenv("STROBE_NVRTC", fake, 1);
  setenv("XDG_CACHE_HOME", dir, 1);
  return 0;
}

int main(int argc, char **argv) {
  (void)argc;
  if (!find_binary(argv[0]) || !make_directory()) return 1;
  const struct CMUnitTest tests[] = {cmocka_unit_test(suite), cmocka_unit_test(jit),
                                     cmocka_unit_test(explain_knows_the_record),
                                     cmocka_unit_test(doctor_tries_a_kernel_for_the_gpu), cmocka_unit_test(refusals)};
  return cmocka_run_group_tests(tests, start, remove_directory);
}
