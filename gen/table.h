// Aligned text tables: cells are collected, then printed with every column as wide as its widest cell.
#ifndef STROBE_GEN_TABLE_H
#define STROBE_GEN_TABLE_H

#include "buf.h"

enum cell_style { CELL_PLAIN, CELL_GOOD, CELL_BAD, CELL_FAINT, CELL_STYLE_COUNT };

struct table {
  int columns;
  const char *align; // one letter per column, 'l' or 'r'
  struct buf text;   // all cells, each NUL-terminated
  struct buf styles; // one byte per cell
  int cells;
};

// header: the titles, one per column, NULL: no header row. Both strings must outlive the table.
void table_begin(struct table *t, const char *align, const char *const *header);
void table_cell(struct table *t, enum cell_style style, const char *format, ...) __attribute__((format(printf, 3, 4)));
// Appends the table, each line ending in a newline, no trailing blanks; `colour` adds ANSI colours.
void table_print(const struct table *t, bool colour, struct buf *out);
void table_print_csv(const struct table *t, struct buf *out); // RFC 4180, without colours
void table_free(struct table *t);

#endif
