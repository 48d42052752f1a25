// What libtcc sees instead of libc. The build renames these symbols in its copy of libtcc, so that nothing libtcc does
// can end, print into, or leak memory or descriptors of the process that it lives in, and so that it opens no files at
// all.
#ifndef STROBE_TCC_HOST_H
#define STROBE_TCC_HOST_H

#include "../gen/buf.h"

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>

// libtcc keeps its state in globals, so there is one host; whoever holds the lock of jit_tcc.c owns it.
struct tcc_host {
  jmp_buf leave;     // where exit() goes; set by the owner after tcc_host_begin
  size_t used;       // bytes that libtcc has allocated
  size_t limit;      // of `used`; an allocation beyond it fails
  bool starved;      // an allocation failed
  bool broken;       // exit() was called
  char message[512]; // the first error
  struct buf object; // what tcc_output_file wrote
};
extern struct tcc_host tcc_host;

#define TCC_HOST_OUTPUT "strobe.o" // the one name that libtcc may open, for writing

bool tcc_host_begin(void);                                // false: out of memory
void tcc_host_message(void *opaque, const char *message); // libtcc's error callback: keeps the first that is no warning
void tcc_host_end(void); // takes back memory and the object; resets libtcc's globals if it left anything behind

#endif
