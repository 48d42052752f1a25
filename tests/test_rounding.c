// Which config fields change a rounding: README's table against gen/config_rounding.c, and that against kernels. Fields
// that never do give the same bits at all values; those that may do so at some. The place of a key never does, by
// vectors.
#include "kernels.h" // before cmocka.h, which has a macro named fail

enum { MOST_VALUES = 6, BATCH = 1, HEADS = 2, HEADS_KV = 1, Q_LEN = 70, KV_LEN = 230 };

static const struct row {
  enum config_field field;
  enum kernel_kind kernel;
  const char *base;                // other fields; those of `values` are added
  const char *values[MOST_VALUES]; // what a target has no kernel for is left out
} rows[] = {
    {CFG_BLOCK_M, KERNEL_PREFILL, "block_n=64", {"16", "8", "24", "32", "48", "64"}},
    {CFG_BLOCK_M, KERNEL_PREFILL, "block_n=64,algo=standard", {"16", "32", "64"}},
    {CFG_BLOCK_N, KERNEL_PREFILL, "block_m=16", {"32", "64", "128", "256"}},
    {CFG_TILE_N, KERNEL_PREFILL, "block_m=16,block_n=64", {"4", "1", "2", "8"}},
    {CFG_STAGES, KERNEL_PREFILL, "block_m=16,block_n=64", {"1", "2"}},
    {CFG_UNROLL, KERNEL_PREFILL, "block_m=16,block_n=64,stages=1", {"full", "4", "8", "16", "20"}},
    {CFG_UNROLL, KERNEL_PREFILL, "block_m=16,block_n=64,stages=2", {"full", "20", "32"}},
    {CFG_EXP, KERNEL_PREFILL, "block_m=16,block_n=64", {"poly5", "poly3", "table1", "table2"}},
    {CFG_PREFETCH, KERNEL_PREFILL, "block_n=64", {"0", "1", "8", "64"}},
    {CFG_PACK_K, KERNEL_PREFILL, "block_n=64", {"1", "0"}},
    {CFG_PACK_V, KERNEL_PREFILL, "block_n=64", {"1", "0"}},
    {CFG_KERNEL, KERNEL_PREFILL, "block_m=16,block_n=64", {"prefill", "decode"}},
    {CFG_ALGO, KERNEL_PREFILL, "block_m=16,block_n=64", {"fa2", "fa3", "fa1", "standard"}},
    {CFG_DIAGONAL, KERNEL_PREFILL, "block_n=64", {"skip", "mask"}},
    {CFG_DIAGONAL, KERNEL_PREFILL, "block_n=64,algo=fa1", {"skip", "mask"}},
    {CFG_DIAGONAL, KERNEL_PREFILL, "block_n=64,algo=standard", {"skip", "mask"}},
    {CFG_TAIL_M, KERNEL_PREFILL, "block_m=32,block_n=64", {"0", "8", "16", "24"}},
    {CFG_BLOCK_M, KERNEL_DECODE, "kernel=decode,block_n=64", {"4", "1", "7", "16"}},
    {CFG_BLOCK_N, KERNEL_DECODE, "kernel=decode,block_m=4", {"64", "16", "128"}},
    {CFG_EXP, KERNEL_DECODE, "kernel=decode,block_m=4", {"poly5", "poly3", "table1", "table2"}},
    {CFG_PREFETCH, KERNEL_DECODE, "kernel=decode,block_m=4", {"0", "3", "64"}},
    {CFG_BLOCK_H, KERNEL_DECODE, "kernel=decode,block_m=4,block_n=64", {"1", "2", "5"}},
    {CFG_SPLIT, KERNEL_DECODE, "kernel=decode,block_m=4,block_n=64", {"0", "16", "48"}},
    {CFG_BLOCK_M, KERNEL_TILES, "kernel=tiles,block_n=64", {"32", "16", "48", "96"}},
    {CFG_BLOCK_N, KERNEL_TILES, "kernel=tiles,block_m=16", {"32", "64", "128", "256"}},
    {CFG_EXP, KERNEL_TILES, "kernel=tiles,block_n=64", {"poly5", "poly3", "table1", "table2"}},
    {CFG_KERNEL, KERNEL_TILES, "block_m=16,block_n=64", {"tiles", "prefill"}},
    {CFG_KERNEL, KERNEL_DECODE, "block_m=16,block_n=64", {"decode", "prefill"}},
};
enum { N_ROWS = sizeof rows / sizeof *rows };

static const char *const specs[] = {"d64:f32:causal", "d64:f32", "d40:bf16:causal", "d64:bf16", "d32v48:f16:causal"};
enum { N_SPECS = sizeof specs / sizeof *specs };

// ---- O and lse of one kernel ----

