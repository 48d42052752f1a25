// Differential: every kernel that this CPU runs, printed as machine code and as lane loops, against the oracle. Tensors
// stand against guard pages on either side, inputs are read-only, padding is NaN, outputs and workspace are poisoned.
// Tables: a new head dim, dtype or config is a row, a new target nothing at all.
#include "kernels.h" // before cmocka.h, which has a macro named fail

#include "../runtime/builtin.h"

// What no target supports is noted, and tested from the day on which one does.
static const char *const head_dims[] = {"d32",  "d64",      "d128",   "d8",  "d40", "d72",
                                        "d256", "d192v128", "d64v40", "d33", "d1"};
static const char *const dtypes[] = {"f32", "bf16", "bf16:o=f32", "f16", "f16:o=f32", "q=f32,kv=bf16,o=f32"};
static const char *const masks[] = {"full", "causal", "causal_top_left"};
enum {
  N_HEAD_DIMS = sizeof head_dims / sizeof *head_dims,
  N_COMMON = 3, // head dims that are tried with all dtypes, the others with two
  N_DTYPES = sizeof dtypes / sizeof *dtypes,
  N_MASKS = sizeof masks / sizeof *masks
};

// q_len = m block_m + q, kv_len = n block_n + k: either side of a tile's edge, more queries than keys and the reverse,
// none at all.
static const struct shape {
  int m, q, n, k;
} shapes[] = {{0, 1, 0, 1}, {1, -1, 1, -1}, {1, 0, 1, 0}, {1, 1, 1, 1},  {0, 5, 0, 0},
              {0, 0, 0, 5}, {0, 17, 2, 3},  {2, 1, 0, 7}, {0, 33, 2, -1}};
enum { N_SHAPES = sizeof shapes / sizeof *shapes, SOME_SHAPES = 5, FEW_SHAPES = 2 };

static const struct { int batch, heads, heads_kv; } groups[] = {{1, 1, 1}, {1, 4, 2}, {2, 2, 1}, {1, 3, 3}, {2, 1, 1}};
static const double scales[] = {1, 1, 1, 0.5, -1, 2.5}; // times 1/sqrt(head_dim)
static const int64_t pads[] = {0, 3, 1, 16};

// ---- cases: the n-th draws its layout, padding, heads, inputs and scale ----

static uint64_t turn;
static int draw(uint64_t stream, int n) { return (int)(random_bits(1, stream, turn) % (uint64_t)n); }
#define PICK(stream, table) table[draw(stream, (int)(sizeof(table) / sizeof *(table)))]

static const struct input_kind *draw_kind(bool finite) {
  const struct input_kind *k;
  for (uint64_t stream = 10;; stream++)
    if ((k = &input_kinds[draw(stream, input_kind_count)])->finite == finite) return k;
}

static struct verify_case case_for(const struct spec *s, int64_t q_len, int64_t kv_len, bool finite) {
  const int group = draw(1, (int)(sizeof groups / sizeof *groups));
  turn++;
  return (struct verify_case){.problem = {.spec = *s,
                                          .batch = groups[group].batch,
                                          .heads = groups[group].heads,
                                          .heads_kv = groups[group].heads_kv,
                                          .q_len = q_len,
                                          .kv_len = kv_len},
                              .kind = draw_kind(finite),
                              .seed = turn,
                              .layout = (enum layout)draw(2, LAYOUT_COUNT),
                              .pad = PICK(3, pads),
                              .scale = (float)(PICK(4, scales) * (double)default_scale(s))};
}

static int cases_run;
// Rows of the oracle that one case may take: all of a small one, else a sample (verify_sample) of every head.
enum { ROWS = 24 };

