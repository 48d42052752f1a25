// Sets of emitted files as compilers and programs see them: two sets with different prefixes in one library, every spec
// through the dispatcher against the oracle, everything else refused with a sentence, and C99 where there is no x86.
#include "../gen/spec.h"
#include "../runtime/cpu.h"
#include "../runtime/kernel_abi.h"
#include "../runtime/verify.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli_run.h"
#include "shell.h"

#include <dlfcn.h>
#include <malloc.h>

static const char set_text[] = "d16:f32:causal    target=avx512,avx2,c99 set=block_n=32,stages=1\n"
                               "d16:f32           target=c99,avx2 set=block_n=32\n"
                               "d16:f32           target=c99,avx2 set=kernel=decode,block_m=1\n"
                               "d16:f32           target=c99 set=kernel=decode,block_m=4\n"
                               "d10v18:bf16:o=f32 target=c99,avx512bf16 set=block_n=32,stages=1\n"
                               "d16:f16           target=amxbf16 printer=scalar set=kernel=decode,block_m=4,block_h=4\n"
                               "d64:bf16          target=sm90a\n";
static const char small_text[] = "d16:f32:causal target=avx512,c99 set=block_n=32,stages=1\n";

// The dispatcher's types, as PREFIX_dispatch.h has them.
struct problem_of_set {
  int head_dim, head_dim_v;
  int q, kv, o, mask;
};
typedef int forward_function(const struct problem_of_set *, const struct strobe_args *, void *, strobe_i64, char *,
                             size_t);
typedef strobe_i64 bytes_function(const struct problem_of_set *, const struct strobe_args *);
typedef const struct strobe_kernel *kernel_function(const struct problem_of_set *, const struct strobe_args *,
                                                    const char **, char *, size_t);
typedef int launch_function(const struct problem_of_set *, const struct strobe_args *, void *, char *, size_t);

struct set_library {
  void *handle;
  forward_function *forward;
  bytes_function *bytes;
  kernel_function *kernel;
  launch_function *launch; // NULL: no CUDA kernels in the set
};

static bool have(const char *program) { return !shell("command -v %s > /dev/null 2>&1", program); }

static void write_text(const char *name, const char *text) {
  FILE *f = fopen(path_of(name), "wb");
  assert_non_null(f);
  assert_true(fwrite(text, 1, strlen(text), f) == strlen(text));
  assert_int_equal(fclose(f), 0);
}

static int start(void **state) {
  (void)state;
  if (!make_directory()) return -1;
  write_text("set.txt", set_text);
  write_text("small.txt", small_text);
  works("emit --set-file set.txt --prefix a_ -o a");
  works("emit --set-file small.txt --prefix b_ --name other -o b");
  return 0;
}

static struct set_library open_set(const char *file, const char *name) {
  struct set_library l = {.handle = dlopen(path_of(file), RTLD_NOW | RTLD_LOCAL)};
  if (!l.handle) fail_msg("%s", dlerror());
  void **const slots[] = {(void **)&l.forward, (void **)&l.bytes, (void **)&l.kernel, (void **)&l.launch};
  static const char *const suffixes[] = {"forward", "bytes", "kernel", "launch"};
  for (int i = 0; i < 4; i++) {
    char symbol[64];
    snprintf(symbol, sizeof symbol, "%s_%s", name, suffixes[i]);
    *slots[i] = dlsym(l.handle, symbol);
    if (!*slots[i] && i < 3) fail_msg("%s is not there", symbol);
  }
  return l;
}

static const char flags[] = "-std=c99 -O1 -fPIC -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror";

static void build(const char *compiler, const char *dirs, const char *file) {
  if (shell("cd %s && for f in %s; do echo $f; done | xargs -P 2 -n 2 %s %s -c && %s -shared *.o -o %s && rm *.o", dir,
            dirs, compiler, flags, compiler, file))
    fail_msg("%s does not compile %s", compiler, dirs);
}

// ---- results ----

static struct problem_of_set wanted(const struct spec *s) {
  return (struct problem_of_set){s->head_dim, s->head_dim_v, (int)s->q, (int)s->kv, (int)s->o, s->mask != MASK_FULL};
}

// Bytes that malloc has given, where it tells.
static size_t allocated(void) {
#ifdef __GLIBC__
  const struct mallinfo2 m = mallinfo2();
  return m.uordblks + m.hblkhd;
#else
  return 0;
#endif
}

