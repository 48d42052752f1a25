// Many callers at once: one kernel asked for by 64 threads is made once, one plan executes in 64 threads, and a forked
// child can plan and execute. Runs under ThreadSanitizer too.
#include "api.h"

#include "../runtime/fork.h"
#include "../runtime/workspace.h"

#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include "child.h"

enum { THREADS = 64 };

// Starts THREADS threads that run f(arg of its own) after all have been created, and waits for them.
struct start {
  pthread_barrier_t barrier;
  void (*f)(int index, void *shared);
  void *shared;
  atomic_int index;
};
static void *started(void *argument) {
  struct start *s = argument;
  int index = atomic_fetch_add(&s->index, 1);
  pthread_barrier_wait(&s->barrier);
  s->f(index, s->shared);
  return NULL;
}
static void in_threads(void (*f)(int, void *), void *shared) {
  struct start s = {.f = f, .shared = shared};
  pthread_t thread[THREADS];
  assert_int_equal(pthread_barrier_init(&s.barrier, NULL, THREADS), 0);
  for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&thread[i], NULL, started, &s), 0);
  for (int i = 0; i < THREADS; i++) pthread_join(thread[i], NULL);
  pthread_barrier_destroy(&s.barrier);
}

// ---- the table alone, with a maker of ours ----

struct maker {
  struct kernel_table table;
  atomic_int calls, fresh, failed;
  bool fails;
  const struct compiled_kernel *got[THREADS];
};

static int slow_make(void *arg, struct compiled_kernel *out, struct error *err) {
  struct maker *m = arg;
  atomic_fetch_add(&m->calls, 1);
  usleep(20000);                                                     // long enough for the others to come and wait
  if (m->fails) return (fail)(err, STROBE_INTERNAL, "made to fail"); // not the macro of cmocka
  out->source = strdup("text");
  return STROBE_OK;
}

static void ask(int index, void *shared) {
  struct maker *m = shared;
  struct error err = {0};
  bool fresh;
  int status = kernel_table_get(&m->table, "key", slow_make, m, &m->got[index], &fresh, &err);
  atomic_fetch_add(&m->fresh, fresh);
  if (status == STROBE_INTERNAL && !strcmp(err.text, "made to fail")) atomic_fetch_add(&m->failed, 1);
}

static void test_made_once(void **state) {
  (void)state;
  struct maker m = {0};
  assert_int_equal(kernel_table_init(&m.table, NULL), 0);
  in_threads(ask, &m);
  assert_int_equal(m.calls, 1);
  assert_int_equal(m.fresh, 1);
  assert_int_equal(kernel_table_makes(&m.table), 1);
  for (int i = 0; i < THREADS; i++) assert_ptr_equal(m.got[i], m.got[0]);
  assert_string_equal(m.got[0]->source, "text");
  kernel_table_free(&m.table);
}

static void test_failure_is_forgotten(void **state) {
  (void)state;
  struct maker m = {.fails = true};
  assert_int_equal(kernel_table_init(&m.table, NULL), 0);
  in_threads(ask, &m);
  assert_int_equal(m.failed, THREADS);
  assert_int_equal(m.fresh, 0);
  assert_true(m.calls >= 1 && m.calls < THREADS); // those who waited did not try again
  int before = m.calls;
  m.fails = false;
  ask(0, &m);
  assert_int_equal(m.calls, before + 1);
  assert_int_equal(m.fresh, 1);
  kernel_table_free(&m.table);
}

static int make_that_waits(void *arg, struct compiled_kernel *out, struct error *err) {
  atomic_int *phase = arg;
  (void)out, (void)err;
  atomic_store(phase, 1);
  while (atomic_load(phase) != 2) usleep(1000);
  return STROBE_OK;
}
struct unfinished {
  struct kernel_table table;
  atomic_int phase;
};
static void *make_slowly(void *arg) {
  struct unfinished *u = arg;
  const struct compiled_kernel *k;
  bool fresh;
  kernel_table_get(&u->table, "slow", make_that_waits, &u->phase, &k, &fresh, NULL);
  return NULL;
}
static int make_at_once(void *arg, struct compiled_kernel *out, struct error *err) {
  (void)arg, (void)out, (void)err;
  return STROBE_OK;
}
static bool made_in_child(struct unfinished *u, const char *key) {
  const struct compiled_kernel *k;
  bool first, second;
  return !kernel_table_get(&u->table, key, make_at_once, NULL, &k, &first, NULL) && first &&
         !kernel_table_get(&u->table, key, make_at_once, NULL, &k, &second, NULL) && !second;
}
static bool make_again(void *arg) { return made_in_child(arg, "slow"); }
static bool make_another(void *arg) { return made_in_child(arg, "another"); }
static bool make_in_grandchild(void *arg) {
  return make_again(arg) && child_does(make_another, arg) && make_another(arg);
}

