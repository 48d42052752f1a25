// libcuda, opened at run time: nothing links against it. Handles are void pointers, device memory is an integer
// address. STROBE_CUDA_DRIVER names another library to open.
#ifndef STROBE_GPU_DRIVER_H
#define STROBE_GPU_DRIVER_H

#include "../gen/error.h"

#include <stddef.h>

// One row per function: member, exported name, arguments. All return a CUresult, 0 for success.
#define GPU_FUNCTIONS(F)                                                                                               \
  F(init, "cuInit", (unsigned flags))                                                                                  \
  F(driver_version, "cuDriverGetVersion", (int *version))                                                              \
  F(device_count, "cuDeviceGetCount", (int *count))                                                                    \
  F(device_get, "cuDeviceGet", (int *device, int ordinal))                                                             \
  F(device_name, "cuDeviceGetName", (char *name, int size, int device))                                                \
  F(device_attribute, "cuDeviceGetAttribute", (int *value, int attribute, int device))                                 \
  F(primary_retain, "cuDevicePrimaryCtxRetain", (void **context, int device))                                          \
  F(primary_release, "cuDevicePrimaryCtxRelease_v2", (int device))                                                     \
  F(context_current, "cuCtxGetCurrent", (void **context))                                                              \
  F(context_device, "cuCtxGetDevice", (int *device))                                                                   \
  F(context_push, "cuCtxPushCurrent_v2", (void *context))                                                              \
  F(context_pop, "cuCtxPopCurrent_v2", (void **context))                                                               \
  F(module_load, "cuModuleLoadData", (void **module, const void *image))                                               \
  F(module_unload, "cuModuleUnload", (void *module))                                                                   \
  F(module_function, "cuModuleGetFunction", (void **function, void *module, const char *name))                         \
  F(function_set, "cuFuncSetAttribute", (void *function, int attribute, int value))                                    \
  F(function_get, "cuFuncGetAttribute", (int *value, int attribute, void *function))                                   \
  F(memory_allocate, "cuMemAlloc_v2", (unsigned long long *pointer, size_t bytes))                                     \
  F(memory_free, "cuMemFree_v2", (unsigned long long pointer))                                                         \
  F(memory_set, "cuMemsetD8_v2", (unsigned long long pointer, unsigned char value, size_t bytes))                      \
  F(memory_upload, "cuMemcpyHtoD_v2", (unsigned long long to, const void *from, size_t bytes))                         \
  F(memory_download, "cuMemcpyDtoH_v2", (void *to, unsigned long long from, size_t bytes))                             \
  F(pointer_attributes, "cuPointerGetAttributes",                                                                      \
    (unsigned n, int *attributes, void **values, unsigned long long pointer))                                          \
  F(stream_wait, "cuStreamSynchronize", (void *stream))                                                                \
  F(event_create, "cuEventCreate", (void **event, unsigned flags))                                                     \
  F(event_destroy, "cuEventDestroy_v2", (void *event))                                                                 \
  F(event_record, "cuEventRecord", (void *event, void *stream))                                                        \
  F(event_wait, "cuEventSynchronize", (void *event))                                                                   \
  F(event_elapsed, "cuEventElapsedTime", (float *milliseconds, void *from, void *to))                                  \
  F(error_name, "cuGetErrorName", (int error, const char **name))

struct gpu_driver {
#define GPU_MEMBER(member, name, arguments) int(*member) arguments;
  GPU_FUNCTIONS(GPU_MEMBER)
#undef GPU_MEMBER
  void *tensor_map_encode, *launch; // cuTensorMapEncodeTiled, cuLaunchKernel: as launch.h types them
};

// Exported name of each function.
struct gpu_names {
#define GPU_NAME(member, name, arguments) const char *member;
  GPU_FUNCTIONS(GPU_NAME)
#undef GPU_NAME
};
extern const struct gpu_names gpu_names;

// Opens and initialises the driver, once per process unless it fails. STROBE_UNSUPPORTED: no libcuda, one that is too
// old, or one that can't be used; or as gpu_driver_here says.
int gpu_driver_get(const struct gpu_driver **out, struct error *err);
// STROBE_UNSUPPORTED in a process that was forked after its parent had initialised the driver: nothing that came from
// the driver may be used there.
int gpu_driver_here(struct error *err);

// What a CUDA error is: STROBE_NO_MEMORY or STROBE_DEVICE, with the name of the call and of the error; 0 for error 0.
int gpu_check(const struct gpu_driver *d, int error, const char *call, struct error *err);
// Calls a function of the driver: GPU_CALL(d, memory_free, pointer). Wants `err` in scope.
#define GPU_CALL(d, function, ...) gpu_check(d, (d)->function(__VA_ARGS__), gpu_names.function, err)

#endif
