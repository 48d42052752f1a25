// The printers against each other. `intrin` compiled by gcc and by clang gives the bits of `code`; gcc keeps its
// accumulators in registers; `scalar` compiled with and without everything that may change a rounding stays within the
// bound and does nothing undefined; what libtcc compiles calls nothing but memcpy, memmove and memset.
#include "kernels.h" // before cmocka.h, which has a macro named fail
#include "spills.h"

#include "../gen/emit.h"
#include "../gen/file.h"

#include <dlfcn.h>
#include <elf.h>

static char dir[] = "/tmp/strobe-printers-XXXXXX";

static int make_dir(void **state) {
  (void)state;
  return mkdtemp(dir) ? 0 : -1;
}
static int remove_dir(void **state) {
  char command[80];
  (void)state;
  snprintf(command, sizeof command, "rm -rf %s", dir);
  return system(command);
}

static bool have(const char *compiler) {
  char command[80];
  snprintf(command, sizeof command, "command -v %s >/dev/null 2>&1", compiler);
  if (system(command) == 0) return true;
  print_message("note: %s is not here: its part of the printers' tests did not run\n", compiler);
  return false;
}

// ---- compiling emitted files ----

// A row per instance; each goes through cc once per compiler (seconds each): keep them few, test_kernels has the many.
static const struct emitted_case {
  const char *spec, *target, *config;
} intrin_cases[] =
    {
        {"d64:f32", "avx512", ""},
        {"d128:f32:causal", "avx512", ""},
        {"d64:bf16:causal", "avx512bf16", ""},
        {"d40:f16:causal", "avx512", "stages=1"},
        {"d33v20:bf16:causal", "avx512bf16", "exp=poly5,block_m=32"},
        {"d64:f32:causal", "avx2", ""},
        {"d64:bf16", "avx2", "prefetch=4"},
        {"d64:f32:causal", "avx512", "kernel=decode,block_m=4"},
        {"d20:bf16:causal", "avx512bf16", "algo=standard,block_m=32"},
        {"d24:f32", "avx512", "block_m=16,tile_n=8,pack_k=0,prefetch=2"},
        {"d24:f32:causal", "avx512", "algo=fa1,block_m=32"},
        {"d40:bf16:causal", "avx512bf16", "diagonal=mask,stages=1"},
        {"d24:f32:causal", "avx2", "diagonal=mask"},
        {"d40v24:bf16:causal", "amxbf16", ""},
        {"d64v32:bf16", "amxbf16", "kernel=decode,block_m=6,block_h=2"},
        {"d32v96:bf16:o=f32", "amxbf16", "kernel=decode,block_m=20"},
},
  scalar_cases[] = {{"d24:f32:causal", "c99", ""},
                    {"d40:bf16:o=f32", "c99", ""},
                    {"d20:f32:causal", "c99", "algo=standard"},
                    {"d20:bf16:causal", "c99", "algo=fa1"},
                    {"d20:f32:causal", "c99", "diagonal=mask"}};
enum { N_INTRIN = sizeof intrin_cases / sizeof *intrin_cases, N_SCALAR = sizeof scalar_cases / sizeof *scalar_cases };

static void instance_for(const struct emitted_case *c, struct instance *i) {
  const struct spec s = problem_of(c->spec).spec;
  const struct target *t = target_find(c->target);
  assert_non_null(t);
  if (!instance_of(&s, t, c->config, i)) fail_msg("%s %s on %s is refused", c->spec, c->config, c->target);
}

// Writes the two files of an instance; returns its symbol, which is also their name.
static struct buf write_files(const struct instance *i, enum printer printer) {
  const struct emit_request request = {
      .instance = i, .printer = printer, .templates.dir = getenv("STROBE_TEST_TEMPLATES")};
  struct emitted e;
  struct error err = {0};
  if (emit_kernel(&request, &e, &err)) fail_msg("%s", err.text);
  struct buf path[2] = {{0}}, symbol = {0};
  buf_printf(&path[0], "%s/%s.c", dir, e.name.data);
  buf_printf(&path[1], "%s/%s.h", dir, e.name.data);
  const struct file_text files[] = {{path[0].data, e.source.data, e.source.len},
                                    {path[1].data, e.header.data, e.header.len}};
  if (files_write(files, 2, NULL, &err)) fail_msg("%s", err.text);
  buf_str(&symbol, e.symbol.data);
  buf_free(&path[0]), buf_free(&path[1]);
  emit_free(&e);
  return symbol;
}

