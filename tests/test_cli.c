// The command line as a user meets it: exit status, one sentence on standard error, files written or not.
// Runs $STROBE_BIN, or ../strobe seen from this test's directory.
#include "../gen/spec.h"
#include "../runtime/cpu.h"
#include "../runtime/gpu.h"
#include "../runtime/npy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli_run.h"

// ---- files ----

static void write_npy(const char *name, enum npy_type type, int rank, const int64_t *shape) {
  size_t n = 1;
  for (int i = 0; i < rank; i++) n *= (size_t)shape[i];
  char *data = calloc(n + 1, (size_t)npy_types[type].bytes);
  assert_non_null(data);
  for (size_t i = 0; type == NPY_F4 && i < n; i++) ((float *)data)[i] = (float)(i * 37 % 101) / 101 - 0.5f;
  for (size_t i = 0; type == NPY_U2 && i < n; i++) ((uint16_t *)data)[i] = (uint16_t)(0x3f00 + i % 64);
  assert_int_equal(npy_write(path_of(name), type, rank, shape, data, NULL), 0);
  free(data);
}

static void write_file(const char *name, const char *data, size_t len) {
  FILE *f = fopen(path_of(name), "wb");
  assert_non_null(f);
  assert_true(fwrite(data, 1, len, f) == len);
  fclose(f);
}

static int make_files(void **state) {
  (void)state;
  if (!make_directory()) return -1;
  const int64_t q[] = {1, 20, 4, 32}, k[] = {1, 30, 2, 32}, other[] = {1, 31, 2, 32}, wide[] = {1, 30, 2, 40},
                three[] = {30, 2, 32};
  const int64_t heads[] = {1, 30, 3, 32}, batch[] = {2, 30, 2, 32};
  write_npy("q.npy", NPY_F4, 4, q);
  write_npy("k.npy", NPY_F4, 4, k);
  write_npy("v.npy", NPY_F4, 4, k);
  write_npy("q16.npy", NPY_U2, 4, q);
  write_npy("k16.npy", NPY_U2, 4, k);
  write_npy("q64.npy", NPY_F8, 4, q);
  write_npy("k31.npy", NPY_F4, 4, other);
  write_npy("kd40.npy", NPY_F4, 4, wide);
  write_npy("k3.npy", NPY_F4, 3, three);
  write_npy("kh3.npy", NPY_F4, 4, heads);
  write_npy("kb2.npy", NPY_F4, 4, batch);
  write_file("text.npy", "hello", 5);
  char *whole = malloc(200000);
  if (!whole) return -1;
  FILE *f = fopen(path_of("k.npy"), "rb");
  const size_t len = f ? fread(whole, 1, 200000, f) : 0;
  if (f) fclose(f);
  write_file("short.npy", whole, len - 100);
  free(whole);
  return 0;
}

// ---- bad input ----

struct bad {
  const char *arguments, *word, *other;
};
static void refuse_all(const struct bad *b, size_t n) {
  for (size_t i = 0; i < n; i++) refuses(b[i].arguments, b[i].word, b[i].other);
}
#define REFUSE_ALL(table) refuse_all(table, sizeof table / sizeof *table)

