// Any bytes given to the .npy parser give success or one sentence, and never an access outside them.
//   clang -fsanitize=fuzzer,address,undefined -DSTROBE_LIBFUZZER tests/fuzz_npy.c runtime/npy.c gen/error.c
// Without libFuzzer: a program that mutates a valid header `argv[1]` times (default 200000), seed argv[2].
#include "../runtime/npy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
  struct npy a;
  struct error err = {0};
  size_t offset = 0;
  char *copy = malloc(len ? len : 1); // of its exact size, so that AddressSanitizer sees an overrun
  if (!copy) return 0;
  memcpy(copy, data, len);
  int status = npy_parse(copy, len, "fuzz", &a, &offset, &err);
  free(copy);
  if (status != (int)err.status || (status != 0) != (err.text[0] != 0)) abort();
  if (status) return 0;
  int64_t elements = 1;
  for (int i = 0; i < a.rank; i++) elements *= a.shape[i];
  if (a.rank > NPY_MAX_RANK || elements != a.elements || offset > len || len - offset != a.bytes) abort();
  return 0;
}

#ifndef STROBE_LIBFUZZER
static uint64_t state;
static uint32_t next(uint32_t below) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(state >> 33) % below;
}

// A valid file of a few elements, in one of the three versions.
static size_t valid(uint8_t *out) {
  static const char *const texts[] = {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }",
                                      "{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }",
                                      "{\"shape\": (), \"descr\": \"|u1\", \"fortran_order\": False}",
                                      "{'descr': '<u2', 'fortran_order': True, 'shape': (1, 2, 3, 4, 5, 6, 7, 8L), }"};
  const char *text = texts[next(4)];
  const size_t n = strlen(text), version = 1 + next(3), start = version == 1 ? 10 : 12;
  memset(out, 0, 256);
  memcpy(out, "\x93NUMPY", 6);
  out[6] = (uint8_t)version;
  out[8] = (uint8_t)n;
  memcpy(out + start, text, n);
  return start + n + 24;
}

int main(int argc, char **argv) {
  static const char tokens[] = "0123456789'\"(){},:L -<f482TrueFalse";
  const long count = argc > 1 ? atol(argv[1]) : 200000;
  state = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
  for (long i = 0; i < count; i++) {
    uint8_t bytes[256];
    size_t len = valid(bytes);
    for (uint32_t edits = next(5); edits; edits--) {
      uint32_t at = next((uint32_t)len), kind = next(4);
      if (kind == 0) bytes[at] = (uint8_t)next(256);
      if (kind == 1) bytes[at] = (uint8_t)tokens[next(sizeof tokens - 1)];
      if (kind == 2) memmove(bytes + at, bytes + at + 1, len - at - 1);
      if (kind == 3) len = at + 1;
    }
    LLVMFuzzerTestOneInput(bytes, len);
  }
  printf("fuzz_npy: %ld inputs\n", count);
  return 0;
}
#endif
