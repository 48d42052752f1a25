// What is written for a set: a list of files, and the manifest that describes it.
#ifndef STROBE_GEN_SET_MANIFEST_H
#define STROBE_GEN_SET_MANIFEST_H

#include "set.h"

enum { OUTPUT_MANIFEST = -1, OUTPUT_OTHER = -2 };

struct output {
  struct buf name; // in the directory
  struct buf text;
  int64_t scratch_bytes; // per worker, of a kernel's source
  int kernel;            // index of the entry that it is a file of, or one of the above
};

void manifest_write(const struct kernel_set *set, const struct output *outputs, int n, struct buf *out);
void manifest_command(const struct kernel_set *set, struct buf *out); // writes the whole directory again

#endif
