#include "cmd.h"
#include "file.h"
#include "scan.h"

#include "../runtime/tune_db.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

struct db_options {
  const char *db, *out;
  bool all, c, json;
};

#define ROW(kind, field, ...) OPTION(kind, struct db_options, field, __VA_ARGS__)
static const struct option_row rows[] = {
    ROW(OPT_TEXT, db, .name = "db", .value = "FILE",
        .about = "the database (default: $STROBE_DB, else the cache directory)"),
    ROW(OPT_FLAG, all, .name = "all", .about = "show: every candidate that was timed, not only what decides"),
    ROW(OPT_FLAG, json, .name = "json", .about = "show: print an array as JSON"),
    ROW(OPT_FLAG, c, .name = "c", .about = "export: as C, a string that a program compiles in"),
    ROW(OPT_TEXT, out, .name = "output", .letter = 'o', .value = "FILE",
        .about = "export: write there (default: standard output)"),
};

struct session {
  const struct db_options *opt;
  char *const *files; // operands after the action
  int n_files;
  const char *path;
};

static int read_db(const struct session *s, struct tune_db *db, struct error *err) {
  int status = tune_db_read_own(s->path, db, err);
  if (!status && db->malformed)
    fprintf(stderr, "strobe: %s: %d malformed line%s skipped\n", s->path, db->malformed, db->malformed == 1 ? "" : "s");
  return status;
}

static void add_json(struct json *j, const struct tune_record *r) {
  json_object(j, NULL);
  json_string(j, "spec", r->key.spec);
  json_string(j, "bucket", r->key.bucket);
  json_string(j, "target", r->key.target);
  json_integer(j, "workers", r->key.workers);
  json_string(j, "machine", r->key.machine);
  json_string(j, "version", r->key.version);
  json_string(j, "templates", r->key.templates);
  json_string(j, "config", r->config);
  json_string(j, "mark", tune_mark_names[r->mark]);
  json_number(j, "ms", r->ms, 6);
  json_number(j, "default_ms", r->default_ms, 6);
  json_integer(j, "runs", r->runs);
  json_number(j, "noise", r->noise, 4);
  json_end(j);
}

static int show(const struct session *s, struct error *err) {
  static const char *const header[] = {"spec", "bucket", "target",         "workers", "machine",
                                       "mark", "ms",     "time / default", "config"};
  struct tune_db db = {0};
  struct buf out = {0};
  struct json j = {.out = &out};
  struct table t;
  int status = read_db(s, &db, err);
  table_begin(&t, "lllrllrrl", header);
  if (s->opt->json) json_array(&j, NULL);
  for (int i = 0; i < db.n; i++) {
    const struct tune_record *r = &db.records[i];
    if (r->mark == TUNE_TRIED && !s->opt->all) continue;
    if (s->opt->json) add_json(&j, r);
    table_cell(&t, CELL_PLAIN, "%s", r->key.spec);
    table_cell(&t, CELL_PLAIN, "%s", r->key.bucket);
    table_cell(&t, CELL_PLAIN, "%s", r->key.target);
    table_cell(&t, CELL_PLAIN, "%d", r->key.workers);
    table_cell(&t, CELL_FAINT, "%s", r->key.machine);
    table_cell(&t, r->mark == TUNE_BEST ? CELL_GOOD : CELL_FAINT, "%s", tune_mark_names[r->mark]);
    table_cell(&t, CELL_PLAIN, "%.4g", r->ms);
    table_cell(&t, CELL_PLAIN, "%.3f", r->default_ms > 0 ? r->ms / r->default_ms : 1.0);
    table_cell(&t, CELL_PLAIN, "%s", r->config);
  }
  if (s->opt->json)
    json_end(&j);
  else
    table_print(&t, cmd_colour(), &out);
  table_free(&t);
  tune_db_free(&db);
  if (!status) status = cmd_print(&out, err);
  buf_free(&out);
  return status;
}

static int merge(const struct session *s, struct error *err) {
  struct tune_db all = {0};
  int status =
      s->n_files ? 0
                 : fail(err, STROBE_INVALID, "db merge: no file is given; usage: strobe db merge FILE... [--db FILE]");
  for (int i = 0; i < s->n_files && !status; i++) {
    struct session other = *s;
    struct tune_db one = {0};
    other.path = s->files[i];
    struct buf text = {0};
    status = file_read(other.path, &text, err); // unlike the database itself, it must be there
    buf_free(&text);
    if (!status) status = read_db(&other, &one, err);
    for (int r = 0; r < one.n && !status; r++) status = tune_db_add(&all, &one.records[r], err);
    tune_db_free(&one);
  }
  if (!status) status = tune_db_merge(s->path, &all, err);
  if (!status) printf("merged %d record%s into %s\n", all.n, all.n == 1 ? "" : "s", s->path);
  tune_db_free(&all);
  return status;
}

static int prune(const struct session *s, struct error *err) {
  int dropped = 0, status = tune_db_prune_file(s->path, &dropped, err);
  if (!status) printf("dropped %d record%s of other versions from %s\n", dropped, dropped == 1 ? "" : "s", s->path);
  return status;
}

