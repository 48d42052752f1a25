// The host side of a CUDA forward kernel: checks arguments, encodes the tensor maps, launches. One text for the runtime
// and for every emitted file; what differs between kernels is in struct strobe_launch. Wants kernel_abi.h and
// launch_params.h.
#ifndef STROBE_LAUNCH_H
#define STROBE_LAUNCH_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define STROBE_LAUNCH_ABI 2

// Results of strobe_launch(); the numbers are those of enum strobe_status.
enum {
  STROBE_LAUNCH_OK = 0,
  STROBE_LAUNCH_INVALID = 1,
  STROBE_LAUNCH_UNSUPPORTED = 2,
  STROBE_LAUNCH_NO_MEMORY = 3,
  STROBE_LAUNCH_CUDA = 6
};

// One kernel, as data.
struct strobe_launch {
  unsigned abi;      // STROBE_LAUNCH_ABI
  const char *name;  // of the instance, for messages
  int head_dim;      // columns of q, k, v and o
  int map_type;      // CUtensorMapDataType: 6 half, 9 bfloat16
  int element_bytes; // 2
  int block_m, block_n;
  int o_rows, o_columns;     // of O that one TMA store takes
  int threads, shared_bytes; // of a CTA; shared memory is all dynamic
  int persistent;            // 0: a CTA per tile; 1: as many CTAs as multiprocessors
  int tickets;               // 1: wants a workspace of STROBE_WORKSPACE bytes that is zero before its first use
  int causal;                // reads the diagonal
  long long l2_section;      // bytes of K and V that heads in flight at one time may take
};
enum { STROBE_WORKSPACE = 64 };

// The two functions of the driver that a launch needs, as libcuda exports them.
struct strobe_driver {
  int (*tensor_map_encode)(struct strobe_tensor_map *map, int type, unsigned rank, void *data, const uint64_t *sizes,
                           const uint64_t *byte_strides, const uint32_t *box, const uint32_t *element_strides,
                           int interleave, int swizzle, int l2_promotion, int fill); // cuTensorMapEncodeTiled
  int (*launch)(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                unsigned block_z, unsigned shared_bytes, void *stream, void **params, void **extra); // cuLaunchKernel
};

// Where a sentence about what went wrong goes; text may be NULL.
struct strobe_message {
  char *text;
  size_t size;
};
#define STROBE_REFUSE(m, status, ...) ((m).text ? (void)snprintf((m).text, (m).size, __VA_ARGS__) : (void)0, (status))

// The nearest stride that works.
static inline strobe_i64 strobe_nearest_stride(strobe_i64 stride, strobe_i64 step, strobe_i64 least, strobe_i64 limit) {
  const strobe_i64 inside = stride < least ? least : stride > limit - step ? limit - step : stride;
  const strobe_i64 rounded = (inside + step / 2) / step * step;
  return rounded < limit ? rounded : limit - step;
}

// A tensor of n[0] batches, n[1] heads and n[2] rows. The stride of an axis of one place is never used.
static inline int strobe_check_tensor(const struct strobe_launch *l, const char *name, const struct strobe_tensor *t,
                                      const strobe_i64 n[3], int written, struct strobe_message m) {
  const strobe_i64 stride[3] = {t->batch_stride, t->head_stride, t->row_stride}, step = 16 / l->element_bytes;
  const strobe_i64 limit = (1ll << 40) / l->element_bytes, least = written ? l->head_dim : 0;
  const char *const axis[3] = {"batch", "head", "row"};
  if (!t->data) return STROBE_REFUSE(m, STROBE_LAUNCH_INVALID, "%s.data is NULL: must be device memory", name);
  if ((uintptr_t)t->data % 16)
    return STROBE_REFUSE(m, STROBE_LAUNCH_INVALID, "%s.data %p: must be a multiple of 16 bytes", name, t->data);
  for (int i = 0; i < 3; i++)
    if (n[i] > 1 && (stride[i] < least || stride[i] % step || stride[i] >= limit))
      return STROBE_REFUSE(m, STROBE_LAUNCH_INVALID,
                           "%s.%s_stride %lld: must be %lld or more, below %lld and a multiple of %lld elements (16 "
                           "bytes); %lld is the nearest",
                           name, axis[i], stride[i], least, limit, step,
                           strobe_nearest_stride(stride[i], step, least, limit));
  return STROBE_LAUNCH_OK;
}

static inline int strobe_check_sizes(const struct strobe_args *a, struct strobe_message m) {
  const struct {
    const char *name;
    strobe_i64 value;
  } size[] = {
      {"batch", a->batch}, {"heads", a->heads}, {"heads_kv", a->heads_kv}, {"q_len", a->q_len}, {"kv_len", a->kv_len}};
  for (int i = 0; i < 5; i++)
    if (size[i].value < 0 || size[i].value > INT_MAX / 2)
      return STROBE_REFUSE(m, STROBE_LAUNCH_INVALID, "%s %lld: must be 0 to %d; %d is the nearest", size[i].name,
                           size[i].value, INT_MAX / 2, size[i].value < 0 ? 0 : INT_MAX / 2);
  if (a->heads && (!a->heads_kv || a->heads % a->heads_kv))
    return STROBE_REFUSE(m, STROBE_LAUNCH_INVALID, "heads_kv %lld: must divide heads %lld", a->heads_kv, a->heads);
  return STROBE_LAUNCH_OK;
}

