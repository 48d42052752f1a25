#include <immintrin.h>

#define KERNEL static __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define PIN(a) __asm__ volatile("" : "+v"(a) : : "memory")

// The first n of 16 lanes.
static inline __mmask16 first_lanes(strobe_i64 n) {
  return (__mmask16)(n <= 0 ? 0u : n >= 16 ? 0xffffu : (1u << n) - 1u);
}

static const unsigned exp2_b0[16] = { // degree 2, constant term
  0x3f800000u, 0x3f85aac3u, 0x3f8b95c2u, 0x3f91c3d4u, 0x3f9837f0u, 0x3f9ef532u, 0x3fa5fed7u, 0x3fad583fu,
  0x3fb504f3u, 0x3fbd08a4u, 0x3fc5672au, 0x3fce248cu, 0x3fd744fdu, 0x3fe0ccdfu, 0x3feac0c7u, 0x3ff5257du};
static const unsigned exp2_b1[16] = { // degree 2, linear term
  0x3f3174c2u, 0x3f395010u, 0x3f418469u, 0x3f4a15c1u, 0x3f530834u, 0x3f5c600fu, 0x3f6621cfu, 0x3f705226u,
  0x3f7af5f7u, 0x3f830930u, 0x3f88d65cu, 0x3f8ee54au, 0x3f9538e1u, 0x3f9bd42du, 0x3fa2ba5bu, 0x3fa9eebau};
static const unsigned exp2_b2[16] = { // degree 2, quadratic term
  0x3e75fc17u, 0x3e80700du, 0x3e861fc7u, 0x3e8c0ff3u, 0x3e92436eu, 0x3e98bd31u, 0x3e9f8059u, 0x3ea69027u,
  0x3eadeffeu, 0x3eb5a36au, 0x3ebdae1fu, 0x3ec613f9u, 0x3eced901u, 0x3ed8016fu, 0x3ee191a9u, 0x3eeb8e48u};
// P of a score 87 or more below its row's maximum is denormal, and Intel CPUs are slow with those (a trained model: 12 times). In a step
// results flush to zero instead, whatever the caller's mode of rounding and exceptions.
// Vector registers are left as SSE code wants them.
static unsigned begin_step(void) {
  const unsigned mode = _mm_getcsr();
  _mm_setcsr(0x9f80); // flush to zero, all exceptions masked, to nearest
  return mode;
}

KERNEL void end_step(unsigned mode) {
  _mm256_zeroupper();
  _mm_setcsr(mode);
}

// So few that copies of V and K fit into scratch memory.
static int few_keys(const struct strobe_args *a) { return a->kv_len <= 2048; }

// Whether a work item is all queries of a KV head: where that keeps all workers busy. Each then copies the head itself, over the one before,
// and finds it in a near cache.
static int by_heads(const struct strobe_args *a) {
  const strobe_i64 heads = a->batch * a->heads_kv, workers = a->workers;
  if (few_keys(a)) return 0;
  return workers == 1 || (workers && heads >= 4 * workers && (heads % workers == 0 || heads >= 16 * workers));
}

// KV heads of which there are copies at a time.
static strobe_i64 copied_heads(const struct strobe_args *a) { return by_heads(a) ? a->workers : a->batch * a->heads_kv; }

// Whether workers copy what they read of V and K themselves.
static int copies_own(const struct strobe_args *a) { return few_keys(a) || by_heads(a); }

// Keys of a sequence.
static strobe_i64 sequence_keys(const struct strobe_args *a, strobe_i64 batch) {
  if (!a->kv_lens) return a->kv_len;
  const strobe_i64 n = a->kv_lens_bytes == 8 ? ((const strobe_i64 *)a->kv_lens)[batch] : ((const int *)a->kv_lens)[batch];
  return n < 0 ? 0 : n > a->kv_len ? a->kv_len : n;
}

static strobe_i64 packed_k_bytes(const struct strobe_args *a) {
  if (few_keys(a)) return 0;
  return (copied_heads(a) * a->kv_len * 128 + 63) / 64 * 64;
}

static strobe_i64 packed_v_bytes(const struct strobe_args *a) {
  if (few_keys(a)) return 0;
  return (copied_heads(a) * (a->kv_len * 32) * 4 + 63) / 64 * 64;
}

// n rows of 32 f32 to rows of 32 f32.
KERNEL void pack_k_rows(const float *from, strobe_i64 next, float *to, strobe_i64 to_next, strobe_i64 n) {
  for (; n > 0; n--, from += next, to += to_next) {
    __m512 x;
    {
      x = _mm512_loadu_ps(from);
      _mm512_storeu_ps(to, x);
      x = _mm512_loadu_ps(from + 16);
      _mm512_storeu_ps(to + 16, x);
    }
  }
}

// V of keys first to end of one KV block, rows of a head that are `stride` apart, to the head's copy.
static void pack_v_block(const float *v, strobe_i64 stride, strobe_i64 first, strobe_i64 end, float *to) {
  const strobe_i64 next = 1 * stride, to_next = 32;
  for (strobe_i64 r = first, n; r < end; r += 1 * n) {
    const float *from = v + r * stride;
    n = end - r < 1 ? 1 : (end - r) / 1;
    pack_k_rows(from, next, to + r * 32, to_next, n);
  }
}

// The same of n heads side by side, so in the order of memory, which hardware foresees.
static void pack_v_across(const float *v, strobe_i64 stride, strobe_i64 next, strobe_i64 first, strobe_i64 end,
                          float *to, strobe_i64 to_next, strobe_i64 n) {
  for (strobe_i64 r = first; r < end; r += 1) {
    const float *from = v + r * stride;
    pack_k_rows(from, next, to + r * 32, to_next, n);
  }
}

// Work items: as many as there are KV blocks of every KV head. None if workers copy K and V themselves.
static strobe_i64 pack_items(const struct strobe_args *a) {
  if (copies_own(a)) return 0;
  return a->batch * a->heads_kv * ((a->kv_len + 31) / 32);
}

// An item is a KV block of one head, or, where the heads of a key lie side by side, a few keys of all heads.
static void pack(const struct strobe_args *a, strobe_i64 first, strobe_i64 last, void *scratch) {
  const unsigned mode = begin_step();
  const strobe_i64 blocks = (a->kv_len + 31) / 32, parts = blocks * a->heads_kv;
  const int across = blocks && a->heads_kv > 1 && a->v.head_stride < a->v.row_stride;
  const strobe_i64 rows = across ? (a->kv_len + 2 * parts - 1) / (2 * parts) * 2 : 32;
  (void)scratch;
  for (strobe_i64 item = first; item < last; item++) {
    const strobe_i64 batch = item / parts, head = across ? 0 : item / blocks % a->heads_kv;
    const strobe_i64 row = (across ? item % parts : item % blocks) * rows, head_kv = batch * a->heads_kv + head;
    const strobe_i64 keys = sequence_keys(a, batch), end = keys - row < rows ? keys : row + rows;
    {
      const float *k = (const float *)a->k.data + batch * a->k.batch_stride + head * a->k.head_stride;
      float *to = (float *)a->workspace + head_kv * a->kv_len * 32;
      const strobe_i64 next = across ? a->k.head_stride : a->k.row_stride, to_next = across ? a->kv_len * 32 : 32;
      for (strobe_i64 r = row, step = across ? 1 : end - row; r < end; r += step)
        pack_k_rows(k + r * a->k.row_stride, next, to + r * 32, to_next, across ? a->heads_kv : step);
    }
    const float *v = (const float *)a->v.data + batch * a->v.batch_stride + head * a->v.head_stride;
    const strobe_i64 head_size = (a->kv_len * 32);
    float *to = (float *)((char *)a->workspace + packed_k_bytes(a)) + head_kv * head_size;
    if (across)
      pack_v_across(v, a->v.row_stride, a->v.head_stride, row, end, to, head_size, a->heads_kv);
    else
      pack_v_block(v, a->v.row_stride, row, end, to);
  }
  end_step(mode);
}

static strobe_i64 workspace_bytes(const struct strobe_args *a) {
  return packed_k_bytes(a) + packed_v_bytes(a);
}

// Which worker it is that has this scratch memory, where their number is known.
static strobe_i64 worker_of(const struct strobe_args *a, const void *scratch) {
  const strobe_i64 workspace = (workspace_bytes(a) + 63) / 64 * 64;
  return ((const char *)scratch - (const char *)a->workspace - workspace) / 563520;
}

// A worker's own copies, if used: of the rows k and v of a head of so many keys, the first n_k and n_v.
struct own {
  int used;
  strobe_i64 keys;
  const float *k;
  float *k_copy;
  strobe_i64 n_k;
  const float *v;
  float *v_copy;
  strobe_i64 n_v;
};

