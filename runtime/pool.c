#include "pool.h"

#include "fork.h"
#include "openmp.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { CHUNKS_PER_WORKER = 8, CHUNK_MAX = 8, SPINS = 2000, WARM_NS = 20000 };

// One call of parallel_for, on its caller's stack and on the pool's list until nobody works on it any more.
struct job {
  strobe_body *body;
  void *arg;
  int64_t n, size, chunks;
  atomic_llong next; // chunk that nobody has taken
  int joined;        // workers so far, the caller among them: the number of the next one
  atomic_int active; // workers beside the caller that have not left yet
  struct job *behind;
};

struct pool {
  pthread_mutex_t lock;      // of jobs, joined, n_threads and stop
  pthread_cond_t work, left; // a job has come; the last worker has left a job
  struct job *jobs;
  atomic_uint posted;  // jobs ever: what a worker that has just run out of work watches for a while
  atomic_int watching; // workers that do
  atomic_llong ended;  // when small work last did, by pool_clock
  int n_workers, n_threads, generation, spins;
  bool stop, has_openmp;
  struct openmp openmp;
  pthread_t thread[];
};

static void pause_cpu(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// ---- workers ------------------------------------------------------------------------------------

static void run_chunks(struct job *j, int worker) {
  for (int64_t c; (c = atomic_fetch_add(&j->next, 1)) < j->chunks;) {
    const int64_t first = c * j->size;
    j->body(j->arg, first, j->n - first < j->size ? j->n : first + j->size, worker);
  }
}

static struct job *open_job(const struct pool *p) {
  struct job *j = p->jobs;
  while (j && (j->joined >= p->n_workers || atomic_load(&j->next) >= j->chunks)) j = j->behind;
  return j;
}

// The next step of the same execution is a few microseconds away, sooner than the kernel wakes a thread.
static void wait_for_work(struct pool *p) {
  const unsigned seen = atomic_load(&p->posted);
  pthread_mutex_unlock(&p->lock);
  atomic_fetch_add(&p->watching, 1);
  for (int i = 0; i < p->spins && atomic_load(&p->posted) == seen; i++) pause_cpu();
  atomic_fetch_sub(&p->watching, 1);
  pthread_mutex_lock(&p->lock);
  if (!p->stop && !open_job(p)) pthread_cond_wait(&p->work, &p->lock);
}

static void *worker_main(void *arg) {
  struct pool *p = arg;
  pthread_mutex_lock(&p->lock);
  while (!p->stop) {
    struct job *j = open_job(p);
    if (!j) {
      wait_for_work(p);
      continue;
    }
    const int worker = j->joined++;
    atomic_fetch_add(&j->active, 1);
    pthread_mutex_unlock(&p->lock);
    run_chunks(j, worker);
    pthread_mutex_lock(&p->lock);
    if (atomic_fetch_sub(&j->active, 1) == 1) pthread_cond_broadcast(&p->left);
  }
  pthread_mutex_unlock(&p->lock);
  return NULL;
}

// It takes no signal of the host's.
static bool create_thread(pthread_t *thread, void *(*run)(void *), void *arg) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int failed = pthread_create(thread, NULL, run, arg);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return !failed;
}

// Up to `wanted` threads, or as many as can be had; the next call tries again.
static void start_threads(struct pool *p, int64_t wanted) {
  while (p->n_threads < wanted && create_thread(&p->thread[p->n_threads], worker_main, p))
    pthread_setname_np(p->thread[p->n_threads++], "strobe");
}

// ---- OpenMP's threads ---------------------------------------------------------------------------

// Workers for which OpenMP has had threads when this thread called it: each thread that does has a team of its own.
static _Thread_local int team;

static void *wait_once(void *lock) {
  pthread_mutex_lock(lock);
  pthread_mutex_unlock(lock);
  return NULL;
}

// All at the same time, as libgomp ends the process if one of its threads can't start. The caller holds the lock.
static bool threads_can_be_had(struct pool *p, int wanted) {
  pthread_t *const thread = calloc((size_t)wanted, sizeof *thread);
  int n = 0;
  while (thread && n < wanted && create_thread(&thread[n], wait_once, &p->lock)) n++;
  pthread_mutex_unlock(&p->lock);
  for (int i = 0; i < n; i++) pthread_join(thread[i], NULL);
  pthread_mutex_lock(&p->lock);
  free(thread);
  return n == wanted;
}

static void nothing(void *arg) { (void)arg; }

// Whether this thread has a team from now on, which libgomp cuts to the size of the last region: so to this pool's. The
// caller holds the lock.
static bool start_team(struct pool *p) {
  if (!p->has_openmp || p->openmp.in_parallel()) return false;
  if (team < p->n_workers && !threads_can_be_had(p, p->n_workers - 1)) return false;
  p->openmp.parallel(nothing, NULL, (unsigned)p->n_workers, 0);
  if (team < p->n_workers) team = p->n_workers;
  return true;
}

struct region {
  struct job job;
  atomic_int workers;
};

static void run_in_region(void *arg) {
  struct region *r = arg;
  run_chunks(&r->job, atomic_fetch_add(&r->workers, 1));
}

// ---- callers ------------------------------------------------------------------------------------

static int64_t helpers_for(const struct pool *p, int64_t chunks) {
  return (chunks < p->n_workers ? chunks : p->n_workers) - 1;
}

