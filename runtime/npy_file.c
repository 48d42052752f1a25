// .npy files: reading whole, writing whole or not at all.
#include "npy.h"

#include "../gen/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// strerror is not safe in threads; strerrordesc_np and strerror_r differ between C libraries.
static const char *reason(int code, char *text, size_t size) {
  text[0] = 0;
#if defined(__GLIBC__) && defined(_GNU_SOURCE)
  return strerror_r(code, text, size);
#else
  return strerror_r(code, text, size) ? "unknown error" : text;
#endif
}

static int fail_io(struct error *err, const char *what, const char *path, int code) {
  char text[128];
  return fail(err, STROBE_IO, "cannot %s %s: %s", what, path, reason(code, text, sizeof text));
}

// ---- reading ----

static int read_all(int fd, unsigned char *to, size_t len, const char *path, struct error *err) {
  for (size_t done = 0; done < len;) {
    ssize_t n = read(fd, to + done, len - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_io(err, "read", path, errno);
    if (n == 0) return fail(err, STROBE_IO, "cannot read %s: it became shorter while it was read", path);
    done += (size_t)n;
  }
  return 0;
}

static int read_open(int fd, const char *path, struct npy *a, struct error *err) {
  struct stat st;
  if (fstat(fd, &st)) return fail_io(err, "read", path, errno);
  if (!S_ISREG(st.st_mode)) return fail(err, STROBE_IO, "cannot read %s: not a regular file", path);
  const size_t len = (size_t)st.st_size;
  if (len > SIZE_MAX / 2) return fail(err, STROBE_NO_MEMORY, "no memory for %s: %zu bytes", path, len);
  unsigned char *bytes = aligned_alloc(64, (len + 64) / 64 * 64);
  if (!bytes) return fail(err, STROBE_NO_MEMORY, "no memory for %s: %zu bytes", path, len);
  size_t offset = 0;
  int status = read_all(fd, bytes, len, path, err);
  if (!status) status = npy_parse(bytes, len, path, a, &offset, err);
  if (status) {
    free(bytes);
    return status;
  }
  memmove(bytes, bytes + offset, a->bytes); // numpy aligns data to 64 bytes of the file, other writers need not
  a->data = bytes;
  return 0;
}

int npy_read(const char *path, struct npy *a, struct error *err) {
  *a = (struct npy){0};
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); // not to wait at a FIFO, which is then refused
  if (fd < 0) return fail_io(err, "open", path, errno);
  int status = read_open(fd, path, a, err);
  close(fd);
  return status;
}

void npy_free(struct npy *a) {
  free(a->data);
  *a = (struct npy){0};
}

// ---- writing ----

static int write_all(int fd, const void *data, size_t len) {
  for (const char *at = data; len;) {
    ssize_t n = write(fd, at, len);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return n ? errno : EIO;
    at += n;
    len -= (size_t)n;
  }
  return 0;
}

enum { HEADER = 256 }; // a multiple of 64 with room for eight sizes of 19 digits

static void make_header(unsigned char header[HEADER], enum npy_type type, int rank, const int64_t *shape) {
  char text[HEADER];
  int n = snprintf(text, sizeof text, "{'descr': '%s', 'fortran_order': False, 'shape': (", npy_types[type].descr);
  for (int i = 0; i < rank; i++)
    n += snprintf(text + n, sizeof text - (size_t)n, "%s%" PRId64 "%s", i ? ", " : "", shape[i], rank == 1 ? "," : "");
  n += snprintf(text + n, sizeof text - (size_t)n, "), }");
  memset(header, ' ', HEADER);
  memcpy(header, "\x93NUMPY\x01\x00", 8);
  header[8] = (HEADER - 10) & 255;
  header[9] = (HEADER - 10) >> 8;
  memcpy(header + 10, text, (size_t)n);
  header[HEADER - 1] = '\n';
}