// In the workspace if a worker has whole heads, else in memory at the end of its scratch.
static void own_begin(const struct strobe_args *a, const void *scratch, void *memory, struct own *own) {
  own->used = copies_own(a);
  own->keys = 0;
  own->k = 0;
  own->k_copy = memory;
  own->n_k = 0;
  own->v = 0;
  own->n_v = 0;
  own->v_copy = own->k_copy + 65536;
  if (by_heads(a)) {
    const strobe_i64 worker = worker_of(a, scratch);
    own->k_copy = (float *)a->workspace + worker * a->kv_len * 32;
    own->v_copy = (float *)((char *)a->workspace + packed_k_bytes(a)) + worker * (a->kv_len * 32);
  }
}

// Forgets another head.
static void own_head(struct own *own, const void *k, const void *v, strobe_i64 keys) {
  if (own->v == v && own->keys == keys && own->k == k) return;
  own->keys = keys;
  own->k = k;
  own->n_k = 0;
  own->v = v;
  own->n_v = 0;
}

// Whole blocks of K, and of V, up to key `end`, if they are not there.
static void copy_k(const struct strobe_args *a, strobe_i64 end, struct own *own) {
  if (!own->used) return;
  for (strobe_i64 first = own->n_k; first < end && first < own->keys; first = own->n_k) {
    own->n_k = own->keys - first < 32 ? own->keys : first + 32;
    pack_k_rows(own->k + first * a->k.row_stride, a->k.row_stride, own->k_copy + first * 32, 32, own->n_k - first);
  }
}

static void copy_v(const struct strobe_args *a, strobe_i64 end, struct own *own) {
  if (!own->used) return;
  for (strobe_i64 first = own->n_v; first < end && first < own->keys; first = own->n_v) {
    own->n_v = own->keys - first < 32 ? own->keys : first + 32;
    pack_v_block(own->v, a->v.row_stride, first, own->n_v, own->v_copy);
  }
}

// Which keys a tile of queries visits: `full` whole blocks that every query sees, then `rest` keys of the block after them, which run
// at the same speed, then the others up to `end`: keys at the diagonal, or the last few.
struct block_range {
  strobe_i64 full, rest, end;
};

static struct block_range visit(const struct strobe_args *a, strobe_i64 keys, strobe_i64 q0, strobe_i64 n) {
  struct block_range r;
  (void)a;
  (void)q0;
  (void)n;
  r.full = keys / 32;
  r.rest = keys % 32 / 4 * 4;
  r.end = keys;
  return r;
}

// How many of the tile's n queries see no key: the first.
static int blind(const struct strobe_args *a, strobe_i64 keys, strobe_i64 q0, strobe_i64 n) {
  (void)a;
  (void)q0;
  return keys ? 0 : (int)n;
}

// Keys of whole block j.
static int block_keys(struct block_range r, strobe_i64 j) { return j < r.full ? 32 : (int)r.rest; }

// Query i of the tile sees key t of a block that begins at key `first` when t + offset <= i.
static int diagonal_offset(const struct strobe_args *a, strobe_i64 keys, strobe_i64 q0, strobe_i64 first) {
  (void)a;
  (void)keys;
  (void)q0;
  (void)first;
  return -65536;
}

// How many of nk keys the last query of column j sees.
static int visible(int nk, int off, int j) {
  int n = (j + 1) * 16 - off;
  return n < 0 ? 0 : n > nk ? nk : n;
}

// Online softmax, one vector of queries: m' = max(m, block_max), alpha = 2^(m - m'), l = alpha l.
KERNEL void rescale(const float *block_max, float *m, float *l, float *alpha) {
  __m512 x;
  __m512 y;
  __m512 u;
  __m512 w;
  {
    x = _mm512_loadu_ps(m);
    y = _mm512_max_ps(x, _mm512_loadu_ps(block_max));
    _mm512_storeu_ps(m, y);
    x = _mm512_sub_ps(x, y);
    x = _mm512_max_ps(x, _mm512_set1_ps(-512.0f));
    y = _mm512_roundscale_ps(x, 8); u = _mm512_reduce_ps(x, 8);
    w = _mm512_set1_ps(0.000154994952f);
    w = _mm512_fmadd_ps(w, u, _mm512_set1_ps(0.00133974291f));
    w = _mm512_fmadd_ps(w, u, _mm512_set1_ps(0.00961795542f));
    w = _mm512_fmadd_ps(w, u, _mm512_set1_ps(0.0555033647f));
    w = _mm512_fmadd_ps(w, u, _mm512_set1_ps(0.240226507f));
    w = _mm512_fmadd_ps(w, u, _mm512_set1_ps(0.693147182f));
    w = _mm512_fmadd_ps(w, u, _mm512_set1_ps(1.0f));
    x = _mm512_scalef_ps(w, y);
    _mm512_storeu_ps(alpha, x);
    x = _mm512_mul_ps(x, _mm512_loadu_ps(l));
    _mm512_storeu_ps(l, x);
  }
}

