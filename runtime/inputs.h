// Inputs for verification and benchmarks: tensors with NaN between their rows, and deterministic values of many kinds.
#ifndef STROBE_INPUTS_H
#define STROBE_INPUTS_H

#include "../gen/spec.h"
#include "kernel_abi.h"

enum layout { LAYOUT_BNHD, LAYOUT_BHND, LAYOUT_COUNT };
extern const char *const layout_names[LAYOUT_COUNT]; // "bnhd", "bhnd"

// Where tensors get their memory from. free gets what alloc returned.
struct tensor_allocator {
  void *(*alloc)(void *context, size_t bytes); // bytes >= 1; NULL: no memory
  void (*free)(void *context, void *data, size_t bytes);
  void *context;
};

enum tensor_id { TENSOR_Q, TENSOR_K, TENSOR_V, TENSOR_O, TENSOR_LSE, TENSOR_COUNT };

// q, k, v, o and lse of one problem. The padding between rows (`pad` elements after each) holds a NaN of its own bit
// pattern; the last row has none, so that an allocator with guard pages sees every overrun. o and lse start out
// poisoned likewise.
struct tensors {
  struct strobe_args args; // no workspace
  struct spec spec;
  int64_t pad;
  struct tensor_allocator allocator;
  void *memory[TENSOR_COUNT];
  size_t bytes[TENSOR_COUNT];
};

// allocator NULL: 64-byte aligned memory of malloc's. scale is taken as it is. q, k and v are zero until inputs_fill.
// STROBE_INVALID (a size below 0 or more than 2^60 elements), STROBE_NO_MEMORY: then *t is all zero.
int tensors_create(const struct problem *p, enum layout layout, int64_t pad, float scale,
                   const struct tensor_allocator *allocator, struct tensors *t, struct error *err);
void tensors_free(struct tensors *t);   // back to {0}
void tensors_poison(struct tensors *t); // o and lse: every element the poison NaN, as after tensors_create
// Elements of padding, of any tensor, that no longer hold the poison NaN.
int64_t tensors_padding_changed(const struct tensors *t);

// The poison: quiet NaNs that no arithmetic gives.
#define POISON_F32 0x7fdeadb5u
#define POISON_16 0x7fdfu
bool is_poison(enum dtype t, const void *data, int64_t index);

// 1/sqrt(head_dim) rounded to f32.
float default_scale(const struct spec *s);

// A random stream by position: one 64-bit value per (seed, stream, index), so values depend on neither layout nor
// threads.
uint64_t random_bits(uint64_t seed, uint64_t stream, uint64_t index);
double random_uniform(uint64_t seed, uint64_t stream, uint64_t index); // [0, 1)
double random_normal(uint64_t seed, uint64_t stream, uint64_t index);  // N(0, 1)

enum input_tensor { INPUT_Q, INPUT_K, INPUT_V };
struct input_place {
  const struct strobe_args *args;
  uint64_t seed;
  int dim;         // elements of this row
  float scale;     // 1/sqrt(head_dim), whatever args->scale is
  int64_t b, n, h; // batch, row, head
};

struct input_kind {
  const char *name;
  bool finite; // false: holds NaN or Inf
  // Values of one row of q, k or v, in double; rounded when stored.
  void (*row)(enum input_tensor which, const struct input_place *at, double *out);
  const char *about;
};
extern const struct input_kind input_kinds[];
extern const int input_kind_count;
const struct input_kind *input_kind_find(const char *name); // NULL: no such kind

// Fills q, k and v of any strides. Deterministic: the same kind, seed and sizes give the same values in any layout.
// STROBE_NO_MEMORY.
int inputs_fill(const struct spec *s, const struct strobe_args *args, const struct input_kind *kind, uint64_t seed,
                struct error *err);

// NaN for the rows of K and V that args->kv_lens leaves out: no kernel may read them.
void inputs_spoil_unused(const struct spec *s, const struct strobe_args *args);

#endif
