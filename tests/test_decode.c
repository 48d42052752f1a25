// The decode kernel against the oracle: row counts that make every kind of tile, key counts around its blocks of 16 and
// chunks, masks, dtypes, inputs with NaN and Inf, guard pages; and what may not change a bit.
#include "../runtime/cpu.h"
#include "api.h"
#include "guard.h"

#include <math.h>
#include <stdio.h>

static strobe_context *context_of(int workers, strobe_parallel_for *run) {
  const struct strobe_context_options o = {.size = sizeof o, .n_workers = workers, .parallel_for = run};
  strobe_context *ctx;
  assert_ok(strobe_context_create(&o, &ctx));
  return ctx;
}

static void serial(void *context, int64_t n, strobe_body *body, void *arg) {
  (void)context;
  body(arg, 0, n, 0);
}

struct setup {
  const char *config, *kind;
  const char *backend, *target;             // NULL: the first that works
  const struct tensor_allocator *allocator; // NULL: malloc
  float scale;                              // 0: the usual one
  enum layout layout;
  bool packed; // no padding between rows: in (b, n, h, d) heads lie side by side
};

// Plans, fills, executes; returns the tensors, and in *c what verify_tensors wants.
static struct tensors run_case(strobe_context *ctx, const char *problem, const struct setup *s, struct verify_case *c,
                               struct instance *kernel) {
  const struct strobe_plan_options o = {
      .size = sizeof o, .config = s->config, .target = s->target, .backend = s->backend, .scale = s->scale};
  strobe_plan *plan;
  struct tensors t;
  struct error err = {0};
  if (strobe_plan_create(ctx, problem, &o, &plan)) fail_msg("%s: %s", problem, strobe_error());
  if (config_kernel(&plan->instance.config) != KERNEL_DECODE) fail_msg("%s: not the decode kernel", problem);
  *c = (struct verify_case){.problem = plan->problem,
                            .kind = input_kind_find(s->kind ? s->kind : "normal"),
                            .seed = 7,
                            .layout = s->layout,
                            .pad = s->packed ? 0 : 3,
                            .scale = plan->scale};
  if (verify_create(c, s->allocator, &t, &err)) fail_msg("%s", err.text);
  const struct strobe_io io = io_of(&t);
  assert_ok(strobe_execute(plan, &io));
  *kernel = plan->instance;
  strobe_plan_destroy(plan);
  return t;
}

static void check(strobe_context *ctx, const char *problem, const struct setup *s) {
  struct verify_case c;
  struct instance kernel;
  struct verify_result r;
  struct error err = {0};
  struct buf text = {0};
  struct tensors t = run_case(ctx, problem, s, &c, &kernel);
  if (verify_tensors(&c, &kernel, &t, VERIFY_ALL_ROWS, &r, &err)) fail_msg("%s", err.text);
  verify_print(&r, &text);
  if (!r.ok) fail_msg("%s %s: %s", problem, s->config ? s->config : "", text.data);
  buf_free(&text);
  tensors_free(&t);
}

static const char *const masks[] = {"", ":causal", ":causal_top_left"};
// The first three are in every grid; the others are widened as they are loaded.
static const char *const dtypes[] = {
    ":f32", ":bf16", ":bf16:o=f32", ":q=f32,kv=bf16,o=f32", ":q=f32,kv=f16,o=f32", ":f16", ":q=bf16,kv=f16"};

static void every_tile_and_mask(void **state) {
  (void)state;
  static const int q_lens[] = {1, 2, 3, 5, 8, 16}, groups[] = {1, 4, 8}, kv_lens[] = {0, 1, 15, 16, 17, 130, 1000};
  static const int dims[] = {40, 64, 8, 128};
  strobe_context *ctx = context_of(1, serial);
  int n = 0;
  for (size_t q = 0; q < sizeof q_lens / sizeof *q_lens; q++)
    for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
      for (size_t k = 0; k < sizeof kv_lens / sizeof *kv_lens; k++)
        for (int m = 0; m < 3; m++) {
          char problem[100];
          const int heads_kv = groups[g] == 8 ? 1 : 2, type = (int)(q + g + k) % 3;
          snprintf(problem, sizeof problem, "d%d%s%s:b1h%d/%dq%dk%d", dims[(q + g) % 4], dtypes[type], masks[m],
                   groups[g] * heads_kv, heads_kv, q_lens[q], kv_lens[k]);
          const struct setup s = {.config = "kernel=decode", .layout = (enum layout)(n++ % LAYOUT_COUNT)};
          check(ctx, problem, &s);
        }
  strobe_context_destroy(ctx);
}

