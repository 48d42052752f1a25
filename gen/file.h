// Files: read whole, and written whole or not at all.
#ifndef STROBE_GEN_FILE_H
#define STROBE_GEN_FILE_H

#include "buf.h"
#include "error.h"

struct file_text {
  const char *path;
  const void *data;
  size_t len;
};

// Appends a regular file's bytes to out. STROBE_IO, STROBE_NO_MEMORY.
int file_read(const char *path, struct buf *out, struct error *err);

// Writes n files so that all of them are new or none is: every one goes to a temporary file beside it, is
// synced, and only then are they renamed; what was renamed before a failure gets its old bytes back. A file that holds
// the same bytes already is not touched; one that is replaced leaves its permissions; a symbolic link stays one.
// `*changed` (may be NULL) gets how many were written. STROBE_IO, STROBE_INVALID, STROBE_NO_MEMORY.
int files_write(const struct file_text *files, int n, int *changed, struct error *err);

// What path names, symbolic links followed, for the caller to free: a file that is to be replaced must not replace a
// link to it. NULL: no memory.
char *file_target(const char *path);

// Whether RLIMIT_FSIZE allows a file of so many bytes: a write beyond it is a SIGXFSZ, which ends the process.
bool file_may_hold(size_t len);

// Makes a directory and its parents. `made` (may be NULL) gets the path of the first one that was not there, for
// directory_unmake; empty: there was nothing to make. STROBE_IO.
int directory_make(const char *path, struct buf *made, struct error *err);
// Removes what directory_make made, as far as it is empty: `path` upwards to `made`.
void directory_unmake(const char *path, const struct buf *made);

// Waits until no other process that asks holds the directory, at most half a minute. `*lock` is for directory_unlock;
// -1, and no error, where directories can't be locked. STROBE_IO.
int directory_lock(const char *path, int *lock, struct error *err);
void directory_unlock(int lock);

// True if both name one file, or would if it were there.
bool file_same(const char *a, const char *b);

#endif
