// `strobe emit`: kernels as files that other projects own; what files there would be; whether they are current.
#include "cmd.h"
#include "cmd_emit_tuned.h"
#include "embedded.h"
#include "file.h"
#include "set_files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct emit_options {
  const char *target, *set, *template_dir, *out, *set_file, *name, *prefix, *depfile, *check, *cite, *db, *machine;
  int printer;
  bool json, list, tuned;
};

#define ROW(kind, field, ...) OPTION(kind, struct emit_options, field, __VA_ARGS__)
static const struct option_row rows[] = {
    ROW(OPT_TEXT, target, .name = "target", .letter = 't', .value = "T,...",
        .about = "which machines; strobe doctor lists them (a set: default every CPU)"),
    ROW(OPT_CHOICE, printer, .name = "printer", .value = "scalar|intrin|code",
        .about = "C loops, intrinsics, or encoded instructions (default: intrin, or scalar on c99; of files by another "
                 "the name says so)"),
    ROW(OPT_TEXT, set, .name = "set", .value = "CONFIG", .about = "fields of the config, as in block_n=128,stages=2"),
    ROW(OPT_FLAG, tuned, .name = "tuned",
        .about = "configs that are left open from the tuning database; the header cites the record"),
    ROW(OPT_TEXT, db, .name = "db", .value = "FILE",
        .about = "--tuned: the database (default: $STROBE_DB, else the cache directory)"),
    ROW(OPT_TEXT, machine, .name = "machine", .value = "CPU",
        .about = "--tuned: records of this processor, as strobe db show calls it (default: this one)"),
    ROW(OPT_TEXT, cite, .name = "cite", .value = "TEXT",
        .about = "for the header: what --set was taken from (--tuned writes it)"),
    ROW(OPT_TEXT, set_file, .name = "set-file", .letter = 'f', .value = "F",
        .about = "the set: a line SPEC [target=T,...] [printer=P] [set=CONFIG] a kernel; or a manifest.json"),
    ROW(OPT_TEXT, name, .name = "name", .value = "N", .about = "of the dispatcher of a set (default: attn)"),
    ROW(OPT_TEXT, prefix, .name = "prefix", .value = "P", .about = "of every external symbol, as in foo_"),
    ROW(OPT_TEXT, out, .name = "output", .letter = 'o', .value = "DIR",
        .about = "directory of the files; made if it is not there"),
    ROW(OPT_TEXT, depfile, .name = "depfile", .value = "F",
        .about = "write a rule for make: what the files are made of"),
    ROW(OPT_FLAG, list, .name = "list", .about = "print the names of the files, and write nothing"),
    ROW(OPT_TEXT, check, .name = "check", .value = "DIR",
        .about = "compare DIR with what would be written (default: with its manifest); exit 1 if it differs"),
    ROW(OPT_TEXT, template_dir, .name = "template-dir", .value = "D",
        .about = "templates here override the built-in ones"),
    ROW(OPT_FLAG, json, .name = "json", .about = "print what was written as JSON"),
};

static bool is_directory(const char *path) {
  struct stat st;
  return !stat(path, &st) && S_ISDIR(st.st_mode);
}

// ---- which kernels ----

static int check_options(const struct emit_options *o, int n_operands, struct error *err) {
  static const char usage[] = "usage: strobe emit SPEC... --target T -o DIR, or strobe emit --set-file F -o DIR";
  if (n_operands && o->set_file)
    return fail(err, STROBE_INVALID, "emit: SPEC and --set-file: only one of them is allowed");
  if (!n_operands && !o->set_file && !o->check) return fail(err, STROBE_INVALID, "emit: SPEC is missing; %s", usage);
  if (n_operands && !o->target && !o->name)
    return fail(err, STROBE_INVALID, "emit: --target T,... is missing; %s", usage);
  if (!n_operands && (o->set || o->printer || o->cite))
    return fail(err, STROBE_INVALID,
                "emit: --set, --printer and --cite go with a SPEC; in a set file they are fields of a line");
  if (o->tuned && (o->set || o->cite))
    return fail(err, STROBE_INVALID, "emit: --tuned and %s: only one of them is allowed", o->set ? "--set" : "--cite");
  if (o->tuned && !n_operands && !o->set_file)
    return fail(err, STROBE_INVALID,
                "emit: --check %.200s compares with its manifest, which holds every config; leave "
                "out --tuned, or give --set-file F",
                o->check);
  if (o->tuned && o->template_dir)
    return fail(err, STROBE_INVALID,
                "emit: --tuned and --template-dir: records are of the built-in templates; only "
                "one of them is allowed");
  if (!o->tuned && (o->db || o->machine))
    return fail(err, STROBE_INVALID, "emit: %s goes with --tuned", o->db ? "--db" : "--machine");
  if (!o->out && !o->list && !o->check) return fail(err, STROBE_INVALID, "emit: --output DIR is missing; %s", usage);
  if (o->check && (o->out || o->list || o->depfile))
    return fail(err, STROBE_INVALID, "emit: --check writes nothing: leave out --output, --list and --depfile");
  if (o->list && o->depfile) return fail(err, STROBE_INVALID, "emit: --list writes nothing: leave out --depfile");
  if (o->template_dir && !is_directory(o->template_dir))
    return fail(err, STROBE_INVALID, "--template-dir \"%.300s\": must be a directory", o->template_dir);
  if (o->prefix && emit_check_name("--prefix", o->prefix, err)) return STROBE_INVALID;
  return o->name ? emit_check_name("--name", o->name, err) : 0;
}

