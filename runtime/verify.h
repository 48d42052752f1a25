// Compares computed O and lse with the oracle, within the derived bound.
#ifndef STROBE_VERIFY_H
#define STROBE_VERIFY_H

#include "../gen/buf.h"
#include "inputs.h"

struct verify_case {
  struct problem problem; // complete: every size given
  const struct input_kind *kind;
  uint64_t seed;
  enum layout layout;
  int64_t pad;            // elements of NaN between rows
  float scale;            // taken as it is; default_scale(spec) for the usual one
  bool whole_blocks;      // of a kernel that multiplies whole KV blocks: verify_blocks.h says what that excuses
  const int64_t *kv_lens; // batch of them; NULL: all kv_len. Rows of K and V beyond them are NaN
};

// Tensors of the case with inputs filled, outputs and padding poisoned: run the kernel on t->args, then verify_tensors.
int verify_create(const struct verify_case *c, const struct tensor_allocator *allocator, struct tensors *t,
                  struct error *err);

// Where one output comes closest to (or furthest beyond) its bound.
struct verify_worst {
  double err;   // |got - want| there
  double bound; // at the same place
  double ratio; // err / bound; the largest of all elements
  double got, want;
  int64_t batch, head, row, column; // column 0 for lse; batch -1: nothing was compared
  double largest_err;               // of all elements, wherever it is
};

struct verify_result {
  struct verify_worst o, lse;
  int64_t rows;              // rows compared with the oracle
  int64_t nonfinite;         // elements that are NaN or Inf where the oracle is not, or the reverse
  int64_t excused;           // of these, not counted: what whole_blocks excuses
  int64_t unwritten;         // elements of o and lse, in all rows, that still hold the poison
  int64_t padding;           // elements of padding that were overwritten (verify_tensors)
  struct verify_worst first; // the first element counted in nonfinite or unwritten; batch -1: none
  bool lse_wanted;           // args->lse was given
  bool ok;
};

enum { VERIFY_ALL_ROWS = -1, VERIFY_AUTO_ROWS = 0 };

// Compares o and lse (if not NULL) of args with the oracle, within the bound of the kernel that computed them (NULL:
// reference_bound_o has which). max_rows: rows per head that are compared; VERIFY_AUTO_ROWS
// takes all while that is cheap (about a second), else a sample with the first, the last, rows beside multiples of 16
// and random ones. Every element of every row is checked for poison all the same. Agreement of the non-finite: a row
// that is NaN in the oracle (lse is NaN) is NaN in every column and in lse; an element that is NaN there is NaN; one
// that is infinite there is the same infinity or NaN (p v with p = 0 by underflow in f32), one that o's dtype can't
// hold may be infinite; everything else is finite, save lse = -inf with o = 0 for a row that sees no key.
// STROBE_INVALID, STROBE_NO_MEMORY: the comparison could not be made; a mismatch is r->ok = false and status 0.
int verify_args(const struct spec *s, const struct instance *kernel, const struct strobe_args *args, uint64_t seed,
                int64_t max_rows, struct verify_result *r, struct error *err);
// The same for tensors of verify_create, and their padding.
int verify_tensors(const struct verify_case *c, const struct instance *kernel, const struct tensors *t,
                   int64_t max_rows, struct verify_result *r, struct error *err);

// One sentence on a result that is not ok, or "" if it is.
void verify_print(const struct verify_result *r, struct buf *out);
// "d64:f32:b1h2q8k8 kind normal seed 7 layout bnhd pad 3 scale 0.125": what reproduces a case.
void verify_case_print(const struct verify_case *c, struct buf *out);

// The rows that a sample of at most `most` of q_len takes, ascending, without repeats; returns how many. rows: room for
// `most`.
int64_t verify_sample(int64_t q_len, int64_t most, uint64_t seed, int64_t *rows);

#endif
