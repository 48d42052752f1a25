#include "reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 16, KEYS = 128 }; // query rows and keys that are converted to double at a time

// One chunk of up to ROWS query rows of one head.
struct chunk {
  const struct spec *spec;
  const struct strobe_args *args;
  const void *q, *k, *v; // first row of the head
  double scale;
  int64_t batch;
  int rows;
  int64_t seen[ROWS], most; // keys that each row sees; the largest of them
  double *qd;               // (ROWS, head_dim)
  double *kt;               // (head_dim, KEYS): keys transposed, so that the inner loops run over keys and vectorise
  double *s;                // (ROWS, kv_len): scores, then probabilities
  double *vd;               // (head_dim_v)
  double *o, *f;            // (ROWS, head_dim_v)
  double a[ROWS], lse[ROWS];
};

int64_t reference_keys(const struct strobe_args *args, int64_t batch) {
  if (!args->kv_lens) return args->kv_len;
  const int64_t n =
      args->kv_lens_bytes == 8 ? ((const int64_t *)args->kv_lens)[batch] : ((const int32_t *)args->kv_lens)[batch];
  return n < 0 ? 0 : n > args->kv_len ? args->kv_len : n;
}

int64_t reference_visible(const struct spec *s, const struct strobe_args *args, int64_t batch, int64_t row) {
  const int64_t keys = reference_keys(args, batch);
  if (s->mask == MASK_FULL) return keys;
  const int64_t diagonal = args->diagonal - (args->diagonal_at_end ? args->kv_len - keys : 0);
  if (diagonal >= keys - row) return keys; // no overflow for any diagonal
  return diagonal < -row ? 0 : row + diagonal + 1;
}

static void load_keys(struct chunk *c, int64_t first, int count) {
  for (int j = 0; j < count; j++)
    for (int x = 0; x < c->spec->head_dim; x++)
      c->kt[x * KEYS + j] = dtype_load(c->spec->kv, c->k, (first + j) * c->args->k.row_stride + x);
}

// Scores of one row against `count` keys in kt; returns the largest sum_x |q_x k_jx| of those it sees, without keys of
// score -Inf, whose weight is 0.
static double score_block(const struct chunk *c, const double *q, double *restrict s, int count, int64_t seen) {
  double size[KEYS] = {0};
  memset(s, 0, (size_t)count * sizeof *s);
  for (int x = 0; x < c->spec->head_dim; x++) {
    const double qx = q[x], *restrict kt = c->kt + x * KEYS;
#pragma omp simd
    for (int j = 0; j < count; j++) {
      double product = qx * kt[j];
      s[j] += product;
      size[j] += fabs(product);
    }
  }
  double most = 0;
  for (int j = 0; j < count; j++) {
    s[j] *= c->scale;
    if (j < seen && s[j] != -INFINITY && size[j] > most) most = size[j];
  }
  return most;
}

// Step 1: S = scale Q K^T.
static void scores(struct chunk *c) {
  for (int r = 0; r < c->rows; r++) c->a[r] = 0;
  for (int64_t j = 0; j < c->most; j += KEYS) {
    int count = c->most - j < KEYS ? (int)(c->most - j) : KEYS;
    load_keys(c, j, count);
    for (int r = 0; r < c->rows; r++) {
      if (c->seen[r] <= j) continue;
      double a = score_block(c, c->qd + r * c->spec->head_dim, c->s + r * c->args->kv_len + j, count, c->seen[r] - j);
      if (a > c->a[r]) c->a[r] = a;
    }
  }
  for (int r = 0; r < c->rows; r++) c->a[r] *= fabs(c->scale);
}

// Step 2: P = softmax(S) over the keys that each row sees, and lse. inf - inf and NaN make the sum NaN, and so the row.
static void softmax(struct chunk *c) {
  for (int r = 0; r < c->rows; r++) {
    double *s = c->s + r * c->args->kv_len, most = -INFINITY, sum = 0;
    bool any = false; // score but -Inf
    for (int64_t j = 0; j < c->seen[r]; j++) {
      if (s[j] > most) most = s[j];
      any |= s[j] != -INFINITY;
    }
    for (int64_t j = 0; j < c->seen[r]; j++) sum += s[j] = exp(s[j] - most);
    for (int64_t j = 0; j < c->seen[r]; j++) s[j] /= sum;
    c->lse[r] = any ? most + log(sum) : -INFINITY;
  }
}

