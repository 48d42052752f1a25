// Strobe: attention kernels, generated, compiled in process, executed.
//
//   strobe_context *ctx;  strobe_plan *plan;
//   strobe_context_create(NULL, &ctx);
//   strobe_plan_create(ctx, "d128:bf16:causal:b2h32/8q1024k1024", NULL, &plan);
//   struct strobe_io io = {.size = sizeof io, .q = {q}, .k = {k}, .v = {v}, .o = {o}}; // strides 0: (b, n, h, d)
//   strobe_execute(plan, &io);
//
// Thread safety: a context may be shared by any number of threads; a plan is immutable, so any number of threads may
// execute it at once. The library never prints, exits, aborts or writes to the working directory.
#ifndef STROBE_H
#define STROBE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define STROBE_VERSION "0.1.0"

#if defined(__GNUC__)
#define STROBE_API __attribute__((visibility("default")))
#else
#define STROBE_API
#endif

enum strobe_status {
  STROBE_OK = 0,
  STROBE_INVALID = 1,     // an argument, a problem string or a tensor is not what is allowed; the message says what is
  STROBE_UNSUPPORTED = 2, // well formed, but this version, target or machine can't do it
  STROBE_NO_MEMORY = 3,
  STROBE_IO = 4,       // a file could not be read or written
  STROBE_INTERNAL = 5, // a defect of Strobe
  STROBE_DEVICE = 6,   // a CUDA call failed; the message names the call and the error
};

typedef struct strobe_context strobe_context;
typedef struct strobe_plan strobe_plan;

// The message of the last call that failed in this thread: one sentence that names the field, its value and what is
// allowed. Never NULL; valid until the next call of this library in the same thread.
STROBE_API const char *strobe_error(void);
STROBE_API const char *strobe_version(void);

// Runs body(arg, first, last, worker) over a partition of 0..n; worker < the n_workers given in the options, and no two
// calls that run at the same time share a worker. Returns when all have returned.
typedef void strobe_body(void *arg, int64_t first, int64_t last, int worker);
typedef void strobe_parallel_for(void *context, int64_t n, strobe_body *body, void *arg);

struct strobe_context_options {
  size_t size;                       // sizeof (struct strobe_context_options)
  int n_workers;                     // 0: omp_get_max_threads() if this program has loaded OpenMP, else OMP_NUM_THREADS
                                     // if it is set, else the CPUs that this process may run on
  strobe_parallel_for *parallel_for; // NULL: OpenMP's threads, of each thread that makes a plan, if this program has
                                     // loaded OpenMP and was not forked; else threads of the context's own. Serial in
                                     // a parallel region and in a child that was forked since
  void *parallel_context;
  const char *tunings; // text of a tuning database that came with the program (strobe db export --c); NULL: none
};

// options may be NULL. STROBE_INVALID, STROBE_NO_MEMORY.
STROBE_API enum strobe_status strobe_context_create(const struct strobe_context_options *options, strobe_context **out);
// Frees the context and its compiled kernels; plans made from it must have been destroyed. NULL is allowed.
STROBE_API void strobe_context_destroy(strobe_context *ctx);

// How hard a plan tries to be fast where no config is given. ESTIMATE takes what the tuning database has for this
// machine and bucket of sizes (README), else the heuristic; it never times anything. MEASURE and PATIENT tune in this
// thread first, within their budget, if the database has nothing, and record the result; where that fails (memory) they
// are as ESTIMATE.
enum strobe_effort { STROBE_ESTIMATE = 0, STROBE_MEASURE = 1, STROBE_PATIENT = 2 };

