#include "gpu_cache.h"

#include "../gen/spec.h" // hash64

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// Head of a file: what it is, and of which text. Two hashes that start differently, and the length.
struct head {
  char magic[16];
  uint64_t hash[2], source_len, cubin_len, cubin_hash;
};
static const char magic[16] = "strobe cubin 1\n";

static struct head head_of(const char *source, size_t len) {
  struct head h = {.source_len = len};
  memcpy(h.magic, magic, sizeof h.magic);
  h.hash[0] = hash64(source, len);
  h.hash[1] = hash64(source + len / 2, len - len / 2) ^ hash64(source, len / 2) << 1;
  return h;
}

static bool directory(char *path, size_t size) {
  const char *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  int n = base && *base == '/'   ? snprintf(path, size, "%s/strobe", base)
          : home && *home == '/' ? snprintf(path, size, "%s/.cache/strobe", home)
                                 : -1;
  return n > 0 && n < (int)size;
}

static bool file_path(const struct head *h, char *path, size_t size) {
  char dir[PATH_MAX];
  if (!directory(dir, sizeof dir)) return false;
  int n = snprintf(path, size, "%s/%016" PRIx64 "%016" PRIx64 ".cubin", dir, h->hash[0], h->hash[1]);
  return n > 0 && n < (int)size;
}

static bool read_all(int fd, void *to, size_t len) {
  for (char *at = to; len;) {
    ssize_t n = read(fd, at, len);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n, len -= (size_t)n;
  }
  return true;
}

static bool write_all(int fd, const void *from, size_t len) {
  for (const char *at = from; len;) {
    ssize_t n = write(fd, at, len);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n, len -= (size_t)n;
  }
  return true;
}

static bool trusted(int fd) {
  struct stat st;
  return !fstat(fd, &st) && S_ISREG(st.st_mode) && st.st_uid == geteuid() && !(st.st_mode & (S_IWGRP | S_IWOTH));
}

bool cubin_cache_get(const char *source, size_t len, struct buf *cubin) {
  const struct head want = head_of(source, len);
  struct head h;
  char path[PATH_MAX];
  if (!file_path(&want, path, sizeof path)) return false;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) return false;
  bool ok = trusted(fd) && read_all(fd, &h, sizeof h) && !memcmp(h.magic, want.magic, sizeof h.magic) &&
            !memcmp(h.hash, want.hash, sizeof h.hash) && h.source_len == len && h.cubin_len < 1u << 26;
  char *image = ok ? malloc(h.cubin_len + 1) : NULL;
  ok = image && read_all(fd, image, h.cubin_len) && hash64(image, h.cubin_len) == h.cubin_hash;
  if (ok) buf_add(cubin, image, h.cubin_len);
  free(image);
  close(fd);
  return ok && !cubin->failed;
}

static void make_directories(char *path) {
  for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
    *slash = 0;
    mkdir(path, 0700);
    *slash = '/';
  }
}

void cubin_cache_put(const char *source, size_t len, const struct buf *cubin) {
  struct head h = head_of(source, len);
  h.cubin_len = cubin->len;
  h.cubin_hash = hash64(cubin->data, cubin->len);
  char path[PATH_MAX], temporary[PATH_MAX + 16];
  if (!file_path(&h, path, sizeof path)) return;
  make_directories(path);
  snprintf(temporary, sizeof temporary, "%s.XXXXXX", path);
  int fd = mkstemp(temporary); // mode 0600
  if (fd < 0) return;
  bool ok = write_all(fd, &h, sizeof h) && write_all(fd, cubin->data, cubin->len);
  ok = !close(fd) && ok;
  if (!ok || rename(temporary, path)) unlink(temporary);
}
