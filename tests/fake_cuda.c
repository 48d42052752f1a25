// A CUDA driver and NVRTC for tests, in one shared library: contexts, modules and memory are counted, the n-th call
// fails, and a launch computes attention on the host from what was passed. STROBE_CUDA_DRIVER and STROBE_NVRTC open it.
#include "fake_cuda.h"

#include "../runtime/launch_params.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT struct fake_cuda fake_cuda = {.major = 9, .devices = 1};

static char context;
static void *stack[8];
static int depth;

enum { MOST_BLOCKS = 256 };
static struct block {
  char *data;
  size_t bytes;
} blocks[MOST_BLOCKS];

static struct block *block_of(unsigned long long pointer) {
  for (int i = 0; i < MOST_BLOCKS; i++)
    if (blocks[i].data && pointer >= (unsigned long long)(size_t)blocks[i].data &&
        pointer < (unsigned long long)(size_t)blocks[i].data + blocks[i].bytes)
      return &blocks[i];
  return NULL;
}

// 0, or the error that this call is to give.
static int enter(const char *call) {
  fake_cuda.calls++;
  if (fake_cuda.fail_at != fake_cuda.calls) return 0;
  snprintf(fake_cuda.failed, sizeof fake_cuda.failed, "%s", call);
  return fake_cuda.error;
}
#define ENTER(call)                                                                                                    \
  const int failed = enter(call);                                                                                      \
  if (failed) return failed
enum { INVALID = 1, NOT_FOUND = 500, BAD_CONTEXT = 201, BAD_ADDRESS = 700 };
#define NEED_CONTEXT                                                                                                   \
  if (!depth) return BAD_CONTEXT

// ---- device and context ----

EXPORT int cuInit(unsigned flags) {
  ENTER("cuInit");
  if (atomic_load(&fake_cuda.hold)) atomic_store(&fake_cuda.hold, 2);
  while (atomic_load(&fake_cuda.hold)) usleep(1000);
  return flags ? INVALID : 0;
}
EXPORT int cuDriverGetVersion(int *version) {
  ENTER("cuDriverGetVersion");
  *version = 13000;
  return 0;
}
EXPORT int cuDeviceGetCount(int *count) {
  ENTER("cuDeviceGetCount");
  *count = fake_cuda.devices;
  return 0;
}
EXPORT int cuDeviceGet(int *device, int ordinal) {
  ENTER("cuDeviceGet");
  *device = ordinal;
  return ordinal < fake_cuda.devices ? 0 : INVALID;
}
EXPORT int cuDeviceGetName(char *name, int size, int device) {
  (void)device;
  ENTER("cuDeviceGetName");
  snprintf(name, (size_t)size, "fake");
  return 0;
}
EXPORT int cuDeviceGetAttribute(int *value, int attribute, int device) {
  (void)device;
  ENTER("cuDeviceGetAttribute");
  *value = attribute == 75 ? fake_cuda.major : attribute == 76 ? 0 : attribute == 16 ? 4 : -1;
  return *value < 0 ? INVALID : 0;
}
EXPORT int cuDevicePrimaryCtxRetain(void **out, int device) {
  (void)device;
  ENTER("cuDevicePrimaryCtxRetain");
  fake_cuda.retained++;
  *out = &context;
  return 0;
}
EXPORT int cuDevicePrimaryCtxRelease_v2(int device) {
  (void)device;
  ENTER("cuDevicePrimaryCtxRelease");
  fake_cuda.retained--;
  return 0;
}
EXPORT int cuCtxGetCurrent(void **out) {
  ENTER("cuCtxGetCurrent");
  *out = depth ? stack[depth - 1] : NULL;
  return 0;
}
EXPORT int cuCtxGetDevice(int *device) {
  ENTER("cuCtxGetDevice");
  NEED_CONTEXT;
  *device = 0;
  return 0;
}
EXPORT int cuCtxPushCurrent_v2(void *c) {
  ENTER("cuCtxPushCurrent");
  if (c != &context || depth == 8) return BAD_CONTEXT;
  stack[depth++] = c;
  fake_cuda.pushed = depth;
  return 0;
}
EXPORT int cuCtxPopCurrent_v2(void **out) {
  NEED_CONTEXT; // not counted: nothing is left to do if it fails
  *out = stack[--depth];
  fake_cuda.pushed = depth;
  return 0;
}

