#include "gpu.h"

#include "gpu_cache.h"
#include "gpu_driver.h"
#include "launch_params.h"

#include "launch.h"

#include "../gen/cuda_kernel.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TICKETS = 256 }; // workspaces of a kernel: that many launches may be in flight at a time

struct gpu_kernel {
  const struct gpu_driver *driver;
  struct strobe_driver calls;
  struct strobe_launch launch;
  struct spec spec;
  int device, multiprocessors;
  void *context, *module, *function;
  bool retained; // the primary context was retained for this kernel
  unsigned long long tickets;
  atomic_uint next_ticket;
  struct buf symbol, name, source;
  struct gpu_kernel_info info;
};

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

#define CALL(k, function, ...) GPU_CALL((k)->driver, function, __VA_ARGS__)

// ---- device and context ----

static int find_device(const struct gpu_driver *d, int *device, struct error *err) {
  enum { MAJOR = 75, MINOR = 76 }; // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
  void *current = NULL;
  int count = 0, major = 0, minor = 0;
  int status = GPU_CALL(d, device_count, &count);
  if (!status && !count) return fail(err, STROBE_UNSUPPORTED, "the NVIDIA driver sees no GPU");
  if (!status) status = GPU_CALL(d, context_current, &current);
  if (!status) status = current ? GPU_CALL(d, context_device, device) : GPU_CALL(d, device_get, device, 0);
  if (!status) status = GPU_CALL(d, device_attribute, &major, MAJOR, *device);
  if (!status) status = GPU_CALL(d, device_attribute, &minor, MINOR, *device);
  if (!status && (major != 9 || minor != 0))
    status = fail(err, STROBE_UNSUPPORTED, "GPU %d has compute capability %d.%d: sm90a wants 9.0 (H100, H200)", *device,
                  major, minor);
  return status;
}

int gpu_has_target(const struct target *t, struct error *err) {
  if (t->family != FAMILY_CUDA) return fail(err, STROBE_INVALID, "target %s is not for a GPU", t->name);
  const struct gpu_driver *d;
  int device, status = gpu_driver_get(&d, err);
  return status ? status : find_device(d, &device, err);
}

void gpu_name(char *name, size_t size) {
  const struct gpu_driver *d;
  char found[96] = "";
  int device;
  if (gpu_driver_get(&d, NULL) || find_device(d, &device, NULL) || d->device_name(found, sizeof found, device))
    found[0] = 0;
  snprintf(name, size, "%.*s", (int)sizeof found - 1, found[0] ? found : "NVIDIA GPU");
}

static int enter(struct gpu_kernel *k, struct error *err) {
  const int status = gpu_driver_here(err);
  return status ? status : CALL(k, context_push, k->context);
}
static void leave(struct gpu_kernel *k) {
  void *popped;
  k->driver->context_pop(&popped);
}

static int find_context(struct gpu_kernel *k, struct error *err) {
  int status = find_device(k->driver, &k->device, err);
  if (!status) status = CALL(k, context_current, &k->context);
  if (!status && !k->context) {
    status = CALL(k, primary_retain, &k->context, k->device);
    k->retained = !status;
  }
  const int multiprocessor_count = 16; // CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
  if (!status) status = CALL(k, device_attribute, &k->multiprocessors, multiprocessor_count, k->device);
  return status;
}

// ---- making a kernel ----

static void describe_launch(struct gpu_kernel *k, const struct instance *i) {
  struct cuda_kernel c;
  cuda_derive(i, &c);
  k->launch = (struct strobe_launch){.abi = STROBE_LAUNCH_ABI,
                                     .name = k->name.data,
                                     .head_dim = i->spec.head_dim,
                                     .map_type = i->spec.kv == DT_F16 ? 6 : 9,
                                     .element_bytes = 2,
                                     .block_m = i->config.v[CFG_BLOCK_M],
                                     .block_n = i->config.v[CFG_BLOCK_N],
                                     .o_rows = c.o_stage ? 16 : 64,
                                     .o_columns = c.o_stage ? 64 : i->spec.head_dim_v,
                                     .threads = c.threads,
                                     .shared_bytes = c.shared_bytes,
                                     .persistent = c.persistent,
                                     .tickets = c.tickets,
                                     .causal = i->spec.mask != MASK_FULL,
                                     .l2_section = (long long)i->config.v[CFG_L2_SECTION] << 20};
}

