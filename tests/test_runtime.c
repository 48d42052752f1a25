// The C API, one caller: layouts, workspace, empty problems, every backend against the oracle, what a plan says of
// itself.
#include "api.h"

#include "../runtime/backend.h"
#include "../runtime/cpu.h"
#include "../runtime/dump.h"
#include "../runtime/reference.h"

#include <math.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static strobe_context *ctx;

static int make_context(void **state) {
  (void)state;
  return strobe_context_create(&pool_options, &ctx);
}
static int free_context(void **state) {
  (void)state;
  strobe_context_destroy(ctx);
  return 0;
}

// ---- results ----

static const char *const problems[] = {
    "d32:f32:b2h4/2q40k48",        "d64:f32:causal:b1h2q33k65",       "d64:bf16:b1h2q17k130",
    "d128:bf16:causal:b1h2q64k64", "d64:bf16:o=f32:h2q5k129",         "d32:f32:causal_top_left:h2q20k30",
    "d64:f32:causal:h1q70k20",     "d128:bf16:o=f32:causal:h1q1k300",
};

// Compiled backends need libtcc, and "code" a CPU with vectors that its printer knows. (What happens otherwise is the
// ladder's test.)
static bool can_work(const struct backend *b, const struct problem *p) {
  if (!b->configurable) return true;
  return STROBE_TCC && (b->printer != PRINTER_CODE || cpu_best_target(&p->spec)->vregs > 0);
}

static void test_backends(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof problems / sizeof *problems; i++)
    for (int b = 0; b < backend_count; b++) {
      if (backend_table[b].family != FAMILY_CPU) continue;
      struct problem problem;
      assert_int_equal(problem_parse(problems[i], &problem, NULL), 0);
      const struct strobe_plan_options o = {.size = sizeof o, .backend = backend_table[b].name};
      strobe_plan *plan;
      int status = strobe_plan_create(ctx, problems[i], &o, &plan);
      if (status == STROBE_UNSUPPORTED && !can_work(&backend_table[b], &problem)) continue;
      if (status) fail_msg("%s, backend %s: %s", problems[i], backend_table[b].name, strobe_error());
      assert_string_equal(plan->backend, backend_table[b].name);
      assert_string_equal(plan->why.data, "");
      for (enum layout layout = 0; layout < LAYOUT_COUNT; layout++) {
        struct tensors t = tensors_of(plan, layout, 2 * (int)layout);
        struct strobe_io io = io_of(&t);
        assert_ok(strobe_execute(plan, &io));
        check_result(plan, layout, 2 * (int)layout, &t);
        tensors_free(&t);
      }
      strobe_plan_destroy(plan);
    }
}

static void test_callback_is_used(void **state) {
  (void)state;
  atomic_int calls = 0;
  const struct strobe_context_options o = {
      .size = sizeof o, .n_workers = POOL, .parallel_for = pool_for, .parallel_context = &calls};
  strobe_context *c;
  assert_ok(strobe_context_create(&o, &c));
  strobe_plan *plan = plan_with(c, "d32:f32:b2h3q70k20", NULL);
  struct tensors t = tensors_of(plan, LAYOUT_BNHD, 1);
  struct strobe_io io = io_of(&t);
  assert_ok(strobe_execute(plan, &io));
  int steps = plan->kernel ? 0 : 1; // those that have work
  for (unsigned i = 0; plan->kernel && i < plan->kernel->n_steps; i++)
    steps += plan->kernel->step[i].items(&t.args) > 0;
  assert_int_equal(calls, steps);
  check_result(plan, LAYOUT_BNHD, 1, &t);
  tensors_free(&t);
  strobe_plan_destroy(plan);
  strobe_context_destroy(c);
}

