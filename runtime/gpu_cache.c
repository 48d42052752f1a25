#include "gpu_cache.h"

#include "../gen/file.h"
#include "../gen/spec.h" // hash64

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

// The compiler that made a cubin: nothing of this changes until the library is replaced.
struct compiler {
  char path[512];
  int64_t bytes, seconds, nanoseconds; // of its file
};

// Head of a file: what it is, and what of. Two hashes that start differently, and the length.
struct head {
  char magic[16];
  uint64_t hash[2], key_len, cubin_len, cubin_hash;
  struct compiler compiler;
};
static const char magic[16] = "strobe cubin 2\n";

static bool head_of(const struct cubin_key *key, struct head *h) {
  const char *library = secure_getenv("STROBE_NVRTC");
  struct buf all = {0};
  buf_printf(&all, "%s\n%s\n", library ? library : "", key->options);
  buf_add(&all, key->source, key->len);
  const size_t half = all.len / 2;
  const bool ok = !all.failed;
  *h = (struct head){.key_len = all.len};
  memcpy(h->magic, magic, sizeof h->magic);
  if (ok) {
    h->hash[0] = hash64(all.data, all.len);
    h->hash[1] = hash64(all.data + half, all.len - half) ^ hash64(all.data, half) << 1;
  }
  buf_free(&all);
  return ok;
}

static bool find_compiler(const char *path, struct compiler *c) {
  struct stat st;
  *c = (struct compiler){.bytes = 0};
  if (!path || strlen(path) >= sizeof c->path || stat(path, &st)) return false;
  snprintf(c->path, sizeof c->path, "%s", path);
  c->bytes = st.st_size, c->seconds = st.st_mtim.tv_sec, c->nanoseconds = st.st_mtim.tv_nsec;
  return true;
}

static bool compiler_is_there(struct compiler *made) {
  struct compiler now;
  made->path[sizeof made->path - 1] = 0;
  return find_compiler(made->path, &now) && now.bytes == made->bytes && now.seconds == made->seconds &&
         now.nanoseconds == made->nanoseconds;
}

static bool directory(char *path, size_t size) {
  const char *base = secure_getenv("XDG_CACHE_HOME"), *home = secure_getenv("HOME");
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

static bool matches(const struct head *h, const struct head *want) {
  return !memcmp(h->magic, want->magic, sizeof h->magic) && !memcmp(h->hash, want->hash, sizeof h->hash) &&
         h->key_len == want->key_len && h->cubin_len < 1u << 26;
}

bool cubin_cache_get(const struct cubin_key *key, struct buf *cubin) {
  struct head want, h;
  char path[PATH_MAX];
  if (!head_of(key, &want) || !file_path(&want, path, sizeof path)) return false;
  const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0) return false;
  bool ok = trusted(fd) && read_all(fd, &h, sizeof h) && matches(&h, &want) && compiler_is_there(&h.compiler);
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

// Of writers that were killed. They are told by their names: the tuning database may be in the same directory.
static void remove_leftovers(void) {
  enum { DAY_S = 86400, HASHES = 32 };
  static const char ending[] = ".cubin.";
  char dir[PATH_MAX];
  DIR *d = directory(dir, sizeof dir) ? opendir(dir) : NULL;
  for (struct dirent *e; d && (e = readdir(d));) {
    struct stat st;
    const char *name = e->d_name;
    if (strlen(name) == HASHES + strlen(ending) + 6 && strspn(name, "0123456789abcdef") == HASHES &&
        !strncmp(name + HASHES, ending, strlen(ending)) && !fstatat(dirfd(d), name, &st, AT_SYMLINK_NOFOLLOW) &&
        S_ISREG(st.st_mode) && time(NULL) - st.st_mtime > DAY_S)
      unlinkat(dirfd(d), name, 0);
  }
  if (d) closedir(d);
}

void cubin_cache_put(const struct cubin_key *key, const char *compiler, const struct buf *cubin) {
  struct head h;
  char path[PATH_MAX], temporary[PATH_MAX + 16];
  if (!head_of(key, &h) || !find_compiler(compiler, &h.compiler) || !file_path(&h, path, sizeof path)) return;
  if (!file_may_hold(sizeof h + cubin->len)) return;
  h.cubin_len = cubin->len;
  h.cubin_hash = hash64(cubin->data, cubin->len);
  make_directories(path);
  remove_leftovers();
  snprintf(temporary, sizeof temporary, "%s.XXXXXX", path);
  int fd = mkstemp(temporary); // mode 0600
  if (fd < 0) return;
  bool ok = write_all(fd, &h, sizeof h) && write_all(fd, cubin->data, cubin->len);
  ok = !close(fd) && ok;
  if (!ok || rename(temporary, path)) unlink(temporary);
}
