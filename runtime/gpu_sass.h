// Looks through the machine code of a cubin for sm_90: does a main loop go through local memory?
#ifndef STROBE_GPU_SASS_H
#define STROBE_GPU_SASS_H

#include <stdbool.h>
#include <stddef.h>

// A main loop is an innermost loop with wgmma in it. Local memory counts where every iteration meets it: on the
// shortest way round the loop that passes a wgmma. What is rare lies beside that way: blocks that are looked at again,
// a reference that moves, a barrier that has to be tried again.
struct sass_report {
  int loops; // main loops
  int local; // instructions that load or store local memory on the way round the worst of them
  int first; // byte offset of the first of those in its section
};

// False: not an ELF file for a CUDA GPU that this scanner understands; *r is all 0 then. Reads only the len bytes.
bool sass_scan(const void *cubin, size_t len, struct sass_report *r);

#endif
