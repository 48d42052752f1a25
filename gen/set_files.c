#include "set_files.h"

#include "file.h"
#include "set_dispatch.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

void path_join(const char *dir, const char *name, struct buf *out) {
  const size_t len = strlen(dir);
  buf_printf(out, "%s%s%s", dir, len && dir[len - 1] != '/' ? "/" : "", name);
}

void set_files_free(struct set_files *f) {
  for (int i = 0; i < f->n; i++) buf_free(&f->output[i].name), buf_free(&f->output[i].text);
  free(f->output);
  *f = (struct set_files){.output = NULL};
}

// ---- rendering ----

static int add_kernel(const struct kernel_set *set, int i, bool names_only, struct output out[2], struct error *err) {
  const struct emit_request r = set_request(set, i);
  struct emitted e = {.suffix = NULL};
  struct error why = {0};
  const char *const suffix[] = {emit_suffix(r.instance), ".h"};
  for (int k = 0; k < 2; k++) {
    out[k].kernel = i;
    emit_symbol(&r, &out[k].name);
    buf_str(&out[k].name, suffix[k]);
  }
  if (names_only) return 0;
  if (emit_kernel(&r, &e, &why)) return set_fail(set, set->entry[i].line, &why, err);
  out[0].text = e.source, out[1].text = e.header;
  out[0].scratch_bytes = e.stats.scratch_bytes;
  e.source = e.header = (struct buf){0};
  emit_free(&e);
  return 0;
}

static int add_dispatcher(const struct kernel_set *set, bool names_only, struct output out[3], struct error *err) {
  static const char *const templates[] = {"dispatch.c", "dispatch.h", "CMakeLists.txt"};
  int status = 0;
  for (int i = 0; i < 3; i++) {
    out[i].kernel = OUTPUT_OTHER;
    if (i < 2) buf_printf(&out[i].name, "%s_", set->name);
    buf_str(&out[i].name, templates[i]);
    if (!status && !names_only) status = set_render(set, templates[i], &out[i].text, err);
  }
  return status;
}

int set_files_render(const struct kernel_set *set, bool names_only, struct set_files *out, struct error *err) {
  const int before = set->dispatcher ? 1 : 0, n = 2 * set->n + 4 * before;
  int status = 0;
  *out = (struct set_files){.output = calloc((size_t)n, sizeof *out->output), .n = n};
  if (!out->output) return out->n = 0, fail(err, STROBE_NO_MEMORY, "no memory for %d files", n);
  struct output *o = out->output;
  for (int i = 0; i < set->n && !status; i++) status = add_kernel(set, i, names_only, &o[before + 2 * i], err);
  if (!status && set->dispatcher) {
    o[0].kernel = OUTPUT_MANIFEST;
    buf_str(&o[0].name, "manifest.json");
    status = add_dispatcher(set, names_only, &o[n - 3], err);
    if (!status && !names_only) manifest_write(set, o, n, &o[0].text);
  }
  for (int i = 0; i < n && !status; i++)
    if (o[i].name.failed || o[i].text.failed) status = fail(err, STROBE_NO_MEMORY, "no memory for the emitted text");
  if (status) set_files_free(out);
  return status;
}

// ---- writing ----

// A file of a name that is not strobe's alone must hold a command line of strobe, or nothing.
static int refuse_strange(const struct output *o, const char *path, struct error *err) {
  struct buf text = {0};
  struct stat st;
  if (o->kernel >= 0 || stat(path, &st) || !S_ISREG(st.st_mode)) return 0;
  int status = file_read(path, &text, err);
  if (!status && text.len && !strstr(text.data, "strobe emit "))
    status = fail(err, STROBE_INVALID,
                  "\"%.300s\" is there and was not written by strobe: must be moved away, or take "
                  "another directory",
                  path);
  buf_free(&text);
  return status;
}

// The rule for make, if there is one, is the last text.
static int write_locked(const struct set_files *f, struct file_text *texts, int n, int *changed, struct error *err) {
  int status = 0;
  for (int i = 0; i < f->n && !status; i++) {
    status = refuse_strange(&f->output[i], texts[i].path, err);
    if (!status && n > f->n && file_same(texts[f->n].path, texts[i].path))
      status = fail(err, STROBE_INVALID, "--depfile \"%.200s\" is one of the emitted files: must be another file",
                    texts[f->n].path);
  }
  if (status) return status;
  for (int i = 0; i < n / 2; i++) { // the manifest last
    const struct file_text swap = texts[i];
    texts[i] = texts[n - 1 - i];
    texts[n - 1 - i] = swap;
  }
  return files_write(texts, n, changed, err);
}

static bool holds(const char *path, const struct buf *text) { // if not, its rewrite is not counted
  struct buf old = {0};
  const bool same =
      !file_read(path, &old, NULL) && old.len == text->len && old.len && !memcmp(old.data, text->data, old.len);
  buf_free(&old);
  return same;
}

static int write_in(const struct set_files *f, const char *dir, struct buf *path, struct file_text *texts,
                    const char *depfile, const struct buf *rule, int *changed, struct error *err) {
  struct buf made = {0};
  int n = f->n, lock = -1;
  for (int i = 0; i < f->n; i++) {
    const struct buf *text = &f->output[i].text;
    path_join(dir, f->output[i].name.data, &path[i]);
    if (path[i].failed) return fail(err, STROBE_NO_MEMORY, "no memory for the names of the files");
    texts[i] = (struct file_text){path[i].data, text->data ? text->data : "", text->len};
  }
  if (depfile) texts[n++] = (struct file_text){depfile, rule->data, rule->len};
  int status = directory_make(dir, &made, err);
  if (!status) {
    status = directory_lock(dir, &lock, err);
    const bool new_rule = depfile && !holds(depfile, rule);
    if (!status) status = write_locked(f, texts, n, changed, err);
    if (!status) *changed -= new_rule; // files of the set alone are counted
    directory_unlock(lock);
    if (status) directory_unmake(dir, &made);
  }
  buf_free(&made);
  return status;
}

int set_files_write(const struct set_files *f, const char *dir, const char *depfile, const struct buf *rule,
                    int *changed, struct error *err) {
  struct buf *path = calloc((size_t)f->n + 1, sizeof *path);
  struct file_text *texts = calloc((size_t)f->n + 1, sizeof *texts);
  const int status = path && texts ? write_in(f, dir, path, texts, depfile, rule, changed, err)
                                   : fail(err, STROBE_NO_MEMORY, "no memory for the names of the files");
  for (int i = 0; path && i < f->n; i++) buf_free(&path[i]);
  free(path);
  free(texts);
  return status;
}

// ---- the rule for make ----

static void make_word(const char *text, struct buf *out) {
  for (; *text; text++) {
    if (*text == '$') buf_char(out, '$');
    if (strchr(" \t#:", *text)) buf_char(out, '\\');
    buf_char(out, *text);
  }
}

void set_files_rule(const struct set_files *f, const char *dir, const char *const *inputs, int n, struct buf *out) {
  for (int i = 0; i < f->n; i++) {
    struct buf path = {0};
    path_join(dir, f->output[i].name.data, &path);
    if (i) buf_str(out, " \\\n ");
    make_word(path.failed ? "" : path.data, out);
    out->failed |= path.failed;
    buf_free(&path);
  }
  buf_char(out, ':');
  for (int i = 0; i < n; i++) buf_str(out, " \\\n "), make_word(inputs[i], out);
  buf_char(out, '\n');
  for (int i = 0; i < n; i++) make_word(inputs[i], out), buf_str(out, ":\n"); // an input that is deleted is no error
}