static void post(struct pool *p, struct job *j) {
  pthread_mutex_lock(&p->lock);
  const int64_t helpers = helpers_for(p, j->chunks);
  start_threads(p, helpers);
  j->behind = p->jobs;
  p->jobs = j;
  atomic_fetch_add(&p->posted, 1);
  if (helpers >= p->n_threads)
    pthread_cond_broadcast(&p->work);
  else
    for (int64_t i = 0; i < helpers; i++) pthread_cond_signal(&p->work);
  pthread_mutex_unlock(&p->lock);
}

static void withdraw(struct pool *p, struct job *j) {
  for (int i = 0; i < p->spins && atomic_load(&j->active); i++) pause_cpu();
  pthread_mutex_lock(&p->lock);
  struct job **link = &p->jobs;
  while (*link != j) link = &(*link)->behind;
  *link = j->behind;
  while (atomic_load(&j->active)) pthread_cond_wait(&p->left, &p->lock);
  pthread_mutex_unlock(&p->lock);
}

// Neighbouring items share K and V, so a chunk is worth having; few enough items to a chunk that the last ones balance.
static int64_t chunk_size(const struct pool *p, int64_t n) {
  const int64_t size = n / p->n_workers / CHUNKS_PER_WORKER;
  return size < 1 ? 1 : size > CHUNK_MAX ? CHUNK_MAX : size;
}

void pool_start(struct pool *p, int64_t n) {
  if (n <= 1 || p->n_workers == 1 || p->generation != fork_generation()) return;
  const int64_t size = chunk_size(p, n);
  pthread_mutex_lock(&p->lock);
  if (!start_team(p)) start_threads(p, helpers_for(p, n / size + (n % size != 0)));
  pthread_mutex_unlock(&p->lock);
}

void pool_parallel_for(void *context, int64_t n, strobe_body *body, void *arg) {
  struct pool *p = context;
  const int64_t size = chunk_size(p, n);
  struct job j = {.body = body, .arg = arg, .n = n, .size = size, .chunks = n / size + (n % size != 0), .joined = 1};
  if (j.chunks <= 1 || p->n_workers == 1 || p->generation != fork_generation() ||
      (p->has_openmp && p->openmp.in_parallel())) {
    if (n > 0) body(arg, 0, n, 0);
    return;
  }
  if (p->has_openmp && team >= p->n_workers) {
    struct region r = {.job = j};
    p->openmp.parallel(run_in_region, &r, (unsigned)p->n_workers, 0);
    return;
  }
  post(p, &j);
  run_chunks(&j, 0);
  withdraw(p, &j);
}

int64_t pool_clock(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

bool pool_is_warm(struct pool *p, int64_t now) {
  return atomic_load(&p->watching) > 0 || now - atomic_load(&p->ended) < WARM_NS;
}

void pool_ended(struct pool *p, int64_t now) { atomic_store(&p->ended, now); }

// ---- the pool -----------------------------------------------------------------------------------

// A CPU set of the size that this kernel needs, which may be more than cpu_set_t has room for.
static int allowed_cpus(void) {
  cpu_set_t few;
  int n = sched_getaffinity(0, sizeof few, &few) ? 0 : CPU_COUNT(&few);
  for (int room = 2 * CPU_SETSIZE; !n && errno == EINVAL && room <= 1 << 20; room *= 2) {
    cpu_set_t *set = CPU_ALLOC((size_t)room);
    const size_t bytes = CPU_ALLOC_SIZE((size_t)room);
    n = !set || sched_getaffinity(0, bytes, set) ? 0 : CPU_COUNT_S(bytes, set);
    CPU_FREE(set);
  }
  const long online = n ? n : sysconf(_SC_NPROCESSORS_ONLN);
  return online > 0 && online < 1 << 20 ? (int)online : 1;
}

int pool_default_workers(void) {
  struct openmp openmp;
  if (openmp_find(&openmp)) return openmp.max_threads();
  const char *text = getenv("OMP_NUM_THREADS"); // what a user of any numerical library sets; may be a list, by level
  char *end;
  const long n = text ? strtol(text, &end, 10) : 0;
  return n > 0 && n < 1 << 20 && (*end == 0 || *end == ',') ? (int)n : allowed_cpus();
}

int pool_create(int n_workers, struct pool **out, struct error *err) {
  *out = NULL;
  int status = fork_watch(err);
  if (status) return status;
  struct pool *p = calloc(1, sizeof *p + (size_t)n_workers * sizeof *p->thread);
  if (!p) return fail(err, STROBE_NO_MEMORY, "no memory for %d workers", n_workers);
  p->n_workers = n_workers;
  atomic_store(&p->ended, INT64_MIN / 2);
  p->generation = fork_generation();
  p->has_openmp = n_workers > 1 && openmp_find(&p->openmp);
  p->spins = n_workers <= allowed_cpus() ? SPINS : 0; // who spins where CPUs are short keeps others from working
  pthread_mutex_init(&p->lock, NULL);                 // of default kind: glibc and musl do not fail here
  pthread_cond_init(&p->work, NULL);
  pthread_cond_init(&p->left, NULL);
  *out = p;
  return STROBE_OK;
}

int pool_threads(struct pool *p) {
  pthread_mutex_lock(&p->lock);
  const int n = p->n_threads;
  pthread_mutex_unlock(&p->lock);
  return n;
}

void pool_destroy(struct pool *p) {
  if (!p) return;
  if (p->generation == fork_generation()) { // else threads, lock and waiters are those of another process
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < p->n_threads; i++) pthread_join(p->thread[i], NULL);
    pthread_cond_destroy(&p->left);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
  }
  free(p);
}