// Every .c file of the directory to NAME.TAG.s and NAME.TAG.so, two at a time.
static void compile_all(const char *compiler, const char *flags, const char *tag) {
  char command[700];
  snprintf(command, sizeof command,
           "cd %s && ls *.c | sed 's/\\.c$//' | xargs -P 2 -I{} sh -c '%s -std=c11 -fPIC %s -S {}.c -o {}.%s.s && "
           "%s -shared {}.%s.s -o {}.%s.so || exit 255'",
           dir, compiler, flags, tag, compiler, tag, tag);
  if (system(command)) fail_msg("%s %s does not compile what was emitted", compiler, flags);
}

static void remove_sources(void) {
  char command[80];
  snprintf(command, sizeof command, "rm -f %s/*.c", dir);
  assert_int_equal(system(command), 0);
}

static void *open_library(const char *symbol, const char *tag, const struct strobe_kernel **kernel) {
  char path[300];
  snprintf(path, sizeof path, "%s/%s.%s.so", dir, symbol, tag);
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) fail_msg("%s", dlerror());
  *kernel = dlsym(library, symbol);
  if (!*kernel) fail_msg("%s is not defined", symbol);
  return library;
}

// ---- the same bits ----

static const char *const kinds[] = {"normal", "large", "ramp-up", "spikes", "outliers", "denormal", "nan", "inf"};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static struct verify_case case_of(const struct spec *s, int n) {
  static const int64_t lengths[][2] = {{70, 300}, {65, 129}, {33, 257}, {5, 40}};
  return (struct verify_case){.problem = {.spec = *s,
                                          .batch = 1,
                                          .heads = 2,
                                          .heads_kv = 1 + n % 2,
                                          .q_len = lengths[n % 4][0],
                                          .kv_len = lengths[n % 4][1]},
                              .kind = input_kind_find(kinds[n]),
                              .seed = (uint64_t)n,
                              .layout = (enum layout)(n % 2),
                              .pad = n % 3,
                              .scale = default_scale(s)};
}

// Which NaN it is may differ: x86 takes the payload of an operand that compilers may swap.
static void expect_equal(enum dtype type, const void *a, const void *b, int64_t n, const char *what) {
  const int bytes = dtype_table[type].bytes;
  for (int64_t i = 0; i < n; i++) {
    const double x = dtype_load(type, a, i), y = dtype_load(type, b, i);
    if (!memcmp((const char *)a + i * bytes, (const char *)b + i * bytes, (size_t)bytes) || (isnan(x) && isnan(y)))
      continue;
    fail_msg("%s: element %lld of %s is %.9g, code gives %.9g", current, (long long)i, what, y, x);
  }
}

static void compare_bits(const struct test_kernel *code, const struct test_kernel *other) {
  const struct spec *s = &code->instance.spec;
  for (int n = 0; n < N_KINDS; n++) {
    const struct verify_case c = case_of(s, n);
    struct tensors a = guarded_tensors(&c, GUARD_AFTER), b = guarded_tensors(&c, GUARD_BEFORE);
    set_current(other, &c);
    run_steps(code->kernel, &a.args, GUARD_AFTER);
    run_steps(other->kernel, &b.args, GUARD_BEFORE);
    expect_equal(s->o, a.memory[TENSOR_O], b.memory[TENSOR_O], (int64_t)a.bytes[TENSOR_O] / dtype_table[s->o].bytes,
                 "o");
    expect_equal(DT_F32, a.args.lse, b.args.lse, (int64_t)a.bytes[TENSOR_LSE] / 4, "lse");
    if (!n) check_tensors(other, &c, &b, 24);
    tensors_free(&a);
    tensors_free(&b);
    current[0] = 0;
  }
}

// ---- accumulators stay in registers ----

