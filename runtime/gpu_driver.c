#include "gpu_driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

// The driver is a property of the process: opened once, never closed (its threads may outlive any caller).
static struct {
  pthread_once_t once;
  struct gpu_driver table;
  struct error error;
} driver = {.once = PTHREAD_ONCE_INIT};

static int find(void *library, const char *name, void *slot) {
  void *symbol = dlsym(library, name);
  if (!symbol)
    return fail(&driver.error, STROBE_UNSUPPORTED,
                "libcuda.so.1 has no %s: the NVIDIA driver is too old; 525 or newer works", name);
  memcpy(slot, &symbol, sizeof symbol); // object to function pointer
  return 0;
}

static void open_driver(void) {
  void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    fail(&driver.error, STROBE_UNSUPPORTED, "no NVIDIA driver on this machine: libcuda.so.1 could not be opened");
    return;
  }
  struct gpu_driver *t = &driver.table;
#define GPU_FIND(member, name, arguments) find(library, name, &t->member) ||
  if (GPU_FUNCTIONS(GPU_FIND) find(library, "cuTensorMapEncodeTiled", &t->tensor_map_encode) ||
      find(library, "cuLaunchKernel", &t->launch))
    return;
#undef GPU_FIND
  gpu_check(t, t->init(0), "cuInit", &driver.error);
}

int gpu_driver_get(const struct gpu_driver **out, struct error *err) {
  pthread_once(&driver.once, open_driver);
  *out = &driver.table;
  return driver.error.status ? fail(err, driver.error.status, "%s", driver.error.text) : 0;
}

int gpu_check(const struct gpu_driver *d, int error, const char *call, struct error *err) {
  if (!error) return 0;
  const char *name = NULL;
  if (d->error_name(error, &name) || !name) name = "an unknown error";
  const int no_memory = 2; // CUDA_ERROR_OUT_OF_MEMORY
  return fail(err, error == no_memory ? STROBE_NO_MEMORY : STROBE_UNSUPPORTED, "%s failed: %s (%d)", call, name, error);
}