static inline int strobe_check_tensors(const struct strobe_launch *l, const struct strobe_args *a,
                                       struct strobe_message m) {
  const strobe_i64 q[3] = {a->batch, a->heads, a->q_len}, kv[3] = {a->batch, a->heads_kv, a->kv_len};
  int status = strobe_check_tensor(l, "q", &a->q, q, 0, m);
  if (!status && a->kv_len) status = strobe_check_tensor(l, "k", &a->k, kv, 0, m);
  if (!status && a->kv_len) status = strobe_check_tensor(l, "v", &a->v, kv, 0, m);
  if (!status) status = strobe_check_tensor(l, "o", &a->o, q, 1, m);
  if (!status && (uintptr_t)a->lse % 4)
    return STROBE_REFUSE(m, STROBE_LAUNCH_INVALID, "lse %p: must be a multiple of 4 bytes, or NULL", (void *)a->lse);
  return status;
}

static inline int strobe_check_args(const struct strobe_launch *l, const struct strobe_args *a,
                                    struct strobe_message m) {
  if (a->abi != STROBE_ABI || a->size != sizeof *a)
    return STROBE_REFUSE(m, STROBE_LAUNCH_INVALID, "args.abi %u, size %u: this kernel takes abi %d, size %d", a->abi,
                         a->size, STROBE_ABI, (int)sizeof *a);
  if (a->kv_lens)
    return STROBE_REFUSE(m, STROBE_LAUNCH_UNSUPPORTED, "kv_lens %p: must be NULL: all sequences have kv_len keys",
                         a->kv_lens);
  int status = strobe_check_sizes(a, m);
  if (status || !a->batch || !a->heads || !a->q_len) return status; // nothing to compute, so nothing is read
  status = strobe_check_tensors(l, a, m);
  if (status) return status;
  if (!(a->scale >= 0 && a->scale <= 3.4e38f))
    return STROBE_REFUSE(m, STROBE_LAUNCH_UNSUPPORTED,
                         "scale %g: must be 0 or more, and finite; for a negative one negate q", (double)a->scale);
  if (l->tickets && (!a->workspace || (uintptr_t)a->workspace % STROBE_WORKSPACE))
    return STROBE_REFUSE(
        m, STROBE_LAUNCH_INVALID,
        "workspace %p: must be %d bytes of device memory, 64-byte aligned, zero before the first launch", a->workspace,
        (int)STROBE_WORKSPACE);
  return STROBE_LAUNCH_OK;
}

// A (batch, rows, heads, head_dim) tensor seen as (64, rows, head_dim / 64, heads, batch): one box is a tile,
// stored as panels of 64 columns in the 128-byte swizzle. What lies beyond the tensor reads as zero.
static inline int strobe_tensor_map_of(const struct strobe_launch *l, const struct strobe_driver *d,
                                       const struct strobe_tensor *t, strobe_i64 batch, strobe_i64 rows,
                                       strobe_i64 heads, int box_rows, int box_columns, struct strobe_tensor_map *map) {
  const uint64_t bytes = (uint64_t)l->element_bytes, panels = (uint64_t)l->head_dim / 64;
  const uint64_t sizes[5] = {64, (uint64_t)rows, panels, (uint64_t)heads, (uint64_t)batch};
  const uint64_t any = (uint64_t)l->head_dim; // of an axis of one place
  const uint64_t strides[4] = {(rows > 1 ? (uint64_t)t->row_stride : any) * bytes, 64 * bytes,
                               (heads > 1 ? (uint64_t)t->head_stride : any) * bytes,
                               (batch > 1 ? (uint64_t)t->batch_stride : any) * bytes};
  const uint32_t box[5] = {64, (uint32_t)box_rows, (uint32_t)box_columns / 64, 1, 1}, ones[5] = {1, 1, 1, 1, 1};
  enum { NO_INTERLEAVE = 0, SWIZZLE_128B = 3, L2_256B = 3, FILL_ZERO = 0 };
  return d->tensor_map_encode(map, l->map_type, 5, t->data, sizes, strides, box, ones, NO_INTERLEAVE, SWIZZLE_128B,
                              L2_256B, FILL_ZERO);
}

