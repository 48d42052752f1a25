// Compute probes. Each loop keeps its accumulators in registers; operands and accumulators come through empty asm
// statements, so that the compiler knows nothing of their values and can neither fold nor hoist, nor see that the
// accumulators are all equal.
#include "probe.h"
#include "cpu.h"

#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

double probe_clock(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

// Runs `rounds` rounds of a loop; returns something that depends on every accumulator.
typedef float loop(long rounds);

struct fma_loop {
  loop *run;
  double flops; // of one round
};

static volatile float sink;

static double burst(const struct fma_loop *l, double ms) {
  const long rounds = 2000; // some ten microseconds
  double done = 0, start = probe_clock(), now = start;
  do {
    sink = l->run(rounds);
    done += (double)rounds;
    now = probe_clock();
  } while (now - start < ms * 1e-3);
  return done * l->flops / (now - start) * 1e-9;
}

// Twelve named accumulators cover two FMAs a cycle of latency 5 (10) and stay in 16 registers with their operands;
// clang 14 spills with 24 of them.
#define TWELVE(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)

#define GENERIC_STEP(I) a##I = a##I * x + y;
#define GENERIC_DECLARE(I) float a##I = vx * (I + 1);
#define GENERIC_SUM(I) +a##I
static float generic_loop(long rounds) {
  volatile float vx = 0.5f, vy = 1;
  const float x = vx, y = vy;
  TWELVE(GENERIC_DECLARE)
  for (long i = 0; i < rounds; i++) { TWELVE(GENERIC_STEP) }
  return 0 TWELVE(GENERIC_SUM);
}
static const struct fma_loop generic = {generic_loop, 2.0 * 12};

#if defined(__x86_64__)
#define AVX2 __attribute__((target("avx2,fma")))
#define AVX512 __attribute__((target("avx512f")))
#define AVX512BF16 __attribute__((target("avx512f,avx512bf16")))

#define YMM_DECLARE(I)                                                                                                 \
  __m256 a##I = _mm256_setzero_ps();                                                                                   \
  __asm__ volatile("" : "+x"(a##I));
#define YMM_STEP(I) a##I = _mm256_fmadd_ps(x, y, a##I);
#define YMM_SUM(I) x = _mm256_add_ps(x, a##I);
AVX2 static float avx2_loop(long rounds) {
  __m256 x = _mm256_set1_ps(0.5f), y = _mm256_set1_ps(0.25f);
  __asm__ volatile("" : "+x"(x), "+x"(y));
  TWELVE(YMM_DECLARE)
  for (long i = 0; i < rounds; i++) {
    TWELVE(YMM_STEP)
    TWELVE(YMM_STEP)
    __asm__ volatile("" : "+x"(x), "+x"(y));
  }
  TWELVE(YMM_SUM)
  return _mm256_cvtss_f32(x);
}
static const struct fma_loop avx2 = {avx2_loop, 2.0 * 8 * 24};

#define ZMM_DECLARE(I)                                                                                                 \
  __m512 a##I = _mm512_setzero_ps();                                                                                   \
  __asm__ volatile("" : "+v"(a##I));
#define ZMM_STEP(I) a##I = _mm512_fmadd_ps(x, y, a##I);
#define ZMM_SUM(I) x = _mm512_add_ps(x, a##I);
AVX512 static float avx512_loop(long rounds) {
  __m512 x = _mm512_set1_ps(0.5f), y = _mm512_set1_ps(0.25f);
  __asm__ volatile("" : "+v"(x), "+v"(y));
  TWELVE(ZMM_DECLARE)
  for (long i = 0; i < rounds; i++) {
    TWELVE(ZMM_STEP)
    TWELVE(ZMM_STEP)
    __asm__ volatile("" : "+v"(x), "+v"(y));
  }
  TWELVE(ZMM_SUM)
  return _mm512_cvtss_f32(x);
}
static const struct fma_loop avx512 = {avx512_loop, 2.0 * 16 * 24};

#define DOT_STEP(I) a##I = _mm512_dpbf16_ps(a##I, (__m512bh)x, (__m512bh)y);
#define DOT_SUM(I) sum = _mm512_add_ps(sum, a##I);
AVX512BF16 static float avx512bf16_loop(long rounds) {
  __m512i x = _mm512_set1_epi32(0x3f003f00), y = _mm512_set1_epi32(0x3e803e80); // 0.5 and 0.25
  __asm__ volatile("" : "+v"(x), "+v"(y));
  TWELVE(ZMM_DECLARE)
  for (long i = 0; i < rounds; i++) {
    TWELVE(DOT_STEP)
    TWELVE(DOT_STEP)
    __asm__ volatile("" : "+v"(x), "+v"(y));
  }
  __m512 sum = _mm512_setzero_ps();
  TWELVE(DOT_SUM)
  return _mm512_cvtss_f32(sum);
}
static const struct fma_loop avx512bf16 = {avx512bf16_loop, 4.0 * 16 * 24};

// Four tiles of accumulators hide the latency of a product of 16 x 32 by 32 x 16.
#define AMXBF16 __attribute__((target("amx-tile,amx-bf16")))
AMXBF16 static float amxbf16_loop(long rounds) {
  struct {
    unsigned char palette, start, reserved[14];
    unsigned short bytes[16];
    unsigned char rows[16];
  } const config = {.palette = 1, .bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
  static const unsigned short ones[16 * 32] __attribute__((aligned(64))) = {0x3f80, 0x3f80};
  float sum[16 * 16];
  _tile_loadconfig(&config);
  _tile_loadd(4, ones, 64);
  _tile_loadd(5, ones, 64);
  for (long i = 0; i < rounds; i++) {
    _tile_dpbf16ps(0, 4, 5);
    _tile_dpbf16ps(1, 4, 5);
    _tile_dpbf16ps(2, 4, 5);
    _tile_dpbf16ps(3, 4, 5);
  }
  _tile_stored(0, sum, 64);
  _tile_release();
  return sum[0];
}
static const struct fma_loop amxbf16 = {amxbf16_loop, 4 * 2.0 * 16 * 16 * 32};
#endif

// The best f32 loop for vectors of at most `lanes` (0: any) that this CPU has.
static const struct fma_loop *fma_loop_for(int lanes) {
#if defined(__x86_64__)
  if ((lanes == 0 || lanes >= 16) && __builtin_cpu_supports("avx512f")) return &avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &avx2;
#endif
  (void)lanes;
  return &generic;
}

double probe_fma(const struct target *t, double ms) {
  return burst(fma_loop_for(t->vregs == 0 || !cpu_has_target(t) ? 0 : t->lanes), ms);
}

double probe_bf16_dot(const struct target *t, double ms) {
#if defined(__x86_64__)
  if (t->bf16_dot && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bf16"))
    return burst(&avx512bf16, ms);
#endif
  return probe_fma(t, ms);
}

double probe_tiles(const struct target *t, double ms) {
#if defined(__x86_64__)
  if (t->tiles && cpu_has_target(t)) return burst(&amxbf16, ms);
#endif
  return probe_bf16_dot(t, ms);
}

double probe_compute(const struct spec *s, const struct target *t, double ms) {
  if (tiles_serve(s, t)) return probe_tiles(t, ms) / tiles_products(s);
  return spec_pairs(s, t) ? probe_bf16_dot(t, ms) : probe_fma(t, ms);
}
