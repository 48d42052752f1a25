#include "gpu_bench.h"

#include "gpu_driver.h"
#include "reference.h"

#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST_LAUNCHES = 30, MATRIX = 8192, PATTERN = 1 << 20 };
static const double burst_ms = 6;

struct device_case {
  unsigned long long memory; // q, k, v, o, lse one after the other
  struct strobe_args args;
  double *ms;
  int count;
};

// cublasGemmEx of libcublas, opened at run time.
struct matmul {
  void *handle;
  int (*gemm)(void *, int, int, int, int, int, const void *, const void *, int, int, const void *, int, int,
              const void *, void *, int, int, int, int);
  int (*destroy)(void *);
  unsigned long long memory;
  double *ms;
  int count;
};

struct bench {
  const struct gpu_driver *d;
  struct gpu_case *cases;
  struct device_case *at;
  struct matmul matmul;
  void *event[MOST_LAUNCHES + 1];
  int n, rounds;
};

static void pause_ms(long ms) { nanosleep(&(struct timespec){0, ms * 1000000}, NULL); }

// Sum of four uniforms: near enough to normal, standard deviation 1.
static void fill_pattern(enum dtype t, uint16_t *pattern) {
  uint64_t seed = 1;
  for (int i = 0; i < PATTERN; i++) {
    double sum = -2;
    for (int j = 0; j < 4; j++)
      sum += (double)((seed = seed * 6364136223846793005u + 1442695040888963407u) >> 40) / (double)(1 << 24);
    const float x = (float)(sum * sqrt(3));
    pattern[i] = t == DT_F16 ? f32_to_f16(x) : f32_to_bf16(x);
  }
}

static int fill(const struct gpu_driver *d, unsigned long long to, int64_t elements, const uint16_t *pattern,
                struct error *err) {
  int status = 0;
  for (int64_t at = 0; at < elements && !status; at += PATTERN - 4099) { // not the period of any row
    const int64_t left = elements - at, part = left < PATTERN ? left : PATTERN;
    status = GPU_CALL(d, memory_upload, to + 2 * (unsigned long long)at, pattern, 2 * (size_t)part);
  }
  return status;
}

static struct strobe_tensor packed(unsigned long long *at, int64_t batch, int64_t rows, int64_t heads, int64_t d) {
  const struct strobe_tensor t = {(void *)(uintptr_t)*at, rows * heads * d, d, heads * d};
  *at += (unsigned long long)(2 * batch * rows * heads * d + 255) / 256 * 256;
  return t;
}

static int make_tensors(struct bench *b, int i, uint16_t *pattern, struct error *err) {
  const struct problem *p = &b->cases[i].problem;
  const int64_t d = p->spec.head_dim, q = p->batch * p->q_len * p->heads * d,
                kv = p->batch * p->kv_len * p->heads_kv * d;
  const size_t bytes = (size_t)(2 * (2 * q + 2 * kv) + 4 * p->batch * p->heads * p->q_len) + 2048;
  struct device_case *c = &b->at[i];
  int status = GPU_CALL(b->d, memory_allocate, &c->memory, bytes);
  unsigned long long at = c->memory;
  if (status) return status;
  c->args = (struct strobe_args){.abi = STROBE_ABI,
                                 .size = sizeof c->args,
                                 .batch = p->batch,
                                 .heads = p->heads,
                                 .heads_kv = p->heads_kv,
                                 .q_len = p->q_len,
                                 .kv_len = p->kv_len,
                                 .diagonal = problem_diagonal(p),
                                 .scale = (float)(1 / sqrt((double)d))};
  c->args.q = packed(&at, p->batch, p->q_len, p->heads, d);
  c->args.k = packed(&at, p->batch, p->kv_len, p->heads_kv, d);
  c->args.v = packed(&at, p->batch, p->kv_len, p->heads_kv, d);
  const unsigned long long inputs_end = at;
  c->args.o = packed(&at, p->batch, p->q_len, p->heads, d);
  c->args.lse = (float *)(uintptr_t)at, c->args.lse_batch_stride = p->heads * p->q_len,
  c->args.lse_head_stride = p->q_len;
  fill_pattern(p->spec.kv, pattern);
  return fill(b->d, c->memory, (int64_t)(inputs_end - c->memory) / 2, pattern, err);
}

static void find_matmul(struct matmul *m) {
  static const char *const names[] = {"libcublas.so", "libcublas.so.13", "libcublas.so.12",
                                      "/usr/local/cuda/lib64/libcublas.so"};
  void *library = NULL, *create = NULL, *gemm = NULL, *destroy = NULL;
  for (size_t i = 0; i < sizeof names / sizeof *names && !library; i++)
    library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
  if (!library || !(create = dlsym(library, "cublasCreate_v2")) || !(gemm = dlsym(library, "cublasGemmEx")) ||
      !(destroy = dlsym(library, "cublasDestroy_v2")))
    return;
  int (*make)(void **);
  memcpy(&make, &create, sizeof make);
  memcpy(&m->gemm, &gemm, sizeof gemm);
  memcpy(&m->destroy, &destroy, sizeof destroy);
  if (make(&m->handle)) m->handle = NULL;
}