// Q^T of one tile: 32 rows of 16 queries, times scale log2(e). Queries past the last repeat it.
KERNEL void pack_q(const float *q, strobe_i64 stride, strobe_i64 n, const float *scale, float *qt) {
  __m512 r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, r12, r13, r14, r15;
  for (int c = 0; c < 16; c += 16, qt += 16) {
    float *to = qt;
    for (int x = 0; x < 32; x += 16, to += 256) {
      const float *from = q + c * stride + x;
      if (c + 16 <= n) {
        // The same line of the rows of the next vector, if there is one.
        const float *ahead = c + 32 <= n ? from + 16 * stride : from;
        {
          _mm_prefetch((const char *)(ahead), _MM_HINT_T1);
          _mm_prefetch((const char *)(ahead + stride), _MM_HINT_T1);
          _mm_prefetch((const char *)(ahead + 2 * stride), _MM_HINT_T1);
          _mm_prefetch((const char *)(ahead + 3 * stride), _MM_HINT_T1);
          r0 = _mm512_loadu_ps(from);
          r2 = _mm512_loadu_ps(from + stride);
          r1 = _mm512_loadu_ps(from + 2 * stride);
          r3 = _mm512_loadu_ps(from + 3 * stride);
        }
        from += 4 * stride;
        ahead += 4 * stride;
        {
          _mm_prefetch((const char *)(ahead), _MM_HINT_T1);
          _mm_prefetch((const char *)(ahead + stride), _MM_HINT_T1);
          _mm_prefetch((const char *)(ahead + 2 * stride), _MM_HINT_T1);
          _mm_prefetch((const char *)(ahead + 3 * stride), _MM_HINT_T1);
          r4 = _mm512_loadu_ps(from);
          r6 = _mm512_loadu_ps(from + stride);
          r5 = _mm512_loadu_ps(from + 2 * stride);
          r7 = _mm512_loadu_ps(from + 3 * stride);
        }
        from += 4 * stride;
        ahead += 4 * stride;
        {
          _mm_prefetch((const char *)(ahead), _MM_HINT_T1);
          _mm_prefetch((const char *)(ahead + stride), _MM_HINT_T1);
          _mm_prefetch((const char *)(ahead + 2 * stride), _MM_HINT_T1);
          _mm_prefetch((const char *)(ahead + 3 * stride), _MM_HINT_T1);
          r8 = _mm512_loadu_ps(from);
          r10 = _mm512_loadu_ps(from + stride);
          r9 = _mm512_loadu_ps(from + 2 * stride);
          r11 = _mm512_loadu_ps(from + 3 * stride);
        }
        from += 4 * stride;
        ahead += 4 * stride;
        {
          _mm_prefetch((const char *)(ahead), _MM_HINT_T1);
          _mm_prefetch((const char *)(ahead + stride), _MM_HINT_T1);
          _mm_prefetch((const char *)(ahead + 2 * stride), _MM_HINT_T1);
          _mm_prefetch((const char *)(ahead + 3 * stride), _MM_HINT_T1);
          r12 = _mm512_loadu_ps(from);
          r14 = _mm512_loadu_ps(from + stride);
          r13 = _mm512_loadu_ps(from + 2 * stride);
          r15 = _mm512_loadu_ps(from + 3 * stride);
        }
        from += 4 * stride;
        ahead += 4 * stride;
      } else {
        from = q + (c + 0 < n ? c + 0 : n - 1) * stride + x;
        {
          r0 = _mm512_loadu_ps(from);
        }
        from = q + (c + 1 < n ? c + 1 : n - 1) * stride + x;
        {
          r2 = _mm512_loadu_ps(from);
        }
        from = q + (c + 2 < n ? c + 2 : n - 1) * stride + x;
        {
          r1 = _mm512_loadu_ps(from);
        }
        from = q + (c + 3 < n ? c + 3 : n - 1) * stride + x;
        {
          r3 = _mm512_loadu_ps(from);
        }
        from = q + (c + 4 < n ? c + 4 : n - 1) * stride + x;
        {
          r4 = _mm512_loadu_ps(from);
        }
        from = q + (c + 5 < n ? c + 5 : n - 1) * stride + x;
        {
          r6 = _mm512_loadu_ps(from);
        }
        from = q + (c + 6 < n ? c + 6 : n - 1) * stride + x;
        {
          r5 = _mm512_loadu_ps(from);
        }
        from = q + (c + 7 < n ? c + 7 : n - 1) * stride + x;
        {
          r7 = _mm512_loadu_ps(from);
        }
        from = q + (c + 8 < n ? c + 8 : n - 1) * stride + x;
        {
          r8 = _mm512_loadu_ps(from);
        }
        from = q + (c + 9 < n ? c + 9 : n - 1) * stride + x;
        {
          r10 = _mm512_loadu_ps(from);
        }
        from = q + (c + 10 < n ? c + 10 : n - 1) * stride + x;
        {
          r9 = _mm512_loadu_ps(from);
        }
        from = q + (c + 11 < n ? c + 11 : n - 1) * stride + x;
        {
          r11 = _mm512_loadu_ps(from);
        }
        from = q + (c + 12 < n ? c + 12 : n - 1) * stride + x;
        {
          r12 = _mm512_loadu_ps(from);
        }
        from = q + (c + 13 < n ? c + 13 : n - 1) * stride + x;
        {
          r14 = _mm512_loadu_ps(from);
        }
        from = q + (c + 14 < n ? c + 14 : n - 1) * stride + x;
        {
          r13 = _mm512_loadu_ps(from);
        }
        from = q + (c + 15 < n ? c + 15 : n - 1) * stride + x;
        {
          r15 = _mm512_loadu_ps(from);
        }
      }
      {
        { __m512 low_ = _mm512_unpacklo_ps(r0, r2); r2 = _mm512_unpackhi_ps(r0, r2); r0 = low_; }
        { __m512 low_ = _mm512_unpacklo_ps(r1, r3); r3 = _mm512_unpackhi_ps(r1, r3); r1 = low_; }
        { __m512d a_ = _mm512_castps_pd(r0), b_ = _mm512_castps_pd(r1); r0 = _mm512_castpd_ps(_mm512_unpacklo_pd(a_, b_)); r1 = _mm512_castpd_ps(_mm512_unpackhi_pd(a_, b_)); }
        { __m512d a_ = _mm512_castps_pd(r2), b_ = _mm512_castps_pd(r3); r2 = _mm512_castpd_ps(_mm512_unpacklo_pd(a_, b_)); r3 = _mm512_castpd_ps(_mm512_unpackhi_pd(a_, b_)); }
        { __m512 low_ = _mm512_unpacklo_ps(r4, r6); r6 = _mm512_unpackhi_ps(r4, r6); r4 = low_; }
        { __m512 low_ = _mm512_unpacklo_ps(r5, r7); r7 = _mm512_unpackhi_ps(r5, r7); r5 = low_; }
        { __m512d a_ = _mm512_castps_pd(r4), b_ = _mm512_castps_pd(r5); r4 = _mm512_castpd_ps(_mm512_unpacklo_pd(a_, b_)); r5 = _mm512_castpd_ps(_mm512_unpackhi_pd(a_, b_)); }
        { __m512d a_ = _mm512_castps_pd(r6), b_ = _mm512_castps_pd(r7); r6 = _mm512_castpd_ps(_mm512_unpacklo_pd(a_, b_)); r7 = _mm512_castpd_ps(_mm512_unpackhi_pd(a_, b_)); }
        { __m512 low_ = _mm512_unpacklo_ps(r8, r10); r10 = _mm512_unpackhi_ps(r8, r10); r8 = low_; }
        { __m512 low_ = _mm512_unpacklo_ps(r9, r11); r11 = _mm512_unpackhi_ps(r9, r11); r9 = low_; }
        { __m512d a_ = _mm512_castps_pd(r8), b_ = _mm512_castps_pd(r9); r8 = _mm512_castpd_ps(_mm512_unpacklo_pd(a_, b_)); r9 = _mm512_castpd_ps(_mm512_unpackhi_pd(a_, b_)); }
        { __m512d a_ = _mm512_castps_pd(r10), b_ = _mm512_castps_pd(r11); r10 = _mm512_castpd_ps(_mm512_unpacklo_pd(a_, b_)); r11 = _mm512_castpd_ps(_mm512_unpackhi_pd(a_, b_)); }
        { __m512 low_ = _mm512_unpacklo_ps(r12, r14); r14 = _mm512_unpackhi_ps(r12, r14); r12 = low_; }
        { __m512 low_ = _mm512_unpacklo_ps(r13, r15); r15 = _mm512_unpackhi_ps(r13, r15); r13 = low_; }
        { __m512d a_ = _mm512_castps_pd(r12), b_ = _mm512_castps_pd(r13); r12 = _mm512_castpd_ps(_mm512_unpacklo_pd(a_, b_)); r13 = _mm512_castpd_ps(_mm512_unpackhi_pd(a_, b_)); }
        { __m512d a_ = _mm512_castps_pd(r14), b_ = _mm512_castps_pd(r15); r14 = _mm512_castpd_ps(_mm512_unpacklo_pd(a_, b_)); r15 = _mm512_castpd_ps(_mm512_unpackhi_pd(a_, b_)); }
        { __m512 even_ = _mm512_shuffle_f32x4(r0, r4, 136); r4 = _mm512_shuffle_f32x4(r0, r4, 221); r0 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r1, r5, 136); r5 = _mm512_shuffle_f32x4(r1, r5, 221); r1 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r2, r6, 136); r6 = _mm512_shuffle_f32x4(r2, r6, 221); r2 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r3, r7, 136); r7 = _mm512_shuffle_f32x4(r3, r7, 221); r3 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r8, r12, 136); r12 = _mm512_shuffle_f32x4(r8, r12, 221); r8 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r9, r13, 136); r13 = _mm512_shuffle_f32x4(r9, r13, 221); r9 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r10, r14, 136); r14 = _mm512_shuffle_f32x4(r10, r14, 221); r10 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r11, r15, 136); r15 = _mm512_shuffle_f32x4(r11, r15, 221); r11 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r0, r8, 136); r8 = _mm512_shuffle_f32x4(r0, r8, 221); r0 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r1, r9, 136); r9 = _mm512_shuffle_f32x4(r1, r9, 221); r1 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r2, r10, 136); r10 = _mm512_shuffle_f32x4(r2, r10, 221); r2 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r3, r11, 136); r11 = _mm512_shuffle_f32x4(r3, r11, 221); r3 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r4, r12, 136); r12 = _mm512_shuffle_f32x4(r4, r12, 221); r4 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r5, r13, 136); r13 = _mm512_shuffle_f32x4(r5, r13, 221); r5 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r6, r14, 136); r14 = _mm512_shuffle_f32x4(r6, r14, 221); r6 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r7, r15, 136); r15 = _mm512_shuffle_f32x4(r7, r15, 221); r7 = even_; }
        r0 = _mm512_mul_ps(r0, _mm512_set1_ps(scale[0]));
        _mm512_storeu_ps(to, r0);
        r1 = _mm512_mul_ps(r1, _mm512_set1_ps(scale[0]));
        _mm512_storeu_ps(to + 16, r1);
        r2 = _mm512_mul_ps(r2, _mm512_set1_ps(scale[0]));
        _mm512_storeu_ps(to + 32, r2);
        r3 = _mm512_mul_ps(r3, _mm512_set1_ps(scale[0]));
        _mm512_storeu_ps(to + 48, r3);
        r4 = _mm512_mul_ps(r4, _mm512_set1_ps(scale[0]));
        _mm512_storeu_ps(to + 64, r4);
        r5 = _mm512_mul_ps(r5, _mm512_set1_ps(scale[0]));
        _mm512_storeu_ps(to + 80, r5);
        r6 = _mm512_mul_ps(r6, _mm512_set1_ps(scale[0]));
        _mm512_storeu_ps(to + 96, r6);
        r7 = _mm512_mul_ps(r7, _mm512_set1_ps(scale[0]));
        _mm512_storeu_ps(to + 112, r7);
        r8 = _mm512_mul_ps(r8, _mm512_set1_ps(scale[0]));
        _mm512_storeu_ps(to + 128, r8);
        r9 = _mm512_mul_ps(r9, _mm512_set1_ps(scale[0]));
        _mm512_storeu_ps(to + 144, r9);
        r10 = _mm512_mul_ps(r10, _mm512_set1_ps(scale[0]));
        _mm512_storeu_ps(to + 160, r10);
        r11 = _mm512_mul_ps(r11, _mm512_set1_ps(scale[0]));
        _mm512_storeu_ps(to + 176, r11);
        r12 = _mm512_mul_ps(r12, _mm512_set1_ps(scale[0]));
        _mm512_storeu_ps(to + 192, r12);
        r13 = _mm512_mul_ps(r13, _mm512_set1_ps(scale[0]));
        _mm512_storeu_ps(to + 208, r13);
        r14 = _mm512_mul_ps(r14, _mm512_set1_ps(scale[0]));
        _mm512_storeu_ps(to + 224, r14);
        r15 = _mm512_mul_ps(r15, _mm512_set1_ps(scale[0]));
        _mm512_storeu_ps(to + 240, r15);
      }
    }
  }
}

