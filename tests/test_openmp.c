// The default parallel-for in a program that has loaded OpenMP: on OpenMP's threads, and not where libgomp would end
// the process or wait for ever.
#include "api.h"

#include "../runtime/context.h"
#include "../runtime/openmp.h"
#include "../runtime/pool.h"

#include <dirent.h>
#include <dlfcn.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS = 4, ITEMS = 1000, THREADS_MAX = 64 };
enum { CHILD_OK, CHILD_BAD, CHILD_SKIP };

static const char *program;
static void (*set_num_threads)(int);
static void (*parallel)(void (*)(void *), void *, unsigned, unsigned);

static bool load(void) {
  void *const library = dlopen("libgomp.so.1", RTLD_NOW | RTLD_GLOBAL);
  if (!library) return false;
  *(void **)&set_num_threads = dlsym(library, "omp_set_num_threads");
  *(void **)&parallel = dlsym(library, "GOMP_parallel");
  return set_num_threads && parallel;
}

static struct pool *pool_of(int n_workers) {
  struct pool *p = NULL;
  struct error err = {0};
  if (pool_create(n_workers, &p, &err)) abort();
  return p;
}

// ---- who ran what ----

struct tally {
  struct pool *pool;
  atomic_int items[ITEMS], bad, workers, n_threads;
  _Atomic pid_t thread[THREADS_MAX];
};

static void note_thread(struct tally *t) {
  const pid_t me = gettid();
  for (int i = 0; i < t->n_threads; i++)
    if (t->thread[i] == me) return;
  const int at = atomic_fetch_add(&t->n_threads, 1);
  if (at < THREADS_MAX) t->thread[at] = me;
}

static bool has_thread(const struct tally *t, pid_t id) {
  for (int i = 0; i < t->n_threads; i++)
    if (t->thread[i] == id) return true;
  return false;
}

static void count(void *arg, int64_t first, int64_t last, int worker) {
  struct tally *t = arg;
  if (worker < 0 || worker >= WORKERS) atomic_fetch_add(&t->bad, 1);
  atomic_fetch_or(&t->workers, 1 << worker);
  note_thread(t);
  for (int64_t i = first; i < last; i++) atomic_fetch_add(&t->items[i], 1);
  usleep(20);
}

static bool each_once(const struct tally *t) {
  for (int i = 0; i < ITEMS; i++)
    if (t->items[i] != 1) return false;
  return !t->bad;
}

static void stay(void *arg) {
  note_thread(arg);
  usleep(1000);
}

static int tasks(void) {
  int n = 0;
  DIR *d = opendir("/proc/self/task");
  for (struct dirent *e; d && (e = readdir(d));) n += *e->d_name != '.';
  if (d) closedir(d);
  return n;
}

// ---- in a program with OpenMP ----

static void test_threads_are_openmps(void **state) {
  (void)state;
  struct pool *p = pool_of(WORKERS);
  struct tally region = {0}, first = {0}, again = {0};
  pool_start(p, ITEMS);
  const int before = tasks();
  parallel(stay, &region, WORKERS, 0);
  assert_int_equal(region.n_threads, WORKERS);
  pool_parallel_for(p, ITEMS, count, &first);
  pool_parallel_for(p, ITEMS, count, &again);
  assert_true(each_once(&first) && each_once(&again));
  assert_int_equal(first.workers, (1 << WORKERS) - 1);
  for (int i = 0; i < first.n_threads; i++) assert_true(has_thread(&region, first.thread[i]));
  assert_int_equal(pool_threads(p), 0);
  assert_int_equal(tasks(), before);
  pool_destroy(p);
}

static void test_workers_are_openmps(void **state) {
  (void)state;
  set_num_threads(3);
  assert_int_equal(pool_default_workers(), 3);
  set_num_threads(2);
  assert_int_equal(pool_default_workers(), 2);
}

static void *from_another(void *arg) {
  struct tally *t = arg;
  pool_parallel_for(t->pool, ITEMS, count, t);
  return NULL;
}

// A thread that has made no plan has no team, and starts none while it executes: a server may have many.
static void test_another_thread_has_the_pools(void **state) {
  (void)state;
  struct tally region = {0}, t = {.pool = pool_of(WORKERS)};
  pthread_t thread;
  pool_start(t.pool, ITEMS);
  parallel(stay, &region, WORKERS, 0);
  assert_int_equal(pthread_create(&thread, NULL, from_another, &t), 0);
  pthread_join(thread, NULL);
  assert_true(each_once(&t));
  for (int i = 0; i < t.n_threads; i++) assert_false(has_thread(&region, t.thread[i]));
  assert_int_equal(pool_threads(t.pool), WORKERS - 1);
  pool_destroy(t.pool);
}

static void inside(void *arg) {
  struct tally *const all = arg, mine = {.pool = all->pool};
  pool_parallel_for(all->pool, ITEMS, count, &mine);
  if (!each_once(&mine) || mine.workers != 1) atomic_fetch_add(&all->bad, 1);
}

static void test_in_a_region_the_caller_is_alone(void **state) {
  (void)state;
  struct tally t = {.pool = pool_of(WORKERS)};
  parallel(inside, &t, 2, 0);
  pool_start(t.pool, ITEMS);
  parallel(inside, &t, 2, 0);
  assert_int_equal(t.bad, 0);
  pool_destroy(t.pool);
}

