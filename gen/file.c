#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LOCK_TRIES = 3000, LOCK_PAUSE_NS = 10 * 1000 * 1000 }; // half a minute

static int io_error(const char *doing, const char *path, struct error *err) {
  return fail(err, STROBE_IO, "%s \"%.300s\": %s", doing, path, strerror(errno));
}

int file_read(const char *path, struct buf *out, struct error *err) {
  struct stat st;
  const size_t start = out->len;
  const int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); // a FIFO is refused, not waited for
  if (fd < 0) return io_error("cannot read", path, err);
  int status = fstat(fd, &st) ? io_error("cannot read", path, err) : 0;
  if (!status && !S_ISREG(st.st_mode))
    status = fail(err, STROBE_IO, "cannot read \"%.300s\": it is not a regular file", path);
  char chunk[65536];
  ssize_t n = 0;
  while (!status && (n = read(fd, chunk, sizeof chunk)) > 0) buf_add(out, chunk, (size_t)n);
  if (n < 0) status = io_error("cannot read", path, err);
  if (!status && out->failed) status = fail(err, STROBE_NO_MEMORY, "no memory to read \"%.300s\"", path);
  if (status) out->len = start;
  close(fd);
  return status;
}

// ---- writing ----

// One file on its way: `temp` exists from stage to commit.
struct staged {
  const struct file_text *text;
  char *path; // links followed
  struct buf temp, old;
  bool existed, same, renamed;
  mode_t mode; // if it existed
};

char *file_target(const char *path) {
  char *target = realpath(path, NULL);
  return target || errno == ENOMEM ? target : strdup(path); // it is not there yet
}

bool file_may_hold(size_t len) {
  struct rlimit limit;
  return getrlimit(RLIMIT_FSIZE, &limit) || limit.rlim_cur == RLIM_INFINITY || len <= limit.rlim_cur;
}

static int write_all(int fd, const char *data, size_t len) {
  if (!file_may_hold(len)) return errno = EFBIG, -1;
  while (len) {
    const ssize_t n = write(fd, data, len);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return -1;
    data += n;
    len -= (size_t)n;
  }
  return 0;
}

// The same directory as `path`, so that rename is atomic; a leading dot, so that a build's wildcards pass it by.
static int temp_open(const char *path, struct buf *temp, struct error *err) {
  const char *slash = strrchr(path, '/');
  const int dir_len = slash ? (int)(slash + 1 - path) : 0;
  for (int attempt = 0; attempt < 100; attempt++) {
    temp->len = 0;
    buf_printf(temp, "%.*s.%s.%ld-%d.tmp", dir_len, path, path + dir_len, (long)getpid(), attempt);
    if (temp->failed) return fail(err, STROBE_NO_MEMORY, "no memory to write \"%.300s\"", path), -1;
    const int fd = open(temp->data, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd >= 0) return fd;
    if (errno != EEXIST) break;
  }
  temp->len = 0;
  return io_error("cannot write", path, err), -1;
}

// mode: of the file it will replace; 0: what the umask leaves.
static int write_temp(const char *path, mode_t mode, const void *data, size_t len, struct buf *temp,
                      struct error *err) {
  const int fd = temp_open(path, temp, err);
  if (fd < 0) return (int)(err && err->status ? err->status : STROBE_IO);
  if (mode) (void)!fchmod(fd, mode & 0777); // a matter of comfort: some file systems have no modes
  int bad = write_all(fd, data, len) || fsync(fd);
  const int reason = errno;
  if (close(fd) && !bad)
    bad = 1;
  else
    errno = reason;
  if (!bad) return 0;
  const int status = io_error("cannot write", path, err);
  unlink(temp->data);
  temp->len = 0;
  return status;
}

static int stage(struct staged *s, struct error *err) {
  const char *path = s->text->path;
  s->path = file_target(path);
  if (!s->path) return fail(err, STROBE_NO_MEMORY, "no memory to write \"%.300s\"", path);
  struct stat st;
  s->existed = !stat(s->path, &st);
  s->mode = s->existed ? st.st_mode : 0;
  if (s->existed && !S_ISREG(st.st_mode))
    return fail(err, STROBE_IO, "cannot write \"%.300s\": it is there and is not a regular file", path);
  const int unread = s->existed ? file_read(s->path, &s->old, NULL) : 0;
  if (unread == STROBE_NO_MEMORY) return fail(err, STROBE_NO_MEMORY, "no memory to read \"%.300s\"", path);
  if (unread) buf_free(&s->old); // replaced, but could not be restored
  s->same =
      s->existed && s->old.data && s->old.len == s->text->len && !memcmp(s->old.data, s->text->data, s->text->len);
  if (s->same) return 0;
  return write_temp(s->path, s->mode, s->text->data, s->text->len, &s->temp, err);
}

