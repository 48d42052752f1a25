#include "table.h"

#include <stdlib.h>
#include <string.h>

static const char *const style_codes[CELL_STYLE_COUNT] = {"", "\033[32m", "\033[1;31m", "\033[2m"};

void table_begin(struct table *t, const char *align, const char *const *header) {
  *t = (struct table){.columns = (int)strlen(align), .align = align};
  for (int i = 0; header && i < t->columns; i++) table_cell(t, CELL_FAINT, "%s", header[i]);
}

void table_cell(struct table *t, enum cell_style style, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  buf_vprintf(&t->text, format, ap);
  va_end(ap);
  buf_char(&t->text, 0);
  buf_char(&t->styles, (char)style);
  t->cells++;
}

// Columns a terminal gives the text: its UTF-8 characters.
static int width_of(const char *text) {
  int n = 0;
  for (; *text; text++) n += ((unsigned char)*text & 0xc0) != 0x80;
  return n;
}

static void pad(struct buf *out, int n) {
  for (; n > 0; n--) buf_char(out, ' ');
}

static void print_cell(const struct table *t, int i, const char *text, int width, bool colour, struct buf *out) {
  const int column = i % t->columns, gap = width - width_of(text);
  const char *code = colour ? style_codes[(int)t->styles.data[i]] : "";
  const bool last = column == t->columns - 1;
  if (t->align[column] == 'r') pad(out, gap);
  buf_printf(out, "%s%s%s", code, text, *code ? "\033[0m" : "");
  if (t->align[column] != 'r' && !last) pad(out, gap);
  buf_str(out, last ? "\n" : "  ");
}

void table_print(const struct table *t, bool colour, struct buf *out) {
  int *width = calloc((size_t)t->columns + 1, sizeof *width);
  if (!width || t->text.failed || t->styles.failed) {
    free(width);
    out->failed = true;
    return;
  }
  const char *text = t->text.data;
  for (int i = 0; i < t->cells; i++, text += strlen(text) + 1)
    if (width_of(text) > width[i % t->columns]) width[i % t->columns] = width_of(text);
  text = t->text.data;
  for (int i = 0; i < t->cells; i++, text += strlen(text) + 1)
    print_cell(t, i, text, width[i % t->columns], colour, out);
  free(width);
}

void table_print_csv(const struct table *t, struct buf *out) {
  if (t->text.failed) out->failed = true;
  if (t->text.failed || !t->cells) return;
  const char *text = t->text.data;
  for (int i = 0; i < t->cells; i++, text += strlen(text) + 1) {
    const bool quote = strpbrk(text, ",\"\n") != NULL;
    if (quote) buf_char(out, '"');
    for (const char *c = text; *c; c++) {
      if (*c == '"') buf_char(out, '"');
      buf_char(out, *c);
    }
    if (quote) buf_char(out, '"');
    buf_char(out, i % t->columns == t->columns - 1 ? '\n' : ',');
  }
}

void table_free(struct table *t) {
  buf_free(&t->text);
  buf_free(&t->styles);
}