// Runs a problem through the dispatcher, with memory of its own and of the caller's, and compares with the oracle.
static void computes(const struct set_library *l, const char *text, const char *kernel) {
  struct error err = {0};
  struct verify_case c = {.kind = input_kind_find("normal"), .seed = 5, .layout = LAYOUT_BNHD, .pad = 3};
  if (problem_parse(text, &c.problem, &err) || problem_complete(&c.problem, &err)) fail_msg("%s: %s", text, err.text);
  c.scale = default_scale(&c.problem.spec);
  const struct problem_of_set p = wanted(&c.problem.spec);
  for (int own = 0; own < 2; own++) {
    struct tensors t;
    struct verify_result r;
    char message[300] = "";
    const char *name = "";
    struct buf why = {0};
    assert_int_equal(verify_create(&c, NULL, &t, NULL), 0);
    const strobe_i64 bytes = l->bytes(&p, &t.args);
    void *memory = own ? aligned_alloc(64, (size_t)(bytes + 63) / 64 * 64) : NULL;
    if (l->forward(&p, &t.args, memory, own ? bytes : 0, message, sizeof message)) fail_msg("%s: %s", text, message);
    const size_t held = allocated();
    assert_int_equal(l->forward(&p, &t.args, memory, own ? bytes : 0, message, sizeof message), 0);
    assert_int_equal(allocated(), held);
    assert_non_null(l->kernel(&p, &t.args, &name, message, sizeof message));
    if (!strstr(name, kernel)) fail_msg("%s: %s is not %s", text, name, kernel);
    struct instance i = {.spec = c.problem.spec, .target = target_find("c99")};
    config_clear(&i.config);
    assert_int_equal(config_resolve(&i.spec, i.target, NULL, &i.config, NULL), 0);
    assert_int_equal(verify_tensors(&c, &i, &t, VERIFY_ALL_ROWS, &r, NULL), 0);
    verify_print(&r, &why);
    if (!r.ok) fail_msg("%s with %s: %s", text, name, why.data);
    if (own) {
      assert_int_equal(l->forward(&p, &t.args, memory, bytes - 1, message, sizeof message), 1);
      assert_non_null(strstr(message, "bytes"));
      assert_int_equal(l->forward(&p, &t.args, (char *)memory + 8, bytes, message, sizeof message), 1);
    }
    buf_free(&why);
    free(memory);
    tensors_free(&t);
  }
}

static void every_spec(const struct set_library *a, const struct set_library *b) {
  computes(a, "d16:f32:causal:b2h4/2q37k70", "a_attn_fwd_d16_f32_causal");
  computes(a, "d16:f32:causal_top_left:b1h1q9k5", "a_attn_fwd_d16_f32_causal");
  computes(a, "d16:f32:b1h2q33k41", "a_attn_fwd_d16_f32_m"); // many queries
  computes(a, "d10v18:bf16:o=f32:b1h2/1q20k35", "a_attn_fwd_d10v18");
  computes(b, "d16:f32:causal:b1h2q30k20", "b_attn_fwd_d16_f32_causal");
}

static void refusals(const struct set_library *a) {
  const struct {
    struct problem_of_set p;
    int status;
    const char *word, *other;
  } rows[] = {
      {{16, 17, 0, 0, 0, 0}, 2, "head_dim_v 17", "d16:f32"},
      {{16, 16, 1, 1, 1, 0}, 2, "q bf16", "which has d10v18"},
      {{10, 18, 1, 1, 0, 1}, 2, "causal", "no kernel for it"},
      {{64, 64, 1, 1, 1, 0}, 2, "head_dim 64", "no kernel for it"}, // the set has it for CUDA only
      {{16, 16, 9, 0, 0, 0}, 1, "problem->q 9", "F32 (0)"},
      {{16, 16, 0, 0, 0, 2}, 1, "problem->mask 2", "CAUSAL (1)"},
      {{-1, 0, 0, 0, 0, 0}, 2, "head_dim -1", "d16:f32"},
  };
  float x[16] = {0};
  const struct strobe_tensor t = {x, 16, 16, 16};
  const struct strobe_args args = {.abi = STROBE_ABI,
                                   .size = sizeof args,
                                   .q = t,
                                   .k = t,
                                   .v = t,
                                   .o = t,
                                   .batch = 1,
                                   .heads = 1,
                                   .heads_kv = 1,
                                   .q_len = 1,
                                   .kv_len = 1,
                                   .scale = 1};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    char m[600] = "";
    assert_int_equal(a->forward(&rows[i].p, &args, NULL, 0, m, sizeof m), rows[i].status);
    if (!strstr(m, rows[i].word) || !strstr(m, rows[i].other)) fail_msg("%zu: %s", i, m);
    assert_int_equal(a->forward(&rows[i].p, &args, NULL, 0, NULL, 0), rows[i].status);
    assert_int_equal(a->forward(&rows[i].p, &args, NULL, 0, m, 5), rows[i].status); // a message that does not fit
    assert_int_equal(strlen(m), 4);
    assert_int_equal(a->bytes(&rows[i].p, &args), -1);
    assert_null(a->kernel(&rows[i].p, NULL, NULL, m, sizeof m));
  }
}

