#include "cmd.h"
#include "emit.h"
#include "file.h"

#include <stddef.h>
#include <string.h>
#include <sys/stat.h>

struct emit_options {
  const char *target, *set, *template_dir, *out;
  int printer;
  bool json;
};

#define ROW(kind, field, ...) OPTION(kind, struct emit_options, field, __VA_ARGS__)
static const struct option_row rows[] = {
    ROW(OPT_TEXT, target, .name = "target", .letter = 't', .value = "T",
        .about = "which machine; strobe doctor lists them", .required = true),
    ROW(OPT_CHOICE, printer, .name = "printer", .value = "scalar|intrin|code",
        .about = "C loops, intrinsics, or encoded instructions (default: intrin; scalar on c99)"),
    ROW(OPT_TEXT, set, .name = "set", .value = "CONFIG", .about = "fields of the config, as in block_n=128,stages=2"),
    ROW(OPT_TEXT, template_dir, .name = "template-dir", .value = "D",
        .about = "templates here override the built-in ones"),
    ROW(OPT_TEXT, out, .name = "output", .letter = 'o', .value = "DIR",
        .about = "directory of the two files; made if it is not there", .required = true),
    ROW(OPT_FLAG, json, .name = "json", .about = "print what was written as JSON"),
};

static bool is_directory(const char *path) {
  struct stat st;
  return !stat(path, &st) && S_ISDIR(st.st_mode);
}

static int write_both(const struct emitted *e, const char *dir, struct buf path[2], int *changed, struct error *err) {
  const char *const suffix[] = {e->suffix, ".h"};
  const struct buf *const text[] = {&e->source, &e->header};
  struct file_text files[2];
  struct buf made = {0};
  const size_t len = strlen(dir);
  for (int i = 0; i < 2; i++) {
    buf_printf(&path[i], "%s%s%s%s", dir, dir[len - 1] == '/' ? "" : "/", e->name.data, suffix[i]);
    if (path[i].failed) return fail(err, STROBE_NO_MEMORY, "no memory for the names of the files");
    files[i] = (struct file_text){path[i].data, text[i]->data, text[i]->len};
  }
  int status = directory_make(dir, &made, err);
  if (!status) {
    status = files_write(files, 2, changed, err);
    if (status) directory_unmake(dir, &made);
  }
  buf_free(&made);
  return status;
}

static int report(const struct emitted *e, const struct buf path[2], int changed, bool as_json, struct error *err) {
  struct buf out = {0};
  if (as_json) {
    struct json j = {.out = &out};
    json_object(&j, NULL);
    json_string(&j, "name", e->name.data);
    json_string(&j, "symbol", e->symbol.data);
    json_string(&j, "source", path[0].data);
    json_string(&j, "header", path[1].data);
    json_integer(&j, "scratch_bytes", e->stats.scratch_bytes);
    json_bool(&j, "changed", changed > 0);
    json_end(&j);
  } else {
    buf_printf(&out, "%s %s\n%s %s\nsymbol %s\n", changed ? "wrote  " : "current", path[0].data,
               changed ? "wrote  " : "current", path[1].data, e->symbol.data);
  }
  return cmd_print(&out, err);
}

static int run(const struct command *c, struct error *err) {
  const struct emit_options *o = c->options;
  struct problem p;
  const struct target *t;
  struct instance i;
  struct emitted e = {.name = {0}};
  struct buf path[2] = {{0}};
  int changed = 0, status = problem_parse(c->operands[0], &p, err);
  if (!status) status = cmd_target(o->target, &t, err);
  if (!status && o->template_dir && !is_directory(o->template_dir))
    status = fail(err, STROBE_INVALID, "--template-dir \"%.300s\": must be a directory", o->template_dir);
  if (!status) status = cmd_instance(&p, t, o->set, &i, err);
  if (status) return 2;
  const enum printer printer = o->printer ? (enum printer)(o->printer - 1) : t->vregs ? PRINTER_INTRIN : PRINTER_SCALAR;
  status = emit_kernel(
      &(struct emit_request){.instance = &i, .printer = printer, .templates = {.dir = o->template_dir}}, &e, err);
  if (!status) status = write_both(&e, o->out, path, &changed, err);
  if (!status) status = report(&e, path, changed, o->json, err);
  emit_free(&e);
  buf_free(&path[0]);
  buf_free(&path[1]);
  return status ? 2 : 0;
}

const struct verb verb_emit = {
    .name = "emit",
    .operands = "SPEC",
    .about = "write a kernel as one .c and one .h file that need only a C compiler",
    .details = "The files are written whole or not at all, and only if they would change. Sizes in SPEC, if any, guide "
               "the choice of\n"
               "a config; the kernel serves every size.",
    .example = "  $ strobe emit d64:f32:causal --target avx512 -o third_party/attn\n"
               "  wrote   third_party/attn/attn_fwd_d64_f32_causal_m64n128s2_avx512.c\n"
               "  wrote   third_party/attn/attn_fwd_d64_f32_causal_m64n128s2_avx512.h\n"
               "  symbol attn_fwd_d64_f32_causal_m64n128s2_avx512_1c2b3a4d\n"
               "  $ cc -O2 -c third_party/attn/*.c",
    .rows = rows,
    .n_rows = sizeof rows / sizeof *rows,
    .options_size = sizeof(struct emit_options),
    .least_operands = 1,
    .most_operands = 1,
    .run = run,
};
