// The tuning database on disk: found, read, and changed so that no record is ever lost.
#include "tune_db.h"

#include "../gen/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

enum { LOCK_TRIES = 500, LOCK_PAUSE_NS = 10 * 1000 * 1000 }; // five seconds

void tune_db_path(const char *given, struct buf *out) {
  const char *chosen = given && *given ? given : secure_getenv("STROBE_DB");
  const char *cache = secure_getenv("XDG_CACHE_HOME"), *home = secure_getenv("HOME");
  if (chosen && *chosen)
    buf_str(out, chosen);
  else if (cache && *cache == '/')
    buf_printf(out, "%s/strobe/tunings.txt", cache);
  else if (home && *home == '/')
    buf_printf(out, "%s/.cache/strobe/tunings.txt", home);
  else
    buf_str(out, "");
}

int tune_db_read(const char *path, struct tune_db *db, struct error *err) {
  struct buf text = {0};
  if (access(path, F_OK) && errno == ENOENT) return 0;
  int status = file_read(path, &text, err);
  if (!status && text.len) status = tune_db_parse(db, text.data, text.len, path, err);
  buf_free(&text);
  return status;
}

bool tune_db_lookup(const char *path, const struct tune_key *key, struct tune_record *out) {
  struct tune_db db = {0};
  const struct tune_record *found = tune_db_read(path, &db, NULL) ? NULL : tune_db_find(&db, key);
  if (found) *out = *found;
  tune_db_free(&db);
  return found != NULL;
}

// A lock file beside the database: the database itself is replaced, so a lock on it would be a lock on the old file.
// An update takes milliseconds, so whoever holds the lock for seconds has been stopped.
static int lock(const char *path, int *fd, struct error *err) {
  const struct timespec pause = {0, LOCK_PAUSE_NS};
  struct buf name = {0}, directory = {0};
  const char *slash = strrchr(path, '/');
  int status = 0;
  buf_printf(&name, "%s.lock", path);
  buf_add(&directory, path, slash ? (size_t)(slash - path) : 0);
  if (name.failed || directory.failed) status = fail(err, STROBE_NO_MEMORY, "no memory for the name of a lock");
  if (!status && directory.len) status = directory_make(directory.data, NULL, err);
  if (!status) {
    *fd = open(name.data, O_RDWR | O_CREAT | O_NONBLOCK | O_CLOEXEC, 0666);
    if (*fd < 0) status = fail(err, STROBE_IO, "cannot open %.300s: %s", name.data, strerror(errno));
  }
  for (int attempt = 0; !status && flock(*fd, LOCK_EX | LOCK_NB); attempt++) {
    if (errno != EINTR && errno != EWOULDBLOCK)
      status = fail(err, STROBE_IO, "cannot lock %.300s: %s", name.data, strerror(errno));
    else if (attempt == LOCK_TRIES)
      status = fail(err, STROBE_IO, "cannot lock %.300s: another process has held it for seconds", name.data);
    else
      nanosleep(&pause, NULL);
  }
  buf_free(&name);
  buf_free(&directory);
  return status;
}

int tune_db_read_own(const char *path, struct tune_db *db, struct error *err) {
  struct buf text = {0};
  if (access(path, F_OK) && errno == ENOENT) return 0;
  int status = file_read(path, &text, err);
  if (!status && !tune_db_begins(text.data, text.len))
    status = fail(err, STROBE_INVALID,
                  "\"%.300s\" is there and is no tuning database, whose first line is \"# strobe tuning database 1\": "
                  "must be another file",
                  path);
  if (!status && text.len) status = tune_db_parse(db, text.data, text.len, path, err);
  buf_free(&text);
  return status;
}

static int write_back(const char *path, const struct tune_db *db, struct error *err) {
  struct buf text = {0};
  tune_db_print(db, &text);
  int status = text.failed ? fail(err, STROBE_NO_MEMORY, "no memory for the text of a tuning database") : 0;
  const struct file_text file = {path, text.data, text.len};
  if (!status) status = files_write(&file, 1, NULL, err);
  buf_free(&text);
  return status;
}

typedef int add_record(struct tune_db *db, const struct tune_record *r, struct error *err);

static int change(const char *path, const struct tune_record *records, int n, add_record *add, int *dropped,
                  struct error *err) {
  struct tune_db db = {0};
  char *const linked = realpath(path, NULL); // NULL: not there yet
  if (linked) path = linked;
  int fd = -1, status = lock(path, &fd, err);
  if (!status) status = tune_db_read_own(path, &db, err);
  for (int i = 0; i < n && !status; i++) status = add(&db, &records[i], err);
  if (!status && dropped) *dropped = tune_db_prune(&db);
  if (!status) status = write_back(path, &db, err);
  if (fd >= 0) close(fd); // unlocks
  tune_db_free(&db);
  free(linked);
  return status;
}

int tune_db_update(const char *path, const struct tune_record *records, int n, struct error *err) {
  return change(path, records, n, tune_db_decide, NULL, err);
}

int tune_db_merge(const char *path, const struct tune_db *other, struct error *err) {
  return change(path, other->records, other->n, tune_db_add, NULL, err);
}

int tune_db_prune_file(const char *path, int *dropped, struct error *err) {
  return change(path, NULL, 0, NULL, dropped, err);
}
