// Parts of the printer `code`. Functions that can fail return a status and fill err.
#ifndef STROBE_GEN_PRINT_CODE_H
#define STROBE_GEN_PRINT_CODE_H

#include "printer.h"

// Encodes an instruction and appends it to a part of the block: p->prologue or p->body.
int code_put(struct printer_state *p, struct buf *out, const struct x86_insn *insn, struct error *err);

// code_row.c: the instructions of a row's text.
void code_parse_row(const struct isa_row *row, struct code_row *out);

// code_address.c: a block's pointers and integers in general registers, or in the frame where there are more of them.
// Memory through a pointer of the block; through the table of constants; the low half of an integer.
int code_memory(struct printer_state *p, const struct operand *o, struct x86_operand *out, struct error *err);
int code_table(struct printer_state *p, struct x86_operand *out, struct error *err);
bool code_uses_saved_gpr(const struct printer_state *p); // one that a function has to save
int code_integer(struct printer_state *p, int name, struct x86_operand *out, struct error *err);

// code_operand.c: registers, constants, and what registers hold that nothing else wants.
struct x86_operand code_vector(const struct printer_state *p, int reg, bool half); // half: the lower half
int code_operand(struct printer_state *p, const struct operand *o, bool half, struct x86_operand *out,
                 struct error *err);
int code_vconst(struct printer_state *p, int id, struct x86_operand *out, struct error *err);
int code_literal(struct printer_state *p, uint32_t bits, struct x86_operand *out, struct error *err);
int code_hold(struct printer_state *p, struct operand *o, int reg, struct error *err);
void code_drop_below(struct printer_state *p, int end);
void code_drop_memory(struct printer_state *p);

#endif