static void run_case(const struct test_kernel *k, const struct spec *s, int64_t q_len, int64_t kv_len, bool finite) {
  struct verify_case c = case_for(s, q_len, kv_len, finite);
  const int64_t lens[2] = {draw(6, (int)kv_len + 1), draw(7, (int)kv_len + 1)};
  if (c.problem.batch == 2 && draw(8, 3) == 0) c.kv_lens = lens;
  struct test_kernel by = *k;
  by.workers = (unsigned)draw(9, 4);
  check_case(&by, &c, (enum guard_side)draw(5, 2), ROWS);
  cases_run++;
}

// The next n shapes of the table, and inputs with NaN or Inf.
static int next_shape;
static void run_shapes(const struct test_kernel *k, const struct spec *s, int n_shapes) {
  const int *config = k->instance.config.v;
  for (int i = 0; i < n_shapes; i++) {
    const struct shape *h = &shapes[next_shape++ % N_SHAPES];
    run_case(k, s, h->m * config[CFG_BLOCK_M] + h->q, h->n * config[CFG_BLOCK_N] + h->k, true);
  }
  run_case(k, s, config[CFG_BLOCK_M] + 3, config[CFG_BLOCK_N] + 5, false);
}

// A target with tiles: what has none is nearly the kernel of avx512bf16, and test_tiles has the lane loops.
static bool run_spec(const struct spec *s, const struct target *t, const char *config, enum printer printer,
                     int n_shapes) {
  struct test_kernel k;
  struct instance i;
  if (t->tiles && (printer == PRINTER_SCALAR || !instance_of(s, t, config, &i) || !instance_by_tiles(&i))) return false;
  if (!make_kernel(s, t, config, printer, &k)) return false;
  run_shapes(&k, s, n_shapes);
  free_kernel(&k);
  return true;
}

static struct spec spec_of(const char *dim, const char *dtype, const char *mask) {
  char text[80];
  snprintf(text, sizeof text, "%s:%s:%s", dim, dtype, mask);
  return problem_of(text).spec;
}

// ---- the tests ----

// Rows of the tables that nothing serves yet: each once, beside d64 or f32.
static void note_unserved(void) {
  for (int n = 0; n < N_HEAD_DIMS + N_DTYPES; n++) {
    const bool dim = n < N_HEAD_DIMS;
    const struct spec s = spec_of(dim ? head_dims[n] : "d64", dim ? "f32" : dtypes[n - N_HEAD_DIMS], "full");
    bool served = false;
    for (int i = 0; i < target_count; i++)
      served = served || (target_table[i].family == FAMILY_CPU && !spec_supported(&s, &target_table[i], NULL));
    if (!served) print_message("note: no CPU target does %s\n", dim ? head_dims[n] : dtypes[n - N_HEAD_DIMS]);
  }
}

// Every spec on every target, default config.
static void specs_agree_with_the_oracle(void **state) {
  (void)state;
  if (!STROBE_TCC) skip();
  int code = 0, loops = 0;
  for (int d = 0; d < (SANITIZED ? 1 : N_HEAD_DIMS); d++)
    for (int n = 0; n < N_DTYPES * N_MASKS; n++)
      for (int i = 0; i < target_count; i++) {
        const struct target *t = &target_table[i];
        const struct spec s = spec_of(head_dims[d], dtypes[n / N_MASKS], masks[n % N_MASKS]);
        const bool common = d < N_COMMON, top_left = s.mask == MASK_CAUSAL_TOP_LEFT; // the kernel of causal again
        if (t->family != FAMILY_CPU || !cpu_has_target(t) || (!common && (n / N_MASKS - d) % 3)) continue;
        code += run_spec(&s, t, "", PRINTER_CODE, top_left ? FEW_SHAPES : common ? N_SHAPES : SOME_SHAPES);
        if (d < 2 && !top_left) loops += run_spec(&s, t, "", PRINTER_SCALAR, FEW_SHAPES);
      }
  note_unserved();
  print_message("%d kernels of code, %d of lane loops, %d cases\n", code, loops, cases_run);
  assert_true(loops > 0);
}