static int render(const struct instance *i, const char *symbol, struct buf *source, double *ms, struct error *err) {
  const struct render_options options = {.for_tcc = true, .symbol = symbol};
  const double t0 = now_ms();
  const int status = kernel_render(i, &options, source, NULL, err);
  *ms = now_ms() - t0;
  return status;
}

static int compile(struct gpu_kernel *k, const struct instance *i, struct buf *cubin, struct error *err) {
  int status = render(i, k->symbol.data, &k->source, &k->info.render_ms, err);
  if (status) return status;
  const double t0 = now_ms();
  const struct cubin_key key = {k->source.data, k->source.len, nvrtc_options};
  k->info.source = k->source.data;
  k->info.cached = cubin_cache_get(&key, cubin);
  if (!k->info.cached) {
    cubin->len = 0;
    status = nvrtc_compile(k->source.data, cubin, &k->info.report, err);
    if (!status) cubin_cache_put(&key, nvrtc_library(), cubin);
  }
  k->info.compile_ms = now_ms() - t0;
  return status;
}

int gpu_kernel_compile(const struct instance *i, struct gpu_kernel_info *info, struct error *err) {
  struct buf source = {0}, cubin = {0};
  *info = (struct gpu_kernel_info){.source = NULL};
  int status = render(i, NULL, &source, &info->render_ms, err);
  const double t0 = now_ms();
  if (!status) status = nvrtc_compile(source.data, &cubin, &info->report, err);
  info->compile_ms = now_ms() - t0;
  buf_free(&source);
  buf_free(&cubin);
  return status;
}

static int load(struct gpu_kernel *k, const struct buf *cubin, struct error *err) {
  const int dynamic_shared_limit = 8; // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
  const size_t bytes = (size_t)TICKETS * STROBE_WORKSPACE;
  const double t0 = now_ms();
  int status = enter(k, err);
  if (status) return status;
  status = CALL(k, module_load, &k->module, cubin->data);
  if (!status) status = CALL(k, module_function, &k->function, k->module, k->symbol.data);
  if (!status) status = CALL(k, function_set, k->function, dynamic_shared_limit, k->launch.shared_bytes);
  if (!status && k->launch.tickets) status = CALL(k, memory_allocate, &k->tickets, bytes);
  if (!status && k->launch.tickets) status = CALL(k, memory_set, k->tickets, 0, bytes);
  leave(k);
  k->info.load_ms = now_ms() - t0;
  return status;
}

int gpu_kernel_open(const struct instance *instance, struct gpu_kernel **out, struct error *err) {
  struct instance i = *instance;
  if (i.spec.mask == MASK_CAUSAL_TOP_LEFT) i.spec.mask = MASK_CAUSAL; // differs in args->diagonal only
  struct buf cubin = {0};
  struct gpu_kernel *k = calloc(1, sizeof *k);
  if (!k) return fail(err, STROBE_NO_MEMORY, "no memory for a kernel");
  k->spec = i.spec;
  instance_symbol(&i, &k->symbol);
  instance_name(&i, &k->name);
  int status = k->symbol.failed || k->name.failed ? fail(err, STROBE_NO_MEMORY, "no memory for a kernel")
                                                  : gpu_driver_get(&k->driver, err);
  if (!status) {
    memcpy(&k->calls.tensor_map_encode, &k->driver->tensor_map_encode, sizeof k->driver->tensor_map_encode);
    memcpy(&k->calls.launch, &k->driver->launch, sizeof k->driver->launch);
    describe_launch(k, &i);
    status = find_context(k, err);
  }
  if (!status) status = compile(k, &i, &cubin, err);
  if (!status) status = load(k, &cubin, err);
  buf_free(&cubin);
  if (status) gpu_kernel_close(k), k = NULL;
  *out = k;
  return status;
}

