// Emitted files compile without a warning, compute the right thing and name the command that writes them again.
#include "../gen/emit.h"
#include "../gen/file.h"
#include "../gen/json.h"
#include "../gen/table.h"
#include "../runtime/cpu.h"
#include "../runtime/verify.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[64]; // of this run

static int make_dir(void **state) {
  (void)state;
  strcpy(dir, "/tmp/strobe-emit-XXXXXX");
  return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state) {
  (void)state;
  char command[96];
  snprintf(command, sizeof command, "rm -rf %s", dir);
  return system(command);
}

static const struct emit_case {
  const char *problem, *target;
  enum printer printer;
  const char *config; // NULL: the heuristic's
} cases[] = {
    {"d32:f32:causal:b1h2q37k70", "avx512", PRINTER_INTRIN, NULL},
    {"d32:f32:causal:b1h1q70k90", "avx512", PRINTER_INTRIN, "tail_m=16"}, // a last tile of one vector
    {"d32:bf16:b1h2/1q37k71", "avx512bf16", PRINTER_INTRIN, NULL},
    {"d32:bf16:o=f32:causal:b1h1q17k40", "avx512bf16", PRINTER_INTRIN, NULL},
    {"d64:f32:b1h1q20k130", "avx512", PRINTER_CODE, NULL},
    {"d40:bf16:causal:b1h6/1q2k70", "avx512bf16", PRINTER_INTRIN, NULL}, // decode kernels
    {"d33:bf16:b1h3/1q1k50", "avx512bf16", PRINTER_CODE, NULL},
    {"d40:f32:causal:b1h2q37k170", "avx2", PRINTER_INTRIN, NULL},
    {"d36:f32:b1h2/1q29k150", "avx2", PRINTER_CODE, NULL},
    {"d33:q=f32,kv=f16,o=bf16:causal:b1h1q30k140", "avx2", PRINTER_INTRIN, NULL},
    {"d40:bf16:o=f16:b1h1q30k50", "avx512", PRINTER_INTRIN, NULL},
    {"d64:bf16:causal:b1h1q65k200", "avx512bf16", PRINTER_CODE, NULL},
    {"d32:f32:causal_top_left:b2h1q20k30", "c99", PRINTER_SCALAR, NULL},
    {"d32:bf16:b1h2q5k9", "c99", PRINTER_SCALAR, NULL},
    {"d32:f32:causal:b1h1q30k20", "avx512", PRINTER_SCALAR, "unroll=8"}, // 32 takes clang 20 s
    {"d16v128:bf16:o=f32:b1h1q40k100", "amxbf16", PRINTER_INTRIN, NULL}, // four rows fetched at a time
    {"d32:bf16:causal:b1h2q40k100", "amxbf16", PRINTER_INTRIN, NULL},
};
enum { N_CASES = sizeof cases / sizeof *cases };

static void instance_of(const struct emit_case *c, struct problem *p, struct instance *i) {
  struct error err = {0};
  i->target = target_find(c->target);
  config_clear(&i->config);
  if (problem_parse(c->problem, p, &err) || problem_complete(p, &err)) fail_msg("%s: %s", c->problem, err.text);
  i->spec = p->spec;
  if (c->config) assert_int_equal(config_parse(c->config, &i->config, NULL), 0);
  if (config_resolve(&p->spec, i->target, NULL, &i->config, &err)) fail_msg("%s: %s", c->problem, err.text);
}

// False: this build has no encoder.
static bool emit_case(const struct emit_case *c, struct problem *p, struct instance *i, struct emitted *e) {
  struct error err = {0};
  instance_of(c, p, i);
  const int status = emit_kernel(&(struct emit_request){.instance = i, .printer = c->printer}, e, &err);
  if (status == STROBE_UNSUPPORTED && c->printer == PRINTER_CODE) return false;
  if (status) fail_msg("%s: %s", c->problem, err.text);
  return true;
}

static void texts_say_where_they_come_from(void **state) {
  (void)state;
  for (int n = 0; n < N_CASES; n++) {
    struct problem p;
    struct instance i;
    struct emitted e, again;
    char hash[20];
    if (!emit_case(&cases[n], &p, &i, &e)) continue;
    assert_int_equal(e.stats.scratch_bytes % 64, 0); // what its _bytes says goes to aligned_alloc(64, ...)
    assert_null(strstr(e.header.data, "= 1f"));      // head_dim 1
    emit_case(&cases[n], &p, &i, &again);
    assert_string_equal(e.source.data, again.source.data);
    assert_string_equal(e.header.data, again.header.data);
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)templates_hash());
    const char *const texts[] = {e.source.data, e.header.data};
    for (int t = 0; t < 2; t++) {
      assert_non_null(strstr(texts[t], STROBE_VERSION));
      assert_non_null(strstr(texts[t], hash));
      assert_non_null(strstr(texts[t], "no licence obligation"));
      assert_non_null(strstr(texts[t], "floating-point operations per query and visible key"));
      assert_null(strstr(texts[t], "/tmp"));
    }
    struct buf config = {0};
    config_print(&i.config, i.target, &config);
    assert_non_null(strstr(e.header.data, config.data)); // every field: a later heuristic does not matter
    assert_null(strstr(e.header.data, "causal_top_left"));
    buf_free(&config);
    emit_free(&e);
    emit_free(&again);
  }
}

static bool have(const char *compiler) {
  char command[80];
  snprintf(command, sizeof command, "command -v %s >/dev/null 2>&1", compiler);
  return system(command) == 0;
}

