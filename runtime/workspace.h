// The memory that a plan has for its executions, so that they allocate none. One execution at a time has it.
#ifndef STROBE_WORKSPACE_H
#define STROBE_WORKSPACE_H

#include "../gen/error.h"

#include <stddef.h>

struct workspace;

// *out NULL for 0 bytes. The memory is 64-byte aligned and not touched, so that it costs nothing until it is used.
// STROBE_NO_MEMORY.
int workspace_create(size_t bytes, struct workspace **out, struct error *err);
void workspace_free(struct workspace *w); // NULL is allowed

// The memory, for this caller alone until it is returned; NULL while another has it.
void *workspace_borrow(struct workspace *w);
void workspace_return(struct workspace *w);

#endif
