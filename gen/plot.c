#include "plot.h"

#include "buf.h"
#include "file.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
  MOST = 64,
  LABEL = 64,
  COLUMNS = 2,
  BAR = 30,
  GAP = 18,
  HEIGHT = 170,
  LEFT = 56,
  TOP = 76,
  HEAD = 34,
  FOOT = 44
};
static const char *const colours[] = {"#3b6fb6", "#e08a2e", "#4a9d5b", "#b4473f", "#7d62a8", "#7a6a5c"};
enum { LINES = sizeof((struct plot *)0)->lines / sizeof(struct plot_line) };
static const char *const dashes[LINES] = {"5 4", "2 3"};

// Distinct labels, in order of appearance.
struct labels {
  char text[MOST][LABEL];
  int n;
};
static int label(struct labels *l, const char *text) {
  for (int i = 0; i < l->n; i++)
    if (!strcmp(l->text[i], text)) return i;
  if (l->n == MOST) return MOST - 1; // the last place takes the rest
  snprintf(l->text[l->n], LABEL, "%s", text);
  return l->n++;
}

static void length_text(int64_t n, char *out, size_t size) {
  if (n >= 1024 && n % 1024 == 0)
    snprintf(out, size, "%lldk", (long long)n / 1024);
  else
    snprintf(out, size, "%lld", (long long)n);
}

static int panel_of(struct labels *l, const struct plot_bar *b) {
  const struct spec *s = &b->problem->spec;
  char text[LABEL], dims[32];
  snprintf(dims, sizeof dims, s->head_dim == s->head_dim_v ? "%d" : "%d, %d of V", s->head_dim, s->head_dim_v);
  snprintf(text, sizeof text, "head dim %s, %s", dims, s->mask == MASK_FULL ? "full" : "causal");
  return label(l, text);
}

static int group_of(struct labels *l, const struct plot_bar *b) {
  char text[LABEL], q[24], k[24];
  length_text(b->problem->q_len, q, sizeof q);
  length_text(b->problem->kv_len, k, sizeof k);
  snprintf(text, sizeof text, b->problem->q_len == b->problem->kv_len ? "%s" : "%s x %s", q, k);
  return label(l, text);
}

static int series_of(struct labels *l, const struct plot_bar *b) {
  char text[LABEL];
  snprintf(text, sizeof text, "%s, %s", b->target, dtype_table[b->problem->spec.kv].name);
  return label(l, text);
}

// 1, 2 or 5 times a power of ten, so that about four lines fit.
static double grid_step(double top) {
  const double raw = top / 4, power = pow(10, floor(log10(raw))), x = raw / power;
  return power * (x <= 1 ? 1 : x <= 2 ? 2 : x <= 5 ? 5 : 10);
}

struct sheet {
  const struct plot *plot;
  struct labels panels, groups, series;
  double top; // value at the upper edge
  int panel_width;
  struct buf out;
};

static double y_of(const struct sheet *s, double value) { return HEIGHT * (1 - value / s->top); }

static void add_text(struct buf *out, double x, double y, const char *style, const char *text) {
  buf_printf(out, "<text x=\"%.1f\" y=\"%.1f\" %s>", x, y, style);
  for (; *text; text++) {
    if (*text == '<' || *text == '&')
      buf_str(out, *text == '<' ? "&lt;" : "&amp;");
    else
      buf_add(out, text, 1);
  }
  buf_str(out, "</text>\n");
}

static void draw_bar(struct sheet *s, const struct plot_bar *b, int group, int series) {
  const double x = LEFT + GAP / 2.0 + group * (s->series.n * BAR + GAP) + series * BAR, y = y_of(s, b->value);
  char value[32];
  buf_printf(&s->out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%d\" height=\"%.1f\" fill=\"%s\"/>\n", x + 1, y, BAR - 2,
             HEIGHT - y, colours[series % (int)(sizeof colours / sizeof *colours)]);
  snprintf(value, sizeof value, b->value < 10 ? "%.1f" : "%.0f", b->value);
  add_text(&s->out, x + BAR / 2.0, y - 3, "text-anchor=\"middle\" font-size=\"10\"", value);
}

static void draw_axes(struct sheet *s, int panel) {
  const double right = s->panel_width - 12, step = grid_step(s->top);
  char text[LABEL + 32];
  snprintf(text, sizeof text, "%s (%s)", s->panels.text[panel], s->plot->bars[0].unit);
  add_text(&s->out, LEFT, -14, "font-weight=\"bold\"", text);
  for (double v = 0; v <= s->top * 1.0001; v += step) {
    buf_printf(&s->out, "<line x1=\"%d\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#dddddd\"/>\n", LEFT, y_of(s, v),
               right, y_of(s, v));
    snprintf(text, sizeof text, "%.4g", v);
    add_text(&s->out, LEFT - 6, y_of(s, v) + 4, "text-anchor=\"end\" font-size=\"11\" fill=\"#555555\"", text);
  }
  for (int g = 0; g < s->groups.n; g++)
    add_text(&s->out, LEFT + g * (s->series.n * BAR + GAP) + (s->series.n * BAR + GAP) / 2.0, HEIGHT + 16,
             "text-anchor=\"middle\" font-size=\"11\"", s->groups.text[g]);
}

