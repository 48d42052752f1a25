// x86-64 instructions as the `code` printer needs them: encoded by Zydis, printed in Intel syntax.
#ifndef STROBE_GEN_X86_H
#define STROBE_GEN_X86_H

#include "buf.h"

#include <stdint.h>

enum x86_kind { X86_NONE, X86_ZMM, X86_YMM, X86_XMM, X86_K, X86_TMM, X86_R64, X86_R32, X86_MEM, X86_IMM };

enum { X86_RAX, X86_RCX, X86_RDX, X86_RBX, X86_RSP, X86_RBP, X86_RSI, X86_RDI, X86_R8, X86_R15 = 15 };

struct x86_operand {
  enum x86_kind kind;
  int reg;         // register number
  int base, index; // memory: general registers; index -1: none
  int scale;       // 1, 2, 4, 8
  int size;        // bytes that are accessed; 4 with bcast
  bool bcast;      // {1to16}
  int64_t value;   // displacement or immediate
};

struct x86_insn {
  int mnemonic; // from x86_mnemonic
  int n;
  struct x86_operand op[4]; // destination first
  int mask;                 // write mask k1..k7; 0: none
  bool zeroing;
  bool vex; // vectors are encoded as VEX (no masks, no broadcasts), else as EVEX
};

// Index of a mnemonic in this file's table, or -1.
int x86_mnemonic(const char *name, int len);
// Bytes the instruction reads or writes through a memory operand without broadcast.
int x86_memory_size(const struct x86_insn *insn);
// Encodes; returns the length (1 to 15), or 0 if there is no such form, or if this build has no encoder.
int x86_encode(const struct x86_insn *insn, uint8_t out[15]);
void x86_print(const struct x86_insn *insn, struct buf *out);
bool x86_available(void);

#endif
