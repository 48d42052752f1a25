// Any bytes given to the scanner of machine code give a report or "not understood", and never an access outside them.
#include "../runtime/gpu_sass.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

// Eight bytes of an instruction each: opcodes with their guard, and branches back and forth.
static const char *const tokens[] = {"\x83\x79", "\x87\x73", "\xf0\x7d",         "\xf0\x79",
                                     "\x4d\x79", "\x4d\x09", "\x47\x79",         "\x47\x09",
                                     "\x50\x79", "\x49\x79", "\xf0\xff\xff\xff", "\xfc\xff\xff\xff"};

#include "fuzz_main.h"
FUZZ_MAIN("sass", 1200, tokens, sizeof tokens / sizeof *tokens)
