// Memory for generated code that is never writable and executable at once.
#ifndef STROBE_CODE_MEMORY_H
#define STROBE_CODE_MEMORY_H

#include "../gen/error.h"

#include <stddef.h>

// Text, then read-only data, then a page that faults. A memfd is mapped at `view` (read + write) while the owner fills
// it in and relocates against `base`; code_memory_seal drops that view, seals the file and only then maps it at `base`.
struct code_memory {
  unsigned char *base;         // where text runs and data is read; inaccessible before the seal
  unsigned char *view;         // the same bytes, writable; NULL after the seal
  size_t text_size, data_size; // bytes, whole pages; data follows text
  size_t reserved;             // bytes of address space at base
  int fd;                      // -1: none, view and base are one private mapping (no memfd on this system)
};

// Reserves room for text and data (bytes each). STROBE_NO_MEMORY, STROBE_UNSUPPORTED.
int code_memory_open(struct code_memory *m, size_t text, size_t data, struct error *err);
// Makes text executable and data read-only; on failure the memory stays open and wants closing. STROBE_UNSUPPORTED.
int code_memory_seal(struct code_memory *m, struct error *err);
// Unmaps everything; a zeroed struct is allowed.
void code_memory_close(struct code_memory *m);

#endif
