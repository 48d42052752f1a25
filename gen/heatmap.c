#include "heatmap.h"

#include "file.h"

#include <stdio.h>
#include <stdlib.h>

enum { MOST = 16, CELL_W = 92, CELL_H = 44, LEFT = 90, TOP = 64 };

// The distinct values of one field, ascending.
static int values_of(const struct tune_result *r, enum config_field f, int *out) {
  int n = 0;
  for (int i = 0; i < r->n; i++) {
    const int v = r->candidates[i].config.v[f];
    int at = 0;
    while (at < n && out[at] < v) at++;
    if (r->candidates[i].ratio <= 0 || n == MOST || (at < n && out[at] == v)) continue;
    for (int j = n++; j > at; j--) out[j] = out[j - 1];
    out[at] = v;
  }
  return n;
}

// The fastest candidate of a cell; NULL: none was timed. Candidates are sorted by time.
static const struct tune_candidate *fastest(const struct tune_result *r, int block_m, int block_n) {
  for (int i = 0; i < r->n; i++) {
    const struct tune_candidate *c = &r->candidates[i];
    if (c->ratio > 0 && c->config.v[CFG_BLOCK_M] == block_m && c->config.v[CFG_BLOCK_N] == block_n) return c;
  }
  return NULL;
}

// Green for the fastest of the map, over white, to red for 1.5 times as long.
static void colour(double share, char out[8]) {
  const double x = share < 0 ? 0 : share > 1 ? 1 : share;
  const int red = x < 0.5 ? (int)(120 + 270 * x) : 255,
            green = x < 0.5 ? 205 + (int)(100 * x) : (int)(255 - 270 * (x - 0.5)),
            blue = (int)(x < 0.5 ? 120 + 270 * x : 255 - 270 * (x - 0.5));
  snprintf(out, 8, "#%02x%02x%02x", red & 255, green > 255 ? 255 : green, blue & 255);
}

static void cell(const struct tune_candidate *c, double least, int x, int y, struct buf *out) {
  char fill[8] = "#eeeeee";
  if (c) colour((c->ratio / least - 1) / 0.5, fill);
  buf_printf(out, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"%s\" stroke=\"#ffffff\"/>\n", x, y, CELL_W,
             CELL_H, fill);
  if (c)
    buf_printf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\"%s>%.3f</text>\n", x + CELL_W / 2,
               y + CELL_H / 2 + 5, c->is_default ? " font-weight=\"bold\"" : "", c->ratio);
}

int heatmap_write(const char *path, const char *title, const struct tune_result *r, struct error *err) {
  int m[MOST], n[MOST], rows = values_of(r, CFG_BLOCK_M, m), columns = values_of(r, CFG_BLOCK_N, n);
  struct buf out = {0};
  const double least = r->n && r->candidates[0].ratio > 0 ? r->candidates[0].ratio : 1;
  const int width = LEFT + columns * CELL_W + 20, height = TOP + rows * CELL_H + 60;
  buf_printf(&out,
             "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" "
             "font-size=\"13\">\n"
             "<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n<text x=\"12\" y=\"24\" font-size=\"15\">%s "
             "on %s</text>\n"
             "<text x=\"12\" y=\"44\" fill=\"#555555\">best time over the default's, by block_m (down) and block_n "
             "(across); bold: the "
             "default</text>\n",
             width < 620 ? 620 : width, height, title, r->key.target);
  for (int j = 0; j < columns; j++)
    buf_printf(&out, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%d</text>\n", LEFT + j * CELL_W + CELL_W / 2,
               TOP + rows * CELL_H + 18, n[j]);
  for (int i = 0; i < rows; i++) {
    buf_printf(&out, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%d</text>\n", LEFT - 10,
               TOP + i * CELL_H + CELL_H / 2 + 5, m[i]);
    for (int j = 0; j < columns; j++) cell(fastest(r, m[i], n[j]), least, LEFT + j * CELL_W, TOP + i * CELL_H, &out);
  }
  buf_printf(&out, "<text x=\"12\" y=\"%d\" fill=\"#555555\">noise %.1f %%; %s</text>\n</svg>\n", height - 14, r->noise,
             r->key.machine);
  int status = out.failed ? fail(err, STROBE_NO_MEMORY, "no memory for a heat map") : 0;
  const struct file_text file = {path, out.data, out.len};
  if (!status) status = files_write(&file, 1, NULL, err);
  buf_free(&out);
  return status;
}
