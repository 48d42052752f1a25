// The dispatcher of a set: NAME_dispatch.c and .h, and CMakeLists.txt.
#ifndef STROBE_GEN_SET_DISPATCH_H
#define STROBE_GEN_SET_DISPATCH_H

#include "set.h"

// Appends templates/set/TEMPLATE, rendered for the set. Returns what kernel_template does, or STROBE_NO_MEMORY.
int set_render(const struct kernel_set *set, const char *template, struct buf *out, struct error *err);

#endif
