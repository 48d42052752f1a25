// The default parallel-for: every item once, whoever calls, however many threads can be had, and after a fork.
#include "api.h"

#include "../runtime/pool.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS = 4, ITEMS = 1000 };

struct tally {
  struct pool *pool;
  atomic_int items[ITEMS], inside[WORKERS];
  atomic_int bad, workers; // bit per worker that ran
  int slow_us;
};

// Two bodies of one call in one worker would share its scratch.
static void count(void *arg, int64_t first, int64_t last, int worker) {
  struct tally *t = arg;
  if (worker < 0 || worker >= WORKERS || atomic_fetch_add(&t->inside[worker], 1)) {
    atomic_fetch_add(&t->bad, 1);
    return;
  }
  atomic_fetch_or(&t->workers, 1 << worker);
  for (int64_t i = first; i < last; i++) atomic_fetch_add(&t->items[i], 1);
  if (t->slow_us) usleep((useconds_t)t->slow_us);
  atomic_fetch_sub(&t->inside[worker], 1);
}

static bool each_once(const struct tally *t, int64_t n) {
  for (int64_t i = 0; i < ITEMS; i++)
    if (t->items[i] != (i < n)) return false;
  return !t->bad;
}

static struct pool *pool_of(int n_workers) {
  struct pool *p;
  struct error err = {0};
  if (pool_create(n_workers, &p, &err)) fail_msg("%s", err.text);
  return p;
}

static void test_every_item_once(void **state) {
  (void)state;
  static const int64_t sizes[] = {0, 1, 2, 3, 7, 31, 32, 33, 255, 999, 1000};
  for (int workers = 1; workers <= WORKERS; workers++) {
    struct pool *p = pool_of(workers);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
      struct tally t = {.slow_us = 0};
      pool_parallel_for(p, sizes[i], count, &t);
      assert_true(each_once(&t, sizes[i]));
      assert_true(t.workers >> workers == 0);
    }
    assert_true(pool_threads(p) < workers);
    pool_destroy(p);
  }
}

// A call starts no more threads than it has chunks for; all of them take part when items are slow, and the machine lets
// them.
static void test_threads_on_demand(void **state) {
  (void)state;
  struct pool *p = pool_of(WORKERS);
  struct tally one = {.slow_us = 0}, two = {.slow_us = 1000};
  int workers = 0;
  pool_parallel_for(p, 1, count, &one);
  assert_int_equal(pool_threads(p), 0);
  pool_parallel_for(p, 2, count, &two);
  assert_int_equal(pool_threads(p), 1);
  for (int i = 0; i < 100 && workers != (1 << WORKERS) - 1; i++) {
    struct tally many = {.slow_us = 1000};
    pool_parallel_for(p, 200, count, &many);
    assert_int_equal(pool_threads(p), WORKERS - 1);
    workers |= many.workers;
  }
  assert_int_equal(workers, (1 << WORKERS) - 1);
  pool_destroy(p);
  pool_destroy(pool_of(WORKERS)); // that never had anything to do
}

// Threads that are there before there is work.
static void test_start(void **state) {
  (void)state;
  struct pool *p = pool_of(WORKERS);
  pool_start(p, 1);
  assert_int_equal(pool_threads(p), 0);
  pool_start(p, 3);
  assert_int_equal(pool_threads(p), 2);
  pool_start(p, 1000);
  pool_start(p, 2);
  assert_int_equal(pool_threads(p), WORKERS - 1);
  struct tally t = {.slow_us = 10};
  pool_parallel_for(p, 100, count, &t);
  assert_true(each_once(&t, 100));
  pool_destroy(p);
}

// Small work is shared out while it comes in a row.
static void test_warm(void **state) {
  (void)state;
  struct pool *p = pool_of(WORKERS); // of which no thread is awake: none has started
  const int64_t now = pool_clock();
  assert_false(pool_is_warm(p, now));
  pool_ended(p, now);
  assert_true(pool_is_warm(p, now + 1000));
  assert_false(pool_is_warm(p, now + 1000000));
  pool_destroy(p);
}