// S^T = K Q^T of so many keys of a block: 2 keys x 16 queries at a time, one query per lane, in registers for all of
// head_dim. block_max gets the largest score of each query.
KERNEL void qk_block(const float *k, const float *qt, float *score, float *block_max, int keys) {
  __m512 s0_0, s1_0;
  __m512 q0;
  __m512 top0;
  {
    top0 = _mm512_castsi512_ps(_mm512_set1_epi32((int)0xff800000u));
  }
  for (int t = 0; t < keys; t += 2) {
    {
      s0_0 = _mm512_setzero_ps();
      s1_0 = _mm512_setzero_ps();
    }
    for (int chunk = 0; chunk < 32; chunk += 8) {
      const float *ahead = k + 8 * 32;
      {
      // head_dim 0
        q0 = _mm512_loadu_ps(qt);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[0]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[32]), s1_0);
        _mm_prefetch((const char *)(ahead), _MM_HINT_T0);
        _mm_prefetch((const char *)(ahead + 32), _MM_HINT_T0);
      // head_dim 1
        q0 = _mm512_loadu_ps(qt + 16);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[1]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[33]), s1_0);
      // head_dim 2
        q0 = _mm512_loadu_ps(qt + 32);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[2]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[34]), s1_0);
      // head_dim 3
        q0 = _mm512_loadu_ps(qt + 48);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[3]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[35]), s1_0);
      // head_dim 4
        q0 = _mm512_loadu_ps(qt + 64);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[4]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[36]), s1_0);
      // head_dim 5
        q0 = _mm512_loadu_ps(qt + 80);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[5]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[37]), s1_0);
      // head_dim 6
        q0 = _mm512_loadu_ps(qt + 96);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[6]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[38]), s1_0);
      // head_dim 7
        q0 = _mm512_loadu_ps(qt + 112);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[7]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[39]), s1_0);
      }
      k += 8;
      qt += 128;
    }
    {
      _mm512_storeu_ps(score, s0_0);
      top0 = _mm512_max_ps(top0, s0_0);
      _mm512_storeu_ps(score + 16, s1_0);
      top0 = _mm512_max_ps(top0, s1_0);
    }
    k -= 32;
    qt -= 512;
    k += 2 * 32;
    score += 32;
  }
  {
    _mm512_storeu_ps(block_max, top0);
  }
}

// O = 0, l = 0, and m = the lowest finite number, so that a block of scores that are all -Inf has P = 0.
KERNEL void start(float *ot, float *m, float *l) {
  __m512 x;
  __m512 y;
  {
    x = _mm512_castsi512_ps(_mm512_set1_epi32((int)0xff7fffffu));
    y = _mm512_setzero_ps();
    _mm512_storeu_ps(m, x);
    _mm512_storeu_ps(l, y);
  }
  for (int d = 0; d < 32; d++, ot += 16) {
    {
      _mm512_storeu_ps(ot, y);
    }
  }
}

// P = 2^(S - m) of keys first to last of a block, in place; l += its row sums.
KERNEL void exp_block(float *score, const float *m, float *l, int first, int last) {
  score += first * 16;
  __m512 sum0;
  {
    sum0 = _mm512_setzero_ps();
  }
  int t = first;
  for (; t + 2 <= last; t += 2, score += 32) {
    __m512 x;
    __m512 y;
    __m512 u;
    __m512 w;
    {
      x = _mm512_loadu_ps(score);
      x = _mm512_sub_ps(x, _mm512_loadu_ps(m));
      y = _mm512_add_ps(x, _mm512_set1_ps(786432.0f));
      u = _mm512_reduce_ps(x, 4 << 4 | 8);
      w = _mm512_permutexvar_ps(_mm512_castps_si512(y), _mm512_loadu_ps(exp2_b2));
      x = _mm512_permutexvar_ps(_mm512_castps_si512(y), _mm512_loadu_ps(exp2_b1));
      x = _mm512_fmadd_ps(w, u, x);
      w = _mm512_permutexvar_ps(_mm512_castps_si512(y), _mm512_loadu_ps(exp2_b0));
      w = _mm512_fmadd_ps(x, u, w);
      y = _mm512_sub_ps(y, _mm512_set1_ps(786432.0f));
      x = _mm512_scalef_ps(w, y);
      sum0 = _mm512_add_ps(sum0, x);
      _mm512_storeu_ps(score, x);
      x = _mm512_loadu_ps(score + 16);
      x = _mm512_sub_ps(x, _mm512_loadu_ps(m));
      y = _mm512_add_ps(x, _mm512_set1_ps(786432.0f));
      u = _mm512_reduce_ps(x, 4 << 4 | 8);
      w = _mm512_permutexvar_ps(_mm512_castps_si512(y), _mm512_loadu_ps(exp2_b2));
      x = _mm512_permutexvar_ps(_mm512_castps_si512(y), _mm512_loadu_ps(exp2_b1));
      x = _mm512_fmadd_ps(w, u, x);
      w = _mm512_permutexvar_ps(_mm512_castps_si512(y), _mm512_loadu_ps(exp2_b0));
      w = _mm512_fmadd_ps(x, u, w);
      y = _mm512_sub_ps(y, _mm512_set1_ps(786432.0f));
      x = _mm512_scalef_ps(w, y);
      sum0 = _mm512_add_ps(sum0, x);
      _mm512_storeu_ps(score + 16, x);
    }
  }
  {
    sum0 = _mm512_add_ps(sum0, _mm512_loadu_ps(l));
    _mm512_storeu_ps(l, sum0);
  }
}

// O^T = alpha O^T + V^T P^T: 2 columns of V x 16 queries at a time. 
KERNEL void pv_block(const float *p, const float *v, const float *alpha, float *ot, int keys) {
  for (int d = 0; d < 32; d += 2) {
    __m512 s0_0, s1_0;
    __m512 q0;
    {
      q0 = _mm512_loadu_ps(alpha);
      s0_0 = _mm512_mul_ps(q0, _mm512_loadu_ps(ot));
      s1_0 = _mm512_mul_ps(q0, _mm512_loadu_ps(ot + 16));
    }
    int t = keys / 1;
    for (; t >= 8; t -= 8) {
      const float *ahead = v + 8 * 32;
      {
        q0 = _mm512_loadu_ps(p);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(v[0]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(v[1]), s1_0);
        _mm_prefetch((const char *)(ahead), _MM_HINT_T0);
        q0 = _mm512_loadu_ps(p + 16);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(v[32]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(v[33]), s1_0);
        _mm_prefetch((const char *)(ahead + 32), _MM_HINT_T0);
        q0 = _mm512_loadu_ps(p + 32);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(v[64]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(v[65]), s1_0);
        _mm_prefetch((const char *)(ahead + 64), _MM_HINT_T0);
        q0 = _mm512_loadu_ps(p + 48);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(v[96]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(v[97]), s1_0);
        _mm_prefetch((const char *)(ahead + 96), _MM_HINT_T0);
        q0 = _mm512_loadu_ps(p + 64);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(v[128]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(v[129]), s1_0);
        _mm_prefetch((const char *)(ahead + 128), _MM_HINT_T0);
        q0 = _mm512_loadu_ps(p + 80);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(v[160]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(v[161]), s1_0);
        _mm_prefetch((const char *)(ahead + 160), _MM_HINT_T0);
        q0 = _mm512_loadu_ps(p + 96);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(v[192]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(v[193]), s1_0);
        _mm_prefetch((const char *)(ahead + 192), _MM_HINT_T0);
        q0 = _mm512_loadu_ps(p + 112);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(v[224]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(v[225]), s1_0);
        _mm_prefetch((const char *)(ahead + 224), _MM_HINT_T0);
      }
      p += 128;
      v += 8 * 32;
    }
    for (; t > 0; t -= 4) {
      const float *ahead = v + 8 * 32;
      {
        q0 = _mm512_loadu_ps(p);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(v[0]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(v[1]), s1_0);
        _mm_prefetch((const char *)(ahead), _MM_HINT_T0);
        q0 = _mm512_loadu_ps(p + 16);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(v[32]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(v[33]), s1_0);
        _mm_prefetch((const char *)(ahead + 32), _MM_HINT_T0);
        q0 = _mm512_loadu_ps(p + 32);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(v[64]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(v[65]), s1_0);
        _mm_prefetch((const char *)(ahead + 64), _MM_HINT_T0);
        q0 = _mm512_loadu_ps(p + 48);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(v[96]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(v[97]), s1_0);
        _mm_prefetch((const char *)(ahead + 96), _MM_HINT_T0);
      }
      p += 64;
      v += 4 * 32;
    }
    {
      _mm512_storeu_ps(ot, s0_0);
      _mm512_storeu_ps(ot + 16, s1_0);
    }
    p -= keys / 1 * 16;
    v -= keys / 1 * 32;
    v += 2;
    ot += 32;
  }
}