static void test_same_bits(void **state) {
  (void)state;
  static const int workers[] = {1, 2, 4};
  struct tensors t[3];
  for (int i = 0; i < 3; i++) {
    const struct strobe_context_options o = {.size = sizeof o, .n_workers = workers[i]};
    strobe_context *ctx;
    assert_ok(strobe_context_create(&o, &ctx));
    strobe_plan *plan = plan_with(ctx, "d64:f32:causal:b2h6/2q200k300", NULL);
    t[i] = tensors_of(plan, LAYOUT_BNHD, 0);
    const struct strobe_io io = io_of(&t[i]);
    const int before = tasks();
    assert_ok(strobe_execute(plan, &io));
    assert_int_equal(tasks(), before);
    assert_int_equal(pool_threads(ctx->pool), 0);
    check_result(plan, LAYOUT_BNHD, 0, &t[i]);
    assert_memory_equal(t[i].args.o.data, t[0].args.o.data, sizeof(float) * 2 * 6 * 200 * 64);
    strobe_plan_destroy(plan);
    strobe_context_destroy(ctx);
  }
  for (int i = 0; i < 3; i++) tensors_free(&t[i]);
}

// ---- other processes ----

// What the parent has of OpenMP would never answer.
static int forked(struct pool *of_parent) {
  struct openmp o;
  struct tally t = {0}, u = {0};
  alarm(20);
  if (openmp_find(&o)) return CHILD_BAD;
  pool_parallel_for(of_parent, ITEMS, count, &t);
  struct pool *own = pool_of(WORKERS);
  pool_start(own, ITEMS);
  pool_parallel_for(own, ITEMS, count, &u);
  return each_once(&t) && t.workers == 1 && each_once(&u) && pool_threads(own) == WORKERS - 1 ? CHILD_OK : CHILD_BAD;
}

static int result_of(pid_t pid) {
  int status = 0;
  assert_true(pid > 0 && waitpid(pid, &status, 0) == pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : CHILD_BAD;
}

static void test_forked_child(void **state) {
  (void)state;
  struct pool *p = pool_of(WORKERS);
  struct tally t = {0};
  pool_start(p, ITEMS);
  pool_parallel_for(p, ITEMS, count, &t);
  fflush(NULL);
  const pid_t pid = fork();
  if (pid == 0) _exit(forked(p));
  assert_int_equal(result_of(pid), CHILD_OK);
  pool_destroy(p);
}

static int executes(int n_threads) {
  struct tally t = {0};
  struct pool *p = pool_of(WORKERS);
  pool_start(p, ITEMS);
  pool_parallel_for(p, ITEMS, count, &t);
  const bool ok = each_once(&t) && t.n_threads <= n_threads;
  pool_destroy(p);
  return ok ? CHILD_OK : CHILD_BAD;
}

// As a user who may have no second thread: not as root, whom the limit does not bind.
static int without_threads(void) {
  const struct rlimit none = {1, 1};
  pthread_t thread;
  struct tally t = {.pool = pool_of(1)};
  if ((geteuid() == 0 && setresuid(65534, 65534, 65534)) || setrlimit(RLIMIT_NPROC, &none)) return CHILD_SKIP;
  if (!pthread_create(&thread, NULL, from_another, &t)) _exit(CHILD_SKIP); // the limit does not bind here
  return executes(1);
}

static int run_self(const char *what, const char *variable, const char *value) {
  fflush(NULL);
  const pid_t pid = fork();
  if (pid == 0) {
    if (variable) setenv(variable, value, 1);
    execl(program, program, what, (char *)NULL);
    _exit(CHILD_BAD);
  }
  return result_of(pid);
}

static void test_no_threads_to_be_had(void **state) {
  (void)state;
  const int got = run_self("without", NULL, NULL);
  if (got == CHILD_SKIP) {
    print_message("note: RLIMIT_NPROC does not bind here\n");
    skip();
  }
  assert_int_equal(got, CHILD_OK);
}

// Fewer than a region asks for.
static void test_limits_of_openmp(void **state) {
  (void)state;
  assert_int_equal(run_self("few", "OMP_THREAD_LIMIT", "2"), CHILD_OK);
}

static void test_not_loaded(void **state) {
  (void)state;
  assert_int_equal(run_self("not loaded", NULL, NULL), CHILD_OK);
}

static int not_loaded(void) {
  struct openmp o;
  return openmp_find(&o) ? CHILD_BAD : executes(WORKERS);
}

int main(int argc, char **argv) {
  program = argv[0];
  if (argc > 1 && !strcmp(argv[1], "not loaded")) return not_loaded();
  if (!load()) {
    print_message("could not check: OpenMP's threads, without libgomp.so.1\n");
    return 0;
  }
  if (argc > 1) return strcmp(argv[1], "without") ? executes(2) : without_threads();
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_threads_are_openmps),
      cmocka_unit_test(test_workers_are_openmps),
      cmocka_unit_test(test_another_thread_has_the_pools),
      cmocka_unit_test(test_in_a_region_the_caller_is_alone),
      cmocka_unit_test(test_same_bits),
      cmocka_unit_test(test_forked_child),
      cmocka_unit_test(test_no_threads_to_be_had),
      cmocka_unit_test(test_limits_of_openmp),
      cmocka_unit_test(test_not_loaded),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