static void bad_usage(void **state) {
  (void)state;
  static const struct bad table[] = {
      {"", "verb", "--help"},
      {"emti d64", "emti", "emit"},
      {"--frobnicate", "--frobnicate", "--help"},
      {"-V", "-V", "--"},
      {"help foo", "foo", "nearest"},
      {"help run bench", "run", "too many"},
      {"--version x", "x", "too many"},
      {"--man 1", "1", "too many"},
      {"emit", "--target", "missing"},
      {"emit --target c99 -o .", "SPEC", "missing"},
      {"emit d64 d64 --target c99 -o .", "d64", "never be chosen"},
      {"emit d64 --target c99", "--output", "missing"},
      {"emit d64 --tagret c99 -o .", "--tagret", "--target"},
      {"emit d64 --target", "--target", "value"},
      {"emit d64 -Z", "-Z", "--help"},
      {"emit d64 --json=1 --target c99 -o .", "--json", "no value"},
      {"emit d64 --target c99 --target avx512 -o .", "--target", "twice"},
      {"emit d64 --target avx513 -o .", "avx513", "avx512"},
      {"emit d64 --target c99 -o ''", "--output", "empty"},
      {"emit d64 --target c99 --printer intrinsic -o .", "intrinsic", "intrin"},
      {"emit d64 --target c99 --printer intrin -o .", "intrin", "scalar"},
      {"emit d64 --target c99 --template-dir no-such-dir -o .", "no-such-dir", "directory"},
      {"verify", "PROBLEM", "missing"},
      {"verify d64:q8k8 --kind nromal", "nromal", "normal"},
      {"verify d64:q8k8 --seed -1", "--seed", "-1"},
      {"verify d64:q8k8 --seed 99999999999999999999", "--seed", "9223372036854775807"},
      {"bench d64:q8k8 --runs 0", "--runs", "1"},
      {"bench d64:q8k8 --runs x", "--runs", "x"},
      {"bench d64:q8k8 --json --csv", "--json", "--csv"},
      {"bench d64:q0k8", "d64:q0k8", "1 or more"},
      {"bench d64:q8k8 --layout bnh", "bnh", "bnhd"},
      {"bench d64:q8k8 --threads 1025", "--threads", "last of them is the nearest"},
      {"bench d64:q8k8 --jit --seed 3", "--seed", "--jit"},
      {"bench d64:bf16:q8k8 --target sm90a --seed 3", "--seed", "CUDA"},
      {"bench d64:q8k8 --jit --csv", "--jit", "--csv"},
      {"bench d64:q8k8 --jit --threads 2", "--threads", "--jit"},
      {"bench --suite cpu --threads 2", "--threads", "--suite cpu"},
      {"bench --ablate --suite cpu", "--ablate", "--suite"},
      {"bench --ablate --plot a.svg", "--ablate", "--plot"},
      {"bench --ablate d64:q32k32 d64:q33k33", "--ablate", "2 PROBLEMs"},
      {"bench --ablate d64:q1k32", "kernel=decode", "17"},
      {"bench --ablate d64:q32k32 --set exp=poly3", "--ablate", "twice"},
      {"bench --ablate --target sm90a", "--ablate", "sm90a"},
      {"bench --suite cpu --jit", "--jit", "--suite cpu"},
      {"bench --suite cpu --only d65", "d65", "q1k"},
      {"bench d64:q8k8 --only d64", "--only", "--suite cpu"},
      {"verify --suite fast", "fast", "quick"},
      {"verify --suite", "--suite", "quick|full"},
      {"verify --suite quick d64:q8k8", "d64:q8k8", "--suite"},
      {"verify d64:q8k8 --backend builtin --target c99", "builtin", "target"},
      {"verify d64:q8k8 --backend reference --set stages=1", "reference", "set"},
      {"verify d64:q8k8 --target c99 --backend cuda", "cuda", "c99"},
      {"verify d64:q8k8 --target c99 --backend code", "code", "scalar"},
      {"list --json --csv", "--json", "--csv"},
      {"list --target avx521", "avx521", "avx512"},
      {"list --runs 3", "--runs", "nearest"},
      {"explain", "PROBLEM", "missing"},
      {"explain d64:q8k8 d64:q9k9", "d64:q9k9", "too many"},
      {"explain d64:q8k8 -t", "--target", "value"},
      {"doctor d64", "d64", "too many"},
      {"doctor --jsno", "--jsno", "--json"},
  };
  REFUSE_ALL(table);
}

static void bad_specs(void **state) {
  (void)state;
  static const struct bad table[] = {
      {"emit e64 --target c99 -o .", "e64", "d128"},
      {"emit d64:f33 --target c99 -o .", "f33", "f32"},
      {"emit d64:causl --target c99 -o .", "causl", "causal"},
      {"emit d64:window=5 --target c99 -o .", "window", "not supported"},
      {"emit d63:bf16 --target sm90a -o .", "63", "64"},
      {"emit d600 --target c99 -o .", "600", "576"},
      {"emit d64:f32 --target sm90a -o .", "f32", "bf16 or f16"},
      {"emit d64 --target avx512 --set block_q=3 -o .", "block_q", "block_"},
      {"bench d32:b2q8k50 --kv-lens 50,51 --runs 1", "51", "50"},
      {"verify d32:b2q8k50 --kv-lens 5", "--kv-lens", "2"},
      {"verify d32:b2q8k50 --kv-lens 5,x", "'x'", ".npy"},
      {"verify --suite quick --kv-lens 5", "--kv-lens", "PROBLEM"},
      {"emit d64 --target avx512 --set block_n=100 -o .", "100", "96"},
      {"emit d64 --target avx512 --set stages=3 -o .", "stages", "2"},
      {"emit d64 --target avx512 --set tile_n=8,block_m=64 -o .", "registers", "32"},
      {"explain d64:h5/2", "heads", "h5/1"},
      {"explain d64:b9999999h9999999q9999999k9999999", "batch", "2^40"},
      {"verify d64:q8k8 d64:q8k8:zzz", "zzz", "nearest"},
      {"list d64 d64:f23", "f23", "'f32' is the nearest"},
      {"list e64", "e64", "d128"},
      {"list --set block_q=1", "block_q", "block_m"},
      {"list --set stages", "stages", "name=value"},
      {"list --set stages=two", "two", "1 or 2"},
      {"explain d0", "head_dim 0", "1 is the nearest"},
      {"explain d64:", "empty", "d128:bf16"},
      {"explain d64:bf16:f32", "f32", "once"},
      {"explain d64:b1:b2", "b2", "once"},
      {"explain d64:h2/4", "heads_kv 4", "h2/2"},
      {"explain d64:h8/0", "heads_kv 0", "1 is the nearest"},
      {"explain d64:q-1", "q-1", "without sign"},
      {"explain d64:fp8", "fp8", "bf16"},
      {"explain d64 --set head_dim=64", "head_dim", "block_m"},
      {"verify d64:q99999999999999k8", "q_len", "1099511627776"},
  };
  REFUSE_ALL(table);
}

