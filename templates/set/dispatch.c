// Chooses a kernel of this directory at run time. Written by strobe ${version} from templates ${templates}. The command
// that writes the directory again, in it:
//   ${command}
//
// Emitted code carries no licence obligation.
#include "${name}_dispatch.h"

${includes}

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

// ---- what this CPU can do ----------------------------------------------------------------------------------------------

// Where dot products of bf16 are slow (Intel: 4 multiply-adds of f32 in the time of one), kernels without them are faster.
enum { HAS_AVX2 = 1, HAS_AVX512 = 2, HAS_AVX512_BF16 = 4, SLOW_BF16 = 8, HAS_AMX_BF16 = 16 };
$if has_x86

  #if ${x86}
  #define HAS_X86_KERNELS 1
  #include <cpuid.h>

  // Registers that the operating system saves (XCR0).
  static unsigned saved_registers(void) {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
  }

  $if has_amx
    // Linux saves the tiles of AMX for processes that ask: arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA) is 0 where it will.
    static int may_use_tiles(void) {
      #ifdef __linux__
      long status;
      __asm__ volatile("syscall" : "=a"(status) : "0"(158L), "D"(0x1023L), "S"(18L) : "rcx", "r11", "memory");
      return !status;
      #else
      return 0;
      #endif
    }

  // Bits of CPUID leaves 1 and 7. Upper halves of ymm (XCR0 bits 1, 2) and the zmm state (5, 6, 7) must be saved, too.
  static int detect(void) {
    unsigned a, b, c, d, leaves, features = 0;
    const unsigned fma = 1u << 12, osxsave = 1u << 27, avx = 1u << 28, f16c = 1u << 29;
    const unsigned avx2 = 1u << 5, avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31, bf16 = 1u << 5; // F, DQ, BW, VL
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & (fma | osxsave | avx | f16c)) != (fma | osxsave | avx | f16c)) return 0;
    const unsigned saved = saved_registers();
    if ((saved & 6) != 6 || !__get_cpuid_count(7, 0, &leaves, &b, &c, &d) || !(b & avx2)) return 0;
    features |= HAS_AVX2;
    if ((saved & 0xe6) != 0xe6 || (b & avx512) != avx512) return (int)features;
    features |= HAS_AVX512;
    if (leaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & bf16)) features |= HAS_AVX512_BF16;
    $if has_amx
      const unsigned amx = 1u << 22 | 1u << 24; // BF16, TILE
      if ((features & HAS_AVX512_BF16) && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & amx) == amx && may_use_tiles())
        features |= HAS_AMX_BF16;
    if (__get_cpuid(0, &a, &b, &c, &d) && b == signature_INTEL_ebx) features |= SLOW_BF16;
    return (int)features;
  }

  // CPUID is slow in virtual machines: once. Threads that come here at the same time find the same.
  static int cpu_features(void) {
    static int found = -1;
    int features = __atomic_load_n(&found, __ATOMIC_RELAXED);
    if (features < 0) {
      features = detect();
      __atomic_store_n(&found, features, __ATOMIC_RELAXED);
    }
    return features;
  }
  #endif

#ifdef HAS_X86_KERNELS
#define X86(kernel) &kernel
#else
#define X86(kernel) NULL // its file is empty
static int cpu_features(void) { return 0; }
#endif

// ---- kernels -----------------------------------------------------------------------------------------------------------

// What a kernel serves. Of the rows for a problem the first whose features this CPU has decides on the instructions.
struct row {
  struct ${p}_problem problem;
  int features;
  int tile;     // of a decode kernel: rows of queries that share a pass over K and V. 0: a kernel for many queries
  int by_tiles; // a decode kernel by matrix tiles
  const struct strobe_kernel *kernel;
  const char *name;
};
static const struct row rows[] = {
${rows}
    {{0, 0, ${P}_F32, ${P}_F32, ${P}_F32, ${P}_FULL}, 0, 0, 0, NULL, NULL},
};

// ---- refusing ----------------------------------------------------------------------------------------------------------

struct message {
  char *text;
  size_t size;
};

static int refuse(struct message m, int status, const char *format, ...) {
  va_list ap;
  if (!m.text || !m.size) return status;
  va_start(ap, format);
  (void)vsnprintf(m.text, m.size, format, ap);
  va_end(ap);
  return status;
}

static int check_problem(const struct ${p}_problem *p, struct message m) {
  if (!p) return refuse(m, ${P}_INVALID, "problem is NULL: must point to a struct ${p}_problem");
  const int dtype[] = {(int)p->q, (int)p->kv, (int)p->o};
  const char *const field[] = {"q", "kv", "o"};
  for (int i = 0; i < 3; i++)
    if (dtype[i] < 0 || dtype[i] > ${last_dtype})
      return refuse(m, ${P}_INVALID, "problem->%s %d: must be ${P}_F32 (0) to %d", field[i], dtype[i], ${last_dtype});
  if ((int)p->mask != ${P}_FULL && (int)p->mask != ${P}_CAUSAL)
    return refuse(m, ${P}_INVALID, "problem->mask %d: must be ${P}_FULL (0) or ${P}_CAUSAL (1)", (int)p->mask);
  return ${P}_OK;
}

