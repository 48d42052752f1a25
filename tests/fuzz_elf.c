// Fuzzes the object loader: any bytes give success or an error with a reason. Nothing that is loaded is called.
#include "../runtime/jit.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
  struct jit_module *m;
  struct error err = {0};
  if (jit_load(data, size, "fuzz", &m, &err) == STROBE_OK) {
    jit_symbol(m, "f");
    jit_unload(m);
  } else if (!err.text[0]) {
    abort(); // an error without a reason
  }
  return 0;
}

static const char *const tokens[] = {".text", ".data", ".bss", ".rela.text", ".symtab", ".strtab", "memcpy", "f"};

#include "fuzz_main.h"
FUZZ_MAIN("elf", 8192, tokens, sizeof tokens / sizeof *tokens)