static void test_packed_strides_and_workspace(void **state) {
  (void)state;
  for (size_t i = 0; i < 4; i++) {
    strobe_plan *plan = plan_with(ctx, problems[i], NULL);
    struct tensors t = tensors_of(plan, LAYOUT_BNHD, 0);
    struct strobe_io io = {.size = sizeof io,
                           .q.data = t.args.q.data,
                           .k.data = t.args.k.data,
                           .v.data = t.args.v.data,
                           .o.data = t.args.o.data,
                           .lse = t.args.lse};
    size_t bytes = strobe_workspace_bytes(plan);
    assert_int_equal(bytes % 64, 0);
    io.workspace = aligned_alloc(64, bytes + 64);
    assert_non_null(io.workspace);
    memset(io.workspace, 0xff, bytes + 64); // NaN: what was left by another call must not matter
    assert_ok(strobe_execute(plan, &io));
    for (size_t x = bytes; x < bytes + 64; x++) assert_int_equal(((unsigned char *)io.workspace)[x], 0xff);
    check_result(plan, LAYOUT_BNHD, 0, &t);

    float *lse = t.args.lse;
    void *first = malloc(t.bytes[TENSOR_O]);
    assert_non_null(first);
    memcpy(first, t.args.o.data, t.bytes[TENSOR_O]);
    tensors_poison(&t);
    free(io.workspace);
    io.workspace = NULL;
    io.lse = NULL;
    assert_ok(strobe_execute(plan, &io));
    assert_memory_equal(first, t.args.o.data, t.bytes[TENSOR_O]);
    assert_true(is_poison(DT_F32, lse, 0));
    free(first);
    tensors_free(&t);
    strobe_plan_destroy(plan);
  }
}

static void test_no_keys(void **state) {
  (void)state;
  for (int b = -1; b < backend_count; b++) {
    const struct strobe_plan_options o = {.size = sizeof o, .backend = b < 0 ? NULL : backend_table[b].name};
    strobe_plan *plan;
    if (strobe_plan_create(ctx, "d32:f32:h2q19k0", &o, &plan)) continue;
    float out[19 * 2 * 32], lse[19 * 2], q[19 * 2 * 32] = {0};
    memset(out, 0xff, sizeof out);
    memset(lse, 0xff, sizeof lse);
    struct strobe_io io = {.size = sizeof io, .q.data = q, .o.data = out, .lse = lse}; // no keys: k and v may be NULL
    assert_ok(strobe_execute(plan, &io));
    for (size_t i = 0; i < sizeof out / sizeof *out; i++) assert_true(out[i] == 0);
    for (size_t i = 0; i < sizeof lse / sizeof *lse; i++) assert_true(lse[i] == -INFINITY);
    strobe_plan_destroy(plan);
  }
}

static void test_no_queries(void **state) {
  (void)state;
  for (int b = -1; b < backend_count; b++) {
    const struct strobe_plan_options o = {.size = sizeof o, .backend = b < 0 ? NULL : backend_table[b].name};
    strobe_plan *plan;
    if (strobe_plan_create(ctx, "d32:f32:h2q0k7", &o, &plan)) continue;
    float kv[7 * 2 * 32] = {0};
    struct strobe_io io = {.size = sizeof io, .k.data = kv, .v.data = kv};
    assert_ok(strobe_execute(plan, &io));
    strobe_plan_destroy(plan);
  }
}

static void test_scale(void **state) {
  (void)state;
  static const struct {
    float scale;
    int has_scale;
    float want;
  } cases[] = {{0, 0, 0.125f}, {0.5f, 0, 0.5f}, {0, 1, 0}, {-0.25f, 1, -0.25f}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const struct strobe_plan_options o = {.size = sizeof o, .scale = cases[i].scale, .has_scale = cases[i].has_scale};
    strobe_plan *plan;
    assert_ok(strobe_plan_create(ctx, "d64:f32:h1q20k40", &o, &plan));
    assert_true(plan->scale == cases[i].want);
    struct tensors t = tensors_of(plan, LAYOUT_BNHD, 0);
    struct strobe_io io = io_of(&t);
    assert_ok(strobe_execute(plan, &io));
    check_result(plan, LAYOUT_BNHD, 0, &t);
    tensors_free(&t);
    strobe_plan_destroy(plan);
  }
}

// ---- the ladder and what a plan says of itself ----

static void test_describe(void **state) {
  (void)state;
  strobe_context *c;
  assert_ok(strobe_context_create(NULL, &c));
  double total[2];
  for (int i = 0; i < 2; i++) {
    strobe_plan *plan = plan_with(c, "d64:f32:causal:h2q64k64", NULL);
    struct strobe_plan_info info = {.size = sizeof info};
    assert_ok(strobe_plan_describe(plan, &info));
    assert_int_equal(info.size, sizeof info);
    assert_true(strstr(info.instance, "d64") && strstr(info.instance, info.target));
    assert_non_null(strstr(info.config, "block_n"));
    total[i] = info.render_ms + info.compile_ms + info.load_ms;
    const bool compiled = !strcmp(info.backend, "code") || !strcmp(info.backend, "scalar");
    assert_int_equal(compiled, info.source[0] != 0);
    if (compiled && i == 0) assert_true(info.render_ms > 0 && info.compile_ms > 0 && info.load_ms > 0);
    if (!strcmp(info.backend, "code")) assert_string_equal(info.why, "");
    strobe_plan_destroy(plan);
  }
  assert_true(total[1] == 0); // from the context's table
  strobe_context_destroy(c);
}