static int read_set(const struct emit_options *o, const char *file, struct kernel_set *set, struct error *err) {
  struct buf text = {0};
  int status = file_read(file, &text, err);
  const struct slice all = {text.data ? text.data : "", text.len};
  set->file = file;
  if (!status && memchr(all.at, 0, all.len))
    status = fail(err, STROBE_INVALID, "%s: it holds a NUL byte; a set file is text", file);
  if (!status && o->tuned && set_is_manifest(all))
    status = fail(err, STROBE_INVALID, "emit: --tuned with %s: a manifest holds every config; leave out --tuned", file);
  if (!status) status = set_is_manifest(all) ? set_parse_manifest(set, all, err) : set_parse(set, all, o->target, err);
  buf_free(&text);
  return status;
}

static int add_operands(const struct emit_options *o, const struct command *c, struct kernel_set *set,
                        struct error *err) {
  struct set_line line = {.targets = o->target, .config = o->set, .cite = o->cite};
  if (o->printer) line.printer = printer_names[o->printer - 1];
  int status = 0;
  for (int i = 0; i < c->n_operands && !status; i++) {
    line.spec = c->operands[i];
    status = set_add(set, &line, i + 1, err);
  }
  return status;
}

// `manifest` is filled with the name of the one in DIR where --check needs it.
static int make_set(const struct command *c, struct kernel_set *set, struct buf *manifest, struct error *err) {
  const struct emit_options *o = c->options;
  if (o->name) memcpy(set->name, o->name, strlen(o->name) + 1);
  if (o->prefix) memcpy(set->prefix, o->prefix, strlen(o->prefix) + 1);
  set->templates.dir = o->template_dir;
  set->dispatcher = !c->n_operands || o->name;
  int status = 0;
  if (c->n_operands) {
    status = add_operands(o, c, set, err);
  } else if (o->set_file) {
    status = read_set(o, o->set_file, set, err);
  } else {
    path_join(o->check, "manifest.json", manifest);
    if (manifest->failed) return fail(err, STROBE_NO_MEMORY, "no memory for a name");
    if (access(manifest->data, F_OK))
      return fail(err, STROBE_IO, "\"%.300s\" is not there: --set-file F or SPEC --target T says what should be",
                  manifest->data);
    status = read_set(o, manifest->data, set, err);
  }
  return status ? status : set_finish(set, err);
}

// ---- --list, --check ----

static int list(const struct emit_options *o, const struct set_files *f, struct error *err) {
  struct buf out = {0};
  struct json j = {.out = &out};
  if (o->json) json_array(&j, NULL);
  for (int i = 0; i < f->n; i++) {
    struct buf path = {0};
    path_join(o->out ? o->out : "", f->output[i].name.data, &path);
    out.failed |= path.failed;
    if (o->json)
      json_string(&j, NULL, path.failed ? "" : path.data);
    else if (!path.failed)
      buf_printf(&out, "%s\n", path.data);
    buf_free(&path);
  }
  if (o->json) json_end(&j);
  return cmd_print(&out, err);
}

struct check_report {
  struct buf text;
  struct json *json; // NULL: lines
};

static void report_state(void *context, enum file_state state, const char *name) {
  struct check_report *r = context;
  if (!r->json) {
    buf_printf(&r->text, "%s %s\n", file_state_names[state], name);
    return;
  }
  json_object(r->json, NULL);
  json_string(r->json, "file", name);
  json_string(r->json, "state", file_state_names[state]);
  json_end(r->json);
}