// The thread that makes a kernel does not exist in the child: the child must not wait for it.
static void test_fork_while_making(void **state) {
  (void)state;
  struct unfinished u = {.phase = 0};
  pthread_t thread;
  assert_int_equal(kernel_table_init(&u.table, NULL), 0);
  assert_int_equal(pthread_create(&thread, NULL, make_slowly, &u), 0);
  while (atomic_load(&u.phase) != 1) usleep(1000);
  assert_true(child_does(make_again, &u));
  assert_true(child_does(make_in_grandchild, &u));
  atomic_store(&u.phase, 2);
  pthread_join(thread, NULL);
  kernel_table_free(&u.table);
}

// ---- plans ----

struct planning {
  strobe_context *ctx;
  strobe_plan *plan[THREADS];
};
static void plan_one(int index, void *shared) {
  struct planning *p = shared;
  // Two problems of one instance, and one of another.
  static const char *const problems[] = {"d64:f32:h2q64k64", "d64:f32:h3q64k64", "d64:f32:causal:h2q64k64"};
  strobe_plan_create(p->ctx, problems[index % 3], NULL, &p->plan[index]);
}

static void test_planning_compiles_once(void **state) {
  (void)state;
  struct planning p = {0};
  assert_ok(strobe_context_create(&pool_options, &p.ctx));
  in_threads(plan_one, &p);
  int makes = kernel_table_makes(&p.ctx->kernels), fresh = 0;
  for (int i = 0; i < THREADS; i++) {
    assert_non_null(p.plan[i]);
    fresh += p.plan[i]->fresh;
    assert_ptr_equal(p.plan[i]->kernel, p.plan[i % 3 < 2 ? 0 : 2]->kernel);
  }
  const char *backend = p.plan[0]->backend;
  for (int i = 0; i < THREADS; i++) strobe_plan_destroy(p.plan[i]);
  // Where the first backend cannot work every plan tries it again.
  if (!strcmp(backend, "code")) {
    assert_int_equal(fresh, 2);
    assert_int_equal(makes, 2);
  }
  strobe_context_destroy(p.ctx);
}

struct executing {
  const strobe_plan *plan;
  struct tensors tensors;
  void *o[THREADS], *lse[THREADS];
  atomic_int failures;
};
static void execute_one(int index, void *shared) {
  struct executing *e = shared;
  struct strobe_io io = io_of(&e->tensors);
  io.o.data = e->o[index];
  io.lse = e->lse[index];
  for (int i = 0; i < 2; i++)
    if (strobe_execute(e->plan, &io)) atomic_fetch_add(&e->failures, 1);
}

static void test_one_plan_in_many_threads(void **state) {
  (void)state;
  strobe_context *ctx;
  assert_ok(strobe_context_create(&pool_options, &ctx));
  strobe_plan *plan = plan_with(ctx, "d64:bf16:causal:b1h2q70k90", NULL);
  struct executing e = {.plan = plan, .tensors = tensors_of(plan, LAYOUT_BNHD, 0)};
  const size_t bytes = e.tensors.bytes[TENSOR_O], lse_bytes = e.tensors.bytes[TENSOR_LSE];
  for (int i = 0; i < THREADS; i++) {
    e.o[i] = calloc(1, bytes);
    e.lse[i] = calloc(1, lse_bytes);
    assert_true(e.o[i] && e.lse[i]);
  }
  in_threads(execute_one, &e);
  assert_int_equal(e.failures, 0);
  for (int i = 0; i < THREADS; i++) {
    assert_memory_equal(e.o[i], e.o[0], bytes);
    assert_memory_equal(e.lse[i], e.lse[0], lse_bytes);
  }
  memcpy(e.tensors.args.o.data, e.o[0], bytes);
  memcpy(e.tensors.args.lse, e.lse[0], lse_bytes);
  check_result(plan, LAYOUT_BNHD, 0, &e.tensors);
  for (int i = 0; i < THREADS; i++) free(e.o[i]), free(e.lse[i]);
  tensors_free(&e.tensors);
  strobe_plan_destroy(plan);
  strobe_context_destroy(ctx);
}

