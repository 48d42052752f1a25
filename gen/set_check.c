// Compares a directory with what this version would write there.
#include "file.h"
#include "set_files.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

const char *const file_state_names[FILE_STATES] = {"current", "changed", "missing", "extra"};

static int state_of(const struct output *o, const char *path, enum file_state *state, struct error *err) {
  struct stat st;
  struct buf text = {0};
  *state = FILE_MISSING;
  if (stat(path, &st)) return 0;
  const int status = file_read(path, &text, err);
  const bool same = text.len == o->text.len && (!text.len || !memcmp(text.data, o->text.data, text.len));
  *state = same ? FILE_CURRENT : FILE_CHANGED;
  buf_free(&text);
  return status;
}

static bool expected(const struct set_files *f, const char *name) {
  for (int i = 0; i < f->n; i++)
    if (!strcmp(f->output[i].name.data, name)) return true;
  return false;
}

// A source that says in its first lines that strobe wrote it.
static int is_ours(const char *dir, const char *name, bool *ours, struct error *err) {
  static const char *const suffixes[] = {".c", ".cu", ".h"};
  const char *dot = strrchr(name, '.');
  struct buf path = {0}, text = {0};
  bool source = false;
  *ours = false;
  for (int i = 0; i < 3; i++) source |= dot && dot != name && !strcmp(dot, suffixes[i]);
  if (!source) return 0;
  path_join(dir, name, &path);
  const int unread = path.failed ? STROBE_NO_MEMORY : file_read(path.data, &text, NULL);
  if (!unread && text.len) {
    if (text.len > 400) text.data[400] = 0;
    *ours = strstr(text.data, "ritten by strobe ") != NULL;
  }
  buf_free(&path), buf_free(&text);
  return unread == STROBE_NO_MEMORY ? fail(err, STROBE_NO_MEMORY, "no memory to read \"%.300s\"", name) : 0;
}

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static int find_extra(const struct set_files *f, const char *dir, char ***names, int *n, struct error *err) {
  DIR *d = opendir(dir);
  int status = d ? 0
                 : fail(err, errno == ENOMEM ? STROBE_NO_MEMORY : STROBE_IO, "cannot read directory \"%.300s\": %s",
                        dir, strerror(errno));
  for (struct dirent *entry; !status && (entry = readdir(d));) {
    bool ours = false;
    if (expected(f, entry->d_name)) continue;
    status = is_ours(dir, entry->d_name, &ours, err);
    if (status || !ours) continue;
    char **grown = realloc(*names, ((size_t)*n + 1) * sizeof *grown), *copy = strdup(entry->d_name);
    if (grown) *names = grown;
    if (grown && copy)
      grown[(*n)++] = copy;
    else
      free(copy), status = fail(err, STROBE_NO_MEMORY, "no memory for the names of files");
  }
  if (d) closedir(d);
  if (*n) qsort(*names, (size_t)*n, sizeof **names, by_text);
  return status;
}

int set_files_check(const struct set_files *f, const char *dir, file_report *report, void *context,
                    int counts[FILE_STATES], struct error *err) {
  char **extra = NULL;
  int n_extra = 0, status = find_extra(f, dir, &extra, &n_extra, err);
  memset(counts, 0, FILE_STATES * sizeof *counts);
  for (int i = 0; i < f->n && !status; i++) {
    enum file_state state = FILE_MISSING;
    struct buf path = {0};
    path_join(dir, f->output[i].name.data, &path);
    status = path.failed ? fail(err, STROBE_NO_MEMORY, "no memory for the names of files")
                         : state_of(&f->output[i], path.data, &state, err);
    buf_free(&path);
    if (status) break;
    counts[state]++;
    if (state != FILE_CURRENT) report(context, state, f->output[i].name.data);
  }
  for (int i = 0; i < n_extra; i++) {
    if (!status) counts[FILE_EXTRA]++, report(context, FILE_EXTRA, extra[i]);
    free(extra[i]);
  }
  free(extra);
  return status;
}
