// The vocabulary of vector operations that CPU templates are written in, and the tables that turn it into text.
//
// An operation works on vectors of f32 lanes (or of 32-bit patterns: bf16 pairs, indices). Operands:
//   s[0][1]                 a register declared by $vreg
//   k[3*ldk + 17]           a vector in memory: pointer and index, in elements of the pointer's type, given in $block
//   bcast k[...]            32 bits of memory in every lane (one f32, or one bf16 pair)
//   1.5  -inf  0xffff       a literal in every lane: a decimal f32, or a bit pattern in hexadecimal
//   exp2_t0                 a named constant vector (vconst_table)
//   n + 3                   a run-time integer named in $block plus a constant (masks, bytes between rows of a tile)
//   c[2]                    a tile declared by `$vreg tile c[4] 16x8`: 16 rows of 8 f32 (without numbers: of 16), of
//                           which a target may have eight
#ifndef STROBE_GEN_VOP_H
#define STROBE_GEN_VOP_H

#include "buf.h"
#include "error.h"
#include "kernel.h"

#include <stdint.h>

enum { VOP_MAX_OPERANDS = 4, VOP_MAX_TERMS = 3, MAX_BLOCK_NAMES = 16, MAX_VREG_NAMES = 48 };

// Signature letters: d written register, x read and written register, r register, s register/memory/broadcast/literal/
// constant, c constant vector, m memory, K written mask, k read mask, T written tile, X read and written tile, t read
// tile, i integer.
struct vop {
  const char *name, *signature;
  const char *scalar; // C for one lane; "call:" in front: C for whole registers
  bool is_fma;        // counts as two floating-point operations per lane (four for dot)
};
extern const struct vop vop_table[];
extern const int vop_count;

// How one ISA does an operation. `intrin` and `code` use $0..$3 for the operands:
//   intrin  $1 value (of a tile: its number), $1i as integer vector, $1h as bf16 vector, $1p as pointer (of a constant
//           vector: its name), $1n as integer
//   code    instructions separated by ';': mnemonic operands, with t0, t1 temporaries, y$0, xt0 the lower half, #name a
//           constant vector, #0x40 a bit pattern in every lane, eax loaded from the integer operand (rax, with +eax
//           below), {$1} a write mask, {kt} the temporary mask, {z} zeroing, "each" in front: the instruction for every
//           element whose number, its last operand, is below eax; "full" in front: the instruction if all are, in place
//           of the next; $1+eax memory whose rows are eax bytes apart
struct isa_row {
  const char *op, *intrin, *code;
  int temps;    // vector registers used beside the operands
  double slots; // FMA-pipe slots it occupies while the FMA pipes are saturated (measured on Zen 5; README)
};
struct isa {
  const char *name;
  const struct isa *base; // rows not found here are looked up there
  const struct isa_row *rows;
  int n_rows;
  const char *vector_type, *mask_type, *attribute; // for `intrin`
  bool vex; // 256-bit vectors, masks in vector registers, no broadcast operands; else 512-bit, EVEX
};
extern const struct isa isa_avx2, isa_avx512, isa_avx512bf16, isa_amxbf16;
const struct isa *isa_find(const char *name); // NULL: the target has no rows (c99: scalar only)
const struct isa_row *isa_row(const struct isa *isa, const char *op);

struct vconst {
  const char *name, *about;
  uint32_t bits[16];
};
extern const struct vconst vconst_table[];
extern const int vconst_count;

// ---- parsed operations ----

enum operand_kind { OPD_REG, OPD_MASK, OPD_TILE, OPD_MEM, OPD_BCAST, OPD_LITERAL, OPD_VCONST, OPD_INT };

struct linear { // constant + sum of coefficient * block name
  int64_t constant;
  int n;
  struct {
    int name; // index into the block's names
    int64_t coefficient;
  } term[VOP_MAX_TERMS];
};

struct operand {
  enum operand_kind kind;
  int reg;  // OPD_REG, OPD_MASK, OPD_TILE: flat index of the register, which is also its number
  int decl; // index of its declaration
  int base; // OPD_MEM, OPD_BCAST: block name of the pointer
  struct linear index;
  uint32_t bits;    // OPD_LITERAL
  int vconst;       // OPD_VCONST
  const char *text; // as written, for messages and C text
  int text_len;
};

enum vreg_class { CLASS_VECTOR, CLASS_MASK, CLASS_TILE, CLASS_COUNT };

struct vreg_decl {
  char name[24];
  int dims[2];       // 0: not an array in that direction
  int first;         // number of the first register
  int rows, columns; // of a tile
  enum vreg_class of;
};

struct block_name {
  char name[24];
  int bytes; // of an element; 0: an integer
};

// Live registers and the names of the current block: what operand text is resolved against.
struct vop_scope {
  struct vreg_decl vreg[MAX_VREG_NAMES];
  int n_vreg, used[CLASS_COUNT], peak[CLASS_COUNT]; // declarations; registers in use
  bool masks_are_vregs;                             // counted among vector registers
  struct block_name name[MAX_BLOCK_NAMES];
  int n_names;
  char label[24];
};

int vop_declare(struct vop_scope *s, const char *text, size_t len, struct error *err); // "s[4][4], q[4], mask m"
void vop_release(struct vop_scope *s, int n_vreg);                                     // back to that many declarations
int vop_open_block(struct vop_scope *s, const char *text, size_t len, struct error *err); // "qk(k:f32, ldk)"

// Parses "fma s[0][1], q[1], bcast k[17]"; checks it against the signature.
int vop_parse(const struct vop_scope *s, const char *text, size_t len, const struct vop **op, struct operand *out,
              int *n_operands, struct error *err);

#endif