static void bad_arguments(const struct set_library *a) {
  const struct problem_of_set p = {16, 16, 0, 0, 0, 0};
  float x[16] = {0};
  char m[300];
  const struct strobe_tensor t = {x, 16, 16, 16};
  const struct strobe_args good = {.abi = STROBE_ABI,
                                   .size = sizeof good,
                                   .q = t,
                                   .k = t,
                                   .v = t,
                                   .o = t,
                                   .batch = 1,
                                   .heads = 2,
                                   .heads_kv = 1,
                                   .q_len = 0,
                                   .kv_len = 0,
                                   .scale = 1};
  static const char *const words[] = {"abi",
                                      "size",
                                      "batch -1",
                                      "heads 0",
                                      "must divide",
                                      "kv_len",
                                      "o.data is NULL",
                                      "1e14",
                                      "1e12",
                                      "1e18",
                                      "kv_lens_bytes 0",
                                      "o.row_stride 8",
                                      "q.head_stride -1",
                                      "q.data: must be a multiple of 4"};
  enum { BAD = sizeof words / sizeof *words };
  struct strobe_args bad[BAD];
  for (int i = 0; i < BAD; i++) bad[i] = good;
  bad[0].abi++, bad[1].size--, bad[2].batch = -1, bad[3].heads = 0, bad[4].heads_kv = 3, bad[5].kv_len = 1ll << 40;
  bad[6].q_len = 1, bad[6].o.data = NULL;
  bad[7].batch = bad[7].heads = bad[7].q_len = 1 << 30;
  bad[8].batch = bad[8].heads = 1 << 21, bad[8].q_len = 2;
  bad[9].q_len = bad[9].kv_len = 1ll << 30;
  bad[10].kv_lens = x;
  bad[11].q_len = 2, bad[11].o.row_stride = 8, bad[12].q_len = 1, bad[12].q.head_stride = -1;
  bad[13].q_len = 1, bad[13].q.data = (char *)x + 2;
  assert_int_equal(a->forward(&p, &good, NULL, 0, m, sizeof m), 0); // nothing to do
  float y[20 * 32];
  for (int i = 0; i < 20 * 32; i++) y[i] = 1;
  struct strobe_args no_keys = good; // heads side by side, queries, and nothing to see
  no_keys.heads_kv = 2, no_keys.q_len = 20;
  no_keys.k = no_keys.v = (struct strobe_tensor){NULL, 0, 16, 32};
  no_keys.q = no_keys.o = (struct strobe_tensor){y, 20 * 32, 16, 32};
  assert_int_equal(a->forward(&p, &no_keys, NULL, 0, m, sizeof m), 0);
  for (int i = 0; i < 20 * 32; i++) assert_true(y[i] == 0);
  for (int i = 0; i < BAD; i++) {
    assert_int_equal(a->forward(&p, &bad[i], NULL, 0, m, sizeof m), 1);
    if (!strstr(m, words[i])) fail_msg("%d: %s", i, m);
  }
  assert_true(a->forward(NULL, &good, NULL, 0, m, 300) == 1 && a->forward(&p, NULL, NULL, 0, m, 300) == 1);
  assert_int_equal(a->bytes(&p, NULL), -1);
  assert_int_equal(a->launch(&p, &good, NULL, m, sizeof m), 2);
  assert_non_null(strstr(m, "A_ATTN_WITH_CUDA"));
}

// Few queries take the decode kernel of the smallest tile that holds the rows of a KV head.
static void decode_is_for_few_queries(const struct set_library *a) {
  computes(a, "d16:f32:b1h2q1k40", "decode_m1");
  computes(a, "d16:f32:b2h8/2q1k33", "decode_m");
  computes(a, "d16:f32:b1h16/2q2k33", "decode_m");
}

