// Runs during the build: renders the kernels of a list for c99, one file each, and the table that finds them
// (builtin.h). Files that hold the same bytes already are not touched, so that only what changed is compiled again.
// Usage: builtin_gen LIST DIRECTORY
#include "file.h"
#include "kernel.h"

#include <stdio.h>
#include <string.h>

struct table {
  struct buf externs, rows;
};

static int write_text(const char *path, const struct buf *text, struct error *err) {
  if (text->failed) return fail(err, STROBE_NO_MEMORY, "no memory for %s", path);
  return files_write(&(struct file_text){path, text->data, text->len}, 1, NULL, err);
}

// Writes one kernel and appends it to the table.
static int add_kernel(const char *spec, const char *config, const char *path, struct table *t, struct error *err) {
  struct problem p;
  struct instance i = {.target = target_find("c99")};
  struct buf text = {0}, symbol = {0};
  int status = problem_parse(spec, &p, err);
  if (!status) status = spec_supported(&p.spec, i.target, err);
  i.spec = p.spec;
  config_clear(&i.config);
  if (!status) status = config_parse(config, &i.config, err);
  if (!status) status = config_resolve(&i.spec, i.target, NULL, &i.config, err);
  const struct render_options options = {.printer = PRINTER_SCALAR, .comments = true};
  buf_str(&text, "#include \"runtime/kernel_abi.h\"\n\n");
  if (!status) status = kernel_render(&i, &options, &text, NULL, err);
  if (!status) status = write_text(path, &text, err);
  if (!status) {
    instance_symbol(&i, &symbol);
    buf_printf(&t->externs, "extern const struct strobe_kernel %s;\n", symbol.data);
    buf_str(&t->rows, "    {\"");
    spec_print(&i.spec, &t->rows);
    buf_str(&t->rows, "\", \"");
    config_print(&i.config, i.target, &t->rows);
    buf_printf(&t->rows, "\", &%s},\n", symbol.data);
  }
  buf_free(&text);
  buf_free(&symbol);
  return status;
}

static int write_table(const char *path, const struct table *t, struct error *err) {
  struct buf text = {0};
  buf_printf(&text, "#include \"runtime/builtin.h\"\n\n%s\nconst struct builtin_kernel builtin_kernels[] = {\n%s};\n",
             t->externs.data, t->rows.data);
  buf_str(&text, "const int builtin_count = sizeof builtin_kernels / sizeof *builtin_kernels;\n");
  text.failed |= t->externs.failed || t->rows.failed;
  int status = write_text(path, &text, err);
  buf_free(&text);
  return status;
}

// Lines of the list: a spec, and after a space a config; "#" begins a comment.
static int generate(FILE *list, const char *directory, struct error *err) {
  struct table t = {{0}, {0}};
  char line[256], path[1024];
  int status = 0, n = 0;
  while (!status && fgets(line, sizeof line, list)) {
    line[strcspn(line, "\r\n")] = 0;
    if (!*line || *line == '#') continue;
    char *config = line + strcspn(line, " ");
    if (*config) *config++ = 0;
    snprintf(path, sizeof path, "%s/kernel_%02d.c", directory, ++n);
    status = add_kernel(line, config, path, &t, err);
  }
  if (!n) status = fail(err, STROBE_INVALID, "no specs in it");
  snprintf(path, sizeof path, "%s/table.c", directory);
  if (!status) status = write_table(path, &t, err);
  buf_free(&t.externs);
  buf_free(&t.rows);
  return status;
}

int main(int argc, char **argv) {
  if (argc != 3) return fprintf(stderr, "usage: builtin_gen LIST DIRECTORY\n"), 2;
  FILE *list = fopen(argv[1], "rb");
  if (!list) return perror(argv[1]), 1;
  struct error err = {0};
  int status = generate(list, argv[2], &err);
  fclose(list);
  if (status) fprintf(stderr, "%s: %s\n", argv[1], err.text);
  return status ? 1 : 0;
}