// ---- modules ----

EXPORT int cuModuleLoadData(void **module, const void *image) {
  ENTER("cuModuleLoadData");
  NEED_CONTEXT;
  if (strncmp(image, FAKE_CUBIN, strlen(FAKE_CUBIN))) return 200; // CUDA_ERROR_INVALID_IMAGE
  fake_cuda.modules++;
  *module = malloc(1);
  return 0;
}
EXPORT int cuModuleUnload(void *module) {
  ENTER("cuModuleUnload");
  NEED_CONTEXT;
  fake_cuda.modules--;
  free(module);
  return 0;
}
EXPORT int cuModuleGetFunction(void **function, void *module, const char *name) {
  ENTER("cuModuleGetFunction");
  NEED_CONTEXT;
  *function = module;
  return strncmp(name, "attn_fwd_", 9) ? NOT_FOUND : 0;
}
EXPORT int cuFuncSetAttribute(void *function, int attribute, int value) {
  (void)function;
  ENTER("cuFuncSetAttribute");
  return attribute == 8 && value > 0 && value <= 232448 ? 0 : INVALID;
}
EXPORT int cuFuncGetAttribute(int *value, int attribute, void *function) {
  (void)attribute, (void)function;
  ENTER("cuFuncGetAttribute");
  *value = 0;
  return 0;
}

// ---- memory ----

EXPORT int cuMemAlloc_v2(unsigned long long *pointer, size_t bytes) {
  ENTER("cuMemAlloc");
  NEED_CONTEXT;
  for (int i = 0; i < MOST_BLOCKS; i++)
    if (!blocks[i].data) {
      blocks[i] = (struct block){aligned_alloc(256, (bytes + 255) / 256 * 256), bytes};
      if (fake_cuda.head_dim) memset(blocks[i].data, 0xcd, bytes);
      fake_cuda.allocations++;
      *pointer = (unsigned long long)(size_t)blocks[i].data;
      return bytes ? 0 : INVALID;
    }
  return 2;
}
EXPORT int cuMemFree_v2(unsigned long long pointer) {
  struct block *b = block_of(pointer);
  if (!b || !depth) return INVALID;
  free(b->data);
  b->data = NULL;
  fake_cuda.allocations--;
  return enter("cuMemFree"); // as the driver does when it tells of an earlier launch
}
static bool inside(unsigned long long pointer, size_t bytes) {
  const struct block *b = block_of(pointer);
  return b && pointer + bytes <= (unsigned long long)(size_t)b->data + b->bytes;
}
EXPORT int cuMemsetD8_v2(unsigned long long pointer, unsigned char value, size_t bytes) {
  ENTER("cuMemsetD8");
  if (!inside(pointer, bytes)) return INVALID;
  memset((void *)(size_t)pointer, value, bytes);
  return 0;
}
EXPORT int cuMemcpyHtoD_v2(unsigned long long to, const void *from, size_t bytes) {
  ENTER("cuMemcpyHtoD");
  if (!inside(to, bytes)) return INVALID;
  if (fake_cuda.head_dim) memcpy((void *)(size_t)to, from, bytes);
  return 0;
}
EXPORT int cuMemcpyDtoH_v2(void *to, unsigned long long from, size_t bytes) {
  ENTER("cuMemcpyDtoH");
  if (!inside(from, bytes)) return INVALID;
  memcpy(to, (void *)(size_t)from, bytes);
  return 0;
}
EXPORT int cuPointerGetAttributes(unsigned n, int *attributes, void **values, unsigned long long pointer) {
  ENTER("cuPointerGetAttributes");
  for (unsigned i = 0; i < n; i++)
    if (attributes[i] == 2) *(unsigned *)values[i] = block_of(pointer) ? 2 : 0;
  return 0;
}