// S^T of n rows for the last 1 of the 1 vectors of queries. block_max = max(block_max, S).
KERNEL void qk_edge_1(const float *k, const float *qt, float *score, int n, float *block_max, int off) {
  for (; n >= 4; n -= 4) {
    __m512 s0_0, s1_0, s2_0, s3_0;
    __m512 q0;
    {
      s0_0 = _mm512_setzero_ps();
      s1_0 = _mm512_setzero_ps();
      s2_0 = _mm512_setzero_ps();
      s3_0 = _mm512_setzero_ps();
    }
    for (int chunk = 0; chunk < 32; chunk += 8) {
      {
        q0 = _mm512_loadu_ps(qt);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[0]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[32]), s1_0);
        s2_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[64]), s2_0);
        s3_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[96]), s3_0);
        q0 = _mm512_loadu_ps(qt + 16);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[1]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[33]), s1_0);
        s2_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[65]), s2_0);
        s3_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[97]), s3_0);
        q0 = _mm512_loadu_ps(qt + 32);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[2]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[34]), s1_0);
        s2_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[66]), s2_0);
        s3_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[98]), s3_0);
        q0 = _mm512_loadu_ps(qt + 48);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[3]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[35]), s1_0);
        s2_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[67]), s2_0);
        s3_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[99]), s3_0);
        q0 = _mm512_loadu_ps(qt + 64);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[4]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[36]), s1_0);
        s2_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[68]), s2_0);
        s3_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[100]), s3_0);
        q0 = _mm512_loadu_ps(qt + 80);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[5]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[37]), s1_0);
        s2_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[69]), s2_0);
        s3_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[101]), s3_0);
        q0 = _mm512_loadu_ps(qt + 96);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[6]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[38]), s1_0);
        s2_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[70]), s2_0);
        s3_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[102]), s3_0);
        q0 = _mm512_loadu_ps(qt + 112);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[7]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[39]), s1_0);
        s2_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[71]), s2_0);
        s3_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[103]), s3_0);
      }
      k += 8;
      qt += 128;
    }
    {
      _mm512_storeu_ps(score, s0_0);
      _mm512_storeu_ps(score + 16, s1_0);
      _mm512_storeu_ps(score + 32, s2_0);
      _mm512_storeu_ps(score + 48, s3_0);
    }
    __m512 top;
    {
      top = _mm512_loadu_ps(block_max);
      top = _mm512_max_ps(top, s0_0);
      top = _mm512_max_ps(top, s1_0);
      top = _mm512_max_ps(top, s2_0);
      top = _mm512_max_ps(top, s3_0);
      _mm512_storeu_ps(block_max, top);
    }
    k += 4 * 32 - 32;
    qt -= 512;
    score += 64;
  }
  for (; n >= 2; n -= 2) {
    __m512 s0_0, s1_0;
    __m512 q0;
    {
      s0_0 = _mm512_setzero_ps();
      s1_0 = _mm512_setzero_ps();
    }
    for (int chunk = 0; chunk < 32; chunk += 8) {
      {
        q0 = _mm512_loadu_ps(qt);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[0]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[32]), s1_0);
        q0 = _mm512_loadu_ps(qt + 16);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[1]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[33]), s1_0);
        q0 = _mm512_loadu_ps(qt + 32);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[2]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[34]), s1_0);
        q0 = _mm512_loadu_ps(qt + 48);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[3]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[35]), s1_0);
        q0 = _mm512_loadu_ps(qt + 64);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[4]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[36]), s1_0);
        q0 = _mm512_loadu_ps(qt + 80);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[5]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[37]), s1_0);
        q0 = _mm512_loadu_ps(qt + 96);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[6]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[38]), s1_0);
        q0 = _mm512_loadu_ps(qt + 112);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[7]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[39]), s1_0);
      }
      k += 8;
      qt += 128;
    }
    {
      _mm512_storeu_ps(score, s0_0);
      _mm512_storeu_ps(score + 16, s1_0);
    }
    __m512 top;
    {
      top = _mm512_loadu_ps(block_max);
      top = _mm512_max_ps(top, s0_0);
      top = _mm512_max_ps(top, s1_0);
      _mm512_storeu_ps(block_max, top);
    }
    k += 2 * 32 - 32;
    qt -= 512;
    score += 32;
  }
  for (; n >= 1; n -= 1) {
    __m512 s0_0;
    __m512 q0;
    {
      s0_0 = _mm512_setzero_ps();
    }
    for (int chunk = 0; chunk < 32; chunk += 8) {
      {
        q0 = _mm512_loadu_ps(qt);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[0]), s0_0);
        q0 = _mm512_loadu_ps(qt + 16);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[1]), s0_0);
        q0 = _mm512_loadu_ps(qt + 32);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[2]), s0_0);
        q0 = _mm512_loadu_ps(qt + 48);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[3]), s0_0);
        q0 = _mm512_loadu_ps(qt + 64);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[4]), s0_0);
        q0 = _mm512_loadu_ps(qt + 80);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[5]), s0_0);
        q0 = _mm512_loadu_ps(qt + 96);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[6]), s0_0);
        q0 = _mm512_loadu_ps(qt + 112);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(k[7]), s0_0);
      }
      k += 8;
      qt += 128;
    }
    {
      _mm512_storeu_ps(score, s0_0);
    }
    __m512 top;
    {
      top = _mm512_loadu_ps(block_max);
      top = _mm512_max_ps(top, s0_0);
      _mm512_storeu_ps(block_max, top);
    }
    k += 1 * 32 - 32;
    qt -= 512;
    score += 16;
  }
  (void)off;
}

// No score is there yet.
KERNEL void lowest(float *block_max) {
  __m512 x;
  {
    x = _mm512_castsi512_ps(_mm512_set1_epi32((int)0xff800000u));
    _mm512_storeu_ps(block_max, x);
  }
}

// P = 2^(S - m) of one column over its first n keys, 0 where the mask hides a key; l += its sums.
KERNEL void exp_edge(float *score, const float *m, float *l, int n, int off) {
  __m512 x;
  __m512 y;
  __m512 u;
  __m512 w;
  __m512 sum;
  {
    sum = _mm512_setzero_ps();
  }
  for (; n >= 4; n -= 4, off += 4, score += 64) {
    {
      x = _mm512_loadu_ps(score);
      x = _mm512_sub_ps(x, _mm512_loadu_ps(m));
      y = _mm512_add_ps(x, _mm512_set1_ps(786432.0f));
      u = _mm512_reduce_ps(x, 4 << 4 | 8);
      w = _mm512_permutexvar_ps(_mm512_castps_si512(y), _mm512_loadu_ps(exp2_b2));
      x = _mm512_permutexvar_ps(_mm512_castps_si512(y), _mm512_loadu_ps(exp2_b1));
      x = _mm512_fmadd_ps(w, u, x);
      w = _mm512_permutexvar_ps(_mm512_castps_si512(y), _mm512_loadu_ps(exp2_b0));
      w = _mm512_fmadd_ps(x, u, w);
      y = _mm512_sub_ps(y, _mm512_set1_ps(786432.0f));
      x = _mm512_scalef_ps(w, y);
      sum = _mm512_add_ps(sum, x);
      _mm512_storeu_ps(score, x);
      x = _mm512_loadu_ps(score + 16);
      x = _mm512_sub_ps(x, _mm512_loadu_ps(m));
      y = _mm512_add_ps(x, _mm512_set1_ps(786432.0f));
      u = _mm512_reduce_ps(x, 4 << 4 | 8);
      w = _mm512_permutexvar_ps(_mm512_castps_si512(y), _mm512_loadu_ps(exp2_b2));
      x = _mm512_permutexvar_ps(_mm512_castps_si512(y), _mm512_loadu_ps(exp2_b1));
      x = _mm512_fmadd_ps(w, u, x);
      w = _mm512_permutexvar_ps(_mm512_castps_si512(y), _mm512_loadu_ps(exp2_b0));
      w = _mm512_fmadd_ps(x, u, w);
      y = _mm512_sub_ps(y, _mm512_set1_ps(786432.0f));
      x = _mm512_scalef_ps(w, y);
      sum = _mm512_add_ps(sum, x);
      _mm512_storeu_ps(score + 16, x);
      x = _mm512_loadu_ps(score + 32);
      x = _mm512_sub_ps(x, _mm512_loadu_ps(m));
      y = _mm512_add_ps(x, _mm512_set1_ps(786432.0f));
      u = _mm512_reduce_ps(x, 4 << 4 | 8);
      w = _mm512_permutexvar_ps(_mm512_castps_si512(y), _mm512_loadu_ps(exp2_b2));
      x = _mm512_permutexvar_ps(_mm512_castps_si512(y), _mm512_loadu_ps(exp2_b1));
      x = _mm512_fmadd_ps(w, u, x);
      w = _mm512_permutexvar_ps(_mm512_castps_si512(y), _mm512_loadu_ps(exp2_b0));
      w = _mm512_fmadd_ps(x, u, w);
      y = _mm512_sub_ps(y, _mm512_set1_ps(786432.0f));
      x = _mm512_scalef_ps(w, y);
      sum = _mm512_add_ps(sum, x);
      _mm512_storeu_ps(score + 32, x);
      x = _mm512_loadu_ps(score + 48);
      x = _mm512_sub_ps(x, _mm512_loadu_ps(m));
      y = _mm512_add_ps(x, _mm512_set1_ps(786432.0f));
      u = _mm512_reduce_ps(x, 4 << 4 | 8);
      w = _mm512_permutexvar_ps(_mm512_castps_si512(y), _mm512_loadu_ps(exp2_b2));
      x = _mm512_permutexvar_ps(_mm512_castps_si512(y), _mm512_loadu_ps(exp2_b1));
      x = _mm512_fmadd_ps(w, u, x);
      w = _mm512_permutexvar_ps(_mm512_castps_si512(y), _mm512_loadu_ps(exp2_b0));
      w = _mm512_fmadd_ps(x, u, w);
      y = _mm512_sub_ps(y, _mm512_set1_ps(786432.0f));
      x = _mm512_scalef_ps(w, y);
      sum = _mm512_add_ps(sum, x);
      _mm512_storeu_ps(score + 48, x);
    }
  }
  for (; n >= 1; n -= 1, off += 1, score += 16) {
    {
      x = _mm512_loadu_ps(score);
      x = _mm512_sub_ps(x, _mm512_loadu_ps(m));
      y = _mm512_add_ps(x, _mm512_set1_ps(786432.0f));
      u = _mm512_reduce_ps(x, 4 << 4 | 8);
      w = _mm512_permutexvar_ps(_mm512_castps_si512(y), _mm512_loadu_ps(exp2_b2));
      x = _mm512_permutexvar_ps(_mm512_castps_si512(y), _mm512_loadu_ps(exp2_b1));
      x = _mm512_fmadd_ps(w, u, x);
      w = _mm512_permutexvar_ps(_mm512_castps_si512(y), _mm512_loadu_ps(exp2_b0));
      w = _mm512_fmadd_ps(x, u, w);
      y = _mm512_sub_ps(y, _mm512_set1_ps(786432.0f));
      x = _mm512_scalef_ps(w, y);
      sum = _mm512_add_ps(sum, x);
      _mm512_storeu_ps(score, x);
    }
  }
  {
    sum = _mm512_add_ps(sum, _mm512_loadu_ps(l));
    _mm512_storeu_ps(l, sum);
  }
  (void)off;
}

