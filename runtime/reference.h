// The oracle: attention in double precision, in three explicit steps, with the terms of the error bound of each row.
#ifndef STROBE_REFERENCE_H
#define STROBE_REFERENCE_H

#include "../gen/spec.h"
#include "kernel_abi.h"

// Steps 1 to 3 for rows of one (batch, head): S = scale Q K^T + mask, P = softmax(S), O = P V, over tensors described
// by args (dtypes from the spec). Any output may be NULL. Layouts are packed: o, floor (rows, head_dim_v); lse,
// magnitude (rows). A row that sees no key has o 0, lse -inf, floor 0, magnitude 0. NaN and Inf spread as in the three
// steps over the keys that a row sees: a NaN or +Inf score makes the whole row NaN, and none but -Inf its o, with
// lse -inf; 0 * Inf in P V is NaN. A masked key adds nothing.
struct reference_out {
  double *o;         // (rows, head_dim_v)
  double *lse;       // (rows), natural log; -inf for a row that sees no key, or none but of score -Inf
  double *floor;     // F = sum_j p_j |v_j|, (rows, head_dim_v)
  double *magnitude; // A = max_j |scale| sum_x |q_x k_jx| over visible keys whose score is not -Inf, (rows)
};

// Which query rows, in any order.
struct reference_rows {
  const int64_t *index; // count numbers in 0..q_len; NULL: rows 0..count
  int64_t count;
  const double *scale; // NULL: args->scale (what the kernel gets, an f32)
  double *memory;      // reference_bytes(spec, kv_len) bytes; NULL: allocated for this call
};

// Every row of a head. STROBE_INVALID (batch or head out of range), STROBE_NO_MEMORY.
int reference_head(const struct spec *s, const struct strobe_args *args, int64_t batch, int64_t head,
                   const struct reference_out *out, struct error *err);
// What reference_some works in: 16 rows of kv_len scores and one block of keys, in double. -1: beyond 64 bits.
int64_t reference_bytes(const struct spec *s, int64_t kv_len);
// The rows asked for.
int reference_some(const struct spec *s, const struct strobe_args *args, int64_t batch, int64_t head,
                   const struct reference_rows *rows, const struct reference_out *out, struct error *err);

// Keys of a sequence: kv_len, or its kv_lens within 0 to kv_len.
int64_t reference_keys(const struct strobe_args *args, int64_t batch);
// Number of keys that query `row` of a sequence sees: they are keys 0 .. this.
int64_t reference_visible(const struct spec *s, const struct strobe_args *args, int64_t batch, int64_t row);

// |o - ref| <= eps(o)|ref| + F eps(P) + (F + |ref|) W + half(o) + tiny, W = eps(exp) + eps(acc)(c(keys) + c(head_dim)
// A), c(n) = max(4, sqrt(n)). W is the relative error of a p and of a sum over them: o = N / l with N off by F l W and
// l by l W, so o by (F + |ref|) W. eps(P) counts only if the kernel rounds P before the second GEMM (instance_p_error;
// kernel or its target NULL: one that rounds it to spec->p); l is the sum of unrounded ones. eps is the unit roundoff:
// f32 2^-24 (eps(acc) of CUDA kernels 2^-23: tensor cores cut off), bf16 2^-8, f16 2^-11; half(o) is what rounding may
// lose below o's normal range (f16: 2^-25). kernel NULL or with its exp kind unset: the exp of libm, 2^-23 (CUDA
// kernels with P of bf16 that begin at 2^-48: half an ulp of that exponent more). keys: what the row sees. c: a sum of
// n terms of one sign, added in order, has a relative rounding error of standard deviation 0.245 sqrt(n) eps (each
// addition's error is uniform within half an ulp of the partial sum; Higham and Mary, SIAM J. Sci. Comput. 41, 2019,
// with lambda = 1), so sqrt(n) is 4 standard deviations; the score's error goes into p through exp. 4 covers the few
// roundings (scale, maximum, product, division) that do not depend on n. Errors that are not independent may exceed it,
// up to n eps: a sum of n equal terms, or n keys that are each below half an ulp of a running sum that was not kept by
// blocks.
double reference_bound_o(const struct spec *s, const struct instance *kernel, int64_t keys, double ref, double floor,
                         double magnitude);
// |lse - ref| <= 4 eps(f32)|ref| + eps(acc)(c(keys) + c(head_dim) A) + eps(exp). The first term: scale log2 e and ln 2
// are rounded, m + log2 l is, and so is lse, to an f32: what is small beside head_dim terms of a score is not beside
// one sum of them. With small scores |lse| = ln(keys) may exceed the rest (4096 keys: half an ulp of 8.3 is 8 eps).
double reference_bound_lse(const struct spec *s, const struct instance *kernel, int64_t keys, double ref,
                           double magnitude);

// Absolute slack. vdpbf16ps reads denormals as zero and flushes denormal results, so each of kv_len steps loses up to
// 2^-126 (a term or a partial sum), and each p below 2^-126 loses up to 2^-126 |v|: at 2^20 keys with |v| < 64 that is
// 2^-100.
#define REFERENCE_TINY 0x1p-100

float bf16_to_f32(uint16_t x);
uint16_t f32_to_bf16(float x); // to nearest even; NaN stays NaN
float f16_to_f32(uint16_t x);
uint16_t f32_to_f16(float x); // to nearest even; NaN stays NaN, beyond 65519 infinity

// Element `index` of an array of dtype t.
double dtype_load(enum dtype t, const void *data, int64_t index);
void dtype_store(enum dtype t, void *data, int64_t index, double value); // rounds to f32 first, then to t

#endif