static void only_prefixed_symbols(const char *file) {
  assert_int_equal(shell("cd %s && nm -D --defined-only %s | grep ' [TDRBVW] ' | grep -vE ' [TDR] (a|b)_' | "
                         "grep -vE ' (_init|_fini|_edata|_end|__bss_start)$'",
                         dir, file),
                   1);
}

static void two_sets_in_one_library(const char *compiler) {
  char file[32];
  if (!have(compiler)) skip();
  snprintf(file, sizeof file, "%s.so", compiler);
  build(compiler, "a/*.c b/*.c", file);
  only_prefixed_symbols(file);
  const struct set_library a = open_set(file, "a_attn"), b = open_set(file, "b_other");
  assert_null(b.launch), every_spec(&a, &b);
  decode_is_for_few_queries(&a);
  refusals(&a);
  bad_arguments(&a);
  dlclose(a.handle);
  dlclose(b.handle);
}

static void gcc_links_two_sets(void **state) { (void)state, two_sets_in_one_library("gcc"); }
static void clang_links_two_sets(void **state) { (void)state, two_sets_in_one_library("clang"); }

// The same files for a CPU that is not x86-64: all compile, the C99 kernels are chosen, and where there is none the
// sentence says so.
static void elsewhere_c99_is_chosen(void **state) {
  (void)state;
  assert_int_equal(
      shell("cd %s && mkdir arm && cp a/*.[ch] arm/ && sed -i 's/defined(__x86_64__)/defined(__no_such_cpu__)/' "
            "arm/*.c && printf 'd16:f32 target=avx2 set=stages=1\\n' > x86.txt && %s emit --set-file x86.txt "
            "--name none -o none > /dev/null && sed -i 's/(__x86_64__)/(__no_such_cpu__)/' none/*.c",
            dir, binary),
      0);
  build("cc", "arm/*.c none/*.c", "arm.so");
  const struct set_library a = open_set("arm.so", "a_attn"), none = open_set("arm.so", "none");
  computes(&a, "d16:f32:causal:b1h2q20k30", "c99");
  computes(&a, "d16:f32:b1h1q1k30", "decode_m1n");
  computes(&a, "d16:f32:b1h4/1q1k30", "decode_m4n");
  computes(&a, "d10v18:bf16:o=f32:b1h1q20k30", "c99");
  const struct problem_of_set p = {16, 16, 0, 0, 0, 0};
  char m[300];
  assert_null(none.kernel(&p, NULL, NULL, m, sizeof m));
  assert_non_null(strstr(m, "target c99 runs everywhere"));
  dlclose(a.handle);
  dlclose(none.handle);
}

// Intel's dot products of bf16 are slow: there, and in a copy of the files that takes this CPU for such a one, avx512
// is chosen, as the library does.
static void slow_dot_products_are_avoided(void **state) {
  (void)state;
  struct problem bf16;
  if (!cpu_has_target(target_find("avx512bf16"))) skip();
  assert_int_equal(problem_parse("d16:bf16", &bf16, NULL), 0);
  write_text("dot.txt", "d16:bf16 target=avx512bf16,avx512,c99 set=block_n=32,stages=1\n");
  works("emit --set-file dot.txt --prefix d_ -o dot");
  assert_int_equal(shell("cd %s && cp -r dot slow && sed -i 's/&& b == signature_INTEL_ebx//' slow/attn_dispatch.c && "
                         "! cmp -s dot/attn_dispatch.c slow/attn_dispatch.c",
                         dir),
                   0);
  build("cc", "dot/*.c", "dot.so");
  build("cc", "slow/*.c", "slow.so");
  const struct set_library dot = open_set("dot.so", "d_attn"), slow = open_set("slow.so", "d_attn");
  computes(&dot, "d16:bf16:b1h1q20k30",
           strcmp(cpu_best_vector_target(&bf16.spec)->name, "avx512") ? "_avx512bf16_" : "_avx512_");
  computes(&slow, "d16:bf16:b1h1q20k30", "_avx512_");
  dlclose(dot.handle);
  dlclose(slow.handle);
}