// O^T = alpha O^T + V^T P^T over the visible keys. V of a hidden key counts as 0, so its NaN stays where it is seen.
KERNEL void pv_edge(const float *p, const float *v, const float *alpha, float *ot, int nk, int off) {
  for (int d = 0; d < 32; d += 2) {
    const float *row = p;
    const float *value = v;
    int t = 0;
    __m512 s0_0, s1_0;
    {
      __m512 q;
      {
        q = _mm512_loadu_ps(alpha);
        s0_0 = _mm512_mul_ps(q, _mm512_loadu_ps(ot));
        s1_0 = _mm512_mul_ps(q, _mm512_loadu_ps(ot + 16));
      }
    }
    for (; t < nk; t += 1) {
      __m512 q0;
      {
        q0 = _mm512_loadu_ps(row);
        s0_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(value[0]), s0_0);
        s1_0 = _mm512_fmadd_ps(q0, _mm512_set1_ps(value[1]), s1_0);
      }
      row += 16;
      value += 1 * 32;
    }
    {
      _mm512_storeu_ps(ot, s0_0);
      _mm512_storeu_ps(ot + 16, s1_0);
    }
    v += 2;
    ot += 32;
  }
  (void)off;
}

// All phases for one such block.
KERNEL void edge_block(const float *k, const float *v, const float *qt, float *score, float *m, float *l, float *alpha,
                       float *block_max, float *ot, int nk, int off) {
  lowest(block_max);
  qk_edge_1(k, qt, score, nk, block_max, off);
  for (int c = 0; c < 16; c += 16) rescale(block_max + c, m + c, l + c, alpha + c);
  for (int j = 0, c = 0; j < 1; j++, c += 16) exp_edge(score + c, m + c, l + c, visible(nk, off, j), off - c);
  pv_edge(score, v, alpha, ot, nk, off);
}