// Functions whose loops take the time, and how many vector registers one may store to the stack: none, or one for so
// many multiply-adds (an accumulator that spills does so once a step of head_dim or of the keys, which is more).
// qk_softmax_block and qk_exp_block hold row maxima and sums as well, which gcc puts on the stack between tiles; rows
// of V pass through pv_tiles, and some of them gcc sends by the stack.
static const struct {
  const char *prefix;
  int fmas_per_store; // 0: none
} hot[] = {{"qk_softmax_block", 16}, {"qk_exp_block", 40}, {"qk_block", 0}, {"pv_block", 0}, {"qk_4", 64}, {"pv_4", 64},
           {"qk_tiles", 0},          {"pv_tiles", 64}};

static void check_spills(const char *symbol) {
  char path[300];
  struct spills s;
  int found = 0;
  snprintf(path, sizeof path, "%s/%s.gcc.s", dir, symbol);
  if (!count_spills(path, &s)) fail_msg("%s can't be read", path);
  for (int i = 0; i < s.n; i++)
    for (size_t h = 0; h < sizeof hot / sizeof *hot; h++) {
      const struct function_spills *f = &s.f[i];
      if (strncmp(f->name, hot[h].prefix, strlen(hot[h].prefix))) continue;
      found += f->fmas >= 16;
      if (f->stores > (hot[h].fmas_per_store ? f->fmas / hot[h].fmas_per_store : 0))
        fail_msg("%s: %s stores %d vector registers to the stack beside %d multiply-adds", symbol, f->name, f->stores,
                 f->fmas);
    }
  if (found < 2) fail_msg("%s: QK and PV were not found in the assembly", symbol);
}

static void note_spills(const char *symbol, const char *tag) {
  char path[300];
  struct spills s;
  int fmas = 0, stores = 0;
  snprintf(path, sizeof path, "%s/%s.%s.s", dir, symbol, tag);
  if (!count_spills(path, &s)) fail_msg("%s can't be read", path);
  for (int i = 0; i < s.n; i++) fmas += s.f[i].fmas, stores += s.f[i].stores;
  print_message("note: %s spills %d vector registers, %d multiply-adds: %s\n", tag, stores, fmas, symbol);
}

// Functions are kept apart so that the assembly has their names; that changes no bit.
static void intrin_gives_the_bits_of_code(const char *compiler, const char *flags, bool no_spills) {
  struct instance instance[N_INTRIN];
  struct buf symbol[N_INTRIN];
  if (!STROBE_TCC || !have(compiler)) skip();
  for (int n = 0; n < N_INTRIN; n++) {
    instance_for(&intrin_cases[n], &instance[n]);
    symbol[n] = write_files(&instance[n], PRINTER_INTRIN);
  }
  compile_all(compiler, flags, compiler);
  for (int n = 0; n < N_INTRIN; n++) {
    struct test_kernel code, other = {.instance = instance[n], .from = compiler};
    if (no_spills)
      check_spills(symbol[n].data);
    else
      note_spills(symbol[n].data, compiler);
    void *library = open_library(symbol[n].data, compiler, &other.kernel);
    if (cpu_has_target(instance[n].target)) {
      if (!make_kernel(&instance[n].spec, instance[n].target, intrin_cases[n].config, PRINTER_CODE, &code))
        fail_msg("%s has no code", symbol[n].data);
      compare_bits(&code, &other);
      free_kernel(&code);
    }
    dlclose(library);
    buf_free(&symbol[n]);
  }
  remove_sources();
}

static void gcc_gives_the_bits_of_code_and_spills_nothing(void **state) {
  (void)state;
  intrin_gives_the_bits_of_code("gcc",
                                "-O2 -ffp-contract=off -fno-inline-functions-called-once -fno-inline-functions "
                                "-fno-inline-small-functions",
                                true);
}
static void clang_gives_the_bits_of_code(void **state) {
  (void)state;
  intrin_gives_the_bits_of_code("clang", "-O2 -ffp-contract=off -finline-hint-functions", false);
}

// ---- lane loops ----