// A target of this CPU that has vectors has kernels of code for f32 and at least one more dtype.
static void every_target_has_code(void **state) {
  (void)state;
  if (!STROBE_TCC) skip();
  for (int i = 0; i < target_count; i++) {
    const struct target *t = &target_table[i];
    if (t->family != FAMILY_CPU || !t->vregs || !cpu_has_target(t)) continue;
    const struct spec s = spec_of("d64", "f32", "full");
    struct test_kernel k;
    if (!make_kernel(&s, t, "", PRINTER_CODE, &k)) fail_msg("%s has no kernel of code for d64:f32", t->name);
    free_kernel(&k);
  }
}

static const char *const configs[] = {"block_m=16",
                                      "block_m=32,block_n=32",
                                      "block_m=48,tile_n=2,stages=1",
                                      "block_n=64",
                                      "block_n=256,stages=1",
                                      "tile_n=8,block_m=16",
                                      "stages=1",
                                      "stages=2,block_n=32,block_m=16",
                                      "unroll=full",
                                      "unroll=16",
                                      "unroll=8,stages=1",
                                      "exp=table1",
                                      "exp=table2",
                                      "exp=poly3",
                                      "exp=poly5,stages=1",
                                      "prefetch=4",
                                      "prefetch=64,stages=1",
                                      "pack_k=0",
                                      "pack_k=0,pack_v=0",
                                      "pack_v=0,stages=1",
                                      "pack_k=0,stages=1,prefetch=2",
                                      "block_m=32,tile_n=8,pack_k=0,prefetch=2", // more addresses than registers
                                      "algo=standard",
                                      "algo=standard,block_n=32,block_m=16,pack_k=0,pack_v=0",
                                      "algo=fa1",
                                      "algo=fa1,block_n=32,tile_n=2,pack_k=0,pack_v=0",
                                      "algo=fa2",
                                      "algo=fa3,block_n=64",
                                      "diagonal=mask",
                                      "diagonal=mask,algo=standard,block_n=32,pack_v=0",
                                      "diagonal=mask,algo=fa1,block_n=32,tile_n=2",
                                      "kernel=decode,block_m=5",
                                      "kernel=decode,block_n=64,prefetch=3"};
enum { N_CONFIGS = sizeof configs / sizeof *configs };

// Every config on a few specs.
static void configs_agree_with_the_oracle(void **state) {
  (void)state;
  if (!STROBE_TCC) skip();
  static const char *const specs[] = {"d64:f32",        "d64:f32:causal",          "d64:bf16:causal",
                                      "d32:bf16:o=f32", "d40:f32:causal_top_left", "d64:f16:causal"};
  for (int c = 0; c < N_CONFIGS; c += SANITIZED ? 5 : 1) {
    int made = 0;
    for (size_t n = 0; n < sizeof specs / sizeof *specs; n++)
      for (int i = 0; i < target_count; i++) {
        const struct target *t = &target_table[i];
        const struct spec s = problem_of(specs[n]).spec;
        if (t->family != FAMILY_CPU || !cpu_has_target(t)) continue;
        made += run_spec(&s, t, configs[c], PRINTER_CODE, SOME_SHAPES);
        if (n == (c % 2 ? 1 : 3)) made += run_spec(&s, t, configs[c], PRINTER_SCALAR, FEW_SHAPES);
      }
    // On a CPU without vectors: loops may refuse the one spec that they were tried with.
    for (size_t n = 0; n < sizeof specs / sizeof *specs && !made; n++) {
      const struct spec s = problem_of(specs[n]).spec;
      made = run_spec(&s, target_find("c99"), configs[c], PRINTER_SCALAR, FEW_SHAPES);
    }
    if (!made) fail_msg("no target takes %s", configs[c]);
  }
}

// The most keys that a worker copies for itself: with one more the workspace has room for all of V.
static int64_t own_keys(const struct strobe_kernel *k) {
  struct strobe_args args = {.batch = 1, .heads = 1, .heads_kv = 1, .q_len = 1, .kv_len = 1};
  for (int64_t before = k->workspace_bytes(&args); args.kv_len < 4096; before = k->workspace_bytes(&args)) {
    args.kv_len++;
    if (k->workspace_bytes(&args) - before > 64 << 10) return args.kv_len - 1;
  }
  return 0;
}

