// Allocation of the tensors of a problem, with poison in outputs and padding.
#include "inputs.h"
#include "reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const layout_names[LAYOUT_COUNT] = {"bnhd", "bhnd"};

float default_scale(const struct spec *s) { return (float)(1 / sqrt((double)s->head_dim)); }

static const uint32_t poison_f32 = POISON_F32;
static const uint16_t poison_16 = POISON_16;

static const void *poison(enum dtype t) { return t == DT_F32 ? (const void *)&poison_f32 : &poison_16; }

static void set_poison(enum dtype t, void *data, int64_t index) {
  memcpy((char *)data + index * dtype_table[t].bytes, poison(t), (size_t)dtype_table[t].bytes);
}

bool is_poison(enum dtype t, const void *data, int64_t index) {
  return !memcmp((const char *)data + index * dtype_table[t].bytes, poison(t), (size_t)dtype_table[t].bytes);
}

static void *plain_alloc(void *context, size_t bytes) {
  (void)context;
  return bytes > SIZE_MAX - 63 ? NULL : aligned_alloc(64, (bytes + 63) / 64 * 64);
}
static void plain_free(void *context, void *data, size_t bytes) {
  (void)context, (void)bytes;
  free(data);
}

// One tensor: `rows` rows of `dim` elements, each but the last in memory followed by `pad`.
struct block {
  const char *name;
  enum dtype type;
  int64_t rows, dim, pad;
};

static struct block block_of(const struct tensors *t, enum tensor_id id) {
  const struct strobe_args *a = &t->args;
  const int64_t queries = a->batch * a->heads * a->q_len, keys = a->batch * a->heads_kv * a->kv_len;
  const struct spec *s = &t->spec;
  const struct block blocks[TENSOR_COUNT] = {
      {"q", s->q, queries, s->head_dim, t->pad},         {"k", s->kv, keys, s->head_dim, t->pad},
      {"v", s->kv, keys, s->head_dim_v, t->pad},         {"o", s->o, queries, s->head_dim_v, t->pad},
      {"lse", DT_F32, a->batch * a->heads, a->q_len, 0},
  };
  return blocks[id];
}

static int64_t block_elements(const struct block *b) { return b->rows ? b->rows * (b->dim + b->pad) - b->pad : 0; }

// A packed tensor of (batch, n, heads) rows of `width` elements in one of the two orders.
static struct strobe_tensor strided(void *data, enum layout layout, int64_t n, int64_t heads, int64_t width) {
  const bool heads_first = layout == LAYOUT_BHND;
  return (struct strobe_tensor){.data = data,
                                .batch_stride = n * heads * width,
                                .head_stride = heads_first ? n * width : width,
                                .row_stride = heads_first ? width : heads * width};
}

static int check_sizes(const struct problem *p, int64_t pad, struct error *err) {
  const struct {
    const char *name;
    int64_t value, least;
  } sizes[] = {{"batch", p->batch, 0}, {"heads", p->heads, 1},   {"heads_kv", p->heads_kv, 1},
               {"q_len", p->q_len, 0}, {"kv_len", p->kv_len, 0}, {"padding", pad, 0}};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
    if (sizes[i].value < sizes[i].least)
      return fail(err, STROBE_INVALID, "tensors: %s %lld; allowed: %lld or more", sizes[i].name,
                  (long long)sizes[i].value, (long long)sizes[i].least);
  const int64_t widest = p->spec.head_dim > p->spec.head_dim_v ? p->spec.head_dim : p->spec.head_dim_v;
  const int64_t heads = p->heads > p->heads_kv ? p->heads : p->heads_kv,
                rows = p->q_len > p->kv_len ? p->q_len : p->kv_len;
  int64_t n;
  if (__builtin_add_overflow(widest, pad, &n) || __builtin_mul_overflow(n, heads, &n) ||
      __builtin_mul_overflow(n, rows, &n) || __builtin_mul_overflow(n, p->batch, &n) || n > INT64_MAX / 8)
    return fail(err, STROBE_INVALID,
                "tensors: batch %lld x heads %lld x length %lld x row %lld is more than 2^60 elements",
                (long long)p->batch, (long long)heads, (long long)rows, (long long)widest);
  return 0;
}

