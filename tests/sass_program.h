// Small programs in the encoding of sm_90, in an ELF file, for the tests of the scanner of machine code.
#ifndef STROBE_TESTS_SASS_PROGRAM_H
#define STROBE_TESTS_SASS_PROGRAM_H

#include <elf.h>
#include <stdint.h>
#include <string.h>

enum { SASS_MOST = 256, SASS_BYTES = sizeof(Elf64_Ehdr) + 2 * sizeof(Elf64_Shdr) + 16 * SASS_MOST };
struct sass_program {
  int n;
  uint64_t word[SASS_MOST][2];
};

// One letter an instruction: '.' plain, 'l' LDL, 's' STL, 'w' wgmma (A in shared memory), 'W' (A in registers), 'e'
// EXIT, 'E' EXIT under a predicate, 'r' RET.
static inline void sass_add(struct sass_program *p, const char *letters) {
  static const char known[] = ".lswWeEr";
  static const uint64_t opcode[] = {0x7824, 0x7983, 0x7387, 0x79f0, 0x7df0, 0x794d, 0x894d, 0x7950};
  for (; *letters && p->n < SASS_MOST; letters++) {
    const char *at = strchr(known, *letters);
    p->word[p->n][0] = opcode[at ? at - known : 0] | 0x5a5a5aull << 16;
    p->word[p->n++][1] = 0x000fe20000000000;
  }
}

// A branch at instruction `at` (there already) to another; guard 7: always.
static inline void sass_branch(struct sass_program *p, int at, int to, unsigned guard) {
  const uint64_t units = (uint64_t)((int64_t)(to - at - 1) * 4);
  p->word[at][0] = 0x947 | (uint64_t)guard << 12 | (units & 0xff) << 16 | units >> 8 << 34;
  p->word[at][1] = 0x000fea0003800000 | (units >> 8 >> 30 & 0x3ffff);
}

// Returns the bytes of the file.
static inline size_t sass_file(const struct sass_program *p, unsigned char *out) {
  Elf64_Ehdr h = {.e_machine = 190, .e_shoff = sizeof h, .e_shentsize = sizeof(Elf64_Shdr), .e_shnum = 2};
  Elf64_Shdr s[2] = {{.sh_type = SHT_NULL},
                     {.sh_type = SHT_PROGBITS,
                      .sh_flags = SHF_ALLOC | SHF_EXECINSTR,
                      .sh_offset = sizeof h + sizeof s,
                      .sh_size = 16 * (uint64_t)p->n}};
  memcpy(h.e_ident, ELFMAG, SELFMAG);
  h.e_ident[EI_CLASS] = ELFCLASS64;
  memcpy(out, &h, sizeof h);
  memcpy(out + sizeof h, s, sizeof s);
  memcpy(out + sizeof h + sizeof s, p->word, 16 * (size_t)p->n);
  return sizeof h + sizeof s + 16 * (size_t)p->n;
}

#endif
