// What follows from a problem's sizes: defaults, limits, the diagonal, the work.
#include "problem.h"

// The largest divisor of n that is at most limit. Divisors come in pairs, so 2^20 steps find all those of 2^40.
static int64_t largest_divisor(int64_t n, int64_t limit) {
  int64_t best = 1;
  for (int64_t i = 1; i * i <= n; i++) {
    if (n % i) continue;
    if (i <= limit && i > best) best = i;
    if (n / i <= limit && n / i > best) best = n / i;
  }
  return best;
}

int problem_check_heads(const struct problem *p, struct error *err) {
  int64_t h = p->heads, kv = p->heads_kv;
  if (h < 1 || kv < 1 || h % kv == 0) return STROBE_OK;
  int64_t nearest = largest_divisor(h, kv);
  return fail(err, STROBE_INVALID,
              "heads %lld with heads_kv %lld: heads must be a multiple of heads_kv; h%lld/%lld works", (long long)h,
              (long long)kv, (long long)h, (long long)nearest);
}

static int check_ranges(const struct problem *p, struct error *err) {
  struct problem copy = *p;
  for (int i = 0; i < SIZE_COUNT; i++) {
    const struct size_row *row = &size_table[i];
    int64_t value = *problem_size(&copy, i);
    if (value < row->min || value > SIZE_MAX_ALLOWED)
      return fail(err, STROBE_INVALID, "%s %lld: must be %d to %lld; %lld is the nearest", row->name, (long long)value,
                  (int)row->min, (long long)SIZE_MAX_ALLOWED,
                  (long long)(value < row->min ? row->min : SIZE_MAX_ALLOWED));
  }
  return STROBE_OK;
}

enum { HEADS_LOG = 40, TENSOR_LOG = 56, PAIRS_LOG = 58 };

// A tensor of batch x heads x len rows of row_bytes. Sizes of 0 count as 1: partial products are formed too.
static int check_tensor(const char *name, int64_t batch, int64_t heads, int64_t len, int64_t row_bytes,
                        struct error *err) {
  int64_t left = (int64_t)1 << TENSOR_LOG;
  left /= row_bytes;
  left /= heads;
  left /= batch > 1 ? batch : 1;
  if (len <= left) return STROBE_OK;
  return fail(err, STROBE_INVALID,
              "%s of batch %lld, %lld heads, %lld rows of %lld bytes: a tensor must fit in 2^%d bytes; %lld rows would",
              name, (long long)batch, (long long)heads, (long long)len, (long long)row_bytes, TENSOR_LOG,
              (long long)left);
}

// So that no size of memory overflows 64 bits: neither offsets into tensors nor copies of K and V (rows of f32, padded,
// or of three bf16), what a kernel keeps of tiles of up to 256 queries, nor S of algo=standard.
static int check_products(const struct problem *p, struct error *err) {
  const struct spec *s = &p->spec;
  const int64_t f32 = (int64_t)sizeof(float);
  const int64_t q_row = (int64_t)s->head_dim * dtype_table[s->q].bytes, k_row = (s->head_dim + 7) / 8 * 8 * f32;
  const int64_t o_row = (int64_t)s->head_dim_v * dtype_table[s->o].bytes, v_row = (s->head_dim_v + 7) / 8 * 8 * f32;
  const int64_t heads_most = ((int64_t)1 << HEADS_LOG) / (p->batch > 1 ? p->batch : 1);
  if (p->heads > heads_most)
    return fail(err, STROBE_INVALID, "heads %lld of batch %lld: must be 2^%d heads in all at most; %lld of each would",
                (long long)p->heads, (long long)p->batch, HEADS_LOG, (long long)heads_most);
  int status = check_tensor("q", p->batch, p->heads, p->q_len, q_row, err);
  if (!status) status = check_tensor("k", p->batch, p->heads_kv, p->kv_len, k_row, err);
  if (!status) status = check_tensor("v", p->batch, p->heads_kv, p->kv_len, v_row, err);
  if (!status) status = check_tensor("o", p->batch, p->heads, p->q_len, o_row, err);
  if (!status) status = check_tensor("lse", p->batch, p->heads, p->q_len, f32, err);
  if (status) return status;
  const int64_t rows = (p->batch > 1 ? p->batch : 1) * p->heads * (p->q_len > 1 ? p->q_len : 1);
  const int64_t keys_most = ((int64_t)1 << PAIRS_LOG) / rows;
  if (p->kv_len <= keys_most) return STROBE_OK;
  return fail(err, STROBE_INVALID,
              "kv_len %lld of batch %lld, %lld heads, q_len %lld: must be 2^%d pairs of a query and a key at most; "
              "kv_len %lld would",
              (long long)p->kv_len, (long long)p->batch, (long long)p->heads, (long long)p->q_len, PAIRS_LOG,
              (long long)keys_most);
}

int problem_complete(struct problem *p, struct error *err) {
  struct problem full = *p;
  if (full.batch == -1) full.batch = 1;
  if (full.heads == -1) full.heads = full.heads_kv == -1 ? 1 : full.heads_kv;
  if (full.heads_kv == -1) full.heads_kv = full.heads;
  if (full.q_len == -1) full.q_len = 1024;
  if (full.kv_len == -1) full.kv_len = full.q_len;
  int status = check_ranges(&full, err);
  if (!status) status = problem_check_heads(&full, err);
  if (!status) status = check_products(&full, err);
  if (!status) *p = full;
  return status;
}

int problem_check(const struct problem *p, struct error *err) {
  struct problem full = *p;
  return problem_complete(&full, err);
}

int64_t problem_diagonal(const struct problem *p) {
  switch (p->spec.mask) {
  case MASK_CAUSAL: return p->kv_len - p->q_len;
  case MASK_CAUSAL_TOP_LEFT: return 0;
  case MASK_FULL: break;
  }
  return p->kv_len;
}

static int64_t clamp(int64_t x, int64_t lo, int64_t hi) { return x < lo ? lo : x > hi ? hi : x; }

// Query i sees min(max(i + diagonal + 1, 0), kv_len) keys: none up to row `first`, one more each row up to row `last`,
// then all.
static double visible_pairs(const struct problem *p) {
  int64_t diagonal = problem_diagonal(p), q_len = p->q_len, kv_len = p->kv_len;
  int64_t first = clamp(-diagonal, 0, q_len), last = clamp(kv_len - diagonal - 1, first, q_len);
  double ramp = 0.5 * (double)(last - first) * (double)((first + diagonal + 1) + (last + diagonal));
  return ramp + (double)(q_len - last) * (double)kv_len;
}

double problem_flops(const struct problem *p) {
  if (p->batch < 0 || p->heads < 0 || p->q_len < 0 || p->kv_len < 0) return 0;
  double per_pair = 2.0 * (p->spec.head_dim + p->spec.head_dim_v);
  return per_pair * (double)p->batch * (double)p->heads * visible_pairs(p);
}

double problem_flops_lens(const struct problem *p, const int64_t *kv_lens) {
  if (!kv_lens) return problem_flops(p);
  double sum = 0;
  for (int64_t b = 0; b < p->batch; b++) {
    struct problem one = *p;
    one.batch = 1;
    one.kv_len = kv_lens[b];
    sum += problem_flops(&one);
  }
  return sum;
}
