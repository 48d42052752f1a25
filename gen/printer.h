// Printers turn vector operations into text. State of one render; shared by the C printers and the code printer.
#ifndef STROBE_GEN_PRINTER_H
#define STROBE_GEN_PRINTER_H

#include "kernel.h"
#include "template.h"
#include "vop.h"
#include "x86.h"

enum { MAX_LITERALS = 48, MAX_DERIVED = 8, FRAME_SLOTS = 32, MAX_MARKS = 256, MAX_ROW_INSNS = 20, VEX_REGISTERS = 16 };

// An instruction of a row, parsed once per render.
struct row_operand {
  enum { ROW_OPERAND, ROW_TEMP, ROW_VCONST, ROW_LITERAL, ROW_EAX, ROW_IMM } kind;
  int value;    // ROW_LITERAL: bits
  bool half;    // the lower half of a register
  bool strided; // memory whose rows are eax bytes apart
};
enum { INSN_EAX = -1, INSN_UNKNOWN = -2 }; // load eax from the integer operand; x86.c does not have it
struct row_insn {
  int mnemonic; // of x86.h, or one of these
  int n;
  struct row_operand op[4];
  int mask;                 // operand number, -1 none, -2 the temporary mask
  bool zeroing, each, full; // vop.h
};
struct code_row {
  const struct isa_row *row; // NULL: not parsed yet
  int n;
  struct row_insn insn[MAX_ROW_INSNS];
};

struct printer_state {
  enum printer kind;
  const struct isa *isa; // NULL for scalar on c99
  const struct target *target;
  bool comments;
  int64_t (*clock_ns)(void);
  struct kernel_stats *stats;
  struct vop_scope scope;
  struct phase_stats *phase; // of the open block
  int indent;                // of the open block

  int marks[MAX_MARKS], n_marks; // n_vreg at the start of each live body

  size_t constants_at; // where in the output the constant table goes
  int constants_indent;
  bool has_constants_place;
  bool vconst_used[32];

  // code printer: the block being collected, and the constant table
  struct buf prologue, body;
  int gpr_of_name[MAX_BLOCK_NAMES], gpr_of_table, gprs, frame_slots;
  struct derived {
    int base, stride; // block names; base -1: odd multiple of a stride
    int64_t coefficient;
    int gpr;
  } derived[MAX_DERIVED];
  int n_derived;
  struct derived kept[FRAME_SLOTS];                   // addresses that have no register; gpr: their slot
  int n_kept, rax_slot;                               // what rax holds of them; -1: none
  bool eax_is_taken;                                  // and can't hold one
  struct buf frame;                                   // C text that fills the frame
  uint32_t table_bits[64][16];                        // lines of 64 bytes
  int table_lines, literal[MAX_LITERALS], n_literals; // a literal: 16 * line + entry
  int vconst_line[32];
  int move, broadcast; // mnemonics of vmovups and of a broadcast from memory
  struct {             // VEX: what registers that are not declared hold, by number
    bool live;
    struct operand operand; // OPD_BCAST or OPD_LITERAL
  } held[VEX_REGISTERS];
  int first_free;        // register after those of the operation, where a broadcast operand goes
  struct code_row *rows; // vop_count of them
};

int code_block_begin(struct printer_state *p, struct error *err);
int code_op(struct printer_state *p, const struct vop *op, const struct operand *o, int n, struct error *err);
int code_block_end(struct printer_state *p, struct buf *out, struct error *err);
void code_constants(struct printer_state *p, struct buf *out);

void c_register_name(const struct vop_scope *s, const struct operand *o, struct buf *out); // "s0_1"
void c_declare(struct printer_state *p, int first_decl, int indent, struct buf *out);
int c_op(struct printer_state *p, const struct vop *op, const struct operand *o, int indent, struct buf *out,
         struct error *err);
void c_constants(struct printer_state *p, struct buf *out);

#endif