// Maps of q, k, v and o, in this order. Without keys there may be no memory behind k and v: their maps are the first
// row of q, of which kernels read the row after it, zeros.
static inline int strobe_tensor_maps(const struct strobe_launch *l, const struct strobe_driver *d,
                                     const struct strobe_args *a, struct strobe_tensor_map map[4]) {
  const strobe_i64 n = a->kv_len ? a->batch : 1, heads = a->kv_len ? a->heads_kv : 1, rows = a->kv_len ? a->kv_len : 1;
  int error = strobe_tensor_map_of(l, d, &a->q, a->batch, a->q_len, a->heads, 64, l->head_dim, &map[0]);
  if (!error)
    error = strobe_tensor_map_of(l, d, a->kv_len ? &a->k : &a->q, n, rows, heads, l->block_n, l->head_dim, &map[1]);
  if (!error)
    error = strobe_tensor_map_of(l, d, a->kv_len ? &a->v : &a->q, n, rows, heads, l->block_n, l->head_dim, &map[2]);
  if (!error) error = strobe_tensor_map_of(l, d, &a->o, a->batch, a->q_len, a->heads, l->o_rows, l->o_columns, &map[3]);
  return error;
}

static inline int strobe_fill_params(const struct strobe_launch *l, const struct strobe_args *a, int multiprocessors,
                                     struct strobe_params *p, struct strobe_message m) {
  const strobe_i64 group = a->heads / a->heads_kv, m_blocks = (a->q_len + l->block_m - 1) / l->block_m,
                   all = a->batch * a->heads;
  const strobe_i64 limit = INT_MAX / 2, kv_bytes = 2 * a->kv_len * l->head_dim * l->element_bytes;
  if (all > limit || all * m_blocks > limit)
    return STROBE_REFUSE(m, STROBE_LAUNCH_INVALID,
                         "batch %lld with %lld heads of %lld query tiles: must be at most %lld tiles; %lld is the "
                         "largest batch that fits",
                         a->batch, a->heads, m_blocks, limit, limit / (a->heads * m_blocks));
  const strobe_i64 fit = kv_bytes ? l->l2_section / kv_bytes : all, section = (fit > 1 ? fit : 1) * group;
  // Long tiles lead within a section. The last one is large enough to give every multiprocessor a tile, so that its
  // short tiles even out the end.
  const strobe_i64 tail = (multiprocessors + m_blocks - 1) / m_blocks,
                   sections = all > tail ? (all - tail) / section + 1 : 1;
  const strobe_i64 diagonal = a->diagonal < -limit ? -limit : a->diagonal > limit ? limit : a->diagonal;
  const struct strobe_params filled = {a->o.data,
                                       a->o.batch_stride,
                                       a->o.head_stride,
                                       a->o.row_stride,
                                       a->lse,
                                       a->lse_batch_stride,
                                       a->lse_head_stride,
                                       (int *)a->workspace,
                                       a->scale > 1e-30f ? a->scale * 1.44269504f
                                                         : 1e-30f, // 0 would turn a masked score, -inf, into NaN
                                       (int)a->heads,
                                       (int)group,
                                       (int)a->q_len,
                                       (int)a->kv_len,
                                       (int)diagonal,
                                       (int)m_blocks,
                                       (int)(all * m_blocks),
                                       (int)all,
                                       (int)(section < all ? section : all),
                                       (int)sections};
  *p = filled;
  return STROBE_LAUNCH_OK;
}

static inline int strobe_cuda_failed(const char *call, int error, const struct strobe_launch *l,
                                     struct strobe_message m) {
  const int out_of_memory = 2; // CUDA_ERROR_OUT_OF_MEMORY
  return STROBE_REFUSE(m, error == out_of_memory ? STROBE_LAUNCH_NO_MEMORY : STROBE_LAUNCH_CUDA,
                       "%s failed with CUDA error %d for %s", call, error, l->name);
}

// Enqueues the kernel on a stream of the current context: O = softmax(scale Q K^T + mask) V. All pointers are device
// memory. Without keys (kv_len 0) O is 0 and lse -inf, and k and v may be NULL; with a batch, heads or q_len of 0 there
// is nothing to do. `function` is its CUfunction, allowed l->shared_bytes of shared memory. Nothing has been launched
// unless it returns STROBE_LAUNCH_OK. Re-entrant; two launches that may run at the same time need workspaces of their
// own.
static inline int strobe_launch(const struct strobe_launch *l, const struct strobe_driver *d, void *function,
                                int multiprocessors, const struct strobe_args *a, void *stream,
                                struct strobe_message m) {
  struct strobe_tensor_map map[4];
  struct strobe_params p;
  int status = strobe_check_args(l, a, m);
  if (status || !a->batch || !a->heads || !a->q_len) return status;
  status = strobe_fill_params(l, a, multiprocessors, &p, m);
  if (status) return status;
  int error = strobe_tensor_maps(l, d, a, map);
  if (error) return strobe_cuda_failed("cuTensorMapEncodeTiled", error, l, m);
  void *params[] = {&map[0], &map[1], &map[2], &map[3], &p};
  const int grid = l->persistent && p.tiles > multiprocessors ? multiprocessors : p.tiles;
  error = d->launch(function, (unsigned)grid, 1, 1, (unsigned)l->threads, 1, 1, (unsigned)l->shared_bytes, stream,
                    params, NULL);
  return error ? strobe_cuda_failed("cuLaunchKernel", error, l, m) : STROBE_LAUNCH_OK;
}

#endif
