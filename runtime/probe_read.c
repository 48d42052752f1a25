// Read-bandwidth probe: loads of 64 bytes with nothing done to them but an exclusive or.
#include "probe.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PIECE = 64 * 1024, AHEAD = 8 * 1024, VARIANTS = 6 }; // bytes read between looks at the clock; prefetch distance
enum { ROUNDS = 5, STEP = 4 * PIECE };                      // of the variants, in turn: a slow moment must not decide

typedef unsigned long long block __attribute__((vector_size(64), aligned(64), may_alias));

// Reads bytes at each of `streams` places that are `apart` bytes from one another.
typedef unsigned long long reader(const char *data, size_t bytes, size_t apart);

// The same loop for each number of streams, twice, for each instruction set: gcc and clang lower the 64-byte vector to
// what the target has. One named sum per stream, since gcc at -O2 keeps an array of them in memory.
#define READ_ONE(S, PREFETCH)                                                                                          \
  if (PREFETCH) __builtin_prefetch(p + S * apart + AHEAD, 0, 3);                                                       \
  sum##S ^= *(const block *)(p + S * apart);
#define READ(NAME, TARGET, STREAMS, PREFETCH)                                                                          \
  TARGET static unsigned long long NAME(const char *data, size_t bytes, size_t apart) {                                \
    block sum0 = {0}, sum1 = {0}, sum2 = {0}, sum3 = {0};                                                              \
    for (const char *p = data, *end = data + bytes; p < end; p += sizeof(block)) {                                     \
      READ_ONE(0, PREFETCH)                                                                                            \
      if (STREAMS < 2) continue;                                                                                       \
      READ_ONE(1, PREFETCH)                                                                                            \
      if (STREAMS < 4) continue;                                                                                       \
      READ_ONE(2, PREFETCH)                                                                                            \
      READ_ONE(3, PREFETCH)                                                                                            \
    }                                                                                                                  \
    sum0 ^= sum1 ^ sum2 ^ sum3;                                                                                        \
    unsigned long long all = 0;                                                                                        \
    for (int i = 0; i < 8; i++) all ^= sum0[i];                                                                        \
    return all;                                                                                                        \
  }
#define READERS(ISA, TARGET)                                                                                           \
  READ(ISA##_1, TARGET, 1, 0)                                                                                          \
  READ(ISA##_1p, TARGET, 1, 1)                                                                                         \
  READ(ISA##_2, TARGET, 2, 0)                                                                                          \
  READ(ISA##_2p, TARGET, 2, 1)                                                                                         \
  READ(ISA##_4, TARGET, 4, 0)                                                                                          \
  READ(ISA##_4p, TARGET, 4, 1)                                                                                         \
  static reader *const ISA[VARIANTS] = {ISA##_1, ISA##_1p, ISA##_2, ISA##_2p, ISA##_4, ISA##_4p};

READERS(plain, )
#if defined(__x86_64__)
READERS(wide, __attribute__((target("avx2"))))
READERS(widest, __attribute__((target("avx512f"))))
#endif

static const struct {
  const char *name;
  size_t streams;
} variants[VARIANTS] = {{"1 stream", 1},  {"1 stream, prefetch", 1}, {"2 streams", 2}, {"2 streams, prefetch", 2},
                        {"4 streams", 4}, {"4 streams, prefetch", 4}};

struct probe_reader {
  const char *data;
  char *own;    // to be freed
  size_t bytes; // a multiple of STEP
  reader *const *readers;
  int best;
  size_t at[VARIANTS]; // where each variant goes on, within its streams
};

static volatile unsigned long long sink;

static double read_burst(struct probe_reader *r, int variant, double ms) {
  const size_t apart = r->bytes / variants[variant].streams;
  double done = 0, start = probe_clock(), now = start;
  do {
    sink = r->readers[variant](r->data + r->at[variant], PIECE, apart);
    r->at[variant] = (r->at[variant] + PIECE) % apart;
    done += (double)(PIECE * variants[variant].streams);
    now = probe_clock();
  } while (now - start < ms * 1e-3);
  return done / (now - start) * 1e-9;
}

static reader *const *readers_here(void) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return widest;
  if (__builtin_cpu_supports("avx2")) return wide;
#endif
  return plain;
}

// Takes `own` over, also when it fails.
static int open_reader(const char *data, size_t bytes, char *own, double ms, struct probe_reader **out,
                       struct error *err) {
  struct probe_reader *r = calloc(1, sizeof *r);
  if (!r) {
    free(own);
    return fail(err, STROBE_NO_MEMORY, "no memory for the read probe");
  }
  *r = (struct probe_reader){.data = data, .own = own, .bytes = bytes, .readers = readers_here()};
  double most = 0;
  for (int i = 0; i < ROUNDS * VARIANTS; i++) {
    const double speed = read_burst(r, i % VARIANTS, ms);
    if (speed > most) most = speed, r->best = i % VARIANTS;
  }
  *out = r;
  return 0;
}

int probe_reader_create(size_t bytes, double ms, struct probe_reader **out, struct error *err) {
  *out = NULL;
  if (bytes == 0 || bytes > (size_t)1 << 40)
    return fail(err, STROBE_INVALID, "read probe: buffer of %zu bytes; allowed: 1 to 2^40", bytes);
  bytes = (bytes + STEP - 1) / STEP * STEP;
  char *data = aligned_alloc(4096, bytes + AHEAD); // prefetches run ahead of the last stream
  if (!data) return fail(err, STROBE_NO_MEMORY, "no memory for the read probe's buffer of %zu bytes", bytes);
  memset(data, 1, bytes + AHEAD);
  return open_reader(data, bytes, data, ms, out, err);
}

int probe_reader_over(const void *data, size_t bytes, double ms, struct probe_reader **out, struct error *err) {
  *out = NULL;
  if (bytes < STEP || (uintptr_t)data % sizeof(block))
    return fail(err, STROBE_INVALID, "read probe: %zu bytes at %p; must be at least %d, 64-byte aligned", bytes, data,
                STEP);
  return open_reader(data, bytes / STEP * STEP, NULL, ms, out, err);
}

double probe_reader_run(struct probe_reader *r, double ms) { return read_burst(r, r->best, ms); }

const char *probe_reader_best(const struct probe_reader *r) { return variants[r->best].name; }

void probe_reader_free(struct probe_reader *r) {
  if (!r) return;
  free(r->own);
  free(r);
}

double probe_cold_bytes(void) {
  double bytes = 256e6;
#ifdef _SC_LEVEL3_CACHE_SIZE
  const double caches = 2.0 * (double)sysconf(_SC_LEVEL3_CACHE_SIZE);
  if (caches > bytes) bytes = caches;
#endif
  const double most = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) / 4;
  return most > 0 && most < bytes ? most : bytes;
}