static void draw_panel(struct sheet *s, int panel) {
  const struct plot *p = s->plot;
  const int x = panel % COLUMNS * s->panel_width, y = TOP + panel / COLUMNS * (HEAD + HEIGHT + FOOT) + HEAD;
  buf_printf(&s->out, "<g transform=\"translate(%d %d)\">\n", x, y);
  draw_axes(s, panel);
  for (int i = 0; i < p->n; i++)
    if (panel_of(&s->panels, &p->bars[i]) == panel)
      draw_bar(s, &p->bars[i], group_of(&s->groups, &p->bars[i]), series_of(&s->series, &p->bars[i]));
  for (int i = 0; i < LINES; i++)
    if (p->lines[i].value > 0)
      buf_printf(&s->out,
                 "<line x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\" stroke=\"#333333\" stroke-dasharray=\"%s\"/>\n",
                 LEFT, y_of(s, p->lines[i].value), s->panel_width - 12, y_of(s, p->lines[i].value), dashes[i]);
  buf_str(&s->out, "</g>\n");
}

static void draw_legend(struct sheet *s) {
  double x = LEFT;
  char text[LABEL + 48];
  for (int i = 0; i < s->series.n; i++) {
    buf_printf(&s->out, "<rect x=\"%.1f\" y=\"44\" width=\"12\" height=\"12\" fill=\"%s\"/>\n", x,
               colours[i % (int)(sizeof colours / sizeof *colours)]);
    add_text(&s->out, x + 17, 55, "", s->series.text[i]);
    x += 40 + 8 * (double)strlen(s->series.text[i]);
  }
  if (s->plot->lines[1].value > 0) x = LEFT;
  const int y = s->plot->lines[1].value > 0 ? 68 : 50; // two do not fit beside the series
  for (int i = 0; i < LINES; i++) {
    if (s->plot->lines[i].value <= 0) continue;
    snprintf(text, sizeof text, "%s: %.0f", s->plot->lines[i].name, s->plot->lines[i].value);
    buf_printf(&s->out,
               "<line x1=\"%.1f\" y1=\"%d\" x2=\"%.1f\" y2=\"%d\" stroke=\"#333333\" stroke-dasharray=\"%s\"/>\n", x, y,
               x + 24, y, dashes[i]);
    add_text(&s->out, x + 30, y + 5, "", text);
    x += 48 + 8 * (double)strlen(text);
  }
}

static void draw(struct sheet *s) {
  const struct plot *p = s->plot;
  for (int i = 0; i < LINES; i++) s->top = fmax(s->top, p->lines[i].value);
  for (int i = 0; i < p->n; i++) {
    panel_of(&s->panels, &p->bars[i]), group_of(&s->groups, &p->bars[i]), series_of(&s->series, &p->bars[i]);
    s->top = p->bars[i].value > s->top ? p->bars[i].value : s->top;
  }
  const double step = grid_step(s->top > 0 ? s->top : 1);
  s->top = ceil((s->top > 0 ? s->top : 1) * 1.05 / step) * step;
  s->panel_width = LEFT + s->groups.n * (s->series.n * BAR + GAP) + 12;
  if (s->panel_width < 300) s->panel_width = 300;
  const int columns = s->panels.n < COLUMNS ? s->panels.n : COLUMNS, rows = (s->panels.n + COLUMNS - 1) / COLUMNS;
  buf_printf(&s->out,
             "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" "
             "font-size=\"13\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n",
             columns * s->panel_width + 12, TOP + rows * (HEAD + HEIGHT + FOOT));
  add_text(&s->out, LEFT, 26, "font-size=\"15\"", p->title);
  draw_legend(s);
  for (int i = 0; i < s->panels.n; i++) draw_panel(s, i);
  buf_str(&s->out, "</svg>\n");
}

int plot_write(const char *path, const struct plot *p, struct error *err) {
  static const struct labels none = {.n = 0};
  for (int i = 1; i < p->n; i++)
    if (strcmp(p->bars[i].unit, p->bars[0].unit))
      return fail(err, STROBE_INVALID, "--plot \"%.200s\": one picture can't show %s and %s; time them apart", path,
                  p->bars[0].unit, p->bars[i].unit);
  if (p->n < 1) return fail(err, STROBE_INVALID, "--plot \"%.200s\": there is nothing to show", path);
  struct sheet s = {.plot = p, .panels = none, .groups = none, .series = none};
  draw(&s);
  int status = s.out.failed ? fail(err, STROBE_NO_MEMORY, "no memory for a plot") : 0;
  const struct file_text file = {path, s.out.data, s.out.len};
  if (!status) status = files_write(&file, 1, NULL, err);
  buf_free(&s.out);
  return status;
}
