// A picture of a benchmark, as in the papers: a panel for each head dimension and mask, groups of bars for each length.
#ifndef STROBE_GEN_PLOT_H
#define STROBE_GEN_PLOT_H

#include "spec.h"

struct plot_bar {
  const struct problem *problem; // panel: head dims and mask; group: q_len, and kv_len if it is another
  const char *target;            // with the dtype of kv the series
  const char *unit;
  double value;
};

// A dashed line over every panel.
struct plot_line {
  double value;
  const char *name;
};

struct plot {
  const struct plot_bar *bars;
  int n;
  const char *title;
  struct plot_line lines[2]; // value 0: none
};

// Writes an SVG file, whole or not at all. STROBE_INVALID (bars of different units), STROBE_IO, STROBE_NO_MEMORY.
int plot_write(const char *path, const struct plot *p, struct error *err);

#endif