static int commit(struct staged *s, struct error *err) {
  if (s->same) return 0;
  if (rename(s->temp.data, s->path)) return io_error("cannot write", s->text->path, err);
  s->renamed = true;
  return 0;
}

static void undo(struct staged *s) {
  if (!s->renamed && s->temp.len) unlink(s->temp.data);
  if (!s->renamed) return;
  struct buf temp = {0};
  if (!s->existed)
    unlink(s->path);
  else if (!write_temp(s->path, s->mode, s->old.data ? s->old.data : "", s->old.len, &temp, NULL) &&
           rename(temp.data, s->path))
    unlink(temp.data);
  buf_free(&temp);
}

int files_write(const struct file_text *files, int n, int *changed, struct error *err) {
  struct staged *staged = calloc((size_t)n + 1, sizeof *staged);
  if (changed) *changed = 0;
  if (!staged) return fail(err, STROBE_NO_MEMORY, "no memory to write %d files", n);
  int status = 0;
  for (int i = 0; i < n && !status; i++) {
    staged[i].text = &files[i];
    status = stage(&staged[i], err);
  }
  for (int i = 0; i < n && !status; i++) status = commit(&staged[i], err);
  for (int i = 0; i < n; i++) {
    if (status && staged[i].text) undo(&staged[i]);
    if (!status && changed) *changed += !staged[i].same;
    buf_free(&staged[i].temp);
    buf_free(&staged[i].old);
    free(staged[i].path);
  }
  free(staged);
  return status;
}

// ---- directories ----

int directory_make(const char *path, struct buf *made, struct error *err) {
  struct buf part = {0};
  struct stat st;
  int status = 0;
  if (made) { // room now, so that what has been made can always be noted
    buf_str(made, path);
    made->len = 0;
    if (made->failed) return fail(err, STROBE_NO_MEMORY, "no memory to make directory \"%.300s\"", path);
  }
  for (size_t i = 1, len = strlen(path); i <= len && !status; i++) {
    if (path[i] != '/' && path[i]) continue;
    part.len = 0;
    buf_add(&part, path, i);
    if (part.failed) {
      status = fail(err, STROBE_NO_MEMORY, "no memory to make directory \"%.300s\"", path);
    } else if (!stat(part.data, &st)) {
      if (!S_ISDIR(st.st_mode))
        status = fail(err, STROBE_IO, "cannot make directory \"%.300s\": \"%.200s\" is a file", path, part.data);
    } else if (mkdir(part.data, 0777) && errno != EEXIST) {
      status = io_error("cannot make directory", path, err);
    } else if (made && !made->len) {
      buf_add(made, part.data, part.len);
    }
  }
  buf_free(&part);
  if (status && made) directory_unmake(path, made);
  return status;
}

// The lock is on the directory itself: there is no lock file to be left behind, and it ends with the process.
int directory_lock(const char *path, int *lock, struct error *err) {
  const struct timespec pause = {0, LOCK_PAUSE_NS};
  *lock = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (*lock < 0) return errno == EACCES ? 0 : io_error("cannot open directory", path, err);
  for (int attempt = 0; flock(*lock, LOCK_EX | LOCK_NB); attempt++) {
    if (errno != EWOULDBLOCK && errno != EINTR) return 0; // a file system without locks
    if (attempt < LOCK_TRIES) {
      nanosleep(&pause, NULL);
      continue;
    }
    directory_unlock(*lock);
    *lock = -1;
    return fail(err, STROBE_IO, "\"%.300s\": another process has been writing there for half a minute; try again",
                path);
  }
  return 0;
}

void directory_unlock(int lock) {
  if (lock >= 0) close(lock);
}

// Without an allocation: memory may be what failed.
void directory_unmake(const char *path, const struct buf *made) {
  char part[PATH_MAX];
  size_t len = strlen(path);
  if (!made->len || len >= sizeof part) return;
  memcpy(part, path, len + 1);
  while (len >= made->len) {
    rmdir(part); // fails, rightly, if it is not empty
    char *slash = strrchr(part, '/');
    if (!slash || slash == part) break;
    *slash = 0;
    len = (size_t)(slash - part);
  }
}

static int stat_parent(const char *path, const char **name, struct stat *st) {
  char dir[PATH_MAX];
  const char *slash = strrchr(path, '/');
  const size_t len = slash ? (size_t)(slash - path) + 1 : 0;
  *name = path + len;
  if (len >= sizeof dir) return -1;
  memcpy(dir, path, len);
  dir[len] = 0;
  return stat(len ? dir : ".", st);
}

bool file_same(const char *a, const char *b) {
  struct stat sa, sb;
  const char *name_a, *name_b;
  if (!strcmp(a, b)) return true;
  if (!stat(a, &sa) && !stat(b, &sb)) return sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
  return !stat_parent(a, &name_a, &sa) && !stat_parent(b, &name_b, &sb) && !strcmp(name_a, name_b) &&
         sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}
