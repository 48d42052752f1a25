// fake_cuda.so beside the test takes the place of the driver and of NVRTC, and a new folder that of caches. After
// cmocka.h.
#ifndef STROBE_TESTS_FAKE_DRIVER_H
#define STROBE_TESTS_FAKE_DRIVER_H

#include "fake_cuda.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct fake_cuda *fake;

// `home` is a template of mkdtemp's. 0, or -1.
static int use_fake_driver(char *home) {
  char path[PATH_MAX] = "";
  const ssize_t n = readlink("/proc/self/exe", path, sizeof path - 32);
  if (n < 0 || !mkdtemp(home)) return -1;
  path[n] = 0;
  strcpy(strrchr(path, '/'), "/fake_cuda.so");
  setenv("STROBE_CUDA_DRIVER", path, 1);
  setenv("STROBE_NVRTC", path, 1);
  setenv("XDG_CACHE_HOME", home, 1);
  void *library = dlopen(path, RTLD_NOW);
  fake = library ? dlsym(library, "fake_cuda") : NULL;
  if (!fake) fprintf(stderr, "%s\n", dlerror());
  return fake ? 0 : -1;
}

#endif