static void fail_in_thread(int index, void *shared) {
  char want[64];
  struct strobe_io io = {.size = (size_t)index + 1};
  strobe_execute(((struct executing *)shared)->plan, &io);
  usleep(1000);
  snprintf(want, sizeof want, "io.size %d:", index + 1);
  if (strncmp(strobe_error(), want, strlen(want))) atomic_fetch_add(&((struct executing *)shared)->failures, 1);
}

static void test_message_is_per_thread(void **state) {
  (void)state;
  strobe_context *ctx;
  assert_ok(strobe_context_create(&pool_options, &ctx));
  strobe_plan *plan = plan_with(ctx, "d32:f32:q1", "reference");
  struct executing e = {.plan = plan};
  in_threads(fail_in_thread, &e);
  assert_int_equal(e.failures, 0);
  strobe_plan_destroy(plan);
  strobe_context_destroy(ctx);
}

// Work that does not depend on how it is shared out: 1 worker and 3 workers give the same bits.
static void same_bits_for_any_workers(const char *problem, const char *config) {
  const struct strobe_context_options options[] = {
      {.size = sizeof *options, .n_workers = 1}, pool_options,
      {.size = sizeof *options, .n_workers = 2}, {.size = sizeof *options, .n_workers = 3},
      {.size = sizeof *options, .n_workers = 8},
  };
  void *first = NULL;
  for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
    const struct strobe_plan_options o = {.size = sizeof o, .config = config};
    strobe_context *ctx;
    strobe_plan *plan;
    assert_ok(strobe_context_create(&options[i], &ctx));
    assert_ok(strobe_plan_create(ctx, problem, &o, &plan));
    struct tensors t = tensors_of(plan, LAYOUT_BNHD, 0);
    struct strobe_io io = io_of(&t);
    if (ctx->pool) pool_ended(ctx->pool, INT64_MAX / 2); // shares out small work too
    assert_ok(strobe_execute(plan, &io));
    if (!first) {
      first = malloc(t.bytes[TENSOR_O]);
      assert_non_null(first);
      memcpy(first, t.args.o.data, t.bytes[TENSOR_O]);
    }
    assert_memory_equal(first, t.args.o.data, t.bytes[TENSOR_O]);
    tensors_free(&t);
    strobe_plan_destroy(plan);
    strobe_context_destroy(ctx);
  }
  free(first);
}

static void test_workers_do_not_change_bits(void **state) {
  (void)state;
  same_bits_for_any_workers("d64:f32:b2h3q100k200", NULL);
  same_bits_for_any_workers("d64:bf16:causal:b2h8/4q300k200", NULL); // two workers: four KV heads and more for each
  same_bits_for_any_workers("d64:f32:causal:b2h4q300k200", NULL);
  if (!STROBE_TCC) return; // kernels that are not compiled into the library
  // More keys than each worker copies to its scratch memory: by vectors, V, and K too where it is not wanted early.
  same_bits_for_any_workers("d256:f32:causal:b2h4q300k300", "kernel=prefill,stages=2");
  same_bits_for_any_workers("d256:f32:causal:b2h4q300k300", "kernel=prefill,stages=1");
  same_bits_for_any_workers("d64:bf16:causal:b2h8/2q3k700", "kernel=decode,split=64,block_h=1");
}

// ---- fork ----

struct forked {
  strobe_context *ctx;
  strobe_plan *plan;
  struct tensors t;
};
static bool execute_and_plan(void *arg) {
  struct forked *f = arg;
  struct strobe_io io = io_of(&f->t);
  tensors_poison(&f->t);
  if (strobe_execute(f->plan, &io) || is_poison(DT_F32, f->t.args.o.data, 0)) return false; // the parent's plan
  strobe_plan *plan;
  if (strobe_plan_create(f->ctx, "d32:f32:causal:h4q64k64", NULL, &plan)) return false; // one of its own
  struct tensors t = tensors_of(plan, LAYOUT_BHND, 0);
  io = io_of(&t);
  if (strobe_execute(plan, &io)) return false;
  check_result(plan, LAYOUT_BHND, 0, &t);
  tensors_free(&t);
  strobe_plan_destroy(plan);
  strobe_plan_destroy(f->plan);
  tensors_free(&f->t);
  strobe_context_destroy(f->ctx);
  return true;
}

