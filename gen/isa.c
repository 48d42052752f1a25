// The instruction sets that have rows.
#include "vop.h"

#include <string.h>

static const struct isa *const isas[] = {&isa_avx2, &isa_avx512, &isa_avx512bf16, &isa_amxbf16};

const struct isa *isa_find(const char *name) {
  for (size_t i = 0; name && i < sizeof isas / sizeof isas[0]; i++)
    if (strcmp(isas[i]->name, name) == 0) return isas[i];
  return NULL;
}

const struct isa_row *isa_row(const struct isa *isa, const char *op) {
  for (; isa; isa = isa->base)
    for (int i = 0; i < isa->n_rows; i++)
      if (strcmp(isa->rows[i].op, op) == 0) return &isa->rows[i];
  return NULL;
}