struct bits {
  void *o, *lse; // NULL: no such kernel
};

static struct tensors tensors_for(const struct spec *s) {
  const struct verify_case c = {
      .problem = {.spec = *s, .batch = BATCH, .heads = HEADS, .heads_kv = HEADS_KV, .q_len = Q_LEN, .kv_len = KV_LEN},
      .kind = input_kind_find("large"),
      .seed = 3,
      .pad = 1,
      .scale = default_scale(s)};
  return guarded_tensors(&c, GUARD_AFTER);
}

static struct bits run(const struct test_kernel *k, struct tensors *in) {
  const struct verify_case c = {.problem = {.spec = in->spec}, .kind = input_kind_find("large")};
  set_current(k, &c);
  tensors_poison(in);
  run_steps(k->kernel, &in->args, GUARD_AFTER);
  current[0] = 0;
  struct bits b = {malloc(in->bytes[TENSOR_O]), malloc(in->bytes[TENSOR_LSE])};
  assert_true(b.o && b.lse);
  memcpy(b.o, in->memory[TENSOR_O], in->bytes[TENSOR_O]);
  memcpy(b.lse, in->memory[TENSOR_LSE], in->bytes[TENSOR_LSE]);
  return b;
}

static struct bits bits_of(const struct spec *s, const struct target *t, const struct row *r, const char *value,
                           struct tensors *in) {
  char config[120];
  struct test_kernel k;
  snprintf(config, sizeof config, "%s,%s=%s", r->base, config_fields[r->field].name, value);
  const bool made =
      cpu_has_target(t) ? make_best_kernel(s, t, config, &k) : make_kernel(s, t, config, PRINTER_SCALAR, &k);
  if (!made) return (struct bits){NULL, NULL};
  const struct bits b = run(&k, in);
  free_kernel(&k);
  return b;
}

static bool same(const struct tensors *in, const struct bits *a, const struct bits *b) {
  return !memcmp(a->o, b->o, in->bytes[TENSOR_O]) && !memcmp(a->lse, b->lse, in->bytes[TENSOR_LSE]);
}

// ---- the tests ----

struct counts {
  int compared, different;
};

static void compare_values(const struct row *r, const struct spec *s, const struct target *t, struct counts *n) {
  struct tensors in = tensors_for(s);
  struct bits first = {NULL, NULL};
  for (int v = 0; v < MOST_VALUES && r->values[v]; v++) {
    struct bits b = bits_of(s, t, r, r->values[v], &in);
    if (!b.o) continue;
    if (!first.o) {
      first = b;
      continue;
    }
    n->compared++;
    if (!same(&in, &first, &b)) n->different++;
    if (n->different && config_rounding[r->field][r->kernel] == ROUNDING_NEVER)
      fail_msg("%s on %s, %s: %s=%s changed bits", r->base, t->name, in.spec.kv == DT_F32 ? "f32" : "16 bits",
               config_fields[r->field].name, r->values[v]);
    free(b.o), free(b.lse);
  }
  free(first.o), free(first.lse);
  tensors_free(&in);
}

static void fields_change_bits_or_do_not(void **state) {
  (void)state;
  if (!STROBE_TCC) skip();
  for (int i = 0; i < N_ROWS; i++) {
    const struct row *r = &rows[i];
    struct counts n = {0, 0};
    for (int k = 0; k < target_count * N_SPECS; k++) {
      const struct target *t = &target_table[k / N_SPECS];
      const struct spec s = problem_of(specs[k % N_SPECS]).spec;
      if (t->family != FAMILY_CPU || (!cpu_has_target(t) && !t->tiles) || (t->tiles && r->kernel == KERNEL_PREFILL) ||
          (!t->vregs && k % N_SPECS > 1))
        continue; // c99 is slow
      compare_values(r, &s, t, &n);
    }
    const bool may = config_rounding[r->field][r->kernel] == ROUNDING_MAY;
    if (!n.compared) fail_msg("%s: nothing was compared", config_fields[r->field].name);
    if (may && !n.different)
      fail_msg("%s with %s: %d comparisons found no bit changed; is it ROUNDING_NEVER?", config_fields[r->field].name,
               r->base, n.compared);
  }
}