// O = O^T / l transposed back, and lse = ln 2 (m + log2 l), for the n queries that exist. The first `blind` saw no key: O = 0,
// lse = -inf. Where others have l = 0 all their scores are -Inf: O is NaN, as 0 / 0 is.
KERNEL void epilogue(const float *ot, const float *m, const float *l, float *o, strobe_i64 stride, strobe_i64 n, int blind, float *lse) {
  for (int c = 0; c < 16 && c < n; c += 16) {
    __m512 r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, r12, r13, r14, r15;
    __m512 inv;
    {
      __m512 x;
      __m512 zero;
      __mmask16 some;
      zero = _mm512_setzero_ps();
      x = _mm512_loadu_ps(l);
      inv = _mm512_set1_ps(1.0f);
      inv = _mm512_div_ps(inv, x);
      some = (__mmask16)~first_lanes(blind);
      inv = _mm512_mask_blend_ps(some, zero, inv);
    }
    for (int d = 0; d < 32; d += 16) {
      float *to = o + d;
      {
        r0 = _mm512_mul_ps(inv, _mm512_loadu_ps(ot));
        r2 = _mm512_mul_ps(inv, _mm512_loadu_ps(ot + 16));
        r1 = _mm512_mul_ps(inv, _mm512_loadu_ps(ot + 32));
        r3 = _mm512_mul_ps(inv, _mm512_loadu_ps(ot + 48));
        r4 = _mm512_mul_ps(inv, _mm512_loadu_ps(ot + 64));
        r6 = _mm512_mul_ps(inv, _mm512_loadu_ps(ot + 80));
        r5 = _mm512_mul_ps(inv, _mm512_loadu_ps(ot + 96));
        r7 = _mm512_mul_ps(inv, _mm512_loadu_ps(ot + 112));
        r8 = _mm512_mul_ps(inv, _mm512_loadu_ps(ot + 128));
        r10 = _mm512_mul_ps(inv, _mm512_loadu_ps(ot + 144));
        r9 = _mm512_mul_ps(inv, _mm512_loadu_ps(ot + 160));
        r11 = _mm512_mul_ps(inv, _mm512_loadu_ps(ot + 176));
        r12 = _mm512_mul_ps(inv, _mm512_loadu_ps(ot + 192));
        r14 = _mm512_mul_ps(inv, _mm512_loadu_ps(ot + 208));
        r13 = _mm512_mul_ps(inv, _mm512_loadu_ps(ot + 224));
        r15 = _mm512_mul_ps(inv, _mm512_loadu_ps(ot + 240));
      }
      {
        { __m512 low_ = _mm512_unpacklo_ps(r0, r2); r2 = _mm512_unpackhi_ps(r0, r2); r0 = low_; }
        { __m512 low_ = _mm512_unpacklo_ps(r1, r3); r3 = _mm512_unpackhi_ps(r1, r3); r1 = low_; }
        { __m512d a_ = _mm512_castps_pd(r0), b_ = _mm512_castps_pd(r1); r0 = _mm512_castpd_ps(_mm512_unpacklo_pd(a_, b_)); r1 = _mm512_castpd_ps(_mm512_unpackhi_pd(a_, b_)); }
        { __m512d a_ = _mm512_castps_pd(r2), b_ = _mm512_castps_pd(r3); r2 = _mm512_castpd_ps(_mm512_unpacklo_pd(a_, b_)); r3 = _mm512_castpd_ps(_mm512_unpackhi_pd(a_, b_)); }
        { __m512 low_ = _mm512_unpacklo_ps(r4, r6); r6 = _mm512_unpackhi_ps(r4, r6); r4 = low_; }
        { __m512 low_ = _mm512_unpacklo_ps(r5, r7); r7 = _mm512_unpackhi_ps(r5, r7); r5 = low_; }
        { __m512d a_ = _mm512_castps_pd(r4), b_ = _mm512_castps_pd(r5); r4 = _mm512_castpd_ps(_mm512_unpacklo_pd(a_, b_)); r5 = _mm512_castpd_ps(_mm512_unpackhi_pd(a_, b_)); }
        { __m512d a_ = _mm512_castps_pd(r6), b_ = _mm512_castps_pd(r7); r6 = _mm512_castpd_ps(_mm512_unpacklo_pd(a_, b_)); r7 = _mm512_castpd_ps(_mm512_unpackhi_pd(a_, b_)); }
        { __m512 low_ = _mm512_unpacklo_ps(r8, r10); r10 = _mm512_unpackhi_ps(r8, r10); r8 = low_; }
        { __m512 low_ = _mm512_unpacklo_ps(r9, r11); r11 = _mm512_unpackhi_ps(r9, r11); r9 = low_; }
        { __m512d a_ = _mm512_castps_pd(r8), b_ = _mm512_castps_pd(r9); r8 = _mm512_castpd_ps(_mm512_unpacklo_pd(a_, b_)); r9 = _mm512_castpd_ps(_mm512_unpackhi_pd(a_, b_)); }
        { __m512d a_ = _mm512_castps_pd(r10), b_ = _mm512_castps_pd(r11); r10 = _mm512_castpd_ps(_mm512_unpacklo_pd(a_, b_)); r11 = _mm512_castpd_ps(_mm512_unpackhi_pd(a_, b_)); }
        { __m512 low_ = _mm512_unpacklo_ps(r12, r14); r14 = _mm512_unpackhi_ps(r12, r14); r12 = low_; }
        { __m512 low_ = _mm512_unpacklo_ps(r13, r15); r15 = _mm512_unpackhi_ps(r13, r15); r13 = low_; }
        { __m512d a_ = _mm512_castps_pd(r12), b_ = _mm512_castps_pd(r13); r12 = _mm512_castpd_ps(_mm512_unpacklo_pd(a_, b_)); r13 = _mm512_castpd_ps(_mm512_unpackhi_pd(a_, b_)); }
        { __m512d a_ = _mm512_castps_pd(r14), b_ = _mm512_castps_pd(r15); r14 = _mm512_castpd_ps(_mm512_unpacklo_pd(a_, b_)); r15 = _mm512_castpd_ps(_mm512_unpackhi_pd(a_, b_)); }
        { __m512 even_ = _mm512_shuffle_f32x4(r0, r4, 136); r4 = _mm512_shuffle_f32x4(r0, r4, 221); r0 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r1, r5, 136); r5 = _mm512_shuffle_f32x4(r1, r5, 221); r1 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r2, r6, 136); r6 = _mm512_shuffle_f32x4(r2, r6, 221); r2 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r3, r7, 136); r7 = _mm512_shuffle_f32x4(r3, r7, 221); r3 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r8, r12, 136); r12 = _mm512_shuffle_f32x4(r8, r12, 221); r8 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r9, r13, 136); r13 = _mm512_shuffle_f32x4(r9, r13, 221); r9 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r10, r14, 136); r14 = _mm512_shuffle_f32x4(r10, r14, 221); r10 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r11, r15, 136); r15 = _mm512_shuffle_f32x4(r11, r15, 221); r11 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r0, r8, 136); r8 = _mm512_shuffle_f32x4(r0, r8, 221); r0 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r1, r9, 136); r9 = _mm512_shuffle_f32x4(r1, r9, 221); r1 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r2, r10, 136); r10 = _mm512_shuffle_f32x4(r2, r10, 221); r2 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r3, r11, 136); r11 = _mm512_shuffle_f32x4(r3, r11, 221); r3 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r4, r12, 136); r12 = _mm512_shuffle_f32x4(r4, r12, 221); r4 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r5, r13, 136); r13 = _mm512_shuffle_f32x4(r5, r13, 221); r5 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r6, r14, 136); r14 = _mm512_shuffle_f32x4(r6, r14, 221); r6 = even_; }
        { __m512 even_ = _mm512_shuffle_f32x4(r7, r15, 136); r15 = _mm512_shuffle_f32x4(r7, r15, 221); r7 = even_; }
      }
      if (c + 16 <= n) {
        // The same line of the rows of the next vector, if there is one.
        const float *ahead = c + 32 <= n ? to + 16 * stride : to;
        {
          _mm_prefetch((const char *)(ahead), _MM_HINT_T1);
          _mm_prefetch((const char *)(ahead + stride), _MM_HINT_T1);
          _mm_prefetch((const char *)(ahead + 2 * stride), _MM_HINT_T1);
          _mm_prefetch((const char *)(ahead + 3 * stride), _MM_HINT_T1);
          _mm512_storeu_ps(to, r0);
          _mm512_storeu_ps(to + stride, r1);
          _mm512_storeu_ps(to + 2 * stride, r2);
          _mm512_storeu_ps(to + 3 * stride, r3);
        }
        to += 4 * stride;
        ahead += 4 * stride;
        {
          _mm_prefetch((const char *)(ahead), _MM_HINT_T1);
          _mm_prefetch((const char *)(ahead + stride), _MM_HINT_T1);
          _mm_prefetch((const char *)(ahead + 2 * stride), _MM_HINT_T1);
          _mm_prefetch((const char *)(ahead + 3 * stride), _MM_HINT_T1);
          _mm512_storeu_ps(to, r4);
          _mm512_storeu_ps(to + stride, r5);
          _mm512_storeu_ps(to + 2 * stride, r6);
          _mm512_storeu_ps(to + 3 * stride, r7);
        }
        to += 4 * stride;
        ahead += 4 * stride;
        {
          _mm_prefetch((const char *)(ahead), _MM_HINT_T1);
          _mm_prefetch((const char *)(ahead + stride), _MM_HINT_T1);
          _mm_prefetch((const char *)(ahead + 2 * stride), _MM_HINT_T1);
          _mm_prefetch((const char *)(ahead + 3 * stride), _MM_HINT_T1);
          _mm512_storeu_ps(to, r8);
          _mm512_storeu_ps(to + stride, r9);
          _mm512_storeu_ps(to + 2 * stride, r10);
          _mm512_storeu_ps(to + 3 * stride, r11);
        }
        to += 4 * stride;
        ahead += 4 * stride;
        {
          _mm_prefetch((const char *)(ahead), _MM_HINT_T1);
          _mm_prefetch((const char *)(ahead + stride), _MM_HINT_T1);
          _mm_prefetch((const char *)(ahead + 2 * stride), _MM_HINT_T1);
          _mm_prefetch((const char *)(ahead + 3 * stride), _MM_HINT_T1);
          _mm512_storeu_ps(to, r12);
          _mm512_storeu_ps(to + stride, r13);
          _mm512_storeu_ps(to + 2 * stride, r14);
          _mm512_storeu_ps(to + 3 * stride, r15);
        }
        to += 4 * stride;
        ahead += 4 * stride;
      } else {
        if (c + 0 < n) {
          {
            _mm512_storeu_ps(to, r0);
          }
          to += stride;
        }
        if (c + 1 < n) {
          {
            _mm512_storeu_ps(to, r1);
          }
          to += stride;
        }
        if (c + 2 < n) {
          {
            _mm512_storeu_ps(to, r2);
          }
          to += stride;
        }
        if (c + 3 < n) {
          {
            _mm512_storeu_ps(to, r3);
          }
          to += stride;
        }
        if (c + 4 < n) {
          {
            _mm512_storeu_ps(to, r4);
          }
          to += stride;
        }
        if (c + 5 < n) {
          {
            _mm512_storeu_ps(to, r5);
          }
          to += stride;
        }
        if (c + 6 < n) {
          {
            _mm512_storeu_ps(to, r6);
          }
          to += stride;
        }
        if (c + 7 < n) {
          {
            _mm512_storeu_ps(to, r7);
          }
          to += stride;
        }
        if (c + 8 < n) {
          {
            _mm512_storeu_ps(to, r8);
          }
          to += stride;
        }
        if (c + 9 < n) {
          {
            _mm512_storeu_ps(to, r9);
          }
          to += stride;
        }
        if (c + 10 < n) {
          {
            _mm512_storeu_ps(to, r10);
          }
          to += stride;
        }
        if (c + 11 < n) {
          {
            _mm512_storeu_ps(to, r11);
          }
          to += stride;
        }
        if (c + 12 < n) {
          {
            _mm512_storeu_ps(to, r12);
          }
          to += stride;
        }
        if (c + 13 < n) {
          {
            _mm512_storeu_ps(to, r13);
          }
          to += stride;
        }
        if (c + 14 < n) {
          {
            _mm512_storeu_ps(to, r14);
          }
          to += stride;
        }
        if (c + 15 < n) {
          {
            _mm512_storeu_ps(to, r15);
          }
          to += stride;
        }
      }
      ot += 256;
    }
    if (lse) {
      strobe_i64 rows = n - c;
      __m512 x;
      __m512 y;
      {
        r0 = _mm512_loadu_ps(l);
        x = _mm512_getmant_ps(r0, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src);
        x = _mm512_add_ps(x, _mm512_set1_ps(-1.0f));
        y = _mm512_set1_ps(0.00567043852f);
        y = _mm512_fmadd_ps(y, x, _mm512_set1_ps(-0.034416087f));
        y = _mm512_fmadd_ps(y, x, _mm512_set1_ps(0.0982253253f));
        y = _mm512_fmadd_ps(y, x, _mm512_set1_ps(-0.183090672f));
        y = _mm512_fmadd_ps(y, x, _mm512_set1_ps(0.267905742f));
        y = _mm512_fmadd_ps(y, x, _mm512_set1_ps(-0.355951607f));
        y = _mm512_fmadd_ps(y, x, _mm512_set1_ps(0.480268389f));
        y = _mm512_fmadd_ps(y, x, _mm512_set1_ps(-0.721305609f));
        y = _mm512_fmadd_ps(y, x, _mm512_set1_ps(1.44269407f));
        r0 = _mm512_getexp_ps(r0);
        r0 = _mm512_fmadd_ps(x, y, r0);
        r0 = _mm512_add_ps(r0, _mm512_loadu_ps(m));
        r0 = _mm512_mul_ps(r0, _mm512_set1_ps(0.693147182f));
        _mm512_mask_storeu_ps(lse, first_lanes(rows), r0);
      }
      lse += 16;
    }
    m += 16;
    l += 16;
    ot += 16 - 512;
    o += 16 * stride;
    blind -= 16;
  }
}

