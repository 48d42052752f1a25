#include "cpu.h"
#include "gpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

// __builtin_cpu_supports also asks the operating system (xgetbv), so a feature it reports is usable.
static bool has_f16c(void) { // vectors of 256 bits: what the operating system must save, avx2 has asked for
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
static bool has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c(); }
static bool has_avx512(void) { // dq: vreduceps; bw: vpermw; vl: 128- and 256-bit forms
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
static bool has_avx512bf16(void) { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
static bool is_intel(void) { return __builtin_cpu_is("intel"); }

// Linux saves tiles (8 KB a thread) for processes that ask for it (Documentation/arch/x86/xstate.rst).
static bool has_amxbf16(void) {
  enum { ARCH_REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18, AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24 };
  unsigned a, b, c, d = 0;
  const unsigned want = AMX_BF16 | AMX_TILE;
  if (!has_avx512bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & want) != want) return false;
  return !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA);
}
#else
static bool is_intel(void) { return false; }
#endif

static bool has_c99(void) { return true; }

static const struct {
  const char *name;
  bool (*present)(void);
} features[] = {
    {"c99", has_c99},
#if defined(__x86_64__)
    {"avx2", has_avx2}, {"avx512", has_avx512}, {"avx512bf16", has_avx512bf16}, {"amxbf16", has_amxbf16},
#elif defined(__aarch64__)
    {"neon", has_c99}, // part of the base architecture
#endif
};

static size_t feature_index(const char *name) {
  size_t i = 0;
  while (i < sizeof features / sizeof *features && strcmp(features[i].name, name)) i++;
  return i;
}

// STROBE_MAX_TARGET=NAME lets this CPU pass for a lesser one, that has NAME and what stands before it; a name that is
// none changes nothing.
bool cpu_has_target(const struct target *t) {
  if (t->family == FAMILY_CUDA) return !gpu_has_target(t, NULL);
  const char *most = secure_getenv("STROBE_MAX_TARGET");
  const size_t count = sizeof features / sizeof *features, i = feature_index(t->name);
  return i < count && (!most || i <= feature_index(most)) && features[i].present();
}

// c99's lanes are those of an array, not of the machine: it comes last. A dot product of pairs does twice the work of a
// multiply-add, and of all but Intel's CPUs (Emerald Rapids: one in the time of four) takes as long. A product of tiles
// does 256 times the work in 32 times the time (Granite Rapids).
static int rank(const struct target *t, const struct spec *s) {
  const int pairs = spec_pairs(s, t);
  if (tiles_serve(s, t)) return 8 * t->lanes;
  return t->vregs == 0 ? 0 : 2 * t->lanes + (is_intel() ? -pairs : pairs);
}

static const struct target *best_target(const struct spec *s, bool tiles) {
  const struct target *best = NULL;
  for (int i = 0; i < target_count; i++) {
    const struct target *t = &target_table[i];
    if (t->tiles && !(tiles && tiles_serve(s, t) && tiles_pay(s, NULL)))
      continue; // before the system is asked for tiles
    if (t->family != FAMILY_CPU || !cpu_has_target(t) || spec_supported(s, t, NULL)) continue;
    if (!best || rank(t, s) > rank(best, s)) best = t;
  }
  return best;
}

const struct target *cpu_best_target(const struct spec *s) { return best_target(s, true); }
const struct target *cpu_best_vector_target(const struct spec *s) { return best_target(s, false); }

#if defined(__x86_64__)
static bool brand(char text[49]) {
  unsigned words[12], most = __get_cpuid_max(0x80000000u, NULL);
  if (most < 0x80000004u) return false;
  for (unsigned i = 0; i < 3; i++)
    __get_cpuid(0x80000002u + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2], &words[4 * i + 3]);
  memcpy(text, words, 48);
  text[48] = 0;
  return true;
}

// Virtual machines call many a CPU "AMD EPYC".
static unsigned family_and_model(unsigned *model) {
  unsigned a = 0, b, c, d;
  __get_cpuid(1, &a, &b, &c, &d);
  const unsigned family = a >> 8 & 15;
  *model = (a >> 4 & 15) | (a >> 12 & 0xf0);
  return family == 15 ? family + (a >> 20 & 255) : family;
}
#else
static bool brand(char text[49]) { return text[0] = 0, false; }
static unsigned family_and_model(unsigned *model) { return *model = 0; }
#endif

void cpu_name(char *name, size_t size) {
  char text[49];
  const char *start = brand(text) ? text : "";
  start += strspn(start, " ");
  size_t len = strlen(start);
  while (len && start[len - 1] == ' ') len--;
  unsigned model;
  const unsigned family = family_and_model(&model);
  if (len)
    snprintf(name, size, "%.*s (family %u model %u)", (int)len, start, family, model);
  else
    snprintf(name, size, "unknown CPU");
}
