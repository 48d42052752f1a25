// manifest.json: what is in a directory of emitted files, and all that is needed to write it again.
#include "set_manifest.h"

#include "json.h"
#include "json_read.h"
#include "sha256.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

// ---- writing ----

static void hash_of(const struct output *o, struct json *j) {
  char hash[72] = "sha256:";
  sha256_hex(o->text.data ? o->text.data : "", o->text.len, hash + 7);
  json_string(j, "file", o->name.data);
  json_string(j, "hash", hash);
}

static void kernel_members(const struct kernel_set *set, int i, struct json *j) {
  const struct emit_request r = set_request(set, i);
  const struct set_entry *e = &set->entry[i];
  struct instance kernel = *r.instance;
  if (kernel.spec.mask == MASK_CAUSAL_TOP_LEFT) kernel.spec.mask = MASK_CAUSAL;
  struct buf symbol = {0}, spec = {0}, config = {0}, command = {0};
  emit_symbol(&r, &symbol);
  spec_print(&kernel.spec, &spec);
  config_print(&kernel.config, kernel.target, &config);
  emit_command(&r, &command);
  j->out->failed |= symbol.failed || spec.failed || config.failed || command.failed;
  if (!j->out->failed) {
    json_string(j, "symbol", symbol.data);
    json_string(j, "spec", spec.data);
    json_string(j, "config", config.data);
    json_string(j, "target", kernel.target->name);
    if (kernel.target->family == FAMILY_CPU) json_string(j, "printer", printer_names[e->printer]);
    if (*e->cite) json_string(j, "tuned", e->cite);
    json_string(j, "command", command.data);
  }
  buf_free(&symbol), buf_free(&spec), buf_free(&config), buf_free(&command);
}

void manifest_command(const struct kernel_set *set, struct buf *out) {
  buf_str(out, "strobe emit --set-file manifest.json");
  if (set->templates.dir) {
    buf_str(out, " --template-dir ");
    shell_word(set->templates.dir, out);
  }
  buf_str(out, " -o .");
}

void manifest_write(const struct kernel_set *set, const struct output *outputs, int n, struct buf *out) {
  char templates[17];
  struct buf command = {0};
  struct json j = {.out = out};
  snprintf(templates, sizeof templates, "%016" PRIx64, templates_hash());
  manifest_command(set, &command);
  json_object(&j, NULL);
  json_string(&j, "strobe", STROBE_VERSION);
  json_string(&j, "templates", templates);
  json_string(&j, "name", set->name);
  json_string(&j, "prefix", set->prefix);
  json_string(&j, "command", command.failed ? "" : command.data);
  json_array(&j, "files");
  for (int i = 0; i < n; i++) {
    if (outputs[i].kernel == OUTPUT_MANIFEST) continue;
    json_object(&j, NULL);
    hash_of(&outputs[i], &j);
    if (outputs[i].kernel >= 0) kernel_members(set, outputs[i].kernel, &j);
    json_end(&j);
  }
  json_end(&j);
  json_end(&j);
  out->failed |= command.failed;
  buf_free(&command);
}

// ---- reading ----

enum { FIELD_FILE, FIELD_SPEC, FIELD_CONFIG, FIELD_TARGET, FIELD_PRINTER, FIELD_TUNED, FIELD_COUNT };
struct fields {
  struct buf value[FIELD_COUNT];
};

static const char *text_of(const struct fields *f, int field) {
  return f->value[field].len ? f->value[field].data : NULL;
}

static int add_file(struct kernel_set *set, const struct fields *f, int at, struct error *err) {
  const char *file = text_of(f, FIELD_FILE);
  const size_t len = file ? strlen(file) : 0;
  for (int i = 0; i < FIELD_COUNT; i++)
    if (f->value[i].failed) return fail(err, STROBE_NO_MEMORY, "no memory to read a manifest");
  if (!text_of(f, FIELD_SPEC) || (len > 2 && !strcmp(file + len - 2, ".h"))) return 0; // a header is its source's
  const struct set_line line = {text_of(f, FIELD_SPEC), text_of(f, FIELD_TARGET), text_of(f, FIELD_PRINTER),
                                text_of(f, FIELD_CONFIG), text_of(f, FIELD_TUNED)};
  return set_add(set, &line, at, err);
}

static int take_name(const char *key, const char *value, char out[65], struct error *err) {
  if (*out) return 0; // the command line has said what it is
  const int status = emit_check_name(key, value, err);
  if (!status) memcpy(out, value, strlen(value) + 1);
  return status;
}

static int top_member(struct kernel_set *set, const struct json_reader *r, enum json_event event, struct error *err) {
  const bool name = !strcmp(r->key.data, "name");
  if (!name && strcmp(r->key.data, "prefix")) return 0;
  if (event != JSON_TEXT) return fail(err, STROBE_INVALID, "\"%s\": must be a string", r->key.data);
  return take_name(r->key.data, r->text.data, name ? set->name : set->prefix, err);
}

static int file_member(struct fields *f, const struct json_reader *r, enum json_event event, struct error *err) {
  static const char *const names[FIELD_COUNT] = {"file", "spec", "config", "target", "printer", "tuned"};
  int i = 0;
  while (i < FIELD_COUNT && strcmp(r->key.data, names[i])) i++;
  if (i == FIELD_COUNT) return 0;
  if (event != JSON_TEXT) return fail(err, STROBE_INVALID, "\"%s\": must be a string", names[i]);
  f->value[i].len = 0;
  buf_str(&f->value[i], r->text.data);
  return 0;
}

// *line: of what an error is about.
static int parse(struct kernel_set *set, struct json_reader *r, struct fields *f, int *line, struct error *err) {
  int status = 0, begin = 0;
  bool in_files = false;
  for (enum json_event event; !status && (event = json_read(r, err)) != JSON_DONE;) {
    *line = json_read_line(r);
    if (event == JSON_ERROR) return STROBE_INVALID;
    const bool opens = event == JSON_OBJECT || event == JSON_ARRAY, closes = event == JSON_CLOSE;
    const int depth = r->depth - opens; // of what the value is in
    if (event == JSON_ARRAY && depth == 1) in_files = !strcmp(r->key.data, "files");
    if (!closes && depth == 1) status = top_member(set, r, event, err);
    if (!in_files) continue;
    if (event == JSON_OBJECT && depth == 2) {
      begin = *line;
      for (int i = 0; i < FIELD_COUNT; i++) f->value[i].len = 0;
    }
    if (!closes && depth == 3) status = file_member(f, r, event, err);
    if (closes && depth == 2) status = add_file(set, f, *line = begin, err);
  }
  return status;
}

bool set_is_manifest(struct slice text) {
  while (text.len && strchr(" \t\r\n", *text.at) && *text.at) text.at++, text.len--;
  return text.len && *text.at == '{';
}

int set_parse_manifest(struct kernel_set *set, struct slice text, struct error *err) {
  struct json_reader r;
  struct fields f = {{{0}}};
  struct error why = {0};
  json_read_start(&r, text.at, text.len);
  int line = 0, status = parse(set, &r, &f, &line, &why);
  if (status) status = set_fail(set, line, &why, err);
  for (int i = 0; i < FIELD_COUNT; i++) buf_free(&f.value[i]);
  json_read_free(&r);
  return status;
}
