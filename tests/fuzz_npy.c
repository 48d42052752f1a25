// Any bytes given to the .npy parser give success or one sentence, and never an access outside them.
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

static const char *const tokens[] = {"'descr': ",  "'fortran_order': ",
                                     "'shape': ",  "'<f4'",
                                     "'<f2'",      "'|u1'",
                                     "'<u2'",      "'>f8'",
                                     "True",       "False",
                                     "(",          ")",
                                     ", ",         ",}",
                                     "2147483648", "9223372036854775807",
                                     "L",          "0",
                                     "\x93NUMPY",  "\n",
                                     " "};

#include "fuzz_main.h"
FUZZ_MAIN("npy", 600, tokens, sizeof tokens / sizeof *tokens)