#define RUN "run d32 --q q.npy --k k.npy --v v.npy "
static void bad_tensors(void **state) {
  (void)state;
  static const struct bad table[] = {
      {"run d32 --q q.npy --k k.npy --v v.npy", "--output", "missing"},
      {"run d32 --q none.npy --k k.npy --v v.npy -o o.npy", "none.npy", "No such file"},
      {"run d32 --q text.npy --k k.npy --v v.npy -o o.npy", "text.npy", "npy"},
      {"run d32 --q q.npy --k short.npy --v v.npy -o o.npy", "short.npy", ""},
      {"run d32 --q q64.npy --k k.npy --v v.npy -o o.npy", "float64", "float32"},
      {"run d32 --q q16.npy --k k.npy --v v.npy -o o.npy", "uint16", "float32"},
      {"run d32:f16 --q q16.npy --k k16.npy --v k16.npy -o o.npy", "uint16", "float16"},
      {"run d32:bf16 --q q16.npy --k k16.npy --v v.npy -o o.npy", "float32", "uint16"},
      {"run d32 --q q.npy --k k3.npy --v v.npy -o o.npy", "k3.npy", "rank"},
      {"run d32 --q q.npy --k k.npy --v k31.npy -o o.npy", "kv_len", "30"},
      {"run d32 --q q.npy --k kd40.npy --v v.npy -o o.npy", "head_dim", "32"},
      {"run d32 --q q.npy --k kb2.npy --v kb2.npy -o o.npy", "batch", "1"},
      {"run d32 --q q.npy --k kh3.npy --v kh3.npy -o o.npy", "heads", "3"},
      {"run d64 --q q.npy --k k.npy --v v.npy -o o.npy", "head_dim", "64"},
      {"run d32:q21 --q q.npy --k k.npy --v v.npy -o o.npy", "q_len", "21"},
      {"run d32:h8/2 --q q.npy --k k.npy --v v.npy -o o.npy", "heads", "8"},
      {RUN "-o o.npy --scale nan", "--scale", "finite"},
      {RUN "-o o.npy --scale inf", "--scale", "finite"},
      {RUN "-o o.npy --scale 1e39", "--scale", "finite"},
      {RUN "-o o.npy --scale 1x", "--scale", "1x"},
      {RUN "-o q.npy", "q.npy", "--q"},
      {RUN "-o ./v.npy", "v.npy", "--v"},
      {RUN "-o o.npy --lse k.npy", "k.npy", "--k"},
      {RUN "-o o.npy --lse o.npy", "--lse", "-o"},
      {RUN "-o o.npy --lse ./o.npy", "--lse", "-o"},
      {RUN "-o no/such/o.npy", "no/such/o.npy", "No such file"},
      {RUN "-o /proc/o.npy", "/proc/o.npy", ""},
      {RUN "-o o.npy --backend jit", "jit", "code"},
      {RUN "-o o.npy --set block_n=1000", "block_n", "512"},
      {RUN "-o o.npy --backend reference --target c99", "target", "reference"},
      {RUN "-o o.npy --threads 0", "--threads", "1"},
  };
  REFUSE_ALL(table);
}

// It can be emitted for all the same.
static void a_cap_that_is_no_target(void **state) {
  (void)state;
  setenv("STROBE_MAX_TARGET", "avx215", 1);
  refuses("verify d64", "STROBE_MAX_TARGET \"avx215\"", "avx512");
  works("verify --help");
  setenv("STROBE_MAX_TARGET", "sm90a", 1);
  refuses("list", "STROBE_MAX_TARGET \"sm90a\"", "c99");
  unsetenv("STROBE_MAX_TARGET");
}

