// Checks what a caller passes to strobe_execute and turns it into the arguments of a kernel.
#ifndef STROBE_IO_CHECK_H
#define STROBE_IO_CHECK_H

#include "plan.h"

// Fills the tensors and lse of args (from plan_args). Refused, with STROBE_INVALID and the field by name: a NULL where
// there are elements; an address that is not a multiple of the element's size; a stride that lets two rows, heads or
// batches of a tensor overlap; sizes beyond the address space; o or lse or the workspace in the same bytes as anything
// else. Overlap is judged by whole address ranges, first byte to last; the one exception is tensors that share their
// rows, such as a packed (batch, seqlen, 4, heads, head_dim) of q, k, v and o: same row stride, each in columns of its
// own.
int io_check(const struct strobe_plan *p, const struct strobe_io *io, struct strobe_args *args, struct error *err);

#endif