// Tiles are chosen where the CPU has them and the system saves them, and for many rows only. A set without a kernel for
// them does not ask the system, which has a price (README, Limits).
static void tiles_come_first(void **state) {
  (void)state;
  const bool here = cpu_has_target(target_find("amxbf16"));
  write_text("tiles.txt", "d16:bf16:causal target=amxbf16,c99\nd16:bf16:causal:q1 target=amxbf16,c99\n"
                          "d32:bf16:h16/1q2 target=amxbf16\nd32:bf16 target=amxbf16,c99\n"
                          "d64:bf16:h8/1q1 target=amxbf16 printer=scalar\n");
  works("emit --set-file tiles.txt --prefix t_ -o tiles");
  build("cc", "tiles/*.c", "tiles.so");
  const struct set_library tiles = open_set("tiles.so", "t_attn");
  computes(&tiles, "d16:bf16:causal:b1h1q40k30", here ? "_tiles_m32n128_amxbf16_" : "_c99_");
  computes(&tiles, "d16:bf16:causal:b1h1q1k30", here ? "_decode_m1n8192h1_amxbf16_" : "_c99_");
  computes(&tiles, "d32:bf16:b1h16/1q2k100", here ? "_decode_m32n2048h1_amxbf16_" : "_c99_");
  computes(&tiles, "d32:bf16:b1h2/1q16k512",
           here ? "_decode_m32n2048h1_amxbf16_" : "_c99_"); // some more rows, many keys
  computes(&tiles, "d32:bf16:b1h2/1q16k511", here ? "_tiles_m" : "_c99_");
  dlclose(tiles.handle);
  write_text("vectors.txt", "d16:bf16 target=avx512bf16,avx512,c99\n");
  works("emit --set-file vectors.txt --prefix v_ -o vectors");
  assert_int_equal(
      shell("cd %s && grep -q syscall tiles/attn_dispatch.c && ! grep -q syscall vectors/attn_dispatch.c", dir), 0);
  build("cc", "vectors/*.c", "vectors.so");
}

static void headers_are_cxx_and_live_together(void **state) {
  (void)state;
  if (!have("g++")) skip();
  write_text("all.cc",
             "#include \"a/attn_dispatch.h\"\n#include \"b/other_dispatch.h\"\n"
             "int main() { a_attn_problem p = {16, 16, A_ATTN_F32, A_ATTN_F32, A_ATTN_F32, A_ATTN_CAUSAL};\n"
             "b_other_problem q = {16, 16, B_OTHER_F32, B_OTHER_F32, B_OTHER_F32, B_OTHER_FULL};\n"
             "return (a_attn_bytes(&p, nullptr) != -1) + b_other_forward(&q, nullptr, nullptr, 0, nullptr, 0) - 1 +\n"
             "(a_attn_launch(&p, nullptr, nullptr, nullptr, 0) != A_ATTN_INVALID); }\n");
  assert_int_equal(shell("cd %s && for h in a/*.h b/*.h; do echo \"#include \\\"$h\\\"\"; done > each.cc", dir), 0);
  assert_int_equal(
      shell("cd %s && for f in all each; do g++ -std=c++11 -Wall -Wextra -Wpedantic -Werror -fPIC -c $f.cc || "
            "exit 1; done && if [ -e gcc.so ]; then g++ all.o ./gcc.so -o all && ./all; fi",
            dir),
      0);
}

// One directory holds the kernels of every printer, and one program calls them.
static void printers_do_not_share_files(void **state) {
  (void)state;
  works("emit d16:f32 --target avx2 --printer intrin -o printers");
  works("emit d16:f32 --target avx2 --printer scalar -o printers");
  const bool code = strobe("emit d16:f32 --target avx2 --printer code -o printers")->code == 0; // with an encoder
  assert_int_equal(
      shell("cd %s/printers && [ $(ls *.h | wc -l) = %d ] && cc -O1 -c *.c && ld -r -o all.o *.o", dir, code ? 3 : 2),
      0);
}

int main(int argc, char **argv) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(gcc_links_two_sets),
      cmocka_unit_test(clang_links_two_sets),
      cmocka_unit_test(elsewhere_c99_is_chosen),
      cmocka_unit_test(slow_dot_products_are_avoided),
      cmocka_unit_test(tiles_come_first),
      cmocka_unit_test(headers_are_cxx_and_live_together),
      cmocka_unit_test(printers_do_not_share_files),
  };
  (void)argc;
  if (!find_binary(argv[0])) return 1;
  return cmocka_run_group_tests(tests, start, remove_directory);
}