// ---- a launch ----

struct fake_map {
  char *data;
  uint64_t rows, heads, batch, stride[4];
  int type;
};

EXPORT int cuTensorMapEncodeTiled(struct strobe_tensor_map *map, int type, unsigned rank, void *data,
                                  const uint64_t *sizes, const uint64_t *strides, const uint32_t *box,
                                  const uint32_t *ones, int interleave, int swizzle, int l2, int fill) {
  ENTER("cuTensorMapEncodeTiled");
  struct fake_map m = {.data = data, .rows = sizes[1], .heads = sizes[3], .batch = sizes[4], .type = type};
  (void)l2;
  for (int i = 0; i < 4; i++) {
    if (strides[i] % 16 || strides[i] >= 1ull << 40) return INVALID;
    m.stride[i] = strides[i];
  }
  for (int i = 0; i < 5; i++)
    if (!sizes[i] || sizes[i] > 1ull << 32 || !box[i] || box[i] > 256 || ones[i] != 1) return INVALID;
  if (rank != 5 || (size_t)data % 16 || box[0] * 2 > 128 || interleave || swizzle != 3 || fill) return INVALID;
  memcpy(map, &m, sizeof m);
  return 0;
}

static float load(const struct fake_map *m, int64_t b, int64_t row, int64_t h, int x) {
  uint16_t bits;
  if (b >= (int64_t)m->batch || h >= (int64_t)m->heads || row >= (int64_t)m->rows) return 0;
  memcpy(&bits,
         m->data + (uint64_t)b * m->stride[3] + (uint64_t)h * m->stride[2] + (uint64_t)row * m->stride[0] + 2 * x, 2);
  uint32_t wide = (uint32_t)bits << 16; // bfloat16
  float f;
  memcpy(&f, &wide, 4);
  return f;
}

// One row of O and lse, as the kernel does it: without keys, rows beyond the maps read as zero.
static void compute_row(const struct fake_map *m, const struct strobe_params *p, int causal, int d, int b, int h,
                        int row) {
  double o[256] = {0}, sum = 0, top = -INFINITY;
  const int keys = causal && row + p->diagonal + 1 < p->kv_len ? row + p->diagonal + 1 : p->kv_len;
  double *s = malloc(sizeof *s * (size_t)(keys > 0 ? keys : 1));
  for (int j = 0; j < keys; j++) {
    s[j] = 0;
    for (int x = 0; x < d; x++) s[j] += (double)load(&m[0], b, row, h, x) * (double)load(&m[1], b, j, h / p->group, x);
    s[j] *= (double)p->scale_log2;
    top = s[j] > top ? s[j] : top;
  }
  for (int j = 0; j < keys; j++) {
    const double e = exp2(s[j] - top);
    sum += e;
    for (int x = 0; x < d; x++) o[x] += e * (double)load(&m[2], b, j, h / p->group, x);
  }
  free(s);
  for (int x = 0; x < d; x++) {
    float value = sum > 0 ? (float)(o[x] / sum) : 0;
    uint32_t bits;
    memcpy(&bits, &value, 4);
    bits += 0x7fff + (bits >> 16 & 1);
    const uint16_t half = (uint16_t)(bits >> 16);
    memcpy((char *)p->o + 2 * (b * p->o_batch_stride + h * p->o_head_stride + row * p->o_row_stride + x), &half, 2);
  }
  if (p->lse)
    p->lse[b * p->lse_batch_stride + h * p->lse_head_stride + row] =
        sum > 0 ? (float)((top + log2(sum)) * 0.69314718055994531) : -INFINITY;
}

