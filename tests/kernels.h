// Shared by the tests of kernels: one rendered for a spec, target, config and printer, compiled through libtcc, and run
// on tensors that stand between guard pages. STROBE_TEST_TEMPLATES=DIR in the environment renders from the templates in
// DIR, as --template-dir does: how a test is shown to fail, and how a template is tried before it is built in.
#ifndef STROBE_TESTS_KERNELS_H
#define STROBE_TESTS_KERNELS_H

#include "../gen/kernel.h" // before cmocka.h, which has a macro named fail
#include "../runtime/cpu.h"
#include "../runtime/jit.h"
#include "../runtime/reference.h"
#include "../runtime/verify.h"
#include "guard.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Sanitizers see the host and the kernels that are compiled in, not what libtcc made: one pass over the latter is
// enough.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

struct test_kernel {
  struct instance instance;
  enum printer printer;
  const struct strobe_kernel *kernel;
  struct jit_module *module; // NULL: the kernel is not libtcc's
  const char *from;          // then, what compiled it
  unsigned workers;          // as strobe_args has them
};

// ---- what is being run, for a test that ends in a fault: cmocka reports the signal, the teardown where ----

static char current[800];

static inline int tell_current(void **state) {
  (void)state;
  if (current[0]) print_message("while running %s\n", current);
  current[0] = 0;
  return 0;
}

static inline void set_current(const struct test_kernel *k, const struct verify_case *c) {
  struct buf text = {0};
  verify_case_print(c, &text);
  buf_str(&text, ", printer ");
  buf_str(&text, k->module ? printer_names[k->printer] : k->from);
  buf_printf(&text, ", %s, %u workers, ", k->instance.target->name, k->workers);
  config_print(&k->instance.config, k->instance.target, &text);
  snprintf(current, sizeof current, "%s", text.failed ? "a case" : text.data);
  buf_free(&text);
}

// ---- making one ----

static inline struct problem problem_of(const char *text) {
  struct problem p;
  struct error err = {0};
  if (problem_parse(text, &p, &err)) fail_msg("%s: %s", text, err.text);
  return p;
}

// False: the target can't do the spec, or the config. Without a config every supported spec must resolve.
static inline bool instance_of(const struct spec *s, const struct target *t, const char *config, struct instance *i) {
  struct error err = {0};
  *i = (struct instance){.spec = *s, .target = t};
  config_clear(&i->config);
  if (spec_supported(s, t, NULL)) return false;
  if (config_parse(config, &i->config, &err)) fail_msg("%s: %s", config, err.text);
  if (!config_resolve(s, t, NULL, &i->config, &err)) return true;
  if (!*config) fail_msg("%s", err.text);
  return false;
}

static inline struct render_options render_options_of(enum printer printer) {
  return (struct render_options){.printer = printer,
                                 .templates.dir = getenv("STROBE_TEST_TEMPLATES"),
                                 .for_tcc = true,
                                 .symbol = "kernel_under_test"};
}

// The ELF object of an instance. False: the printer has no rows for the target. A config that resolved fits its
// registers.
static inline bool object_of(const struct instance *i, enum printer printer, struct buf *object) {
  const struct render_options options = render_options_of(printer);
  struct buf text = {0};
  struct error err = {0};
  int status = kernel_render(i, &options, &text, NULL, &err);
  if (!status) status = jit_compile(text.data, object, &err);
  buf_free(&text);
  if (status && (status != STROBE_UNSUPPORTED || strstr(err.text, "registers")))
    fail_msg("%s, %s", printer_names[printer], err.text);
  return !status;
}

static inline bool make_kernel(const struct spec *s, const struct target *t, const char *config, enum printer printer,
                               struct test_kernel *k) {
  struct buf object = {0};
  struct error err = {0};
  *k = (struct test_kernel){.printer = printer};
  if (!instance_of(s, t, config, &k->instance) || !object_of(&k->instance, printer, &object)) {
    buf_free(&object);
    return false;
  }
  if (jit_load(object.data, object.len, "kernel_under_test", &k->module, &err)) fail_msg("%s", err.text);
  buf_free(&object);
  k->kernel = jit_symbol(k->module, "kernel_under_test");
  assert_non_null(k->kernel);
  return true;
}

static inline void free_kernel(struct test_kernel *k) {
  if (k->module) jit_unload(k->module);
  *k = (struct test_kernel){.kernel = NULL};
}

// The printer that the runtime would take for the target.
static inline bool make_best_kernel(const struct spec *s, const struct target *t, const char *config,
                                    struct test_kernel *k) {
  return make_kernel(s, t, config, PRINTER_CODE, k) || make_kernel(s, t, config, PRINTER_SCALAR, k);
}

// ---- running it ----

// Workspace or scratch of a kernel: 64-byte aligned, full of NaN, a guard page on either side; what alignment leaves
// between its end and the page must not change.
struct guarded {
  enum guard_side side;
  unsigned char *data;
  size_t bytes, all;
};

