#include "code_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010u // Linux 6.3: keeps the file executable where vm.memfd_noexec = 1
#endif

static int exec_memfd(void) {
  int fd = memfd_create("strobe-code", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);
  if (fd < 0 && errno == EINVAL) fd = memfd_create("strobe-code", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  return fd;
}

// Pages are allocated now, so that a full system is an error here and not a SIGBUS when they are written; and a file
// that would exceed RLIMIT_FSIZE is not even tried, for that is a SIGXFSZ.
static bool reserve_file(int fd, size_t size) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_FSIZE, &limit) || (limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < size)) return false;
  int status;
  do status = posix_fallocate(fd, 0, (off_t)size);
  while (status == EINTR); // a caller's signals
  return status == 0;
}

static bool open_file_view(struct code_memory *m, size_t size) {
  m->fd = exec_memfd();
  if (m->fd < 0) return false;
  if (reserve_file(m->fd, size)) {
    void *view = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
    if (view != MAP_FAILED) return m->view = view, true;
  }
  close(m->fd);
  m->fd = -1;
  return false;
}

int code_memory_open(struct code_memory *m, size_t text, size_t data, struct error *err) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  *m = (struct code_memory){.fd = -1};
  if (text > SIZE_MAX / 4 || data > SIZE_MAX / 4)
    return fail(err, STROBE_NO_MEMORY, "code of %zu and data of %zu bytes do not fit in the address space", text, data);
  m->text_size = (text + page - 1) & ~(page - 1);
  m->data_size = (data + page - 1) & ~(page - 1);
  size_t size = m->text_size + m->data_size;
  void *base = mmap(NULL, size + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED)
    return fail(err, STROBE_NO_MEMORY, "no room for %zu bytes of code: %s", size, strerror(errno));
  m->base = base;
  m->reserved = size + page;
  if (size == 0 || open_file_view(m, size)) return STROBE_OK;
  if (mprotect(base, size, PROT_READ | PROT_WRITE)) { // no memfd here: one private mapping, first RW, then RX
    fail(err, STROBE_NO_MEMORY, "no memory for %zu bytes of code: %s", size, strerror(errno));
    code_memory_close(m);
    return STROBE_NO_MEMORY;
  }
  m->view = base;
  return STROBE_OK;
}

static bool map_fixed(const struct code_memory *m, size_t at, size_t size, int protection) {
  if (size == 0) return true;
  if (m->fd < 0) return mprotect(m->base + at, size, protection) == 0;
  return mmap(m->base + at, size, protection, MAP_PRIVATE | MAP_FIXED, m->fd, (off_t)at) != MAP_FAILED;
}

int code_memory_seal(struct code_memory *m, struct error *err) {
  if (m->fd >= 0) {
    munmap(m->view, m->text_size + m->data_size);
    // Old kernels may refuse; nobody else holds the descriptor, so the seal is only a second fence.
    fcntl(m->fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
  }
  m->view = NULL;
  if (!map_fixed(m, 0, m->text_size, PROT_READ | PROT_EXEC) || !map_fixed(m, m->text_size, m->data_size, PROT_READ)) {
    if (errno == ENOMEM)
      return fail(err, STROBE_NO_MEMORY, "no memory to map %zu bytes of code", m->text_size + m->data_size);
    return fail(err, STROBE_UNSUPPORTED, "this system does not let the process make memory executable: %s",
                strerror(errno));
  }
  if (m->fd >= 0) close(m->fd);
  m->fd = -1;
  return STROBE_OK;
}

void code_memory_close(struct code_memory *m) {
  if (m->fd >= 0 && m->base) {
    if (m->view) munmap(m->view, m->text_size + m->data_size);
    close(m->fd);
  }
  if (m->base) munmap(m->base, m->reserved);
  *m = (struct code_memory){.fd = -1};
}