static void a_target_this_machine_lacks(void **state) {
  (void)state;
  int lacking = 0;
  char arguments[200];
  for (int i = 0; i < target_count; i++) {
    const struct target *t = &target_table[i];
    const bool gpu = t->family == FAMILY_CUDA;
    if (gpu ? gpu_has_target(t, NULL) == 0 : cpu_has_target(t)) continue;
    lacking++;
    snprintf(arguments, sizeof arguments, RUN "-o o.npy --target %s", t->name);
    refuses(arguments, "--target", t->name);
    snprintf(arguments, sizeof arguments, "emit %s --target %s -o lacking", gpu ? "d128:bf16" : "d32", t->name);
    works(arguments);
  }
  if (!lacking) skip(); // this machine has them all
}

static void directories_that_cannot_be_written(void **state) {
  (void)state;
  refuses("emit d32 --target c99 -o /proc/strobe-out", "/proc/strobe-out", "");
  refuses("emit d32 --target c99 -o q.npy", "q.npy", "file");
  refuses("emit d32 --target c99 -o q.npy/deeper", "q.npy", "file");
  if (!geteuid()) return; // root may write anywhere
  assert_int_equal(mkdir(path_of("locked"), 0555), 0);
  refuses("emit d32 --target c99 -o locked", "locked", "ermission");
  refuses(RUN "-o locked/o.npy", "locked/o.npy", "ermission");
  assert_int_equal(rmdir(path_of("locked")), 0);
}

static void a_full_disk(void **state) {
  (void)state;
  if (access("/dev/full", W_OK)) skip();
  char command[4300];
  snprintf(command, sizeof command, "%s --help > /dev/full 2> %s", binary, path_of("full.txt"));
  const int status = system(command);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), 2);
  char text[300];
  slurp(path_of("full.txt"), text, sizeof text);
  assert_non_null(strstr(text, "standard output"));
  unlink(path_of("full.txt"));
}

// ---- what works ----

static void help_has_a_worked_example(void **state) {
  (void)state;
  static const char *const verbs[] = {"emit", "run", "verify", "bench", "tune", "db", "list", "explain", "doctor"};
  assert_non_null(strstr(works("--version")->out, "strobe 0."));
  const struct outcome *o = works("--help");
  for (int i = 0; i < 9; i++) assert_non_null(strstr(o->out, verbs[i]));
  for (int i = 0; i < 9; i++) {
    char arguments[32], example[32];
    snprintf(arguments, sizeof arguments, "%s --help", verbs[i]);
    snprintf(example, sizeof example, "$ strobe %s", verbs[i]);
    o = works(arguments);
    assert_non_null(strstr(o->out, "example:"));
    assert_non_null(strstr(o->out, example));
  }
}

static void emit_rewrites_only_what_changed(void **state) {
  (void)state;
  const int before = entries();
  assert_non_null(strstr(works("emit d32:f32:causal --target c99 -o new/vendor")->out, "wrote"));
  assert_non_null(strstr(works("emit d32:f32:causal --target c99 -o new/vendor/")->out, "current"));
  assert_int_equal(entries(), before + 1);
  const struct outcome *o = works("emit d32:f32:causal --target c99 -o new/vendor --json");
  assert_non_null(strstr(o->out, "\"changed\": false"));
  assert_non_null(strstr(o->out, "\"symbol\": \"attn_fwd_d32_f32_causal_"));
}

// The command in a file's header, run in its directory, finds the file current.
static void the_header_names_the_command_that_writes_it(void **state) {
  (void)state;
  works("emit d32:bf16 --target avx512bf16 --set stages=1,block_n=64 -o again --json");
  char name[200] = "", text[4000], command[1200] = "";
  const char *source = strstr(got.out, "\"source\": \"");
  assert_non_null(source);
  assert_int_equal(sscanf(source, "\"source\": \"%199[^\"]", name), 1);
  slurp(path_of(name), text, sizeof text);
  const char *line = strstr(text, "//   strobe emit ");
  assert_non_null(line);
  assert_int_equal(sscanf(line, "//   strobe %1199[^\n]", command), 1);
  char *in_place = strstr(command, " -o .");
  assert_non_null(in_place);
  memcpy(in_place, " -o again", 10);
  assert_non_null(strstr(works(command)->out, "current"));
}