struct caller {
  struct pool *pool;
  atomic_int failures;
};
static void *call_often(void *arg) {
  struct caller *c = arg;
  for (int i = 0; i < 50; i++) {
    struct tally t = {.slow_us = i % 10 ? 0 : 100};
    pool_parallel_for(c->pool, i * 20 % ITEMS, count, &t);
    if (!each_once(&t, i * 20 % ITEMS)) atomic_fetch_add(&c->failures, 1);
  }
  return NULL;
}

static void test_many_callers(void **state) {
  (void)state;
  struct caller c = {.pool = pool_of(WORKERS)};
  pthread_t thread[8];
  for (int i = 0; i < 8; i++) assert_int_equal(pthread_create(&thread[i], NULL, call_often, &c), 0);
  for (int i = 0; i < 8; i++) pthread_join(thread[i], NULL);
  assert_int_equal(c.failures, 0);
  pool_destroy(c.pool);
}

static void nested(void *arg, int64_t first, int64_t last, int worker) {
  struct tally *outer = arg, inner = {.slow_us = 10};
  count(outer, first, last, worker);
  pool_parallel_for(outer->pool, 100, count, &inner);
  if (!each_once(&inner, 100)) atomic_fetch_add(&outer->bad, 1);
}

static void test_nested(void **state) {
  (void)state;
  struct tally t = {.pool = pool_of(WORKERS)};
  pool_parallel_for(t.pool, 40, nested, &t);
  assert_true(each_once(&t, 40));
  pool_destroy(t.pool);
}

// ---- processes ----------------------------------------------------------------------------------

enum { CHILD_OK, CHILD_BAD, CHILD_SKIP };