// All heads at once, some, one at a time; rows that run on without a gap and rows that do not.
static void heads_side_by_side(void **state) {
  (void)state;
  static const char *const problems[] = {
      "d40:f32:causal:b2h10/5q2k83", "d128:bf16:b1h32/8q1k100", "d64:bf16:causal:b1h9q1k70", "d24:f16:b1h14/7q3k65",
      "d16:f32:b1h8q5k50",
      // as many heads as are read together: four rows of each,
      "d40:f32:causal:b2h16/4q1k83", "d88v72:bf16:b1h36/12q1k75", "d33v23:f32:b1h24/8q1k40",
      "d64:bf16:causal:b1h12/4q3k70",
      // one, two, and more fours
      "d40v33:f32:b2h12q1k83", "d72v88:bf16:b1h16q1k75", "d24:f32:b1h24/12q1k100", "d72v40:bf16:causal:b1h8q2k70",
      "d40v72:f32:causal:b1h40/5q1k83", "d72v24:bf16:b1h48/4q1k75", "d33v23:f32:causal:b1h10q8k90",
      "d40v72:f16:b1h12q1k75", "d33v24:q=f32,kv=f16:causal:b1h8q2k70",
      // key by key: four rows that are widened, three filled up; heads in fours, or not
      "d128:f16:b1h32/8q1k100", "d72v88:f16:causal:b2h24/12q2k83", "d88v40:q=f32,kv=f16:b1h12/4q1k75",
      "d33v23:bf16:b1h16/4q1k60", "d40:f16:b1h24/6q1k70"};
  static const char *const configs[] = {"kernel=decode", "kernel=decode,block_h=1", "kernel=decode,block_h=2",
                                        "kernel=decode,block_h=4,block_n=32", "kernel=decode,block_h=8,prefetch=3"};
  strobe_context *ctx = context_of(1, serial);
  // With matrix tiles, pairs of bf16 or neither some of them are read in another order.
  static const struct setup places[] = {{.layout = LAYOUT_BNHD},
                                        {.layout = LAYOUT_BHND},
                                        {.packed = true},
                                        {.layout = LAYOUT_BHND, .packed = true},
                                        {.target = "avx512", .packed = true},
                                        {.target = "avx512bf16", .packed = true}};
  for (size_t at = 0; at < sizeof places / sizeof *places; at++) {
    if (places[at].target && !cpu_has_target(target_find(places[at].target))) {
      print_message("not run on %s, which this CPU lacks\n", places[at].target);
      continue;
    }
    for (size_t p = 0; p < sizeof problems / sizeof *problems; p++)
      for (int c = 0; c < 5; c++) {
        struct setup s = places[at];
        s.config = configs[c];
        check(ctx, problems[p], &s);
      }
  }
  strobe_context_destroy(ctx);
}

static bool same_bits(const struct tensors *a, const struct tensors *b) {
  return a->bytes[TENSOR_O] == b->bytes[TENSOR_O] &&
         !memcmp(a->memory[TENSOR_O], b->memory[TENSOR_O], a->bytes[TENSOR_O]) &&
         !memcmp(a->memory[TENSOR_LSE], b->memory[TENSOR_LSE], a->bytes[TENSOR_LSE]);
}

