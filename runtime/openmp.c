#include "openmp.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

enum { FORKED_NO_EXEC = 0x40 }; // PF_FORKNOEXEC in the ninth field of /proc/PID/stat, proc(5)

// In the kernel's words, as this library may have been loaded after the fork. The second field is a name in
// parentheses, of any characters.
static bool was_forked(void) {
  char text[512];
  unsigned flags;
  FILE *f = fopen("/proc/self/stat", "re");
  if (!f) return true;
  text[fread(text, 1, sizeof text - 1, f)] = 0;
  fclose(f);
  const char *name_end = strrchr(text, ')');
  return !name_end || sscanf(name_end, ") %*c %*d %*d %*d %*d %*d %u", &flags) != 1 || flags & FORKED_NO_EXEC;
}

static bool find(void *address_of_function, const char *name) {
  void *const found = dlsym(RTLD_DEFAULT, name);
  memcpy(address_of_function, &found, sizeof found); // C has no conversion of one to the other
  return found;
}

// Contexts keep addresses in it: it stays, whoever closes it.
static void keep(struct openmp *o) {
  void *address;
  Dl_info where;
  memcpy(&address, &o->parallel, sizeof address);
  void *const library =
      dladdr(address, &where) ? dlopen(where.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE) : NULL;
  if (library) dlclose(library);
}

bool openmp_find(struct openmp *o) {
  if (!find(&o->parallel, "GOMP_parallel") || !find(&o->max_threads, "omp_get_max_threads") ||
      !find(&o->in_parallel, "omp_in_parallel") || was_forked())
    return false;
  keep(o);
  return true;
}
