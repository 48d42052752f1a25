// In-process compilation: C text -> libtcc -> ELF object -> checked, relocated, mapped read + execute.
#ifndef STROBE_JIT_H
#define STROBE_JIT_H

#include "../gen/buf.h"
#include "../gen/error.h"

struct code_memory; // one memfd mapped twice: written through one view, executed through the other
struct jit_module;  // a loaded object

// libtcc: text to the bytes of an ELF relocatable object, appended to *object. One lock around it; its exit() and
// out-of-memory path come back as an error; it opens no file and prints nothing, and needs neither memfd nor /proc.
// STROBE_INTERNAL: libtcc rejected the text (its first message); STROBE_NO_MEMORY; STROBE_UNSUPPORTED: more than 64 MiB
// of text, or built with TCC=0.
int jit_compile(const char *source, struct buf *object, struct error *err);

// Loads an object: accepts ET_REL x86-64 with R_X86_64_{PC32,PLT32,64,32,32S,GOTPCREL,GOTPCRELX}; external symbols only
// from a whitelist (memcpy, memmove, memset); refuses COMMON, non-empty .bss, and anything out of bounds. Bytes are
// untrusted: any input gives success or an error. STROBE_INVALID, STROBE_NO_MEMORY, STROBE_UNSUPPORTED: no executable
// memory.
int jit_load(const void *object, size_t len, const char *name, struct jit_module **out, struct error *err);
void *jit_symbol(const struct jit_module *m, const char *symbol); // NULL: not defined
void jit_unload(struct jit_module *m);

#endif