// Up to so many keys each worker copies V (stages=1: and K) to scratch memory, beyond them to the workspace, or a step
// does; with copies of K and without.
static void either_side_of_own_copies(void **state) {
  (void)state;
  if (!STROBE_TCC) skip();
  static const char *const specs[] = {"d256:f32:causal", "d256:bf16", "d250:bf16:causal", "d256:f16:causal"};
  static const char *const modes[] = {"stages=2,pack_k=0", "stages=2,pack_k=1", "stages=1,pack_k=1"};
  int tried = 0;
  for (size_t n = 0; n < sizeof specs / sizeof *specs; n++)
    for (int i = 0; i < 3 * target_count; i++) {
      const struct target *t = &target_table[i / 3];
      const struct spec s = problem_of(specs[n]).spec;
      struct test_kernel k;
      if (t->family != FAMILY_CPU || !t->vregs || !cpu_has_target(t)) continue;
      if (!make_kernel(&s, t, modes[i % 3], PRINTER_CODE, &k)) continue;
      const int64_t limit = own_keys(k.kernel);
      assert_true(limit > 0);
      for (int64_t keys = limit - 1; keys <= limit + 1; keys++) run_case(&k, &s, 70, keys, keys != limit);
      free_kernel(&k);
      tried++;
    }
  print_message("%d kernels\n", tried);
}

// Sequences that begin alike and share the memory of K and V: what a worker has copied of a shorter one is not enough.
static void sequences_in_one_memory(void **state) {
  (void)state;
  static const int64_t lens[3] = {40, 7, 130};
  static const char *const modes[] = {"kernel=prefill,stages=2", "kernel=prefill,stages=1,pack_k=1"};
  if (!STROBE_TCC) skip();
  for (int i = 0; i < 2 * target_count; i++) {
    const struct target *t = &target_table[i / 2];
    const struct spec s = problem_of("d64:f32").spec;
    struct test_kernel k;
    if (t->family != FAMILY_CPU || !cpu_has_target(t)) continue;
    if (!make_kernel(&s, t, modes[i % 2], PRINTER_CODE, &k)) continue;
    struct verify_case c = case_for(&s, 20, 130, false);
    c.problem.batch = 3, c.problem.heads = c.problem.heads_kv = 1, c.kv_lens = NULL;
    struct tensors all = guarded_tensors(&c, GUARD_AFTER);
    set_current(&k, &c);
    all.args.k.batch_stride = all.args.v.batch_stride = 0;
    all.args.kv_lens = lens, all.args.kv_lens_bytes = sizeof *lens;
    run_steps(k.kernel, &all.args, GUARD_AFTER);
    c.kv_lens = lens;
    check_tensors(&k, &c, &all, VERIFY_ALL_ROWS);
    tensors_free(&all);
    free_kernel(&k);
    current[0] = 0;
  }
}

// Where the diagonal crosses a tile decides which code runs: all offsets against the lanes.
static void every_diagonal(void **state) {
  (void)state;
  if (!STROBE_TCC) skip();
  static const char *const modes[] = {"block_m=32,block_n=32", "block_m=32,block_n=32,diagonal=mask"};
  for (int i = 0; i < 2 * target_count; i++) {
    const struct target *t = &target_table[i / 2];
    const char *config = modes[i % 2];
    if (t->family != FAMILY_CPU || !cpu_has_target(t)) continue;
    for (int y = 0; y < N_DTYPES; y++) {
      const struct spec s = spec_of("d16", dtypes[y], "causal");
      struct test_kernel k;
      if (!make_kernel(&s, t, config, PRINTER_CODE, &k) && !make_kernel(&s, t, config, PRINTER_SCALAR, &k)) continue;
      for (int64_t kv_len = 1; kv_len <= 100; kv_len++) run_case(&k, &s, 35 + kv_len % 3, kv_len, true);
      free_kernel(&k);
    }
  }
}

