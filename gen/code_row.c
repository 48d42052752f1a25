// The text of an ISA's row, `vaddps $0,t0,#0x40; ...` (vop.h), to instructions.
#include "print_code.h"

#include <stdlib.h>
#include <string.h>

static int parse_row_operand(const char **c, struct row_operand *o) {
  if (**c == 'y' || **c == 'x') o->half = true, ++*c;
  if (**c == '$') {
    o->kind = ROW_OPERAND;
    o->value = (*c)[1] - '0';
    *c += 2;
    if (!strncmp(*c, "+eax", 4)) o->strided = true, *c += 4;
  } else if (**c == 't') {
    o->kind = ROW_TEMP;
    o->value = (*c)[1] - '0';
    *c += 2;
  } else if (!strncmp(*c, "eax", 3)) {
    o->kind = ROW_EAX;
    *c += 3;
  } else if (**c == 'k') { // kt
    o->kind = ROW_OPERAND;
    o->value = -2;
    *c += 2;
  } else if (!strncmp(*c, "#0x", 3)) {
    o->kind = ROW_LITERAL;
    o->value = (int)strtoul(*c + 1, (char **)c, 16);
  } else if (**c == '#') {
    o->kind = ROW_VCONST;
    size_t len = strcspn(++*c, ",; ");
    for (int i = 0; i < vconst_count; i++)
      if (strlen(vconst_table[i].name) == len && !memcmp(vconst_table[i].name, *c, len)) o->value = i;
    *c += len;
  } else {
    o->kind = ROW_IMM;
    for (; **c >= '0' && **c <= '9'; ++*c) o->value = o->value * 10 + **c - '0';
  }
  return 0;
}

void code_parse_row(const struct isa_row *row, struct code_row *out) {
  memset(out, 0, sizeof *out);
  out->row = row;
  for (const char *c = row->code; *c;) {
    struct row_insn *insn = &out->insn[out->n++];
    while (*c == ' ') c++;
    if (!strncmp(c, "each ", 5)) insn->each = true, c += 5;
    if (!strncmp(c, "full ", 5)) insn->full = true, c += 5;
    size_t len = strcspn(c, " ");
    insn->mask = -1;
    const int known = x86_mnemonic(c, (int)len);
    insn->mnemonic = len == 3 && !memcmp(c, "eax", 3) ? INSN_EAX : known < 0 ? INSN_UNKNOWN : known;
    for (c += len; *c == ' ' || *c == ',';) {
      c++;
      parse_row_operand(&c, &insn->op[insn->n++]);
      for (; *c == '{'; c += strcspn(c, "}") + 1) {
        if (c[1] == 'z')
          insn->zeroing = true;
        else
          insn->mask = c[1] == '$' ? c[2] - '0' : -2;
      }
    }
    if (*c == ';') c++;
  }
}