EXPORT int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                          unsigned block_y, unsigned block_z, unsigned shared_bytes, void *stream, void **params,
                          void **extra) {
  ENTER("cuLaunchKernel");
  NEED_CONTEXT;
  struct fake_map m[4];
  const struct strobe_params *p = params[4];
  for (int i = 0; i < 4; i++) memcpy(&m[i], params[i], sizeof m[i]);
  if (!function || stream || extra || !grid_x || grid_y * grid_z * block_y * block_z != 1 || !shared_bytes ||
      block_x < 256)
    return INVALID;
  for (int i = 0; i < 4; i++)
    if (!inside((unsigned long long)(size_t)m[i].data, 16)) return BAD_ADDRESS;
  fake_cuda.launches++;
  if (!fake_cuda.head_dim) return 0;
  for (int b = 0; b < p->all_heads / p->heads; b++)
    for (int h = 0; h < p->heads; h++)
      for (int row = 0; row < p->q_len; row++) compute_row(m, p, fake_cuda.causal, fake_cuda.head_dim, b, h, row);
  return 0;
}

EXPORT int cuStreamSynchronize(void *stream) {
  (void)stream;
  ENTER("cuStreamSynchronize");
  NEED_CONTEXT;
  return 0;
}

// ---- events ----

EXPORT int cuEventCreate(void **event, unsigned flags) {
  (void)flags;
  ENTER("cuEventCreate");
  fake_cuda.events++;
  *event = malloc(1);
  return 0;
}
EXPORT int cuEventDestroy_v2(void *event) {
  ENTER("cuEventDestroy");
  fake_cuda.events--;
  free(event);
  return 0;
}
EXPORT int cuEventRecord(void *event, void *stream) {
  ENTER("cuEventRecord");
  return event && !stream ? 0 : INVALID;
}
EXPORT int cuEventSynchronize(void *event) {
  ENTER("cuEventSynchronize");
  return event ? 0 : INVALID;
}
EXPORT int cuEventElapsedTime(float *milliseconds, void *from, void *to) {
  ENTER("cuEventElapsedTime");
  *milliseconds = 0.5f + 0.25f * (float)(fake_cuda.timings++ % 3);
  return from && to ? 0 : INVALID;
}
EXPORT int cuGetErrorName(int error, const char **name) {
  *name = error == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : error == 719 ? "CUDA_ERROR_LAUNCH_FAILED" : "CUDA_ERROR_OTHER";
  return 0;
}

// ---- NVRTC: a cubin is FAKE_CUBIN and the head of the text ----

EXPORT int nvrtcVersion(int *major, int *minor) {
  *major = fake_cuda.nvrtc_major ? fake_cuda.nvrtc_major : 13, *minor = 0;
  return 0;
}
EXPORT int nvrtcCreateProgram(void **program, const char *source, const char *name, int n, const char *const *headers,
                              const char *const *names) {
  (void)name, (void)n, (void)headers, (void)names;
  ENTER("nvrtcCreateProgram");
  fake_cuda.programs++;
  *program = strdup(source);
  return 0;
}
EXPORT int nvrtcDestroyProgram(void **program) {
  fake_cuda.programs--;
  free(*program);
  *program = NULL;
  return 0;
}
EXPORT int nvrtcCompileProgram(void *program, int n, const char *const *options) {
  (void)program, (void)n, (void)options;
  ENTER("nvrtcCompileProgram");
  fake_cuda.compiles++;
  return 0;
}
static const char log_text[] = "ptxas info    : 0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
                               "ptxas info    : Used 168 registers, used 16 barriers\n";
EXPORT int nvrtcGetProgramLogSize(void *program, size_t *size) {
  (void)program;
  ENTER("nvrtcGetProgramLogSize");
  *size = sizeof log_text;
  return 0;
}
EXPORT int nvrtcGetProgramLog(void *program, char *log) {
  (void)program;
  ENTER("nvrtcGetProgramLog");
  memcpy(log, log_text, sizeof log_text);
  return 0;
}
EXPORT int nvrtcGetCUBINSize(void *program, size_t *size) {
  (void)program;
  ENTER("nvrtcGetCUBINSize");
  *size = 4096;
  return 0;
}
EXPORT int nvrtcGetCUBIN(void *program, char *cubin) {
  ENTER("nvrtcGetCUBIN");
  memset(cubin, 0, 4096);
  snprintf(cubin, 4096, "%s %.4000s", FAKE_CUBIN, (const char *)program);
  return 0;
}