static void summary(const struct emit_options *o, const int counts[FILE_STATES], struct buf *out) {
  const int stale = counts[FILE_CHANGED] + counts[FILE_MISSING] + counts[FILE_EXTRA];
  if (!stale) {
    buf_printf(out, "%d files are what strobe %s writes\n", counts[FILE_CURRENT], STROBE_VERSION);
    return;
  }
  buf_printf(out, "%d changed, %d missing, %d extra; %d are what strobe %s writes", counts[FILE_CHANGED],
             counts[FILE_MISSING], counts[FILE_EXTRA], counts[FILE_CURRENT], STROBE_VERSION);
  if (counts[FILE_CHANGED] + counts[FILE_MISSING] && o->set_file)
    buf_str(out, "; strobe emit --set-file "), shell_word(o->set_file, out), buf_str(out, o->tuned ? " --tuned" : ""),
        buf_str(out, " -o "), shell_word(o->check, out), buf_str(out, " writes the others");
  buf_char(out, '\n');
}

static int check(const struct emit_options *o, const struct set_files *f, int *code, struct error *err) {
  struct check_report r = {.text = {0}};
  struct json j = {.out = &r.text};
  int counts[FILE_STATES];
  if (o->json) {
    r.json = &j;
    json_object(&j, NULL);
    json_array(&j, "files");
  }
  int status = set_files_check(f, o->check, report_state, &r, counts, err);
  const bool current = !counts[FILE_CHANGED] && !counts[FILE_MISSING] && !counts[FILE_EXTRA];
  if (o->json) {
    json_end(&j);
    for (int i = 0; i < FILE_STATES; i++) json_integer(&j, file_state_names[i], counts[i]);
    json_bool(&j, "ok", current);
    json_end(&j);
  } else {
    summary(o, counts, &r.text);
  }
  *code = current ? 0 : 1;
  if (!status) return cmd_print(&r.text, err);
  buf_free(&r.text);
  return status;
}

// ---- writing ----

// What the set is made of: the set file, the database, and templates that override built-in ones.
static int depends(const struct emit_options *o, const struct emit_tuned *t, const struct set_files *f,
                   struct buf *rule, struct error *err) {
  struct buf *owned = calloc((size_t)embedded_count, sizeof *owned);
  const char **inputs = calloc((size_t)embedded_count + 2, sizeof *inputs);
  int n = 0, n_owned = 0, status = owned && inputs ? 0 : fail(err, STROBE_NO_MEMORY, "no memory for a depfile");
  if (!status && o->set_file) inputs[n++] = o->set_file;
  if (!status && o->tuned && !access(t->path.data, F_OK)) inputs[n++] = t->path.data;
  for (int i = 0; i < embedded_count && !status && o->template_dir; i++) {
    struct stat st;
    struct buf *path = &owned[n_owned++];
    path_join(o->template_dir, embedded_files[i].name, path);
    if (path->failed)
      status = fail(err, STROBE_NO_MEMORY, "no memory for a depfile");
    else if (!stat(path->data, &st))
      inputs[n++] = path->data;
  }
  for (int i = 0; i < n && !status; i++)
    if (file_same(o->depfile, inputs[i]))
      status = fail(err, STROBE_INVALID, "--depfile \"%.200s\" is what the set is made of: must be another file",
                    o->depfile);
  if (!status) set_files_rule(f, o->out, inputs, n, rule);
  if (!status && rule->failed) status = fail(err, STROBE_NO_MEMORY, "no memory for a depfile");
  for (int i = 0; i < n_owned; i++) buf_free(&owned[i]);
  free(owned);
  free(inputs);
  return status;
}

static void report_json(const struct emit_options *o, const struct emit_tuned *t, const struct kernel_set *set,
                        const struct set_files *f, int changed, struct buf *out) {
  struct json j = {.out = out};
  json_object(&j, NULL);
  if (set->n == 1 && !set->dispatcher) {
    const struct emit_request r = set_request(set, 0);
    struct buf symbol = {0}, path[2] = {{0}};
    emit_symbol(&r, &symbol);
    for (int i = 0; i < 2; i++) path_join(o->out, f->output[i].name.data, &path[i]);
    out->failed |= symbol.failed || path[0].failed || path[1].failed;
    if (!out->failed) {
      json_string(&j, "name", symbol.data);
      json_string(&j, "symbol", symbol.data);
      json_string(&j, "source", path[0].data);
      json_string(&j, "header", path[1].data);
      json_integer(&j, "scratch_bytes", f->output[0].scratch_bytes);
    }
    buf_free(&symbol), buf_free(&path[0]), buf_free(&path[1]);
  } else {
    json_string(&j, "directory", o->out);
    if (set->dispatcher) {
      struct buf function = {0}, header = {0};
      buf_printf(&function, "%s%s_forward", set->prefix, set->name);
      buf_printf(&header, "%s_dispatch.h", set->name);
      out->failed |= function.failed || header.failed;
      json_string(&j, "function", function.failed ? "" : function.data);
      json_string(&j, "header", header.failed ? "" : header.data);
      buf_free(&function), buf_free(&header);
    }
    json_integer(&j, "kernels", set->n);
    json_integer(&j, "files", f->n);
    json_integer(&j, "files_changed", changed);
  }
  if (o->tuned) json_integer(&j, "tuned", t->found);
  json_bool(&j, "changed", changed > 0);
  json_end(&j);
}