static void write_case(const struct emitted *e) {
  struct buf path[2] = {{0}};
  buf_printf(&path[0], "%s/%s.c", dir, e->name.data);
  buf_printf(&path[1], "%s/%s.h", dir, e->name.data);
  const struct file_text both[] = {{path[0].data, e->source.data, e->source.len},
                                   {path[1].data, e->header.data, e->header.len}};
  assert_int_equal(files_write(both, 2, NULL, NULL), 0);
  buf_free(&path[0]);
  buf_free(&path[1]);
}

typedef int forward_function(const struct strobe_args *, void *, strobe_i64);
typedef strobe_i64 bytes_function(const struct strobe_args *);

static void *find(void *library, const struct emitted *e, const char *suffix) {
  char name[200];
  snprintf(name, sizeof name, "%s%s", e->symbol.data, suffix);
  void *found = dlsym(library, name);
  if (!found) fail_msg("%s is not defined", name);
  return found;
}

static void run_emitted(void *library, const struct emitted *e, const struct problem *p, const struct instance *i) {
  forward_function *forward;
  bytes_function *bytes;
  *(void **)&forward = find(library, e, "_forward");
  *(void **)&bytes = find(library, e, "_bytes");
  const struct verify_case c = {.problem = *p,
                                .kind = input_kind_find("normal"),
                                .seed = 3,
                                .layout = LAYOUT_BNHD,
                                .pad = 3,
                                .scale = default_scale(&p->spec)};
  struct tensors t;
  struct verify_result r;
  assert_int_equal(verify_create(&c, NULL, &t, NULL), 0);
  const strobe_i64 needed = bytes(&t.args);
  assert_true(needed > 0);
  char *memory = aligned_alloc(64, (size_t)(needed + 127) / 64 * 64);
  assert_non_null(memory);
  assert_int_equal(forward(&t.args, memory, needed - 1), 1);
  assert_int_equal(forward(&t.args, memory + 8, needed), 1);
  struct strobe_args wrong = t.args;
  wrong.abi++;
  assert_int_equal(forward(&wrong, memory, needed), 1);
  assert_int_equal(forward(&t.args, memory, needed), 0);
  assert_int_equal(verify_tensors(&c, i, &t, VERIFY_ALL_ROWS, &r, NULL), 0);
  struct buf why = {0};
  verify_print(&r, &why);
  if (!r.ok) fail_msg("%s: %s", e->name.data, why.data);
  buf_free(&why);
  free(memory);
  tensors_free(&t);
}

static void compile_and_run(const char *compiler, const char *flags, const char *only) {
  if (!have(compiler)) skip();
  for (int n = 0; n < N_CASES; n++) {
    struct problem p;
    struct instance i;
    struct emitted e;
    char command[700];
    if (only && strcmp(cases[n].target, only)) continue;
    if (!emit_case(&cases[n], &p, &i, &e)) continue;
    write_case(&e);
    snprintf(command, sizeof command,
             "cd %s && %s -std=c11 -O1 -fPIC -shared -ffp-contract=off -Wall -Wextra -Wpedantic -Wconversion -Werror "
             "%s %s.c -o %s-%d.so",
             dir, compiler, flags, e.name.data, compiler, n);
    if (system(command)) fail_msg("%s does not compile %s", compiler, e.name.data);
    if (cpu_has_target(i.target)) {
      char path[128];
      snprintf(path, sizeof path, "%s/%s-%d.so", dir, compiler, n);
      void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
      if (!library) fail_msg("%s", dlerror());
      run_emitted(library, &e, &p, &i);
      dlclose(library);
    }
    emit_free(&e);
  }
}

static void gcc_takes_emitted_files(void **state) { (void)state, compile_and_run("gcc", "", NULL); }
#ifndef __SANITIZE_ADDRESS__ // what a compiler takes is the same then: one of them is enough
static void clang_takes_emitted_files(void **state) { (void)state, compile_and_run("clang", "", NULL); }
#endif

// Registers that hold more than an f32 round nothing: what is rounded on purpose must be all the same.
static void x87_computes_the_same(void **state) {
  (void)state;
#ifdef __x86_64__
  compile_and_run("gcc", "-mfpmath=387 -std=gnu11", "c99");
#else
  skip();
#endif
}

static void headers_are_cxx_and_live_together(void **state) {
  (void)state;
  if (!have("g++")) skip();
  struct buf text = {0}, path = {0};
  for (int n = 0; n < N_CASES; n++) {
    struct problem p;
    struct instance i;
    struct emitted e;
    if (!emit_case(&cases[n], &p, &i, &e)) continue;
    write_case(&e);
    buf_printf(&text, "#include \"%s.h\"\nconst struct strobe_kernel *kernel_%d() { return &%s; }\n", e.name.data, n,
               e.symbol.data);
    emit_free(&e);
  }
  buf_printf(&path, "%s/all.cc", dir);
  const struct file_text file = {path.data, text.data, text.len};
  assert_int_equal(files_write(&file, 1, NULL, NULL), 0);
  char command[200];
  snprintf(command, sizeof command, "cd %s && g++ -std=c++11 -Wall -Wextra -Wpedantic -Werror -fsyntax-only all.cc",
           dir);
  assert_int_equal(system(command), 0);
  buf_free(&text);
  buf_free(&path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(texts_say_where_they_come_from), cmocka_unit_test(gcc_takes_emitted_files),
#ifndef __SANITIZE_ADDRESS__
      cmocka_unit_test(clang_takes_emitted_files),
#endif
      cmocka_unit_test(x87_computes_the_same),          cmocka_unit_test(headers_are_cxx_and_live_together),
  };
  return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