// c99 has no instructions to encode, so a plan for it is served by a lower rung and says why.
static void test_ladder(void **state) {
  (void)state;
  const struct strobe_plan_options o = {.size = sizeof o, .target = "c99"};
  strobe_plan *plan;
  assert_ok(strobe_plan_create(ctx, "d32:f32:h2q20k20", &o, &plan));
  struct strobe_plan_info info = {.size = sizeof info};
  assert_ok(strobe_plan_describe(plan, &info));
  assert_string_not_equal(info.backend, "code");
  assert_string_equal(info.target, "c99");
  assert_ptr_equal(strstr(info.why, "code: "), info.why);
  struct tensors t = tensors_of(plan, LAYOUT_BNHD, 0);
  struct strobe_io io = io_of(&t);
  assert_ok(strobe_execute(plan, &io));
  check_result(plan, LAYOUT_BNHD, 0, &t);
  tensors_free(&t);
  strobe_plan_destroy(plan);
}

static void test_dump(void **state) {
  (void)state;
  char dir[] = "/tmp/strobe-dump-XXXXXX", path[2][512];
  assert_non_null(mkdtemp(dir));
  assert_int_equal(setenv("STROBE_DUMP", dir, 1), 0);
  strobe_context *c;
  assert_ok(strobe_context_create(NULL, &c));
  strobe_plan *plan = plan_with(c, "d32:f32:h1q8k8", NULL);
  struct buf symbol = {0};
  instance_symbol(&plan->instance, &symbol);
  struct stat s;
  for (int i = 0; i < 2; i++) {
    snprintf(path[i], sizeof path[i], "%s/%s.%s.%s", dir, symbol.data, plan->backend, i ? "o" : "c");
    if (plan->compiled) {
      assert_int_equal(stat(path[i], &s), 0);
      assert_true(s.st_size > 0);
    }
    unlink(path[i]);
  }
  assert_null(strstr(plan->why.data, "STROBE_DUMP"));
  strobe_plan_destroy(plan);
  strobe_context_destroy(c);
  rmdir(dir);

  assert_ok(strobe_context_create(NULL, &c)); // the directory is gone: the plan works and says what is missing
  plan = plan_with(c, "d32:f32:h1q8k8", NULL);
  if (plan->compiled) assert_non_null(strstr(plan->why.data, "STROBE_DUMP"));
  strobe_plan_destroy(plan);
  strobe_context_destroy(c);
  buf_free(&symbol);
  unsetenv("STROBE_DUMP");
}

// A file that can't be written whole is none: one line, which is written when the file is closed, and many.
static void test_dump_on_a_full_disk(void **state) {
  (void)state;
  char dir[] = "/tmp/strobe-dump-XXXXXX", path[64];
  struct stat s;
  assert_non_null(mkdtemp(dir));
  snprintf(path, sizeof path, "%s/symbol.printer.c", dir);
  if (access("/dev/full", W_OK)) {
    rmdir(dir);
    print_message("note: no /dev/full\n");
    skip();
  }
  assert_int_equal(setenv("STROBE_DUMP", dir, 1), 0);
  for (size_t lines = 1; lines <= 100000; lines *= 100000) {
    struct buf source = {0};
    const struct buf none = {0};
    for (size_t i = 0; i < lines; i++) buf_str(&source, "a line\n");
    assert_int_equal(symlink("/dev/full", path), 0);
    char *note = dump("symbol", "printer", &source, &none);
    const int there = !lstat(path, &s);
    assert_true(note && strstr(note, path) && strstr(note, "No space left on device"));
    assert_int_equal(there, 0);
    free(note);
    buf_free(&source);
  }
  rmdir(dir);
  unsetenv("STROBE_DUMP");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_callback_is_used),
      cmocka_unit_test(test_backends),
      cmocka_unit_test(test_packed_strides_and_workspace),
      cmocka_unit_test(test_no_keys),
      cmocka_unit_test(test_no_queries),
      cmocka_unit_test(test_scale),
      cmocka_unit_test(test_describe),
      cmocka_unit_test(test_ladder),
      cmocka_unit_test(test_dump),
      cmocka_unit_test(test_dump_on_a_full_disk),
  };
  return cmocka_run_group_tests(tests, make_context, free_context);
}