// Keys in parts: some that not all rows see, some that no row sees, all kinds of inputs; and any number of threads.
static void parts_are_merged(void **state) {
  (void)state;
  static const char *const problems[] = {"d64:f32:b1h4/1q1k200", "d128:bf16:causal:b2h8/2q5k77",
                                         "d40v24:f16:causal_top_left:b1h6/3q3k150", "d576v512:bf16:b1h4/1q1k100"};
  static const char *const configs[] = {"kernel=decode,split=16", "kernel=decode,split=48,block_n=32",
                                        "kernel=decode,split=1024"};
  strobe_context *one = context_of(1, serial), *many = context_of(POOL, pool_for);
  for (int p = 0; p < 4; p++)
    for (int i = 0; i < 3; i++)
      for (int k = 0; k < input_kind_count; k++) {
        const struct setup s = {.config = configs[i], .kind = input_kinds[k].name, .layout = (enum layout)(k % 2)};
        struct verify_case c;
        struct instance kernel;
        check(one, problems[p], &s);
        struct tensors a = run_case(one, problems[p], &s, &c, &kernel),
                       b = run_case(many, problems[p], &s, &c, &kernel);
        if (!same_bits(&a, &b)) fail_msg("%s %s: other bits with threads", problems[p], configs[i]);
        tensors_free(&a), tensors_free(&b);
      }
  // Rows that see no key; parts whose scores lie so far below others that their weight is 0.
  static const char *const targets[] = {NULL, "avx2", "c99"};
  for (int i = 0; i < 3; i++) {
    if (targets[i] && !cpu_has_target(target_find(targets[i]))) continue;
    const struct setup s = {.config = "kernel=decode,split=16", .kind = "ramp-steep", .target = targets[i]};
    check(one, "d64:f32:causal:b1h4/2q40k33", &s);
    check(one, "d64:f32:b1h4/1q1k1000", &s);
    check(one, "d64:f32:causal:b1h4/2q8k1000", &s);
  }
  // What the heuristic takes: one sequence in parts, many whole.
  check(one, "d128:bf16:b1h8/2q1k9000", &(struct setup){.kind = "ramp-up"});
  check(one, "d64:f32:b1h4/1q1k300", &(struct setup){.config = "kernel=decode,split=32", .target = "c99"});
  strobe_context_destroy(one);
  strobe_context_destroy(many);
}

static void long_contexts_in_chunks(void **state) {
  (void)state;
  strobe_context *ctx = context_of(1, serial);
  static const char *const problems[] = {"d64:f32:b1h4/1q1k8193", "d64:bf16:causal:b1h4/1q4k8193",
                                         "d16:f32:causal:b1h8/1q16k8193"};
  static const char *const configs[] = {"kernel=decode", "kernel=decode,block_n=1024",
                                        "kernel=decode,block_n=16,block_m=3"};
  for (int p = 0; p < 3; p++)
    for (int c = 0; c < 3; c++) check(ctx, problems[p], &(struct setup){.config = configs[c]});
  check(ctx, "d32:f32:causal:b2h3/1q40k77", &(struct setup){.config = "kernel=decode,block_m=8"}); // tiles across heads
  check(ctx, "d64:bf16:h6/2q2k300", &(struct setup){.scale = -3.5f});
  strobe_context_destroy(ctx);
}

// Every head_dim has its own tail of K, V and O.
static void every_head_dim(void **state) {
  (void)state;
  strobe_context *ctx = context_of(1, serial);
  char problem[100];
  for (int d = 1; d <= 256; d += d < 36 ? 1 : 9)
    for (int type = d % 2; type < 7; type += 2) {
      snprintf(problem, sizeof problem, "d%dv%d%s:causal:b1h7/1q1k%d", d, d % 3 ? d : d / 2 + 1, dtypes[type],
               20 + d % 29);
      check(ctx, problem, &(struct setup){.backend = NULL});
    }
  check(ctx, "d576v512:bf16:h16/1q1k40", &(struct setup){.backend = NULL});
  check(ctx, "d192v128:q=f32,kv=f16:h3/1q2k40", &(struct setup){.backend = NULL});
  strobe_context_destroy(ctx);
}

static void all_inputs_at_guard_pages(void **state) {
  (void)state;
  static const char *const problems[] = {
      "d72:f32:causal:b1h6/2q4k53",        "d72:bf16:causal:b1h6/2q4k53",          "d63:bf16:b2h4/2q1k33",
      "d40:f32:causal_top_left:b1h4q3k49", "d41v23:q=f32,kv=f16:causal:h5/1q1k34", "d72:bf16:b1h16/4q1k53",
      "d41:f32:causal:b1h16/4q1k37"};
  static const char *const configs[] = {NULL, "prefetch=0", "prefetch=1000"};
  strobe_context *ctx = context_of(1, serial);
  for (int k = 0; k < input_kind_count; k++)
    for (size_t p = 0; p < sizeof problems / sizeof *problems; p++)
      for (int side = 0; side < 2; side++) {
        const struct tensor_allocator guard = guard_allocator((enum guard_side)side);
        const struct setup s = {.config = configs[(k + side) % 3], .kind = input_kinds[k].name, .allocator = &guard};
        check(ctx, problems[p], &s);
      }
  strobe_context_destroy(ctx);
}