static void test_fork_with_threads(void **state) {
  (void)state;
  const struct strobe_context_options two = {.size = sizeof two, .n_workers = 2}; // with a thread that a fork loses
  struct forked f;
  assert_ok(strobe_context_create(&two, &f.ctx));
  f.plan = plan_with(f.ctx, "d64:f32:h4q64k64", NULL);
  f.t = tensors_of(f.plan, LAYOUT_BNHD, 0);
  struct strobe_io io = io_of(&f.t);
  assert_ok(strobe_execute(f.plan, &io));
  assert_true(child_does(execute_and_plan, &f));
  assert_ok(strobe_execute(f.plan, &io)); // and the parent goes on
  check_result(f.plan, LAYOUT_BNHD, 0, &f.t);
  tensors_free(&f.t);
  strobe_plan_destroy(f.plan);
  strobe_context_destroy(f.ctx);
}

struct busy {
  strobe_context *ctx;
  atomic_bool stop;
};
static void *compile_forever(void *arg) {
  struct busy *b = arg;
  for (int i = 0; !atomic_load(&b->stop); i++) {
    char config[32];
    snprintf(config, sizeof config, "block_n=%d", 16 + i % 15 * 16);
    const struct strobe_plan_options o = {.size = sizeof o, .config = config};
    strobe_plan *plan;
    if (!strobe_plan_create(b->ctx, "d32:f32:h1q8k8", &o, &plan)) strobe_plan_destroy(plan);
  }
  return NULL;
}
static bool plan_in_child(void *arg) {
  struct busy *b = arg;
  strobe_plan *plan;
  if (strobe_plan_create(b->ctx, "d64:f32:h1q8k8", NULL, &plan)) return false;
  strobe_plan_destroy(plan);
  return true;
}

static void *look_up_forever(void *arg) {
  struct busy *b = arg;
  while (!atomic_load(&b->stop)) plan_in_child(b);
  return NULL;
}

static void fork_beside(void *(*thread_does)(void *), int forks) {
  struct busy b = {.stop = false};
  pthread_t thread;
  assert_ok(strobe_context_create(&pool_options, &b.ctx));
  assert_int_equal(pthread_create(&thread, NULL, thread_does, &b), 0);
  for (int i = 0; i < forks; i++) assert_true(child_does(plan_in_child, &b));
  atomic_store(&b.stop, true);
  pthread_join(thread, NULL);
  strobe_context_destroy(b.ctx);
}

// Whatever another thread of the parent is in the middle of, rendering, compiling or looking up a kernel or a tuning
// record, the child can plan.
static void test_fork_while_compiling(void **state) {
  (void)state;
#ifdef __SANITIZE_ADDRESS__
  skip(); // its allocator, unlike glibc's, may be left locked in the child of a process with threads
#endif
  fork_beside(compile_forever, 20);
  fork_beside(look_up_forever, 60);
}

static bool borrow(void *arg) { return workspace_borrow(arg) != NULL; }

// What a thread had at the fork is nobody's in the child.
static void test_fork_while_executing(void **state) {
  (void)state;
  struct workspace *w;
  assert_int_equal(fork_watch(NULL), 0);
  assert_int_equal(workspace_create(100, &w, NULL), 0);
  assert_non_null(workspace_borrow(w));
  assert_null(workspace_borrow(w));
  assert_true(child_does(borrow, w));
  assert_null(workspace_borrow(w));
  workspace_return(w);
  assert_non_null(workspace_borrow(w));
  workspace_free(w);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_made_once),
      cmocka_unit_test(test_failure_is_forgotten),
      cmocka_unit_test(test_fork_while_making),
      cmocka_unit_test(test_planning_compiles_once),
      cmocka_unit_test(test_one_plan_in_many_threads),
      cmocka_unit_test(test_message_is_per_thread),
      cmocka_unit_test(test_workers_do_not_change_bits),
      cmocka_unit_test(test_fork_with_threads),
      cmocka_unit_test(test_fork_while_compiling),
      cmocka_unit_test(test_fork_while_executing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