// trap: what is undefined ends in SIGILL, so no sanitizer library is needed. -march=native contracts.
static void scalar_through_gcc(void **state) {
  static const char *const flags[][2] = {{"-O2 -march=native", "fast"},
                                         {"-O1 -fsanitize=undefined -fsanitize-undefined-trap-on-error", "trap"}};
  struct instance instance[N_SCALAR];
  struct buf symbol[N_SCALAR];
  (void)state;
  if (!have("gcc")) skip();
  for (int n = 0; n < N_SCALAR; n++) {
    instance_for(&scalar_cases[n], &instance[n]);
    symbol[n] = write_files(&instance[n], PRINTER_SCALAR);
  }
  for (size_t f = 0; f < sizeof flags / sizeof *flags; f++) {
    compile_all("gcc", flags[f][0], flags[f][1]);
    for (int n = 0; n < N_SCALAR; n++) {
      struct test_kernel k = {.instance = instance[n], .from = flags[f][0]};
      void *library = open_library(symbol[n].data, flags[f][1], &k.kernel);
      for (int i = 0; i < N_KINDS; i++) {
        const struct verify_case c = case_of(&k.instance.spec, i);
        check_case(&k, &c, (enum guard_side)(i % 2), 24);
      }
      dlclose(library);
    }
  }
  for (int n = 0; n < N_SCALAR; n++) buf_free(&symbol[n]);
  remove_sources();
}

// ---- what libtcc's objects refer to ----

static void check_undefined(const struct buf *object, const char *what) {
  const char *const base = object->data;
  const Elf64_Ehdr *e = (const Elf64_Ehdr *)(const void *)base;
  const Elf64_Shdr *section = (const Elf64_Shdr *)(const void *)(base + e->e_shoff);
  int symbols = 0;
  for (int i = 0; i < e->e_shnum; i++) {
    if (section[i].sh_type != SHT_SYMTAB) continue;
    const Elf64_Sym *s = (const Elf64_Sym *)(const void *)(base + section[i].sh_offset);
    const char *const names = base + section[section[i].sh_link].sh_offset;
    for (size_t n = section[i].sh_size / sizeof *s; n > 1; n--, symbols++) {
      const char *const name = names + s[n - 1].st_name;
      if (s[n - 1].st_shndx != SHN_UNDEF || !strcmp(name, "memcpy") || !strcmp(name, "memmove") ||
          !strcmp(name, "memset"))
        continue;
      fail_msg("%s refers to %s", what, name);
    }
  }
  assert_true(symbols > 0);
}

// Also for targets that this CPU can't run.
static void objects_need_no_library(void **state) {
  static const char *const specs[] = {"d64:f32:causal", "d33v20:bf16", "d40:f16:o=f32:causal",
                                      "d24:q=f32,kv=bf16,o=f16"};
  static const char *const configs[] = {"", "kernel=decode,block_m=7", "stages=1,exp=poly3,block_n=32", "algo=standard",
                                        "algo=fa1"};
  enum { N_CONFIGS = sizeof configs / sizeof *configs, OF_TARGET = 4 * N_CONFIGS };
  int objects = 0;
  (void)state;
  if (!STROBE_TCC) skip();
  for (int n = 0; n < OF_TARGET * target_count * 2; n++) {
    const struct spec s = problem_of(specs[n % 4]).spec;
    const struct target *t = &target_table[n / OF_TARGET % target_count];
    const enum printer printer = n / OF_TARGET / target_count ? PRINTER_SCALAR : PRINTER_CODE;
    struct instance i;
    struct buf object = {0}, what = {0};
    if (t->family != FAMILY_CPU || !instance_of(&s, t, configs[n / 4 % N_CONFIGS], &i)) continue;
    instance_name(&i, &what);
    if (object_of(&i, printer, &object)) check_undefined(&object, what.data), objects++;
    buf_free(&object), buf_free(&what);
  }
  assert_true(objects >= 60);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_teardown(objects_need_no_library, tell_current),
      cmocka_unit_test_teardown(scalar_through_gcc, tell_current),
      cmocka_unit_test_teardown(gcc_gives_the_bits_of_code_and_spills_nothing, tell_current),
      cmocka_unit_test_teardown(clang_gives_the_bits_of_code, tell_current),
  };
  return cmocka_run_group_tests_name("printers", tests, make_dir, remove_dir);
}