// Work items: tiles of 16 queries of every head, or all of a KV head.
static strobe_i64 items(const struct strobe_args *a) {
  if (by_heads(a)) return a->batch * a->heads_kv;
  return a->batch * a->heads * ((a->q_len + 15) / 16);
}

// Of one of them.
static strobe_i64 tiles_of_item(const struct strobe_args *a) {
  return by_heads(a) ? a->heads / a->heads_kv * ((a->q_len + 15) / 16) : 1;
}

// n rows that are wanted soon, into the second-level cache.
KERNEL void fetch_o(const float *row, strobe_i64 stride, strobe_i64 n) {
  for (; n > 0; n--, row += stride) {
    {
      _mm_prefetch((const char *)(row), _MM_HINT_T1);
      _mm_prefetch((const char *)(row + 16), _MM_HINT_T1);
    }
  }
}

// Of a tile.
static void fetch_tile_o(const struct strobe_args *a, strobe_i64 item) {
  const strobe_i64 tiles = (a->q_len + 15) / 16;
  const strobe_i64 q0 = item % tiles * 16, head = item / tiles % a->heads, batch = item / tiles / a->heads;
  fetch_o((const float *)a->o.data + batch * a->o.batch_stride + head * a->o.head_stride + q0 * a->o.row_stride,
    a->o.row_stride, a->q_len - q0 < 16 ? a->q_len - q0 : 16);
}
// n rows that are wanted soon, into the second-level cache.
KERNEL void fetch_q(const float *row, strobe_i64 stride, strobe_i64 n) {
  for (; n > 0; n--, row += stride) {
    {
      _mm_prefetch((const char *)(row), _MM_HINT_T1);
      _mm_prefetch((const char *)(row + 16), _MM_HINT_T1);
    }
  }
}

// Of a tile.
static void fetch_tile_q(const struct strobe_args *a, strobe_i64 item) {
  const strobe_i64 tiles = (a->q_len + 15) / 16;
  const strobe_i64 q0 = item % tiles * 16, head = item / tiles % a->heads, batch = item / tiles / a->heads;
  fetch_q((const float *)a->q.data + batch * a->q.batch_stride + head * a->q.head_stride + q0 * a->q.row_stride,
    a->q.row_stride, a->q_len - q0 < 16 ? a->q_len - q0 : 16);
}

// n rows that are wanted soon, into the second-level cache.
KERNEL void fetch_k(const float *row, strobe_i64 stride, strobe_i64 n) {
  for (; n > 0; n--, row += stride) {
    {
      _mm_prefetch((const char *)(row), _MM_HINT_T1);
      _mm_prefetch((const char *)(row + 16), _MM_HINT_T1);
    }
  }
}
// n rows that are wanted soon, into the second-level cache.
KERNEL void fetch_v(const float *row, strobe_i64 stride, strobe_i64 n) {
  for (; n > 0; n--, row += stride) {
    {
      _mm_prefetch((const char *)(row), _MM_HINT_T1);
      _mm_prefetch((const char *)(row + 16), _MM_HINT_T1);
    }
  }
}

// The next block, up to key `end`, that the worker has yet to copy.
static void fetch_own(const struct strobe_args *a, const struct own *own, strobe_i64 end) {
  if (!own->used) return;
  fetch_k(own->k + own->n_k * a->k.row_stride, a->k.row_stride, end - own->n_k < 32 ? end - own->n_k : 32);
  fetch_v(own->v + own->n_v * a->v.row_stride, a->v.row_stride, end - own->n_v < 32 ? end - own->n_v : 32);
}

// FlashAttention-2 for one core: per tile of queries, O and the statistics m, l over the KV blocks.
static void forward(const struct strobe_args *a, strobe_i64 first, strobe_i64 last, void *scratch) {
  const unsigned mode = begin_step();
  float *const qt = scratch, *const s = qt + 512, *const ot = s + 512;
  float *const m = ot + 512, *const l = m + 16, *const alpha = l + 16;
  float *const block_max = alpha + 16, *const scale = block_max + 16;
  const strobe_i64 tiles = (a->q_len + 15) / 16, group = a->heads / (a->heads_kv ? a->heads_kv : 1);
  scale[0] = a->scale * 1.44269504088896341f; // softmax in powers of two
  struct own own;
  own_begin(a, scratch, scale + 16, &own);
  first *= tiles_of_item(a);
  last *= tiles_of_item(a);
  for (strobe_i64 item = first; item < last; item++) {
    const strobe_i64 q0 = item % tiles * 16, head = item / tiles % a->heads, batch = item / tiles / a->heads;
    const strobe_i64 head_kv = head / group, n = a->q_len - q0 < 16 ? a->q_len - q0 : 16;
    const void *k_rows = (const float *)a->workspace + (batch * a->heads_kv + head_kv) * a->kv_len * 32;
    if (copies_own(a)) k_rows = (const float *)a->k.data + batch * a->k.batch_stride + head_kv * a->k.head_stride;
    const void *v_rows = (const float *)((char *)a->workspace + packed_k_bytes(a)) +
      (batch * a->heads_kv + head_kv) * (a->kv_len * 32);
    if (copies_own(a)) v_rows = (const float *)a->v.data + batch * a->v.batch_stride + head_kv * a->v.head_stride;
    const float *q = (const float *)a->q.data + batch * a->q.batch_stride + head * a->q.head_stride + q0 * a->q.row_stride;
    const strobe_i64 keys = sequence_keys(a, batch);
    const struct block_range blocks = visit(a, keys, q0, n);
    own_head(&own, k_rows, v_rows, keys);
    const float *v = own.used ? own.v_copy : v_rows;
    const float *k = own.used ? own.k_copy : k_rows;
    fetch_own(a, &own, blocks.end);

    pack_q(q, a->q.row_stride, n, scale, qt);
    start(ot, m, l);
    const strobe_i64 whole = blocks.full + (blocks.rest > 0);
    for (strobe_i64 j = 0; j < whole; j++) {
      const int n_block = block_keys(blocks, j);
      copy_k(a, j * 32 + n_block, &own);
      qk_block(k, qt, s, block_max, n_block);
      for (int c = 0; c < 16; c += 16) rescale(block_max + c, m + c, l + c, alpha + c);
      exp_block(s, m, l, 0, n_block);
      // The epilogue, and the next tile's pack_q, would wait for memory at each row.
      if (j + 1 == whole) {
        fetch_tile_o(a, item);
        if (item + 1 < last) fetch_tile_q(a, item + 1);
      }
      copy_v(a, j * 32 + n_block, &own);
      fetch_own(a, &own, blocks.end);
      pv_block(s, v, alpha, ot, n_block);
      k += n_block * 32;
      v += n_block / 1 * 32;
    }
    copy_k(a, blocks.end, &own);
    copy_v(a, blocks.end, &own);
    for (strobe_i64 t = blocks.full * 32 + blocks.rest; t < blocks.end; t += 32) {
      const int n_block = (int)(keys - t < 32 ? keys - t : 32);
      edge_block(k, v, qt, s, m, l, alpha, block_max, ot, n_block, diagonal_offset(a, keys, q0, t));
      k += 32 * 32;
      v += 32 * 32;
    }
    epilogue(ot, m, l, (float *)a->o.data + batch * a->o.batch_stride + head * a->o.head_stride + q0 * a->o.row_stride,
      a->o.row_stride, n, blind(a, keys, q0, n), a->lse ? a->lse + batch * a->lse_batch_stride + head * a->lse_head_stride + q0 : 0);
  }
  end_step(mode);
}

const struct strobe_kernel attn_fwd_d32_f32_m16n32s1_avx512_d7942d5a = {
  STROBE_ABI,
  2,
  563520,
  workspace_bytes,
  {
    {"pack", pack_items, pack},
    {"forward", items, forward},
  },
};
