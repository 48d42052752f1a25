// Where a plan's kernel comes from: the rungs of the ladder, best first.
#ifndef STROBE_BACKEND_H
#define STROBE_BACKEND_H

#include "plan.h"

struct backend {
  const char *name;
  enum target_family family; // of the targets it serves
  enum printer printer;      // for those that compile
  bool configurable;         // serves the target and config that were asked for; else it has its own
  // Sets kernel, compiled and fresh of the plan; a backend that is not configurable sets the instance as well.
  int (*prepare)(struct strobe_plan *p, const struct backend *self, struct error *err);
};
extern const struct backend backend_table[];
extern const int backend_count;

#endif