// As lines of a C string: strobe_context_options.tunings takes it.
static void print_c(const struct buf *text, struct buf *out) {
  buf_str(out, "// Tunings for strobe_context_options.tunings, written by strobe db export --c.\nconst char "
               "strobe_tunings[] =\n    \"");
  for (size_t i = 0; i < text->len; i++) {
    const char c = text->data[i];
    if (c == '\n')
      buf_str(out, i + 1 < text->len ? "\\n\"\n    \"" : "\\n");
    else if (c == '\t')
      buf_str(out, "\\t");
    else if (c == '"' || c == '\\' || c == '?') // a trigraph would be another character
      buf_char(out, '\\'), buf_char(out, c);
    else
      buf_char(out, c);
  }
  buf_str(out, "\";\n");
}

static int export(const struct session *s, struct error *err) {
  struct tune_db db = {0};
  struct buf text = {0}, out = {0};
  int status = read_db(s, &db, err), kept = 0;
  for (int i = 0; i < db.n; i++) // what decides
    if (db.records[i].mark != TUNE_TRIED) db.records[kept++] = db.records[i];
  db.n = kept;
  db.others.len = 0; // nor comments
  tune_db_print(&db, &text);
  if (s->opt->c)
    print_c(&text, &out);
  else
    buf_add(&out, text.data ? text.data : "", text.len);
  if (text.failed || out.failed) status = fail(err, STROBE_NO_MEMORY, "no memory for an export");
  const struct file_text file = {s->n_files ? s->files[0] : s->opt->out, out.data, out.len};
  if (!status) status = file.path ? files_write(&file, 1, NULL, err) : cmd_print(&out, err);
  tune_db_free(&db);
  buf_free(&text);
  buf_free(&out);
  return status;
}

static int path(const struct session *s, struct error *err) {
  struct buf out = {0};
  buf_printf(&out, "%s\n", s->path);
  return cmd_print(&out, err);
}

enum { TAKES_ALL = 1, TAKES_JSON = 2, TAKES_C = 4, TAKES_OUTPUT = 8 };
static const struct action {
  const char *name;
  int most_files, takes; // options beside --db
  int (*run)(const struct session *s, struct error *err);
} actions[] = {{"show", 0, TAKES_ALL | TAKES_JSON, show},
               {"merge", INT_MAX, 0, merge},
               {"prune", 0, 0, prune},
               {"export", 1, TAKES_C | TAKES_OUTPUT, export},
               {"path", 0, 0, path}};
enum { N_ACTIONS = sizeof actions / sizeof *actions };

static int check_flags(const struct action *a, const struct db_options *o, struct error *err) {
  const struct {
    const char *name, *of;
    int bit;
    bool given;
  } flag[] = {{"--all", "show", TAKES_ALL, o->all},
              {"--json", "show", TAKES_JSON, o->json},
              {"--c", "export", TAKES_C, o->c},
              {"--output", "export", TAKES_OUTPUT, o->out}};
  for (size_t i = 0; i < sizeof flag / sizeof *flag; i++)
    if (flag[i].given && !(a->takes & flag[i].bit))
      return fail(err, STROBE_INVALID, "db %s %s: it goes with db %s; leave it out", a->name, flag[i].name, flag[i].of);
  return 0;
}

static int act(const struct session *s, const char *name, struct error *err) {
  const char *names[N_ACTIONS];
  for (int i = 0; i < N_ACTIONS; i++) {
    names[i] = actions[i].name;
    if (strcmp(name, names[i])) continue;
    const int most = actions[i].run == export && s->opt->out ? 0 : actions[i].most_files;
    if (s->n_files > most)
      return fail(err, STROBE_INVALID, "db %s: \"%.100s\" is one argument too many; --db names the database", name,
                  s->files[most]);
    const int status = check_flags(&actions[i], s->opt, err);
    return status ? status : actions[i].run(s, err);
  }
  return fail(err, STROBE_INVALID, "db \"%s\": must be show, merge, prune, export or path; the nearest is %s",
              quote(slice_of(name)).text, nearest_name(slice_of(name), names, N_ACTIONS));
}

static int run(const struct command *c, struct error *err) {
  struct buf found = {0};
  const struct db_options *o = c->options;
  tune_db_path(o->db, &found);
  struct session s = {.opt = o, .files = c->operands + 1, .n_files = c->n_operands - 1, .path = found.data};
  int status = found.failed || !found.data ? fail(err, STROBE_NO_MEMORY, "no memory for a path")
               : !*found.data
                   ? fail(err, STROBE_INVALID, "db: there is no HOME and no STROBE_DB; --db FILE names the database")
                   : act(&s, c->operands[0], err);
  buf_free(&found);
  return status ? 2 : 0;
}

const struct verb verb_db = {
    .name = "db",
    .operands = "show|merge|prune|export|path [FILE]...",
    .about = "look at the tuning database, and carry it elsewhere",
    .details =
        "show prints what decides; merge adds the records of other databases (the better measured wins); prune drops\n"
        "records of other versions; export [FILE] writes what decides, with --c as a string for\n"
        "strobe_context_options.tunings; "
        "path prints where the database is.",
    .example = "  $ strobe db merge other-machine.txt\n"
               "  merged 412 records into /home/me/.cache/strobe/tunings.txt",
    .rows = rows,
    .n_rows = sizeof rows / sizeof *rows,
    .options_size = sizeof(struct db_options),
    .least_operands = 1,
    .most_operands = -1,
    .run = run,
};