static int check_args(const struct strobe_args *a, struct message m) {
  const strobe_i64 most = (strobe_i64)1 << 31;
  if (!a) return refuse(m, ${P}_INVALID, "args is NULL: must point to a struct strobe_args");
  if (a->abi != STROBE_ABI || a->size != sizeof *a)
    return refuse(m, ${P}_INVALID, "args->abi %u, size %u: must be %d and %u", a->abi, a->size, STROBE_ABI, (unsigned)sizeof *a);
  const strobe_i64 size[] = {a->batch, a->heads, a->heads_kv, a->q_len, a->kv_len};
  const char *const name[] = {"batch", "heads", "heads_kv", "q_len", "kv_len"};
  for (int i = 0; i < 5; i++)
    if (size[i] < (i == 1 || i == 2) || size[i] > most)
      return refuse(m, ${P}_INVALID, "args->%s %lld: must be %d to %lld", name[i], size[i], i == 1 || i == 2, most);
  if (a->heads % a->heads_kv)
    return refuse(m, ${P}_INVALID, "args->heads_kv %lld: must divide heads %lld", a->heads_kv, a->heads);
  if ((double)a->batch * (double)a->heads * ((double)a->q_len + (double)a->kv_len) > 1e14)
    return refuse(m, ${P}_INVALID, "args: batch x heads x (q_len + kv_len) must be at most 1e14");
  if ((double)a->batch * (double)a->heads > 1e12)
    return refuse(m, ${P}_INVALID, "args: batch x heads must be at most 1e12");
  if ((double)a->batch * (double)a->heads * (double)a->q_len * (double)a->kv_len > 1e18)
    return refuse(m, ${P}_INVALID, "args: batch x heads x q_len x kv_len must be at most 1e18");
  return ${P}_OK;
}

// Rows, heads and sequences, where there is more than one, are at least so far apart: those of O lie beside each other.
static int check_tensor(const struct strobe_tensor *t, const char *name, int least, int bytes, strobe_i64 batch, strobe_i64 heads,
                        strobe_i64 len, struct message m) {
  const strobe_i64 stride[] = {t->batch_stride, t->head_stride, t->row_stride}, n[] = {batch, heads, len};
  const char *const axis[] = {"batch", "head", "row"};
  for (int i = 0; i < 3; i++)
    if (n[i] > 1 && stride[i] < least)
      return refuse(m, ${P}_INVALID, "args->%s.%s_stride %lld: must be at least %d", name, axis[i], stride[i], least);
  if ((uintptr_t)t->data % (unsigned)bytes)
    return refuse(m, ${P}_INVALID, "args->%s.data: must be a multiple of %d, the bytes of an element", name, bytes);
  return ${P}_OK;
}

static int check_tensors(const struct ${p}_problem *p, const struct strobe_args *a, struct message m) {
  const void *const data[] = {a->q.data, a->o.data, a->k.data, a->v.data};
  const char *const name[] = {"q", "o", "k", "v"};
  const int used[] = {a->batch * a->q_len > 0, a->batch * a->kv_len > 0};
  for (int i = 0; i < 4; i++)
    if (!data[i] && used[i / 2]) return refuse(m, ${P}_INVALID, "args->%s.data is NULL: must be a tensor", name[i]);
  if (a->kv_lens && a->kv_lens_bytes != 4 && a->kv_lens_bytes != 8)
    return refuse(m, ${P}_INVALID, "args->kv_lens_bytes %u: must be 4 or 8", a->kv_lens_bytes);
  const int q = p->q == ${P}_F32 ? 4 : 2, kv = p->kv == ${P}_F32 ? 4 : 2, o = p->o == ${P}_F32 ? 4 : 2;
  int status = check_tensor(&a->q, "q", 0, q, a->batch, a->heads, a->q_len, m);
  if (!status) status = check_tensor(&a->k, "k", 0, kv, a->batch, a->heads_kv, a->kv_len, m);
  if (!status) status = check_tensor(&a->v, "v", 0, kv, a->batch, a->heads_kv, a->kv_len, m);
  return status ? status : check_tensor(&a->o, "o", p->head_dim_v, o, a->batch, a->heads, a->q_len, m);
}

// ---- choosing ----------------------------------------------------------------------------------------------------------

static int same(const struct ${p}_problem *a, const struct ${p}_problem *b) {
  return a->head_dim == b->head_dim && a->head_dim_v == b->head_dim_v && a->q == b->q && a->kv == b->kv && a->o == b->o &&
    a->mask == b->mask;
}

static int no_kernel(const struct ${p}_problem *p, const char *why, struct message m) {
  static const char *const dtype[] = {${dtype_names}};
  return refuse(m, ${P}_UNSUPPORTED, "head_dim %d, head_dim_v %d, q %s, kv %s, o %s, %s: %s", p->head_dim, p->head_dim_v,
    dtype[p->q], dtype[p->kv], dtype[p->o], p->mask == ${P}_CAUSAL ? "causal" : "no mask", why);
}