void gpu_kernel_close(struct gpu_kernel *k) {
  if (!k) return;
  if (k->context && !enter(k, NULL)) {
    if (k->tickets) k->driver->memory_free(k->tickets);
    if (k->module) k->driver->module_unload(k->module);
    leave(k);
  }
  if (k->retained && !gpu_driver_here(NULL)) k->driver->primary_release(k->device);
  buf_free(&k->symbol);
  buf_free(&k->name);
  buf_free(&k->source);
  free(k);
}

struct gpu_kernel_info gpu_kernel_info(const struct gpu_kernel *k) {
  return k->info;
}

// ---- launching ----

static int launch(struct gpu_kernel *k, const struct strobe_args *args, struct error *err) {
  struct strobe_args own = *args;
  char text[400] = "";
  const unsigned long long ticket = atomic_fetch_add(&k->next_ticket, 1) % TICKETS;
  if (k->launch.tickets) own.workspace = (void *)(uintptr_t)(k->tickets + ticket * STROBE_WORKSPACE);
  int status = strobe_launch(&k->launch, &k->calls, k->function, k->multiprocessors, &own, NULL,
                             (struct strobe_message){text, sizeof text});
  if (!status) return 0;
  return fail(err, (enum strobe_status)status, "%s", text);
}

static int run_on_device(struct gpu_kernel *k, const struct strobe_args *args, struct error *err) {
  int status = launch(k, args, err);
  return status ? status : CALL(k, stream_wait, NULL);
}

// ---- tensors in host memory: packed copies on the device ----

struct staged {
  const struct strobe_tensor *host;
  int64_t batch, rows, heads, row_bytes;
  size_t bytes;
  char *packed; // (batch, rows, heads, head_dim)
  unsigned long long device;
};

static char *host_row(const struct staged *s, int64_t b, int64_t r, int64_t h) {
  return (char *)s->host->data + 2 * (b * s->host->batch_stride + r * s->host->row_stride + h * s->host->head_stride);
}

static void copy_rows(const struct staged *s, bool to_host) {
  char *at = s->packed;
  for (int64_t b = 0; b < s->batch; b++)
    for (int64_t r = 0; r < s->rows; r++)
      for (int64_t h = 0; h < s->heads; h++, at += s->row_bytes) {
        if (to_host)
          memcpy(host_row(s, b, r, h), at, (size_t)s->row_bytes);
        else
          memcpy(at, host_row(s, b, r, h), (size_t)s->row_bytes);
      }
}

static int stage(struct gpu_kernel *k, struct staged *s, const struct strobe_tensor *host, int64_t batch, int64_t rows,
                 int64_t heads, bool upload, struct error *err) {
  *s = (struct staged){host, batch, rows, heads, 2 * k->spec.head_dim, 0, NULL, 0};
  s->bytes = (size_t)(batch * rows * heads) * (size_t)s->row_bytes;
  s->packed = malloc(s->bytes + 1);
  if (!s->packed) return fail(err, STROBE_NO_MEMORY, "no memory for a copy of %zu bytes", s->bytes);
  int status = CALL(k, memory_allocate, &s->device, s->bytes + 16);
  if (status || !upload || !s->bytes) return status;
  copy_rows(s, false);
  return CALL(k, memory_upload, s->device, s->packed, s->bytes);
}

static struct strobe_tensor device_tensor(const struct staged *s) {
  const int64_t d = s->row_bytes / 2;
  return (struct strobe_tensor){(void *)(uintptr_t)s->device, s->rows * s->heads * d, d, s->heads * d};
}

static void download_lse(const struct strobe_args *a, const float *packed) {
  for (int64_t b = 0; b < a->batch; b++)
    for (int64_t h = 0; h < a->heads; h++)
      memcpy(a->lse + b * a->lse_batch_stride + h * a->lse_head_stride, packed + (b * a->heads + h) * a->q_len,
             (size_t)a->q_len * sizeof *packed);
}

