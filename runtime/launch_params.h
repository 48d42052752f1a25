// What a CUDA forward kernel takes besides its four tensor maps (q, k, v, o). Host and device read the same text.
#ifdef __CUDACC_RTC__
#define STROBE_ALIGN_64 __align__(64) // NVRTC passes over the other spelling
#else
#define STROBE_ALIGN_64 __attribute__((aligned(64)))
#endif

struct STROBE_ALIGN_64 strobe_tensor_map { // a CUtensorMap: opaque
  unsigned long long opaque[16];
};

struct strobe_params {
  void *o;                                               // (batch, q_len, heads, head_dim_v)
  long long o_batch_stride, o_head_stride, o_row_stride; // in elements
  float *lse;                                            // natural log; NULL: not wanted
  long long lse_batch_stride, lse_head_stride;           // in elements
  int *ticket;            // of kernels with tickets: 0 before the first launch; every launch leaves it 0
  float scale_log2;       // scale * log2(e)
  int heads, group;       // query heads; query heads that share a KV head
  int q_len, kv_len;      // rows of Q, rows of K and V
  int diagonal;           // causal: query i sees keys j <= i + diagonal
  int m_blocks, tiles;    // query tiles of a head; of the whole problem
  int all_heads, section; // batch * heads; heads whose K and V share the L2 at a time
  int sections;           // of that many heads; the last one takes what is left
};