static void *o_at(const struct test_kernel *k, const struct verify_case *c, strobe_i64 diagonal, size_t *bytes) {
  struct tensors t = guarded_tensors(c, GUARD_AFTER);
  t.args.diagonal = diagonal;
  run_steps(k->kernel, &t.args, GUARD_AFTER);
  void *o = malloc(*bytes = t.bytes[TENSOR_O]);
  assert_non_null(o);
  memcpy(o, t.memory[TENSOR_O], *bytes);
  tensors_free(&t);
  return o;
}

// Beyond all keys, and before all queries, nothing changes any more.
static void diagonals_far_away(void **state) {
  (void)state;
  if (!STROBE_TCC) skip();
  static const strobe_i64 far[][2] = {{70, INT64_MAX}, {-20, INT64_MIN}};
  static const char *const modes[] = {"stages=1", "kernel=prefill", "kernel=decode,block_m=2",
                                      "kernel=decode,block_m=1,split=32", "kernel=tiles"};
  for (int i = 0; i < 5 * target_count; i++) {
    const struct target *t = &target_table[i / 5];
    const struct spec s = problem_of("d16:bf16:causal").spec;
    struct test_kernel k;
    if (t->family != FAMILY_CPU || !make_kernel(&s, t, modes[i % 5], PRINTER_SCALAR, &k)) continue;
    const struct verify_case c = case_for(&s, 20, 70, true);
    set_current(&k, &c);
    for (int f = 0; f < 2; f++) {
      size_t bytes;
      void *near_by = o_at(&k, &c, far[f][0], &bytes), *far_away = o_at(&k, &c, far[f][1], &bytes);
      if (memcmp(near_by, far_away, bytes)) fail_msg("%s: diagonal %lld", current, (long long)far[f][1]);
      free(near_by), free(far_away);
    }
    free_kernel(&k);
    current[0] = 0;
  }
}

// The kernels that are compiled in (and, where the tests are, instrumented): guard pages, then memory of malloc's.
static void compiled_in_kernels_agree_with_the_oracle(void **state) {
  (void)state;
  for (int i = 0; i < builtin_count; i++) {
    const struct builtin_kernel *b = &builtin_kernels[i];
    const struct spec s = problem_of(b->spec).spec;
    struct test_kernel k = {
        .instance = {.spec = s, .target = target_find("c99")}, .kernel = b->kernel, .from = "builtin"};
    config_clear(&k.instance.config);
    assert_int_equal(config_parse(b->config, &k.instance.config, NULL), 0);
    run_shapes(&k, &s, FEW_SHAPES);
    const struct verify_case c = case_for(&s, 35, 70, true);
    struct tensors t;
    assert_int_equal(verify_create(&c, NULL, &t, NULL), 0);
    set_current(&k, &c);
    run_steps(k.kernel, &t.args, GUARD_AFTER);
    check_tensors(&k, &c, &t, VERIFY_ALL_ROWS);
    tensors_free(&t);
    current[0] = 0;
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_teardown(every_target_has_code, tell_current),
      cmocka_unit_test_teardown(specs_agree_with_the_oracle, tell_current),
      cmocka_unit_test_teardown(configs_agree_with_the_oracle, tell_current),
      cmocka_unit_test_teardown(either_side_of_own_copies, tell_current),
      cmocka_unit_test_teardown(sequences_in_one_memory, tell_current),
      cmocka_unit_test_teardown(every_diagonal, tell_current),
      cmocka_unit_test_teardown(diagonals_far_away, tell_current),
      cmocka_unit_test_teardown(compiled_in_kernels_agree_with_the_oracle, tell_current),
  };
  return cmocka_run_group_tests_name("kernels", tests, NULL, NULL);
}