// Step 3: O = P V, and F = P |V|.
static void weighted_sum(struct chunk *c) {
  const int dv = c->spec->head_dim_v;
  memset(c->o, 0, (size_t)(ROWS * dv) * sizeof *c->o);
  memset(c->f, 0, (size_t)(ROWS * dv) * sizeof *c->f);
  for (int64_t j = 0; j < c->most; j++) {
    for (int x = 0; x < dv; x++) c->vd[x] = dtype_load(c->spec->kv, c->v, j * c->args->v.row_stride + x);
    const double *restrict v = c->vd;
    for (int r = 0; r < c->rows; r++) {
      if (c->seen[r] <= j) continue;
      const double p = c->s[r * c->args->kv_len + j];
      double *restrict o = c->o + r * dv, *restrict f = c->f + r * dv;
#pragma omp simd
      for (int x = 0; x < dv; x++) {
        double product = p * v[x];
        o[x] += product;
        f[x] += fabs(product);
      }
    }
  }
}

static void run_chunk(struct chunk *c, const struct reference_rows *rows, int64_t first,
                      const struct reference_out *out) {
  const int d = c->spec->head_dim, dv = c->spec->head_dim_v;
  c->rows = rows->count - first < ROWS ? (int)(rows->count - first) : ROWS;
  c->most = 0;
  for (int r = 0; r < c->rows; r++) {
    int64_t row = rows->index ? rows->index[first + r] : first + r;
    c->seen[r] = reference_visible(c->spec, c->args, c->batch, row);
    if (c->seen[r] > c->most) c->most = c->seen[r];
    for (int x = 0; x < d; x++) c->qd[r * d + x] = dtype_load(c->spec->q, c->q, row * c->args->q.row_stride + x);
  }
  scores(c);
  softmax(c);
  const size_t n = (size_t)c->rows * sizeof(double);
  if (out->lse) memcpy(out->lse + first, c->lse, n);
  if (out->magnitude) memcpy(out->magnitude + first, c->a, n);
  if (!out->o && !out->floor) return;
  weighted_sum(c);
  if (out->o) memcpy(out->o + first * dv, c->o, n * (size_t)dv);
  if (out->floor) memcpy(out->floor + first * dv, c->f, n * (size_t)dv);
}

static const void *head_base(const struct strobe_tensor *t, enum dtype type, int64_t batch, int64_t head) {
  return (const char *)t->data + (batch * t->batch_stride + head * t->head_stride) * dtype_table[type].bytes;
}

static int check(const struct strobe_args *a, int64_t batch, int64_t head, const struct reference_rows *rows,
                 struct error *err) {
  if (batch < 0 || batch >= a->batch)
    return fail(err, STROBE_INVALID, "reference: batch %lld; allowed: 0 to %lld", (long long)batch,
                (long long)a->batch - 1);
  if (head < 0 || head >= a->heads)
    return fail(err, STROBE_INVALID, "reference: head %lld; allowed: 0 to %lld", (long long)head,
                (long long)a->heads - 1);
  if (a->heads_kv < 1 || a->heads % a->heads_kv)
    return fail(err, STROBE_INVALID, "reference: heads_kv %lld; allowed: a divisor of heads, %lld",
                (long long)a->heads_kv, (long long)a->heads);
  for (int64_t i = 0; i < rows->count; i++) {
    int64_t row = rows->index ? rows->index[i] : i;
    if (row < 0 || row >= a->q_len)
      return fail(err, STROBE_INVALID, "reference: row %lld; allowed: 0 to %lld", (long long)row,
                  (long long)a->q_len - 1);
  }
  return 0;
}

// Beside the scores.
static int64_t fixed_elements(const struct spec *s) {
  return (ROWS + KEYS) * (int64_t)s->head_dim + (1 + 2 * ROWS) * (int64_t)s->head_dim_v;
}

int64_t reference_bytes(const struct spec *s, int64_t kv_len) {
  int64_t bytes;
  const bool over = __builtin_mul_overflow(kv_len, (int64_t)ROWS, &bytes) ||
                    __builtin_add_overflow(bytes, fixed_elements(s), &bytes) ||
                    __builtin_mul_overflow(bytes, (int64_t)sizeof(double), &bytes);
  return over || bytes > PTRDIFF_MAX ? -1 : bytes;
}