static int in_child(int (*f)(void *), void *arg) {
  fflush(NULL);
  const pid_t pid = fork();
  if (pid == 0) {
    alarm(20);
    _exit(f(arg));
  }
  int status = 0;
  assert_true(pid > 0 && waitpid(pid, &status, 0) == pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : CHILD_BAD;
}

// As a user who may have no second thread: not as root, whom the limit does not bind.
static int executes_alone(void *arg) {
  (void)arg;
  const struct rlimit none = {1, 1};
  if ((geteuid() == 0 && setresuid(65534, 65534, 65534)) || setrlimit(RLIMIT_NPROC, &none)) return CHILD_SKIP;
  pthread_t thread;
  struct tally unused = {.slow_us = 0};
  if (!pthread_create(&thread, NULL, call_often, &unused)) _exit(CHILD_SKIP); // the limit does not bind here
  const struct strobe_context_options o = {.size = sizeof o, .n_workers = WORKERS};
  strobe_context *ctx;
  if (strobe_context_create(&o, &ctx)) return CHILD_BAD;
  strobe_plan *plan = plan_with(ctx, "d64:f32:causal:b2h3q100k200", NULL);
  struct tensors t = tensors_of(plan, LAYOUT_BNHD, 0);
  const struct strobe_io io = io_of(&t);
  if (strobe_execute(plan, &io) || pool_threads(ctx->pool)) return CHILD_BAD;
  check_result(plan, LAYOUT_BNHD, 0, &t);
  tensors_free(&t);
  strobe_plan_destroy(plan);
  strobe_context_destroy(ctx);
  return CHILD_OK;
}

static void test_no_threads_to_be_had(void **state) {
  (void)state;
  const int got = in_child(executes_alone, NULL);
  if (got == CHILD_SKIP) {
    print_message("note: RLIMIT_NPROC does not bind here\n");
    skip();
  }
  assert_int_equal(got, CHILD_OK);
}

// A pool of the parent works in the child, alone; one of the child's own has threads; freeing either waits for nobody.
static int use_both(void *arg) {
  struct tally t = {.slow_us = 1000}, u = {.slow_us = 1000};
  pool_parallel_for(arg, 100, count, &t);
  if (!each_once(&t, 100) || t.workers != 1) return CHILD_BAD;
  pool_destroy(arg);
#ifndef __SANITIZE_THREAD__ // it forbids threads in the child of a process with threads
  struct pool *own = pool_of(WORKERS);
  pool_parallel_for(own, 100, count, &u);
  if (!each_once(&u, 100) || pool_threads(own) != WORKERS - 1) return CHILD_BAD;
  pool_destroy(own);
#endif
  (void)u;
  return CHILD_OK;
}

// A pool of the parent that had no threads has none in the child, where nobody would wait for them.
static int starts_none(void *arg) {
  struct tally t = {.slow_us = 0};
  pool_start(arg, ITEMS);
  if (pool_threads(arg)) return CHILD_BAD;
  pool_parallel_for(arg, ITEMS, count, &t);
  return each_once(&t, ITEMS) && t.workers == 1 && !pool_threads(arg) ? CHILD_OK : CHILD_BAD;
}

static void test_fork_before_there_are_threads(void **state) {
  (void)state;
  struct pool *p = pool_of(WORKERS);
  assert_int_equal(in_child(starts_none, p), CHILD_OK);
  pool_start(p, ITEMS); // but in the parent
  assert_int_equal(pool_threads(p), WORKERS - 1);
  pool_destroy(p);
}

static void test_fork(void **state) {
  (void)state;
  struct pool *p = pool_of(WORKERS);
  struct tally before = {.slow_us = 100}, after = {.slow_us = 100};
  pool_parallel_for(p, 100, count, &before);
  for (int i = 0; i < 5; i++) assert_int_equal(in_child(use_both, p), CHILD_OK);
  pool_parallel_for(p, 100, count, &after);
  assert_true(each_once(&after, 100));
  pool_destroy(p);
}

static void test_default_workers(void **state) {
  (void)state;
  const char *was = getenv("OMP_NUM_THREADS");
  char *saved = was ? strdup(was) : NULL;
  unsetenv("OMP_NUM_THREADS");
  const int cpus = pool_default_workers();
  assert_in_range(cpus, 1, 1 << 20);
  static const struct {
    const char *text;
    int want; // 0: the CPUs
  } cases[] = {{"3", 3}, {"5,2", 5}, {"0", 0}, {"-1", 0}, {"3x", 0}, {"", 0}, {"99999999999999999999", 0}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    setenv("OMP_NUM_THREADS", cases[i].text, 1);
    assert_int_equal(pool_default_workers(), cases[i].want ? cases[i].want : cpus);
  }
  if (saved)
    setenv("OMP_NUM_THREADS", saved, 1);
  else
    unsetenv("OMP_NUM_THREADS");
  free(saved);
}

static void handled(int signal) { (void)signal; }

// A signal of the host goes to its own threads, which may have blocked it.
static void test_takes_no_signal(void **state) {
  (void)state;
  sigset_t usr1, before, pending;
  struct timespec none = {0, 0};
  struct pool *p = pool_of(WORKERS);
  struct sigaction action = {.sa_handler = handled}, was;
  sigemptyset(&usr1);
  sigaddset(&usr1, SIGUSR1);
  assert_int_equal(sigaction(SIGUSR1, &action, &was), 0);
  pool_start(p, ITEMS);
  assert_true(pool_threads(p) > 0);
  pthread_sigmask(SIG_BLOCK, &usr1, &before);
  assert_int_equal(kill(getpid(), SIGUSR1), 0);
  usleep(20000); // a thread that does not block it has it by now
  sigpending(&pending);
  assert_true(sigismember(&pending, SIGUSR1));
  assert_int_equal(sigtimedwait(&usr1, NULL, &none), SIGUSR1);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  sigaction(SIGUSR1, &was, NULL);
  pool_destroy(p);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_item_once),
      cmocka_unit_test(test_threads_on_demand),
      cmocka_unit_test(test_start),
      cmocka_unit_test(test_warm),
      cmocka_unit_test(test_many_callers),
      cmocka_unit_test(test_nested),
      cmocka_unit_test(test_no_threads_to_be_had),
      cmocka_unit_test(test_fork_before_there_are_threads),
      cmocka_unit_test(test_fork),
      cmocka_unit_test(test_default_workers),
      cmocka_unit_test(test_takes_no_signal),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
