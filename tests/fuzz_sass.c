// Any bytes given to the scanner of machine code give a report or "not understood", and never an access outside them.
//   clang -fsanitize=fuzzer,address,undefined -DSTROBE_LIBFUZZER tests/fuzz_sass.c runtime/gpu_sass.c
// Without libFuzzer: a program that makes random programs and mutates them `argv[1]` times (default 20000), seed
// argv[2].
#include "../runtime/gpu_sass.h"
#include "sass_program.h"

#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
  struct sass_report r;
  unsigned char *copy = malloc(len ? len : 1); // of its exact size, so that AddressSanitizer sees an overrun
  if (!copy) return 0;
  memcpy(copy, data, len);
  const bool ok = sass_scan(copy, len, &r);
  free(copy);
  if (!ok && (r.loops || r.local || r.first)) abort();
  if (r.loops < 0 || r.local < 0 || (r.local && (!r.loops || r.first % 16 || (size_t)r.first >= len))) abort();
  return 0;
}

#ifndef STROBE_LIBFUZZER
static uint64_t state;
static uint32_t next(uint32_t below) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(state >> 33) % below;
}

static size_t valid(uint8_t *out) {
  struct sass_program p = {0};
  const int n = 1 + (int)next(60);
  for (int i = 0; i < n; i++) sass_add(&p, (const char[2]){"....lswWeE."[next(11)], 0});
  for (uint32_t b = next(12); b; b--) sass_branch(&p, (int)next((uint32_t)n), (int)next((uint32_t)n), next(16));
  return sass_file(&p, out);
}

int main(int argc, char **argv) {
  const long count = argc > 1 ? atol(argv[1]) : 20000;
  state = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
  for (long i = 0; i < count; i++) {
    uint8_t bytes[SASS_BYTES];
    size_t len = valid(bytes);
    for (uint32_t edits = next(4); edits; edits--) {
      const uint32_t at = next(2) ? next((uint32_t)len) : next(len < 200 ? (uint32_t)len : 200), kind = next(3);
      if (kind == 0) bytes[at] = (uint8_t)next(256);
      if (kind == 1) bytes[at] ^= (uint8_t)(1u << next(8));
      if (kind == 2) len = at + 1;
    }
    LLVMFuzzerTestOneInput(bytes, len);
  }
  printf("fuzz_sass: %ld inputs\n", count);
  return 0;
}
#endif