static void run_writes_both_outputs(void **state) {
  (void)state;
  struct npy o, lse;
  assert_non_null(strstr(works(RUN "-o o.npy --lse lse.npy --scale 0.25")->out, "d32:f32:b1h4/2q20k30"));
  assert_int_equal(npy_read(path_of("o.npy"), &o, NULL), 0);
  assert_int_equal(npy_read(path_of("lse.npy"), &lse, NULL), 0);
  assert_int_equal(npy_expect(&o, "o", 1u << NPY_F4, 4, (const int64_t[]){1, 20, 4, 32}, NULL), 0);
  assert_int_equal(npy_expect(&lse, "lse", 1u << NPY_F4, 3, (const int64_t[]){1, 4, 20}, NULL), 0);
  struct npy by_reference;
  works(RUN "-o ref.npy --scale 0.25 --backend reference --json");
  assert_int_equal(npy_read(path_of("ref.npy"), &by_reference, NULL), 0);
  for (int64_t i = 0; i < o.elements; i++) {
    const float difference = ((float *)o.data)[i] - ((float *)by_reference.data)[i];
    assert_true(difference < 1e-5f && difference > -1e-5f);
  }
  npy_free(&o);
  npy_free(&lse);
  npy_free(&by_reference);
  works("run d32:bf16 --q q16.npy --k k16.npy --v k16.npy -o o16.npy");
  assert_int_equal(npy_read(path_of("o16.npy"), &o, NULL), 0);
  assert_int_equal(o.type, NPY_U2);
  npy_free(&o);
}

static void verify_bench_explain_doctor(void **state) {
  (void)state;
  const struct outcome *o = works("verify d32:f32:causal:b1h2/1q19k40 --kind normal");
  assert_non_null(strstr(o->out, "PASS"));
  assert_non_null(strstr(o->out, " 0 failed"));
  o = works("verify d32:f32:b1h1q3k5 --kind nan --backend builtin --json");
  assert_non_null(strstr(o->out, "\"ok\": true"));
  assert_non_null(strstr(o->out, "\"reproduce\": \"strobe verify d32:f32:b1h1/1q3k5"));
  o = works("bench d32:f32:b1h1q64k64 d32:f32:b1h2q1k4096 --runs 1 --json");
  static const char *const keys[] = {"problem", "target", "config", "ms", "gflops", "gbs", "peak", "percent"};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    char key[32];
    snprintf(key, sizeof key, "\"%s\": ", keys[i]);
    assert_non_null(strstr(o->out, key));
  }
  assert_non_null(strstr(o->out, "GB/s"));
  o = works("explain d64:f32:causal --target c99 --set block_n=64");
  assert_non_null(strstr(o->out, "given"));
  assert_non_null(strstr(o->out, "heuristic"));
  assert_non_null(strstr(o->out, "4 N^2 + 4 d N"));
  o = works("explain d64:bf16 --target avx512bf16");
  assert_non_null(strstr(o->out, "% of peak: the share of these slots"));
  assert_non_null(strstr(o->out, "of what it predicts for d128"));
  assert_null(strstr(o->out, "tile products"));
  o = works("explain d128:bf16:b1h2q1024k1024 --target amxbf16 --set kernel=tiles");
  assert_non_null(strstr(
      o->out,
      "= 0.06554 M full products of matrix tiles, 16 x 16 x 32, of 16 cycles each (Intel's figure): 1.049 M cycles"));
  assert_non_null(strstr(o->out, "m.-adds / slot  tile products\n"));
  works("explain d64:f32 --json");
  o = strobe("doctor");
  assert_true(o->code == 0 || o->code == 1);
  assert_non_null(strstr(o->out, o->code ? "does not work here" : "the JIT works here"));
}

int main(int argc, char **argv) {
  (void)argc;
  if (!find_binary(argv[0])) return 1;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(bad_usage),
      cmocka_unit_test(bad_specs),
      cmocka_unit_test(bad_tensors),
      cmocka_unit_test(a_cap_that_is_no_target),
      cmocka_unit_test(a_target_this_machine_lacks),
      cmocka_unit_test(directories_that_cannot_be_written),
      cmocka_unit_test(a_full_disk),
      cmocka_unit_test(help_has_a_worked_example),
      cmocka_unit_test(emit_rewrites_only_what_changed),
      cmocka_unit_test(the_header_names_the_command_that_writes_it),
      cmocka_unit_test(run_writes_both_outputs),
      cmocka_unit_test(verify_bench_explain_doctor),
  };
  return cmocka_run_group_tests(tests, make_files, remove_directory);
}
