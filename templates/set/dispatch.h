// One entry point for the kernels in this directory, written by strobe ${version} from templates ${templates}. The
// command that writes the directory again, in it:
//   ${command}
//
// Emitted code carries no licence obligation.
#ifndef ${P}_DISPATCH_H
#define ${P}_DISPATCH_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

// ---- the same in every header that strobe writes ----------------------------------------------------------------------

$include "kernel_abi.h"

// ---- this set ----------------------------------------------------------------------------------------------------------

#if STROBE_ABI != ${abi}
#error "two headers of different strobe versions in one file"
#endif

enum ${p}_status {
  ${P}_OK = 0,
  ${P}_INVALID = 1,     // an argument is not what is allowed
  ${P}_UNSUPPORTED = 2, // no kernel of this set serves the problem on this machine
  ${P}_NO_MEMORY = 3,
  ${P}_CUDA = 6 // a CUDA call failed
};
enum ${p}_dtype { ${dtypes} };
enum ${p}_mask { ${P}_FULL, ${P}_CAUSAL };

// What a kernel is chosen by. This set has:
${specs}
struct ${p}_problem {
  int head_dim, head_dim_v;  // columns of q and k; of v and o
  enum ${p}_dtype q, kv, o;
  enum ${p}_mask mask; // causal: query i sees key j when j <= i + args->diagonal; kv_len - q_len aligns to the bottom right
};

// O = softmax(scale Q K^T + mask) V on the calling thread, with the kernel for the best instructions that this CPU has.
// args->workspace is not used. memory: ${p}_bytes() bytes, 64-byte aligned; or NULL, and bytes 0: allocated for the time of the call.
// Returns a status; unless it is ${P}_OK nothing has been computed, and one sentence is in message (message_size bytes;
// message may be NULL). Re-entrant. Never aborts, prints, or keeps memory.
int ${p}_forward(const struct ${p}_problem *problem, const struct strobe_args *args, void *memory, strobe_i64 bytes,
                 char *message, size_t message_size);

// Bytes of memory that ${p}_forward wants (the sizes and workers in args are looked at); -1: it would refuse.
strobe_i64 ${p}_bytes(const struct ${p}_problem *problem, const struct strobe_args *args);

// The steps of the kernel that ${p}_forward would run, for callers with threads of their own; *name (may be NULL) gets
// its name. args gives sizes: a set may have a kernel for few queries; NULL: many. NULL: there is none, and message says why.
const struct strobe_kernel *${p}_kernel(const struct ${p}_problem *problem, const struct strobe_args *args,
                                        const char **name, char *message, size_t message_size);
$if has_cuda

  // The same on the current CUDA device, enqueued on stream (a cudaStream_t; NULL: the default one). All pointers in args are
  // device memory; the kernels' headers say what alignment and workspace they want. The .cu files are compiled in where the
  // macro ${P}_WITH_CUDA is defined (CMakeLists.txt does that); elsewhere this returns ${P}_UNSUPPORTED.
  int ${p}_launch(const struct ${p}_problem *problem, const struct strobe_args *args, void *stream, char *message,
                  size_t message_size);

#ifdef __cplusplus
}
#endif

#endif // ${P}_DISPATCH_H
