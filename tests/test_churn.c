// Threads that plan and execute in one context while others make and free contexts of their own: every result is the
// same, bit for bit, and every kernel that is in use stays mapped. Runs under ThreadSanitizer too.
#include "api.h"
#include "failing_malloc.h"

#include <sched.h>
#include <stdio.h>
#include <time.h>

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

// Stands in for libc's, to tell how many wait: a thread is counted before it gives the lock back.
static atomic_int waiting;
STAND_IN int pthread_cond_wait(pthread_cond_t *changed, pthread_mutex_t *lock) {
  const struct timespec never = {.tv_sec = INT32_MAX};
  atomic_fetch_add(&waiting, 1);
  const int status = pthread_cond_timedwait(changed, lock, &never);
  atomic_fetch_sub(&waiting, 1);
  return status;
}

struct failing {
  struct kernel_table table;
  int waiters;
  atomic_int making, told, ended;
};

static int fails_once_all_wait(void *arg, struct compiled_kernel *out, struct error *err) {
  struct failing *f = arg;
  (void)out;
  atomic_store(&f->making, 1);
  while (atomic_load(&waiting) < f->waiters) sched_yield();
  return (fail)(err, STROBE_INTERNAL, "made to fail"); // not the macro of cmocka
}

static void *waits_for_failure(void *arg) {
  struct failing *f = arg;
  const struct compiled_kernel *kernel;
  bool made;
  struct error err = {0};
  while (!atomic_load(&f->making)) sched_yield();
  const int status = kernel_table_get(&f->table, "key", fails_once_all_wait, f, &kernel, &made, &err);
  atomic_fetch_add(&f->told, status == STROBE_INTERNAL && !strcmp(err.text, "made to fail"));
  atomic_fetch_add(&f->ended, 1);
  return NULL;
}

// A kernel that could not be made is freed once, by the last of those who waited for it, or by the one who made it.
static void test_memory_of_a_failure(void **state) {
  (void)state;
  enum { MOST = 3 };
  for (int waiters = 0; waiters <= MOST; waiters++) {
    struct failing f = {.waiters = waiters};
    const struct compiled_kernel *kernel;
    bool made;
    pthread_t thread[MOST];
    assert_int_equal(kernel_table_init(&f.table, NULL), 0);
    for (int i = 0; i < waiters; i++) assert_int_equal(pthread_create(&thread[i], NULL, waits_for_failure, &f), 0);
    faults = (struct faults){.on = true};
    const int status = kernel_table_get(&f.table, "key", fails_once_all_wait, &f, &kernel, &made, NULL);
    while (atomic_load(&f.ended) < waiters) sched_yield(); // before threads are freed
    faults.on = false;
    for (int i = 0; i < waiters; i++) pthread_join(thread[i], NULL);
    assert_int_equal(status, STROBE_INTERNAL);
    assert_int_equal(f.told, waiters);
    assert_true(faults.calls > 0);
    assert_int_equal(faults.live, 0);
    kernel_table_free(&f.table);
  }
}
#endif

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(test_contexts_come_and_go),
#if FAILING_MALLOC
    cmocka_unit_test(test_memory_of_a_second_execution),
    cmocka_unit_test(test_memory_of_a_failure),
#endif
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
