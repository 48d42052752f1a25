// Runs during the build: renders the kernels of a list for c99, one file each, and the table that finds them
// (builtin.h). Usage: builtin_gen LIST DIRECTORY
#include "kernel.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

// Appends one kernel to the table and its text to a file of its own.
static int add_kernel(const char *line, const char *path, struct buf *externs, struct buf *rows, struct error *err) {
  struct problem p;
  struct instance i = {.target = target_find("c99")};
  struct buf text = {0}, symbol = {0};
  int status = problem_parse(line, &p, err);
  if (!status) status = spec_supported(&p.spec, i.target, err);
  i.spec = p.spec;
  config_clear(&i.config);
  if (!status) status = config_resolve(&i.spec, i.target, NULL, &i.config, err);
  const struct render_options options = {.printer = PRINTER_SCALAR, .comments = true, .for_tcc = true};
  if (!status) status = kernel_render(&i, &options, &text, NULL, err);
  if (!status) {
    instance_symbol(&i, &symbol);
    buf_printf(externs, "extern const struct strobe_kernel %s;\n", symbol.data);
    buf_str(rows, "    {\"");
    spec_print(&i.spec, rows);
    buf_str(rows, "\", \"");
    config_print(&i.config, i.target, rows);
    buf_printf(rows, "\", &%s},\n", symbol.data);
    FILE *f = fopen(path, "wb");
    bool ok = f && fwrite(text.data, 1, text.len, f) == text.len;
    if (f && fclose(f)) ok = false;
    if (!ok) status = fail(err, STROBE_IO, "%s: %s", path, strerror(errno));
  }
  buf_free(&text);
  buf_free(&symbol);
  return status;
}

static int write_table(const char *path, const struct buf *externs, const struct buf *rows) {
  FILE *f = fopen(path, "wb");
  if (!f) return perror(path), 1;
  bool ok =
      fprintf(f, "#include \"runtime/builtin.h\"\n\n%s\nconst struct builtin_kernel builtin_kernels[] = {\n%s};\n",
              externs->data, rows->data) > 0 &&
      fprintf(f, "const int builtin_count = sizeof builtin_kernels / sizeof *builtin_kernels;\n") > 0;
  if (fclose(f)) ok = false;
  return ok ? 0 : (perror(path), 1);
}

int main(int argc, char **argv) {
  if (argc != 3) return fprintf(stderr, "usage: builtin_gen LIST DIRECTORY\n"), 2;
  FILE *list = fopen(argv[1], "rb");
  if (!list) return perror(argv[1]), 1;
  struct buf externs = {0}, rows = {0};
  struct error err = {0};
  char line[256], path[1024];
  int status = 0, n = 0;
  while (!status && fgets(line, sizeof line, list)) {
    line[strcspn(line, "\r\n")] = 0;
    if (!*line || *line == '#') continue;
    snprintf(path, sizeof path, "%s/kernel_%02d.c", argv[2], ++n);
    status = add_kernel(line, path, &externs, &rows, &err);
    if (status) fprintf(stderr, "%s: %s: %s\n", argv[1], line, err.text);
  }
  fclose(list);
  if (!status && (externs.failed || rows.failed || !n)) {
    fprintf(stderr, "%s: %s\n", argv[1], n ? "no memory" : "no specs in it");
    status = 1;
  }
  snprintf(path, sizeof path, "%s/table.c", argv[2]);
  if (!status) status = write_table(path, &externs, &rows);
  buf_free(&externs);
  buf_free(&rows);
  return status ? 1 : 0;
}