static void scalar_is_right_too(void **state) {
  (void)state;
  strobe_context *ctx = context_of(1, serial);
  static const char *const problems[] = {
      "d40:f32:causal:b1h6/1q1k50", "d64:bf16:b1h4/2q2k100", "d72:bf16:o=f32:causal:h3/1q4k40",
      "d72:bf16:b1h16/4q1k50",      "d40:f32:b1h8q1k50",     "d72:bf16:b1h8q2k50",
      "d40:f32:b1h32/4q1k50"};
  for (size_t p = 0; p < sizeof problems / sizeof *problems; p++)
    check(ctx, problems[p], &(struct setup){.backend = "scalar"});
  strobe_context_destroy(ctx);
}

static void other_targets(void **state) {
  (void)state;
  strobe_context *ctx = context_of(1, serial);
  static const char *const targets[] = {"avx2", "avx512", "c99"};
  static const char *const problems[] = {"d40:f32:causal:b1h7/1q3k50", "d128:bf16:causal:b1h8/2q3k100",
                                         "d33v17:q=f32,kv=f16:causal:b1h6/1q2k50", "d64:bf16:h2q1k40"};
  for (int t = 0; t < 3; t++)
    for (int p = 0; p < 4 && cpu_has_target(target_find(targets[t])); p++)
      check(ctx, problems[p], &(struct setup){.target = targets[t]});
  strobe_context_destroy(ctx);
}

static void prefetch_heads_and_threads_change_no_bit(void **state) {
  (void)state;
  static const char *const problems[] = {
      "d64:f32:causal:b3h8/2q3k1003", "d128:bf16:b2h8/4q5k777",  "d128:bf16:b2h16/4q1k777", "d72:f32:b1h32/8q1k777",
      "d72:f32:b1h8q1k777",           "d128:bf16:b1h16q1k777",   "d72:f32:b1h8q2k777",      "d128:bf16:b1h16/8q1k777",
      "d72:f32:b1h32/4q1k777",        "d128:bf16:b1h20/5q2k777", "d128:f16:b1h32/8q1k777"};
  static const char *const configs[] = {"kernel=decode,block_n=512,split=512,prefetch=0",
                                        "kernel=decode,block_n=512,split=512,prefetch=5",
                                        "kernel=decode,block_n=512,split=512,prefetch=900,block_h=1"};
  strobe_context *one = context_of(1, serial), *many = context_of(POOL, pool_for);
  for (size_t p = 0; p < sizeof problems / sizeof *problems; p++) {
    struct verify_case c;
    struct instance kernel;
    // packed, so that heads side by side are read together unless block_h forbids it
    const struct setup whole = {.config = "kernel=decode,block_n=512,split=512", .packed = true};
    struct tensors want = run_case(one, problems[p], &whole, &c, &kernel);
    for (int i = 0; i < 6; i++) {
      const struct setup s = {.config = configs[i % 3], .packed = true};
      struct tensors got = run_case(i < 3 ? one : many, problems[p], &s, &c, &kernel);
      if (!same_bits(&want, &got)) fail_msg("%s %s: other bits", problems[p], configs[i % 3]);
      tensors_free(&got);
    }
    tensors_free(&want);
  }
  strobe_context_destroy(one);
  strobe_context_destroy(many);
}

int main(void) {
  if (!STROBE_TCC) return puts("note: no decode kernel is compiled into the library, and this build has no JIT"), 0;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_tile_and_mask),
      cmocka_unit_test(heads_side_by_side),
      cmocka_unit_test(parts_are_merged),
      cmocka_unit_test(long_contexts_in_chunks),
      cmocka_unit_test(every_head_dim),
      cmocka_unit_test(all_inputs_at_guard_pages),
      cmocka_unit_test(scalar_is_right_too),
      cmocka_unit_test(other_targets),
      cmocka_unit_test(prefetch_heads_and_threads_change_no_bit),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