static int make_matmul(struct bench *b, uint16_t *pattern, struct error *err) {
  const int64_t elements = (int64_t)MATRIX * MATRIX;
  find_matmul(&b->matmul);
  if (!b->matmul.handle) return 0;
  fill_pattern(DT_BF16, pattern);
  int status = GPU_CALL(b->d, memory_allocate, &b->matmul.memory, (size_t)(6 * elements));
  return status ? status : fill(b->d, b->matmul.memory, 2 * elements, pattern, err);
}

// Launches case i, or the matrix product for i = n.
static int launch_one(struct bench *b, int i, struct error *err) {
  if (i < b->n) return gpu_kernel_enqueue(b->cases[i].kernel, &b->at[i].args, err);
  enum { BF16 = 14, COMPUTE_F32 = 68, DEFAULT = -1 };
  const float one = 1, none = 0;
  char *m = (char *)(uintptr_t)b->matmul.memory;
  const size_t bytes = 2 * (size_t)MATRIX * MATRIX;
  const int bad = b->matmul.gemm(b->matmul.handle, 0, 0, MATRIX, MATRIX, MATRIX, &one, m, BF16, MATRIX, m + bytes, BF16,
                                 MATRIX, &none, m + 2 * bytes, BF16, MATRIX, COMPUTE_F32, DEFAULT);
  return bad ? fail(err, STROBE_UNSUPPORTED, "cublasGemmEx failed with status %d", bad) : 0;
}

// One burst; the first of all is not counted.
static int burst(struct bench *b, int i, int launches, double *ms, int *count, struct error *err) {
  int status = GPU_CALL(b->d, event_record, b->event[0], NULL);
  for (int l = 0; l < launches && !status; l++) {
    status = launch_one(b, i, err);
    if (!status) status = GPU_CALL(b->d, event_record, b->event[l + 1], NULL);
  }
  if (!status) status = GPU_CALL(b->d, event_wait, b->event[launches]);
  for (int l = 0; l < launches && !status && ms; l++) {
    float elapsed = 0;
    status = GPU_CALL(b->d, event_elapsed, &elapsed, b->event[l], b->event[l + 1]);
    ms[(*count)++] = elapsed;
  }
  pause_ms(5);
  return status;
}

static int launches_of(const struct bench *b, int i) {
  const double flops = i < b->n ? problem_flops(&b->cases[i].problem) : 2.0 * MATRIX * MATRIX * MATRIX;
  const double wanted = burst_ms / (flops / 600e12 * 1e3);
  return wanted < 4 ? 4 : wanted > MOST_LAUNCHES ? MOST_LAUNCHES : (int)wanted;
}

static int measure(struct bench *b, const struct gpu_listener *listener, struct error *err) {
  const int all = b->n + (b->matmul.handle != NULL);
  int status = 0;
  for (int round = 0; round <= b->rounds && !status; round++)
    for (int i = 0; i < all && !status; i++) {
      const int which = (i + round) % all;
      if (listener->tell) listener->tell(listener->context, round ? round : 1, b->rounds, which < b->n ? which : 0);
      double *ms = which < b->n ? b->at[which].ms : b->matmul.ms;
      int *count = which < b->n ? &b->at[which].count : &b->matmul.count;
      status = burst(b, which, round ? launches_of(b, which) : 2, round ? ms : NULL, count, err);
    }
  return status;
}

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}
// Of sorted values.
static double quantile(const double *v, int n, double share) { return n ? v[(int)(share * (n - 1) + 0.5)] : 0; }

static int set_up(struct bench *b, bool with_matmul, struct error *err) {
  const size_t room = (size_t)b->rounds * MOST_LAUNCHES * sizeof(double);
  uint16_t *pattern = malloc(2 * PATTERN);
  b->at = calloc((size_t)b->n, sizeof *b->at);
  b->matmul.ms = malloc(room);
  int status = pattern && b->at && b->matmul.ms ? 0 : fail(err, STROBE_NO_MEMORY, "no memory for timings");
  for (int i = 0; i < b->n && !status; i++)
    if (!(b->at[i].ms = malloc(room))) status = fail(err, STROBE_NO_MEMORY, "no memory for timings");
  for (int i = 0; i <= MOST_LAUNCHES && !status; i++) status = GPU_CALL(b->d, event_create, &b->event[i], 0);
  for (int i = 0; i < b->n && !status; i++) status = make_tensors(b, i, pattern, err);
  if (!status && with_matmul) status = make_matmul(b, pattern, err);
  free(pattern);
  return status;
}

