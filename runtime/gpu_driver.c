#include "gpu_driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct gpu_names gpu_names = {
#define GPU_NAME(member, name, arguments) name,
    GPU_FUNCTIONS(GPU_NAME)
#undef GPU_NAME
};

// The driver is a property of the process: opened once, never closed (its threads may outlive any caller).
static struct {
  pthread_mutex_t lock;
  bool watched, ready;          // forks are watched; the table is whole
  atomic_bool used, not_for_us; // cuInit has been called; by an ancestor of this process
  struct gpu_driver table;
} driver = {.lock = PTHREAD_MUTEX_INITIALIZER};

// No lock is held over a fork, as cuInit itself forks (nvidia-modprobe). A thread that had it is not in the child.
static void in_child(void) {
  pthread_mutex_init(&driver.lock, NULL);
  if (atomic_load(&driver.used)) atomic_store(&driver.not_for_us, true);
}

static int watch(struct error *err) {
  if (!driver.watched) driver.watched = !pthread_atfork(NULL, NULL, in_child);
  return driver.watched ? 0 : fail(err, STROBE_NO_MEMORY, "no memory to watch for forks");
}

int gpu_driver_here(struct error *err) {
  if (!atomic_load(&driver.not_for_us)) return 0;
  return fail(err, STROBE_UNSUPPORTED,
              "CUDA does not work in a process forked from one that has used it: fork before its first use, or exec");
}

static int find(void *library, const char *name, void *slot, struct error *err) {
  void *symbol = dlsym(library, name);
  if (!symbol)
    return fail(err, STROBE_UNSUPPORTED, "libcuda.so.1 has no %s: the NVIDIA driver is too old; 525 or newer works",
                name);
  memcpy(slot, &symbol, sizeof symbol); // object to function pointer
  return 0;
}

static int open_library(void **library, struct error *err) {
  const char *chosen = secure_getenv("STROBE_CUDA_DRIVER");
  const bool given = chosen && *chosen;
  *library = dlopen(given ? chosen : "libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (*library) return 0;
  if (given)
    return fail(err, STROBE_UNSUPPORTED, "STROBE_CUDA_DRIVER \"%.300s\" could not be opened as a library", chosen);
  return fail(err, STROBE_UNSUPPORTED, "no NVIDIA driver on this machine: libcuda.so.1 could not be opened");
}

static int open_driver(struct gpu_driver *t, struct error *err) {
  void *library = NULL;
  int status = open_library(&library, err);
#define GPU_FIND(member, name, arguments)                                                                              \
  if (!status) status = find(library, name, &t->member, err);
  GPU_FUNCTIONS(GPU_FIND)
#undef GPU_FIND
  if (!status) status = find(library, "cuTensorMapEncodeTiled", &t->tensor_map_encode, err);
  if (!status) status = find(library, "cuLaunchKernel", &t->launch, err);
  if (status && library) dlclose(library); // none of its functions has been called
  struct error why = {0};
  if (!status) atomic_store(&driver.used, true);
  if (!status && gpu_check(t, t->init(0), gpu_names.init, &why))
    status = fail(err, why.status == STROBE_NO_MEMORY ? STROBE_NO_MEMORY : STROBE_UNSUPPORTED,
                  "the NVIDIA driver can't be used: %s", why.text);
  return status;
}

int gpu_driver_get(const struct gpu_driver **out, struct error *err) {
  pthread_mutex_lock(&driver.lock);
  int status = gpu_driver_here(err);
  if (!status) status = watch(err);
  if (!status && !driver.ready) status = open_driver(&driver.table, err);
  driver.ready |= !status;
  pthread_mutex_unlock(&driver.lock);
  *out = &driver.table;
  return status;
}

int gpu_check(const struct gpu_driver *d, int error, const char *call, struct error *err) {
  if (!error) return 0;
  const char *name = NULL;
  if (d->error_name(error, &name) || !name) name = "an unknown error";
  const char *version = strstr(call, "_v2"); // of the symbol, not of the function's name
  const int length = (int)(version ? (size_t)(version - call) : strlen(call)), no_memory = 2;
  return fail(err, error == no_memory ? STROBE_NO_MEMORY : STROBE_DEVICE, "%.*s failed: %s (%d)", length, call, name,
              error);
}
