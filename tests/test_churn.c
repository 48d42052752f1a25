// Threads that plan and execute in one context while others make and free contexts of their own: every result is the
// same, bit for bit, and every kernel that is in use stays mapped. Runs under ThreadSanitizer too.
#include "api.h"
#include "failing_malloc.h"

#include <stdio.h>

enum { ROUNDS = 12, ELEMENTS = 2 * 40 * 32 };

static const char problem[] = "d32:f32:causal:b1h2q40k40";
static float q[ELEMENTS], k[ELEMENTS], v[ELEMENTS], wanted[ELEMENTS];

struct shared {
  strobe_context *ctx;
  strobe_plan *plan;
  atomic_int failures;
};

// Own output, shared inputs.
static bool computes(const strobe_plan *plan, const float *result) {
  float o[ELEMENTS];
  memset(o, 0xff, sizeof o);
  const struct strobe_io io = {.size = sizeof io, .q.data = q, .k.data = k, .v.data = v, .o.data = o};
  return !strobe_execute(plan, &io) && !memcmp(o, result, sizeof o);
}

static bool plan_and_compute(strobe_context *ctx, int round) {
  // Kernels by turns: most rounds find one that another thread is making or has made.
  static const char *const configs[] = {"block_n=128", "block_n=128,block_m=32", "block_n=128,block_m=64"};
  const struct strobe_plan_options o = {.size = sizeof o, .config = configs[round % 3]};
  strobe_plan *plan;
  if (strobe_plan_create(ctx, problem, &o, &plan)) return false;
  const bool same = computes(plan, wanted);
  strobe_plan_destroy(plan);
  return same;
}

static void *planner(void *arg) {
  struct shared *s = arg;
  for (int i = 0; i < ROUNDS; i++)
    if (!plan_and_compute(s->ctx, i)) atomic_fetch_add(&s->failures, 1);
  return NULL;
}

static void *churner(void *arg) {
  struct shared *s = arg;
  for (int i = 0; i < ROUNDS; i++) {
    const struct strobe_context_options two = {.size = sizeof two, .n_workers = 2};
    strobe_context *ctx;
    if (strobe_context_create(&two, &ctx)) {
      atomic_fetch_add(&s->failures, 1);
      continue;
    }
    if (i % 4 && !plan_and_compute(ctx, i)) atomic_fetch_add(&s->failures, 1); // and some that nobody uses
    strobe_context_destroy(ctx);
  }
  return NULL;
}

static void *executor(void *arg) {
  struct shared *s = arg;
  for (int i = 0; i < 10 * ROUNDS; i++)
    if (!computes(s->plan, wanted)) atomic_fetch_add(&s->failures, 1);
  return NULL;
}

static void test_contexts_come_and_go(void **state) {
  (void)state;
  static void *(*const roles[])(void *) = {planner, planner, churner, churner, executor, executor};
  enum { N = sizeof roles / sizeof *roles };
  const struct strobe_context_options two = {.size = sizeof two, .n_workers = 2};
  struct shared s = {.failures = 0};
  pthread_t thread[N];
  for (int i = 0; i < ELEMENTS; i++) {
    q[i] = (float)(i * 7 % 13) * 0.2f - 1;
    k[i] = (float)(i * 5 % 11) * 0.1f;
    v[i] = (float)(i * 3 % 17) * 0.1f;
  }
  assert_ok(strobe_context_create(&two, &s.ctx));
  s.plan = plan_with(s.ctx, problem, NULL);
  const struct strobe_io io = {.size = sizeof io, .q.data = q, .k.data = k, .v.data = v, .o.data = wanted};
  assert_ok(strobe_execute(s.plan, &io));
  for (int i = 0; i < N; i++) assert_int_equal(pthread_create(&thread[i], NULL, roles[i], &s), 0);
  for (int i = 0; i < N; i++) pthread_join(thread[i], NULL);
  assert_int_equal(s.failures, 0);
  strobe_plan_destroy(s.plan);
  strobe_context_destroy(s.ctx);
}

#if FAILING_MALLOC
static strobe_plan *within;
static int depth;
static float inner[ELEMENTS];

// In the midst of an execution another of the same plan, whose memory is taken.
static void executes_within(void *context, int64_t n, strobe_body *body, void *arg) {
  (void)context;
  if (within && !depth++) {
    const struct strobe_io io = {.size = sizeof io, .q.data = q, .k.data = k, .v.data = v, .o.data = inner};
    if (strobe_execute(within, &io)) abort();
  }
  body(arg, 0, n, 0);
}

static void test_memory_of_a_second_execution(void **state) {
  (void)state;
  const struct strobe_context_options o = {.size = sizeof o, .n_workers = 1, .parallel_for = executes_within};
  strobe_context *ctx;
  assert_ok(strobe_context_create(&o, &ctx));
  within = plan_with(ctx, problem, NULL);
  assert_true(strobe_workspace_bytes(within) > 0);
  faults = (struct faults){.on = true};
  const bool same = computes(within, wanted);
  faults.on = false;
  assert_true(same);
  assert_true(depth > 1 && faults.calls > 0);
  assert_memory_equal(inner, wanted, sizeof inner);
  assert_int_equal(faults.live, 0);
  strobe_plan_destroy(within);
  strobe_context_destroy(ctx);
}
#endif

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_contexts_come_and_go),
#if FAILING_MALLOC
    cmocka_unit_test(test_memory_of_a_second_execution),
#endif
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