// The kernels for the best instructions; of them that for so many rows of queries (query heads of a KV head times q_len):
// few go to the decode kernel of the smallest tile that holds them, and so do some more to one by matrix tiles.
static const struct row *choose(const struct ${p}_problem *p, const struct strobe_args *a, struct message m) {
  const int have = cpu_features();
  const strobe_i64 queries = a ? a->heads / a->heads_kv * a->q_len : 0;
  const int few = a && (queries <= ${decode_rows} || a->q_len <= ${decode_q_len});
  const int some = a && queries <= ${decode_tiles_rows} && a->q_len <= ${decode_tiles_q_len} && a->kv_len >= ${decode_tiles_keys} * a->q_len;
  const struct row *best = NULL;
  int known = 0;
  for (const struct row *r = rows; r->name; r++) {
    if (!same(&r->problem, p)) continue;
    known = 1;
    if ((r->features & have) != r->features) continue;
    if (best && best->features != r->features) {
      if (!(have & SLOW_BF16) || best->features != HAS_AVX512_BF16 || r->features != HAS_AVX512) break;
      best = NULL;
    }
    if (!best || (r->tile ? best->tile < queries : !few && !(some && best->by_tiles && best->tile >= queries))) best = r;
  }
  if (!best)
    no_kernel(p, known ? "the kernels for it in this set need instructions that this CPU has not got; target c99 runs everywhere"
                       : "no kernel for it in this set, which has ${cpu_specs}", m);
  return best;
}

static strobe_i64 shared_bytes(const struct strobe_kernel *k, const struct strobe_args *a) {
  return (k->workspace_bytes(a) + 63) / 64 * 64;
}

const struct strobe_kernel *${p}_kernel(const struct ${p}_problem *problem, const struct strobe_args *args,
                                        const char **name, char *message, size_t message_size) {
  const struct message m = {message, message_size};
  if (check_problem(problem, m) || (args && check_args(args, m))) return NULL;
  const struct row *r = choose(problem, args, m);
  if (name) *name = r ? r->name : NULL;
  return r ? r->kernel : NULL;
}

strobe_i64 ${p}_bytes(const struct ${p}_problem *problem, const struct strobe_args *args) {
  const struct strobe_kernel *k = args ? ${p}_kernel(problem, args, NULL, NULL, 0) : NULL;
  return k ? shared_bytes(k, args) + k->scratch_bytes : -1;
}

int ${p}_forward(const struct ${p}_problem *problem, const struct strobe_args *args, void *memory, strobe_i64 bytes,
                 char *message, size_t message_size) {
  const struct message m = {message, message_size};
  int status = check_problem(problem, m);
  if (!status) status = check_args(args, m);
  if (!status) status = check_tensors(problem, args, m);
  if (status) return status;
  const struct row *r = choose(problem, args, m);
  if (!r) return ${P}_UNSUPPORTED;
  const struct strobe_kernel *k = r->kernel;
  const strobe_i64 shared = shared_bytes(k, args), needed = shared + k->scratch_bytes;
  if (memory && (bytes < needed || (uintptr_t)memory % 64))
    return refuse(m, ${P}_INVALID, "memory %p, bytes %lld: must be at least %lld bytes, 64-byte aligned", memory, bytes, needed);
  char *own = NULL;
  if (!memory) {
    own = needed < PTRDIFF_MAX - 64 ? malloc((size_t)needed + 64) : NULL;
    if (!own) return refuse(m, ${P}_NO_MEMORY, "no memory: %lld bytes are needed", needed);
    memory = own + (64 - (uintptr_t)own % 64);
  }
  struct strobe_args a = *args;
  a.workspace = memory;
  for (unsigned i = 0; i < k->n_steps; i++) k->step[i].run(&a, 0, k->step[i].items(&a), (char *)memory + shared);
  free(own);
  return ${P}_OK;
}
$if has_cuda

  // ---- CUDA --------------------------------------------------------------------------------------------------------------

  #ifdef ${P}_WITH_CUDA
  ${cuda_includes}

  static const struct cuda_row {
    struct ${p}_problem problem;
    int (*launch)(const struct strobe_args *args, void *stream, char *message, size_t message_size);
  } cuda_rows[] = {
  ${cuda_rows}
  };
  #endif

  int ${p}_launch(const struct ${p}_problem *problem, const struct strobe_args *args, void *stream, char *message,
                  size_t message_size) {
    const struct message m = {message, message_size};
    int status = check_problem(problem, m);
    if (!status) status = check_args(args, m);
    if (status) return status;
  #ifdef ${P}_WITH_CUDA
    for (size_t i = 0; i < sizeof cuda_rows / sizeof *cuda_rows; i++)
      if (same(&cuda_rows[i].problem, problem)) return cuda_rows[i].launch(args, stream, message, message_size);
    return no_kernel(problem, "no CUDA kernel for it in this set, which has ${cuda_specs}", m);
  #else
    (void)stream;
    return no_kernel(problem, "this program was compiled without the .cu files of the set; they want the macro ${P}_WITH_CUDA", m);
  #endif
  }
