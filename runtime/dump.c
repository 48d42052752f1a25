#include "dump.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

// A file that would exceed RLIMIT_FSIZE is not even begun: the host would get a SIGXFSZ.
static bool fits(size_t size) {
  struct rlimit limit;
  return getrlimit(RLIMIT_FSIZE, &limit) || limit.rlim_cur == RLIM_INFINITY || size <= limit.rlim_cur;
}

// Whole or not at all; 0 or what errno says.
static int write_file(const char *path, const struct buf *content) {
  if (!fits(content->len)) return EFBIG;
  FILE *f = fopen(path, "wbe");
  if (!f) return errno;
  int error = fwrite(content->data, 1, content->len, f) == content->len ? 0 : errno;
  if (fclose(f) && !error) error = errno;
  if (error) unlink(path);
  return error;
}

static void dump_one(const char *dir, const char *symbol, const char *printer, const char *suffix,
                     const struct buf *content, struct buf *note) {
  if (!content->len || content->failed) return;
  struct buf path = {0};
  buf_printf(&path, "%s/%s.%s.%s", dir, symbol, printer, suffix);
  int error = path.failed ? ENOMEM : write_file(path.data, content);
  if (error)
    buf_printf(note, "%sSTROBE_DUMP: %s: %s", note->len ? "; " : "", path.failed ? dir : path.data, strerror(error));
  buf_free(&path);
}

char *dump(const char *symbol, const char *printer, const struct buf *source, const struct buf *object) {
  const char *dir = secure_getenv("STROBE_DUMP");
  if (!dir || !*dir) return NULL;
  struct buf note = {0};
  dump_one(dir, symbol, printer, "c", source, &note);
  dump_one(dir, symbol, printer, "o", object, &note);
  return note.data;
}