static inline struct guarded guarded_new(int64_t bytes, enum guard_side side) {
  struct guarded g = {.side = side, .bytes = (size_t)bytes, .all = ((size_t)bytes + 63) / 64 * 64 + (bytes ? 0 : 64)};
  assert_true(bytes >= 0);
  g.data = guard_alloc(&guard_sides[side], g.all);
  assert_non_null(g.data);
  memset(g.data, 0xff, g.all);
  return g;
}

static inline void guarded_free(struct guarded *g) {
  for (size_t i = g->bytes; i < g->all; i++)
    if (g->data[i] != 0xff) fail_msg("byte %zu of a memory of %zu was written: %s", i, g->bytes, current);
  guard_free(&guard_sides[g->side], g->data, g->all);
}

// Whether vector registers are as SSE code wants them (templates/cpu/around_step.inc).
#if defined(__x86_64__)
__attribute__((target("avx"))) static inline bool upper_halves_are_zero(void) {
  unsigned char any[16];
  __asm__ volatile("vextractf128 $1, %%ymm0, %%xmm0\n\t"
                   ".irp r, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n\t"
                   "vextractf128 $1, %%ymm\\r, %%xmm\\r\n\t"
                   "vorps %%xmm\\r, %%xmm0, %%xmm0\n\t"
                   ".endr\n\t"
                   "vmovups %%xmm0, %0\n\t"
                   "vzeroupper"
                   : "=m"(any)
                   :
                   : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
                     "xmm12", "xmm13", "xmm14", "xmm15");
  for (int i = 0; i < 16; i++)
    if (any[i]) return false;
  return true;
}
static inline bool leaves_vectors_clean(void) { return !__builtin_cpu_supports("avx") || upper_halves_are_zero(); }
#else
static inline bool leaves_vectors_clean(void) { return true; }
#endif

static inline void run_step(const struct strobe_step *step, const struct strobe_args *a, int64_t first, int64_t last,
                            void *scratch) {
  step->run(a, first, last, scratch);
  if (!leaves_vectors_clean()) fail_msg("%s left upper halves of vector registers: %s", step->name, current);
}

// All steps on this thread, the second half of the items first, as the last worker if there are several: nothing may
// depend on their order. Scratch memory stands alone, or follows the workspace where the number of workers says so.
static inline void run_steps(const struct strobe_kernel *k, const struct strobe_args *tensors, enum guard_side side) {
  struct strobe_args args = *tensors;
  const int64_t whole = (k->workspace_bytes(&args) + 63) / 64 * 64, each = (k->scratch_bytes + 63) / 64 * 64;
  struct guarded shared = guarded_new(args.workers ? whole + args.workers * each : k->workspace_bytes(&args), side);
  struct guarded own = guarded_new(args.workers ? 0 : k->scratch_bytes, side);
  unsigned char *const first = args.workers ? shared.data + whole : own.data;
  unsigned char *const last = args.workers ? first + (args.workers - 1) * each : own.data;
  args.workspace = shared.data;
  for (unsigned i = 0; i < k->n_steps; i++) {
    const strobe_i64 n = k->step[i].items(&args), half = n / 2;
    if (half < n) run_step(&k->step[i], &args, half, n, last);
    if (half > 0) run_step(&k->step[i], &args, 0, half, first);
  }
  guarded_free(&shared);
  guarded_free(&own);
}

// Tensors of a case against guard pages, inputs readable only.
static inline struct tensors guarded_tensors(const struct verify_case *c, enum guard_side side) {
  const struct tensor_allocator guard = guard_allocator(side);
  struct tensors t;
  struct error err = {0};
  if (verify_create(c, &guard, &t, &err)) fail_msg("%s", err.text);
  return t;
}

static inline void protect_inputs(const struct tensors *t) {
  for (int id = TENSOR_Q; id <= TENSOR_V; id++) assert_int_equal(guard_read_only(t->memory[id], t->bytes[id]), 0);
}

// Fails unless o and lse are within the bound of the oracle, written everywhere, and no padding was touched.
static inline void check_tensors(const struct test_kernel *k, const struct verify_case *c, const struct tensors *t,
                                 int64_t rows) {
  struct verify_result r;
  struct error err = {0};
  if (verify_tensors(c, &k->instance, t, rows, &r, &err)) fail_msg("%s: %s", current, err.text);
  if (r.ok) return;
  struct buf why = {0};
  verify_print(&r, &why);
  fail_msg("%s: %s", current, why.data);
}

// rows: how many of each head are compared with the oracle.
static inline void check_case(const struct test_kernel *k, const struct verify_case *c, enum guard_side side,
                              int64_t rows) {
  struct tensors t = guarded_tensors(c, side);
  t.args.workers = k->workers;
  set_current(k, c);
  protect_inputs(&t);
  run_steps(k->kernel, &t.args, side);
  check_tensors(k, c, &t, rows);
  tensors_free(&t);
  current[0] = 0;
}

#endif