int reference_some(const struct spec *s, const struct strobe_args *args, int64_t batch, int64_t head,
                   const struct reference_rows *rows, const struct reference_out *out, struct error *err) {
  int status = check(args, batch, head, rows, err);
  if (status || rows->count <= 0) return status;
  const size_t d = (size_t)s->head_dim, dv = (size_t)s->head_dim_v;
  const int64_t bytes = reference_bytes(s, args->kv_len);
  double *const own = rows->memory || bytes < 0 ? NULL : malloc((size_t)bytes), *memory = own ? own : rows->memory;
  if (!memory)
    return fail(err, STROBE_NO_MEMORY, "no memory for the reference: 16 rows of %lld scores", (long long)args->kv_len);
  const int64_t head_kv = head / (args->heads / args->heads_kv);
  struct chunk c = {.spec = s,
                    .args = args,
                    .batch = batch,
                    .q = head_base(&args->q, s->q, batch, head),
                    .k = head_base(&args->k, s->kv, batch, head_kv),
                    .v = head_base(&args->v, s->kv, batch, head_kv),
                    .scale = rows->scale ? *rows->scale : (double)args->scale};
  c.qd = memory;
  c.kt = c.qd + ROWS * d;
  c.vd = c.kt + KEYS * d;
  c.o = c.vd + dv;
  c.f = c.o + ROWS * dv;
  c.s = c.f + ROWS * dv;
  for (int64_t first = 0; first < rows->count; first += ROWS) run_chunk(&c, rows, first, out);
  free(own);
  return 0;
}

int reference_head(const struct spec *s, const struct strobe_args *args, int64_t batch, int64_t head,
                   const struct reference_out *out, struct error *err) {
  const struct reference_rows all = {.count = args->q_len};
  return reference_some(s, args, batch, head, &all, out, err);
}

// CUDA kernels with P of bf16 may take an exponent about -48 in place of one about 0 (cuda/softmax.inc): half an ulp of
// that is 2^-19 of P's logarithm to base 2.
static double exp_eps(const struct spec *s, const struct instance *kernel) {
  const struct config *c = kernel ? &kernel->config : NULL;
  const bool far_below =
      c && s->p == DT_BF16 && c->v[CFG_SOFTMAX] != CONFIG_UNSET && c->v[CFG_SOFTMAX] != SOFTMAX_CLASSICAL;
  if (far_below) return 0x1p-23 + 0x1.62e43p-1 * 0x1p-19;
  if (!c || c->v[CFG_EXP] < 0 || c->v[CFG_EXP] >= EXP_COUNT) return 0x1p-23;
  return exp_table[c->v[CFG_EXP]].eps;
}

static double sum_factor(int64_t terms) { return terms > 16 ? sqrt((double)terms) : 4; }

// Tensor cores cut off where f32 arithmetic rounds: an ulp instead of half of one, always in the same direction. So
// errors of the head_dim / 16 steps of a score add up in full, which sum_factor covers from 2 eps on: n / 16 <= sqrt n
// up to n = 256.
static double sum_eps(const struct spec *s, const struct instance *kernel) {
  const bool cuda = kernel && kernel->target && kernel->target->family == FAMILY_CUDA;
  return (cuda ? 2 : 1) * dtype_table[s->acc].eps;
}

// Relative error of an unnormalised p, and of the sums over it.
static double weight_error(const struct spec *s, const struct instance *kernel, int64_t keys, double magnitude) {
  return exp_eps(s, kernel) + sum_eps(s, kernel) * (sum_factor(keys) + sum_factor(s->head_dim) * magnitude);
}

static double p_eps(const struct spec *s, const struct instance *kernel) {
  if (kernel && kernel->target) return instance_p_error(kernel);
  return s->p == s->acc ? 0 : dtype_table[s->p].eps;
}

double reference_bound_o(const struct spec *s, const struct instance *kernel, int64_t keys, double ref, double floor,
                         double magnitude) {
  return dtype_table[s->o].eps * fabs(ref) + floor * p_eps(s, kernel) +
         (floor + fabs(ref)) * weight_error(s, kernel, keys, magnitude) + dtype_table[s->o].half + REFERENCE_TINY;
}

double reference_bound_lse(const struct spec *s, const struct instance *kernel, int64_t keys, double ref,
                           double magnitude) {
  return 4 * dtype_table[DT_F32].eps * fabs(ref) + weight_error(s, kernel, keys, magnitude);
}