static void fill_poison(const struct tensors *t, enum tensor_id id, bool padding_only) {
  const struct block b = block_of(t, id);
  const int64_t n = block_elements(&b), width = b.dim + b.pad;
  for (int64_t i = 0; i < n; i++)
    if (!padding_only || i % width >= b.dim) set_poison(b.type, t->memory[id], i);
}

int tensors_create(const struct problem *p, enum layout layout, int64_t pad, float scale,
                   const struct tensor_allocator *allocator, struct tensors *t, struct error *err) {
  static const struct tensor_allocator plain = {plain_alloc, plain_free, NULL};
  *t = (struct tensors){0};
  if (check_sizes(p, pad, err)) return STROBE_INVALID;
  t->spec = p->spec;
  t->pad = pad;
  t->allocator = allocator ? *allocator : plain;
  struct strobe_args *a = &t->args;
  *a = (struct strobe_args){.abi = STROBE_ABI,
                            .size = sizeof *a,
                            .batch = p->batch,
                            .heads = p->heads,
                            .heads_kv = p->heads_kv,
                            .q_len = p->q_len,
                            .kv_len = p->kv_len,
                            .diagonal = problem_diagonal(p),
                            .diagonal_at_end = p->spec.mask == MASK_CAUSAL,
                            .scale = scale};
  for (int id = 0; id < TENSOR_COUNT; id++) {
    const struct block b = block_of(t, (enum tensor_id)id);
    const size_t bytes = (size_t)block_elements(&b) * (size_t)dtype_table[b.type].bytes;
    t->bytes[id] = bytes ? bytes : 1;
    t->memory[id] = t->allocator.alloc(t->allocator.context, t->bytes[id]);
    if (!t->memory[id]) {
      fail(err, STROBE_NO_MEMORY, "no memory for tensor %s of %zu bytes", b.name, bytes);
      tensors_free(t);
      return STROBE_NO_MEMORY;
    }
    memset(t->memory[id], 0, t->bytes[id]);
    fill_poison(t, (enum tensor_id)id, id < TENSOR_O);
  }
  const int64_t d = p->spec.head_dim + pad, dv = p->spec.head_dim_v + pad;
  a->q = strided(t->memory[TENSOR_Q], layout, p->q_len, p->heads, d);
  a->k = strided(t->memory[TENSOR_K], layout, p->kv_len, p->heads_kv, d);
  a->v = strided(t->memory[TENSOR_V], layout, p->kv_len, p->heads_kv, dv);
  a->o = strided(t->memory[TENSOR_O], layout, p->q_len, p->heads, dv);
  a->lse = t->memory[TENSOR_LSE];
  a->lse_batch_stride = p->heads * p->q_len;
  a->lse_head_stride = p->q_len;
  return 0;
}

void tensors_free(struct tensors *t) {
  for (int id = 0; id < TENSOR_COUNT; id++)
    if (t->memory[id]) t->allocator.free(t->allocator.context, t->memory[id], t->bytes[id]);
  *t = (struct tensors){0};
}

void tensors_poison(struct tensors *t) {
  fill_poison(t, TENSOR_O, false);
  fill_poison(t, TENSOR_LSE, false);
}

int64_t tensors_padding_changed(const struct tensors *t) {
  int64_t changed = 0;
  for (int id = 0; id < TENSOR_COUNT; id++) {
    const struct block b = block_of(t, (enum tensor_id)id);
    const int64_t n = block_elements(&b), width = b.dim + b.pad;
    for (int64_t i = 0; i < n; i++) changed += i % width >= b.dim && !is_poison(b.type, t->memory[id], i);
  }
  return changed;
}