struct strobe_plan_options {
  size_t size;         // sizeof (struct strobe_plan_options)
  const char *target;  // NULL: the best that this CPU can run. A plan on a CPU with AMX (not of f16 and f32 of narrow
                       // heads) asks Linux for its tiles (arch_prctl): this process can then install no signal stack
                       // below 12 KB (sigaltstack)
  const char *config;  // "block_n=128,stages=2"; NULL: the heuristic
  const char *backend; // NULL: the first that works of "code", "scalar", "builtin", "reference"; else that one alone
  float scale;         // 0: 1/sqrt(head_dim); use has_scale for a scale that is really 0
  int has_scale;       // 1: take scale as it is (finite)
  enum strobe_effort effort; // default: STROBE_ESTIMATE
  double budget_s;           // of MEASURE and PATIENT, in seconds; 0: 2 and 30
  int same_bits;             // 1: they search only fields that change no bit of the result
};

// Makes an executable plan for a problem string such as "d64:f32:causal:b1h8q512k512" (README: grammar). A valid
// problem always gets a plan: if the JIT cannot work here the plan falls back, and strobe_plan_describe says to what
// and why. STROBE_INVALID, STROBE_UNSUPPORTED, STROBE_NO_MEMORY.
STROBE_API enum strobe_status strobe_plan_create(strobe_context *ctx, const char *problem,
                                                 const struct strobe_plan_options *options, strobe_plan **out);
STROBE_API void strobe_plan_destroy(strobe_plan *plan);

// A tensor with its strides in elements. All three strides 0: packed (batch, seqlen, heads, head_dim).
struct strobe_array {
  void *data;
  int64_t batch_stride, row_stride, head_stride;
};

struct strobe_io {
  size_t size;                 // sizeof (struct strobe_io)
  struct strobe_array q, k, v; // read; dtypes as in the problem (bf16 and f16 as uint16_t)
  struct strobe_array o;       // written; must overlap no input
  float *lse;                  // (batch, heads, q_len) packed, natural log; NULL: not wanted
  void *workspace;             // strobe_workspace_bytes(plan) bytes, 64-byte aligned; NULL: the plan's own
  // Sequences of unequal length: batch lengths of 0 to kv_len; sequence b has the first kv_lens[b] rows of its K and V,
  // and the others are not read. A causal mask is aligned to the bottom right of each. NULL: all have kv_len keys.
  const void *kv_lens;
  int kv_lens_bytes;      // of one length: 4 (int32_t) or 8 (int64_t)
  size_t workspace_bytes; // of workspace, checked; 0: strobe_workspace_bytes(plan), taken on trust
};

// Computes O = softmax(scale Q K^T + mask) V. Rows that see no key give O = 0 and lse = -inf. Allocates nothing and
// starts no thread (CPU targets): the plan has its memory and its threads from strobe_plan_create on. Only while
// another thread executes the same plan in the plan's workspace, a call without a workspace of its own allocates one,
// and frees it; and beside OpenMP the first call in a thread that has made no plan starts threads, as libgomp does
// after a region of fewer. STROBE_INVALID (a stride, an alias, a NULL, a misaligned workspace), STROBE_NO_MEMORY (in
// that case alone). On a GPU also STROBE_DEVICE; STROBE_UNSUPPORTED in a child that was forked since the GPU's first
// use.
STROBE_API enum strobe_status strobe_execute(const strobe_plan *plan, const struct strobe_io *io);
STROBE_API size_t strobe_workspace_bytes(const strobe_plan *plan);

struct strobe_plan_info {
  size_t size;          // set by the caller: sizeof (struct strobe_plan_info)
  const char *instance; // name of the kernel instance
  const char *target;   // "avx512bf16"
  const char *config;   // canonical text
  const char *backend;  // "code", "scalar", "builtin", "reference"
  const char *why;      // "" or why backends before it were not taken, or no search was made
  const char *source;   // text that was compiled; "" for builtin and reference
  double render_ms, encode_ms, compile_ms, load_ms; // 0 when the kernel came from this context's table
  const char *tuned; // "" or one sentence on the tuning record that the config comes from
};

// Strings live as long as the plan.
STROBE_API enum strobe_status strobe_plan_describe(const strobe_plan *plan, struct strobe_plan_info *info);

#ifdef __cplusplus
}
#endif

#endif
