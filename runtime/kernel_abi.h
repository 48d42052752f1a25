// What a forward kernel is called with. One versioned struct for every kernel, so that a caller and a kernel that were
// generated years apart can tell whether they understand each other. This text is copied into every emitted header.
#ifndef STROBE_KERNEL_ABI_H
#define STROBE_KERNEL_ABI_H

#define STROBE_ABI 1

typedef signed long long strobe_i64;

// A tensor (batch, seqlen, heads, head_dim) in any order of its first three axes; the head_dim axis is contiguous.
// Strides count elements of the tensor's own dtype; bf16 is stored as the upper 16 bits of an f32.
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