static void tear_down(struct bench *b) {
  for (int i = 0; i < b->n && b->at; i++) {
    if (b->at[i].memory) b->d->memory_free(b->at[i].memory);
    free(b->at[i].ms);
  }
  for (int i = 0; i <= MOST_LAUNCHES; i++)
    if (b->event[i]) b->d->event_destroy(b->event[i]);
  if (b->matmul.memory) b->d->memory_free(b->matmul.memory);
  if (b->matmul.handle) b->matmul.destroy(b->matmul.handle);
  free(b->matmul.ms);
  free(b->at);
}

static void summarise(struct bench *b, struct gpu_ceiling *ceiling) {
  struct matmul *m = &b->matmul;
  for (int i = 0; i < b->n; i++) {
    const struct device_case *at = &b->at[i];
    struct gpu_case *c = &b->cases[i];
    qsort(at->ms, (size_t)at->count, sizeof *at->ms, by_value);
    c->best_ms = quantile(at->ms, at->count, 0), c->median_ms = quantile(at->ms, at->count, 0.5);
    c->p10_ms = quantile(at->ms, at->count, 0.1), c->p90_ms = quantile(at->ms, at->count, 0.9);
  }
  qsort(m->ms, (size_t)m->count, sizeof *m->ms, by_value);
  const double ms = quantile(m->ms, m->count, 0.5);
  ceiling->tflops = ms > 0 ? 2.0 * MATRIX * MATRIX * MATRIX / ms * 1e-9 : 0;
}

int gpu_bench(struct gpu_case *cases, int n, int rounds, const struct gpu_listener *listener,
              struct gpu_ceiling *ceiling, struct error *err) {
  if (n < 1) return 0;
  struct bench b = {.d = gpu_kernel_driver(cases[0].kernel), .cases = cases, .n = n, .rounds = rounds};
  int status = gpu_kernel_enter(cases[0].kernel, err);
  if (status) return status;
  status = set_up(&b, true, err);
  if (!status) status = measure(&b, listener, err);
  if (!status) summarise(&b, ceiling);
  tear_down(&b);
  gpu_kernel_leave(cases[0].kernel);
  return status;
}

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

int gpu_first_launch(struct gpu_kernel *k, const struct problem *p, double *ms, struct error *err) {
  struct gpu_case one = {.kernel = k, .problem = *p};
  struct bench b = {.d = gpu_kernel_driver(k), .cases = &one, .n = 1, .rounds = 1};
  int status = gpu_kernel_enter(k, err);
  if (status) return status;
  status = set_up(&b, false, err);
  const double start = now_ms();
  if (!status) status = gpu_kernel_enqueue(k, &b.at[0].args, err);
  if (!status) status = GPU_CALL(b.d, stream_wait, NULL);
  *ms = now_ms() - start;
  tear_down(&b);
  gpu_kernel_leave(k);
  return status;
}

// ---- kernels in turn ----

struct gpu_stage {
  struct gpu_case one;
  struct bench bench;
};

int gpu_stage_open(struct gpu_kernel *k, const struct problem *p, struct gpu_stage **out, struct error *err) {
  struct gpu_stage *s = calloc(1, sizeof *s);
  if (!s) return fail(err, STROBE_NO_MEMORY, "no memory for the tensors of a problem");
  s->one = (struct gpu_case){.kernel = k, .problem = *p};
  s->bench = (struct bench){.d = gpu_kernel_driver(k), .cases = &s->one, .n = 1, .rounds = 1};
  *out = s;
  int status = gpu_kernel_enter(k, err);
  if (!status) {
    status = set_up(&s->bench, false, err);
    gpu_kernel_leave(k);
  }
  if (!status) return 0;
  gpu_stage_close(s);
  *out = NULL;
  return status;
}

int gpu_stage_time(struct gpu_stage *s, struct gpu_kernel *k, int64_t launches, double *ms, struct error *err) {
  const int n = launches < 1 ? 1 : launches > MOST_LAUNCHES ? MOST_LAUNCHES : (int)launches;
  struct gpu_case with = s->one;
  struct bench b = s->bench;
  int count = 0, status = gpu_kernel_enter(k, err);
  if (status) return status;
  with.kernel = k, b.cases = &with;
  status = burst(&b, 0, n, s->bench.at->ms, &count, err);
  gpu_kernel_leave(k);
  *ms = 0;
  for (int i = 0; i < count; i++) *ms += s->bench.at->ms[i] / count;
  return status;
}

void gpu_stage_close(struct gpu_stage *s) {
  if (!s) return;
  if (!gpu_kernel_enter(s->one.kernel, NULL)) {
    tear_down(&s->bench);
    gpu_kernel_leave(s->one.kernel);
  }
  free(s);
}