static int check_shape(const char *path, enum npy_type type, int rank, const int64_t *shape, size_t *bytes,
                       struct error *err) {
  if (rank < 0 || rank > NPY_MAX_RANK) return fail(err, STROBE_INVALID, "%s: rank %d; allowed: 0 to 8", path, rank);
  *bytes = (size_t)npy_types[type].bytes;
  for (int i = 0; i < rank; i++)
    if (shape[i] < 0 || __builtin_mul_overflow(*bytes, (size_t)shape[i], bytes))
      return fail(err, STROBE_INVALID,
                  "%s: size %" PRId64 " of axis %d; allowed: 0 or more, and a product of all below 2^64 bytes", path,
                  shape[i], i);
  return 0;
}

// A new file beside path (which was given as `given`), with the permissions that the umask leaves, or those of the file
// it will replace.
static int open_beside(const char *path, const char *given, char *temporary, size_t size, struct error *err) {
  struct stat old;
  const bool exists = stat(path, &old) == 0;
  if (exists && !S_ISREG(old.st_mode))
    return fail(err, STROBE_IO, "cannot write %s: it exists and is not a regular file", given), -1;
  int fd = -1;
  for (unsigned i = 0; i < 1000 && fd < 0; i++) {
    snprintf(temporary, size, "%s.tmp-%ld-%u", path, (long)getpid(), i);
    fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0 && errno != EEXIST) break;
  }
  if (fd < 0) return fail_io(err, "write", given, errno), -1;
  if (exists) (void)!fchmod(fd, old.st_mode & 0777); // a matter of comfort: some file systems have no modes
  return fd;
}

// A file on its way: `temporary` holds it until it is renamed to `path`.
struct staged {
  char *path, *temporary;
};

// Writes the new file beside the old one.
static int stage(const struct npy_output *o, struct staged *s, struct error *err) {
  unsigned char header[HEADER];
  size_t bytes = 0;
  int status = check_shape(o->path, o->type, o->rank, o->shape, &bytes, err);
  if (status) return status;
  make_header(header, o->type, o->rank, o->shape);
  s->path = file_target(o->path);
  const size_t room = s->path ? strlen(s->path) + sizeof ".tmp-" + 2 * 20 + 2 : 0;
  char *name = room ? malloc(room) : NULL;
  if (!name) return fail(err, STROBE_NO_MEMORY, "no memory for the name %s", o->path);
  const int fd = open_beside(s->path, o->path, name, room, err);
  if (fd < 0) {
    free(name);
    return STROBE_IO;
  }
  s->temporary = name;
  int code = write_all(fd, header, HEADER);
  if (!code) code = write_all(fd, o->data, bytes);
  if (!code && fsync(fd)) code = errno;
  if (close(fd) && !code) code = errno;
  return code ? fail_io(err, "write", o->path, code) : 0;
}

// All are written before the first is renamed, which replaces an old file in one step.
int npy_write_all(const struct npy_output *outputs, int n, struct error *err) {
  struct staged staged[NPY_MAX_OUTPUTS] = {{NULL, NULL}};
  int status = n > NPY_MAX_OUTPUTS ? fail(err, STROBE_INTERNAL, "%d files at once: at most %d", n, NPY_MAX_OUTPUTS) : 0;
  for (int i = 0; i < n && !status; i++) status = stage(&outputs[i], &staged[i], err);
  for (int i = 0; i < n && !status; i++) {
    if (rename(staged[i].temporary, staged[i].path)) {
      status = fail_io(err, "write", outputs[i].path, errno);
    } else {
      free(staged[i].temporary);
      staged[i].temporary = NULL;
    }
  }
  for (int i = 0; i < n && i < NPY_MAX_OUTPUTS; i++) {
    if (staged[i].temporary) unlink(staged[i].temporary);
    free(staged[i].temporary);
    free(staged[i].path);
  }
  return status;
}

int npy_write(const char *path, enum npy_type type, int rank, const int64_t *shape, const void *data,
              struct error *err) {
  const struct npy_output one = {path, type, rank, shape, data};
  return npy_write_all(&one, 1, err);
}