static int report(const struct emit_options *o, const struct emit_tuned *t, const struct kernel_set *set,
                  const struct set_files *f, int changed, struct error *err) {
  struct buf out = {0};
  if (o->json) {
    report_json(o, t, set, f, changed, &out);
    return cmd_print(&out, err);
  }
  for (int i = 0; i < f->n && (f->n < 5 || !set->dispatcher); i++) {
    buf_str(&out, changed ? "wrote   " : "current ");
    path_join(o->out, f->output[i].name.data, &out);
    buf_char(&out, '\n');
  }
  if (o->tuned)
    buf_printf(&out, "tuned   %d of %d kernels, by records of %s\n", t->found, t->found + t->missing, t->machine);
  if (set->dispatcher) {
    buf_printf(&out, "%s %s: %d kernels, %d files, %d of them changed\n", changed ? "wrote  " : "current", o->out,
               set->n, f->n, changed);
    buf_printf(&out, "call    %s%s_forward, declared in %s_dispatch.h\n", set->prefix, set->name, set->name);
  } else if (set->n == 1) {
    const struct emit_request r = set_request(set, 0);
    buf_str(&out, "symbol ");
    emit_symbol(&r, &out);
    buf_char(&out, '\n');
  }
  return cmd_print(&out, err);
}

static int write_files(const struct emit_options *o, const struct emit_tuned *t, const struct kernel_set *set,
                       const struct set_files *f, struct error *err) {
  struct buf rule = {0};
  int changed = 0, status = o->depfile ? depends(o, t, f, &rule, err) : 0;
  if (!status) status = set_files_write(f, o->out, o->depfile, &rule, &changed, err);
  if (!status) status = report(o, t, set, f, changed, err);
  buf_free(&rule);
  return status;
}

static int run(const struct command *c, struct error *err) {
  const struct emit_options *o = c->options;
  struct kernel_set set = {.n = 0};
  struct emit_tuned tuned = {.found = 0};
  struct set_files files = {.output = NULL};
  struct buf manifest = {0};
  int code = 0, status = check_options(o, c->n_operands, err);
  if (!status && o->tuned) status = emit_tuned_open(&tuned, o->db, o->machine, &set, err);
  if (!status) status = make_set(c, &set, &manifest, err);
  if (!status) status = set_files_render(&set, o->list, &files, err);
  if (!status)
    status = o->list    ? list(o, &files, err)
             : o->check ? check(o, &files, &code, err)
                        : write_files(o, &tuned, &set, &files, err);
  if (!status) emit_tuned_report(&tuned);
  emit_tuned_close(&tuned);
  set_files_free(&files);
  set_free(&set);
  buf_free(&manifest);
  return status ? 2 : code;
}

const struct verb verb_emit = {
    .name = "emit",
    .operands = "[SPEC]...",
    .about = "write kernels as C or CUDA files that need only a compiler, to be owned by another project",
    .details =
        "The files are written whole or not at all, and only if they would change. Sizes in SPEC, if any, guide "
        "the choice of\n"
        "a config; the kernel serves every size. With --set-file or --name also a dispatcher, NAME_dispatch.c and "
        ".h, which\n"
        "chooses a kernel by head dims, dtypes, mask and CPU at run time, CMakeLists.txt, and manifest.json, "
        "from which --check\n"
        "tells whether the files are what this version writes. With --tuned a line without set= takes the config that "
        "strobe\n"
        "tune recorded for its sizes; if none are given, that of the longest K and V. The manifest keeps it, so that "
        "--check\n"
        "needs no database.",
    .example = "  $ strobe emit d64:f32:causal --target avx512 -o third_party/attn\n"
               "  wrote   third_party/attn/attn_fwd_d64_f32_causal_m64n128s2_avx512_1c2b3a4d.c\n"
               "  wrote   third_party/attn/attn_fwd_d64_f32_causal_m64n128s2_avx512_1c2b3a4d.h\n"
               "  symbol attn_fwd_d64_f32_causal_m64n128s2_avx512_1c2b3a4d\n"
               "  $ strobe emit --set-file kernels.txt --prefix foo_ -o third_party/attn\n"
               "  $ cc -O2 -c third_party/attn/*.c\n"
               "  $ strobe emit --check third_party/attn\n"
               "  $ strobe emit --tuned d64:f32:causal --target avx512 -o third_party/attn",
    .rows = rows,
    .n_rows = sizeof rows / sizeof *rows,
    .options_size = sizeof(struct emit_options),
    .least_operands = 0,
    .most_operands = -1,
    .run = run,
};
