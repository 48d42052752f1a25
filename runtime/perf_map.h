// /tmp/perf-PID.map: lets `perf` name code that was generated in this process.
#ifndef STROBE_PERF_MAP_H
#define STROBE_PERF_MAP_H

#include "../gen/buf.h"

#include <stdint.h>

struct perf_map {
  struct buf lines;
};

bool perf_map_wanted(void); // STROBE_PERF=1 in the environment
void perf_map_begin(struct perf_map *map);
// Names size bytes at address "object:function", or "function" when object is NULL.
void perf_map_add(struct perf_map *map, uint64_t address, uint64_t size, const char *object, const char *function);
void perf_map_end(struct perf_map *map); // appends all lines in one write; a failure is nobody's problem

#endif