static int run_on_host_memory(struct gpu_kernel *k, const struct strobe_args *a, struct error *err) {
  struct staged s[4] = {{0}};
  struct strobe_args d = *a;
  const size_t lse_bytes = (size_t)(a->batch * a->heads * a->q_len) * sizeof(float);
  unsigned long long lse = 0;
  float *packed_lse = malloc(lse_bytes + 1);
  int status = packed_lse ? 0 : fail(err, STROBE_NO_MEMORY, "no memory for lse");
  if (!status) status = stage(k, &s[0], &a->q, a->batch, a->q_len, a->heads, true, err);
  if (!status) status = stage(k, &s[1], &a->k, a->batch, a->kv_len, a->heads_kv, true, err);
  if (!status) status = stage(k, &s[2], &a->v, a->batch, a->kv_len, a->heads_kv, true, err);
  if (!status) status = stage(k, &s[3], &a->o, a->batch, a->q_len, a->heads, false, err);
  if (!status) status = CALL(k, memory_allocate, &lse, lse_bytes + 16);
  if (!status) {
    d.q = device_tensor(&s[0]), d.k = device_tensor(&s[1]), d.v = device_tensor(&s[2]), d.o = device_tensor(&s[3]);
    d.lse = (float *)(uintptr_t)lse, d.lse_batch_stride = a->heads * a->q_len, d.lse_head_stride = a->q_len;
    status = run_on_device(k, &d, err);
  }
  if (!status) status = CALL(k, memory_download, s[3].packed, s[3].device, s[3].bytes);
  if (!status && a->lse) status = CALL(k, memory_download, packed_lse, lse, lse_bytes);
  if (!status) copy_rows(&s[3], true);
  if (!status && a->lse) download_lse(a, packed_lse);
  for (int i = 0; i < 4; i++) {
    const int freed = s[i].device ? CALL(k, memory_free, s[i].device) : 0; // may tell of an earlier launch
    if (!status) status = freed;
    free(s[i].packed);
  }
  const int freed = lse ? CALL(k, memory_free, lse) : 0;
  if (!status) status = freed;
  free(packed_lse);
  return status;
}

// Asked in the plural: the singular form calls a pointer that it has never seen an error.
static int on_device(const struct gpu_kernel *k, const void *pointer, bool *yes, struct error *err) {
  enum { MEMORY_TYPE = 2, DEVICE_MEMORY = 2 }; // CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_MEMORYTYPE_DEVICE
  unsigned type = 0;
  int attribute = MEMORY_TYPE;
  void *value = &type;
  const int status = CALL(k, pointer_attributes, 1, &attribute, &value, (unsigned long long)(uintptr_t)pointer);
  *yes = type == DEVICE_MEMORY;
  return status;
}

// All tensors that have elements are on one side.
static int check_side(const struct gpu_kernel *k, const struct strobe_args *a, bool *device, struct error *err) {
  const void *const data[] = {a->q.data, a->o.data, a->kv_len ? a->k.data : NULL, a->kv_len ? a->v.data : NULL, a->lse};
  int status = 0, all = 0, n = 0;
  for (size_t i = 0; i < sizeof data / sizeof *data && !status; i++) {
    bool yes = false;
    if (!data[i]) continue;
    status = on_device(k, data[i], &yes, err);
    all++, n += yes;
  }
  *device = n == all;
  if (!status && n && n != all)
    status =
        fail(err, STROBE_INVALID,
             "q, k, v, o and lse must all be device memory or all host memory: %d of %d are device memory", n, all);
  return status;
}

int gpu_kernel_run(struct gpu_kernel *k, const struct strobe_args *args, struct error *err) {
  bool device = false;
  int status = enter(k, err);
  if (status) return status;
  status = check_side(k, args, &device, err);
  if (!status) status = device ? run_on_device(k, args, err) : run_on_host_memory(k, args, err);
  leave(k);
  return status;
}

// ---- for timing ----

const struct gpu_driver *gpu_kernel_driver(const struct gpu_kernel *k) { return k->driver; }
int gpu_kernel_enter(struct gpu_kernel *k, struct error *err) { return enter(k, err); }
void gpu_kernel_leave(struct gpu_kernel *k) { leave(k); }
int gpu_kernel_enqueue(struct gpu_kernel *k, const struct strobe_args *args, struct error *err) {
  return launch(k, args, err);
}