// Scores are 0 but those of one key. Where a row's is so far above 0 that the others' weights round to nothing, lse is
// that score, and by vectors has the same bits wherever the key lies: within a tile, at the end of the keys, at the
// diagonal.
static int compare_places(const struct test_kernel *k, struct tensors *in) {
  const int element = dtype_table[in->spec.kv].bytes;
  const int64_t stride = in->args.k.row_stride * element;
  const size_t bytes = (size_t)(in->spec.head_dim * element);
  char *const keys = in->args.k.data, key[64 * 4];
  float want[HEADS * Q_LEN] = {0};
  int compared = 0;
  assert_true(bytes <= sizeof key);
  memcpy(key, keys, bytes);
  for (int n = 0; n < KV_LEN; n++) memset(keys + n * stride, 0, bytes);
  for (int place = 0; place < KV_LEN; place += place < 70 || place > 220 ? 1 : 7) {
    memcpy(keys + place * stride, key, bytes);
    const struct bits b = run(k, in);
    memset(keys + place * stride, 0, bytes);
    const float *lse = b.lse;
    for (int row = 0; row < HEADS * Q_LEN; row++) {
      if (lse[row] <= 30) continue; // not seen, or below the others
      if (want[row] == 0) want[row] = lse[row];
      compared++;
      if (lse[row] != want[row] || !isfinite(lse[row]))
        fail_msg("row %d of head %d: the score of key %d is %.9g, elsewhere %.9g", row % Q_LEN, row / Q_LEN, place,
                 (double)lse[row], (double)want[row]);
    }
    free(b.o), free(b.lse);
  }
  return compared;
}

static void a_score_is_the_same_wherever_its_key_lies(void **state) {
  static const char *const configs[] = {"",
                                        "kernel=decode,block_m=1,block_n=64",
                                        "kernel=decode,block_m=4,block_n=64",
                                        "kernel=decode,block_m=7,block_n=32",
                                        "algo=standard,block_n=64",
                                        "algo=fa1,block_n=32",
                                        "diagonal=mask,block_n=64,stages=1"};
  enum { N_CONFIGS = sizeof configs / sizeof *configs };
  (void)state;
  if (!STROBE_TCC) skip();
  for (int i = 0; i < target_count * N_SPECS; i++) {
    const struct target *t = &target_table[i / N_SPECS];
    const struct spec s = problem_of(specs[i % N_SPECS]).spec;
    for (int n = 0; n < N_CONFIGS; n++) {
      struct test_kernel k;
      if (t->family != FAMILY_CPU || !cpu_has_target(t) || !t->vregs) continue;
      if (!make_best_kernel(&s, t, configs[n], &k)) continue;
      struct tensors in = tensors_for(&s);
      in.args.scale = 100;
      if (!instance_by_tiles(&k.instance)) // decode by matrix tiles does its last keys by vectors
        assert_true(compare_places(&k, &in) > KV_LEN);
      tensors_free(&in);
      free_kernel(&k);
    }
  }
}

static void every_field_has_a_row(void **state) {
  (void)state;
  for (int f = 0; f < CFG_COUNT; f++)
    for (int k = 0; k < KERNEL_COUNT; k++) {
      bool tested = false;
      for (int i = 0; i < N_ROWS; i++)
        tested |= rows[i].field == (enum config_field)f && rows[i].kernel == (enum kernel_kind)k;
      const bool cpu = config_fields[f].family != FAMILY_CUDA, has = config_rounding[f][k] != ROUNDING_NONE;
      bool anywhere = false;
      for (int other = 0; other < KERNEL_COUNT; other++) anywhere |= config_rounding[f][other] != ROUNDING_NONE;
      if (has != tested || (has && !cpu) || (cpu && !anywhere))
        fail_msg("%s, kernel=%s: %s", config_fields[f].name, kernel_names[k],
                 has ? "no row of this test" : "no row of gen/config_rounding.c");
    }
}

static void readme_says_the_same(void **state) {
  (void)state;
  static const char *const words[] = {[ROUNDING_NONE] = "-", [ROUNDING_NEVER] = "never", [ROUNDING_MAY] = "may"};
  static char text[1 << 17];
  FILE *f = fopen("README.md", "r");
  if (!f) skip(); // not run from the top of the repository
  text[fread(text, 1, sizeof text - 1, f)] = 0;
  fclose(f);
  const char *table = strstr(text, "| config field | prefill | decode | tiles |");
  assert_non_null(table);
  for (int i = 0; i < CFG_COUNT; i++) {
    char row[120];
    if (config_fields[i].family == FAMILY_CUDA) continue;
    snprintf(row, sizeof row, "| `%s` | %s | %s | %s |", config_fields[i].name,
             words[config_rounding[i][KERNEL_PREFILL]], words[config_rounding[i][KERNEL_DECODE]],
             words[config_rounding[i][KERNEL_TILES]]);
    if (!strstr(table, row)) fail_msg("README.md lacks: %s", row);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_field_has_a_row),
      cmocka_unit_test(readme_says_the_same),
      cmocka_unit_test_teardown(fields_change_bits_or_do_not, tell_current),
      cmocka_unit_test_teardown(a_score_is_the_same_wherever_its_key_lies, tell_current),
  };
  return cmocka_run_group_tests_name("rounding", tests, NULL, NULL);
}
