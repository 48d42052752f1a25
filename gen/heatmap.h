// A picture of what the tuner measured: block_m down, block_n across, the best time of each cell over the default's.
#ifndef STROBE_GEN_HEATMAP_H
#define STROBE_GEN_HEATMAP_H

#include "../runtime/tune.h"

// Writes an SVG file, whole or not at all. STROBE_IO, STROBE_NO_MEMORY.
int heatmap_write(const char *path, const char *title, const struct tune_result *r, struct error *err);

#endif
