// What a forward kernel is called with. One versioned struct for every kernel, so that a caller and a kernel that were
// generated years apart can tell whether they understand each other. This text is copied into every emitted header.
#ifndef STROBE_KERNEL_ABI_H
#define STROBE_KERNEL_ABI_H

#define STROBE_ABI 2

typedef signed long long strobe_i64;

// A tensor (batch, seqlen, heads, head_dim) in any order of its first three axes; the head_dim axis is contiguous.
// Strides count elements of the tensor's own dtype; bf16 is stored as the upper 16 bits of an f32, f16 as IEEE
// binary16.
struct strobe_tensor {
  void *data;
  strobe_i64 batch_stride, head_stride, row_stride;
};

struct strobe_args {
  unsigned abi;                                     // STROBE_ABI
  unsigned size;                                    // sizeof (struct strobe_args)
  struct strobe_tensor q;                           // (batch, q_len, heads, head_dim), read
  struct strobe_tensor k;                           // (batch, kv_len, heads_kv, head_dim), read
  struct strobe_tensor v;                           // (batch, kv_len, heads_kv, head_dim_v), read
  struct strobe_tensor o;                           // (batch, q_len, heads, head_dim_v), written
  float *lse;                                       // natural log of the sum of exp(scale q k), f32; NULL: not wanted
  strobe_i64 lse_batch_stride, lse_head_stride;     // in elements; rows are contiguous
  strobe_i64 batch, heads, heads_kv, q_len, kv_len; // query head h reads KV head h / (heads / heads_kv)
  strobe_i64 diagonal; // causal kernels: query i sees key j when j <= i + diagonal; others ignore it
  float scale;         // of q k, before the softmax
  void *workspace;     // workspace_bytes(args) bytes shared by all steps and workers, 64-byte aligned

  // Sequences of unequal length. NULL: each has kv_len keys; else sequence b has the first kv_lens[b] (0 to kv_len) of
  // its rows of K and V, and the others are not read.
  const void *kv_lens;
  unsigned kv_lens_bytes;   // of one length: 4 (int) or 8 (strobe_i64)
  unsigned diagonal_at_end; // 1: diagonal is that of a sequence of kv_len keys and moves with each sequence's end
                            // (aligned to the bottom right); 0: it is the same for all (top left)

  // For kernels of later versions; 0 or NULL. Kernels of this version ignore them.
  const int *cu_seqlens_q, *cu_seqlens_k;   // batch + 1 offsets of packed sequences
  const int *page_table;                    // pages of each sequence's K and V
  strobe_i64 page_table_stride, page_rows;  // entries of a sequence; rows of a page
  strobe_i64 window_left, window_right;     // keys beside the diagonal that are seen
  float *partial_m, *partial_l;             // with O unnormalised: partial results, to be merged
  const float *scale_q, *scale_k, *scale_v; // of 8-bit tensors
  const void *bias, *sinks;                 // added to scores; one more score per head
  float softcap;                            // scores are softcap tanh(s / softcap)

  // Not for later: kernels of which workers copy K and V read it, for the workspace too. 0 is always right. n: the
  // scratch of worker i < n begins i * scratch_bytes (of the kernel) after the end of the workspace, both rounded up to
  // 64 bytes.
  unsigned workers;
};

// A kernel is a list of steps. Each step has items(args) independent work items, which any number of workers may share;
// a step starts when the one before it has ended. `scratch` is scratch_bytes of memory of the worker's own, 64-byte
// aligned.
struct strobe_step {
  const char *name;
  strobe_i64 (*items)(const struct strobe_args *args);
  void (*run)(const struct strobe_args *args, strobe_i64 first, strobe_i64 last, void *scratch);
};

struct strobe_kernel {
  unsigned abi; // STROBE_ABI
  unsigned n_steps;
  strobe_i64 scratch_bytes; // per worker
  strobe_i64 (*workspace_bytes)(const struct strobe_args *args);
  struct strobe_step step[4];
};

#endif
