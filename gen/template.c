// Renders a template: walks the lines of a file, opens includes and bodies, hands `@` lines to the sink.
#include "template_scope.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Where lines come from and where they go: columns of the file minus `shift` is the output column.
struct frame {
  const struct template_file *file;
  int shift;
};

static int run(struct render *r, const struct frame *f, int from, int to);

// ---- errors ----

// Puts `file:line:` before the sentence and the include chain behind it, once.
static int locate(struct render *r, const struct frame *f, int line, int status) {
  if (!status || r->located || !r->err) return status;
  r->located = true;
  char text[sizeof r->err->text], chain[240] = "";
  size_t n = 0;
  int i = r->depth - 1;
  for (; i >= 0 && n < sizeof chain - 60; i--)
    n += (size_t)snprintf(chain + n, sizeof chain - n, "%s%.40s:%d", n ? ", " : " (included from ", r->chain[i].file,
                          r->chain[i].line);
  if (n) snprintf(chain + n, sizeof chain - n, i >= 0 ? ", ...)" : ")");
  memcpy(text, r->err->text, sizeof text);
  snprintf(r->err->text, sizeof r->err->text, "%.60s:%d: %.300s%s", f->file->name, line + 1, text, chain);
  for (char *c = r->err->text; *c; c++)
    if ((unsigned char)*c < ' ' || *c == 127) *c = '?'; // a template may hold any bytes, a message is one line
  return status;
}

// ---- lines ----

static int put_text(struct render *r, const struct frame *f, const struct line *l) {
  if (l->kind == LINE_COMMENT && r->options->drop_comments) return 0;
  if (r->in_block && l->kind != LINE_COMMENT)
    return fail(r->err, STROBE_INVALID, "only directives, @ lines and comments may stand in a $block");
  int status = scope_substitute(r, f->file, l), indent = l->indent - f->shift;
  if (status) return status;
  // Before it is written: the columns of includes add up.
  if (r->out->len - r->start + (size_t)indent + r->text.len >= r->max_output)
    return fail(r->err, STROBE_INVALID, "more than %zu bytes of output", r->max_output);
  for (int i = 0; i < indent; i++) buf_char(r->out, ' ');
  buf_add(r->out, r->text.data ? r->text.data : "", r->text.len);
  buf_char(r->out, '\n');
  return 0;
}

static void put_blank(struct render *r) {
  const struct buf *o = r->out;
  if (r->options->drop_comments || o->len < r->start + 2 ||
      (o->data[o->len - 1] == '\n' && o->data[o->len - 2] == '\n'))
    return;
  buf_char(r->out, '\n');
}

static int body(struct render *r, const struct frame *f, int line) {
  const struct line *l = &f->file->lines[line];
  struct frame inner = {f->file, f->shift + l->body_indent - l->indent};
  if (++r->nesting > MAX_NESTING) return fail(r->err, STROBE_INVALID, "bodies nest deeper than %d", MAX_NESTING);
  int scope = r->n_bindings, mark = r->sink && r->sink->mark ? r->sink->mark(r->sink->context) : 0;
  int status = run(r, &inner, line + 1, l->body_end);
  r->nesting--;
  if (r->sink && r->sink->release) r->sink->release(r->sink->context, mark);
  scope_unbind(r, scope);
  return status;
}

// `I in A..B step S, ...`: the loop whose clause starts at e->p, and those after it inside.
static int for_clause(struct render *r, const struct frame *f, int line, struct expr e) {
  const char *name;
  size_t len = expr_name(&e, &name);
  struct value from, to, step = {.integer = 1};
  int status;
  if (!len || !expr_take(&e, "in")) return fail(r->err, STROBE_INVALID, "$for is written: $for I in A..B, J in C..D");
  if ((status = expr_parse(&e, &from))) return status;
  if (!expr_take(&e, ".."))
    return fail(r->err, STROBE_INVALID, "$for %.*s: expected .. after the first bound", (int)len, name);
  if ((status = expr_parse(&e, &to))) return status;
  if (expr_take(&e, "step") && (status = expr_parse(&e, &step))) return status;
  if (from.is_string || to.is_string || step.is_string || step.integer < 1)
    return fail(r->err, STROBE_INVALID, "$for %.*s: bounds are integers and a step is at least 1", (int)len, name);
  bool more = expr_take(&e, ",");
  if (more && ++r->nesting > MAX_NESTING)
    return fail(r->err, STROBE_INVALID, "bodies nest deeper than %d", MAX_NESTING);
  if (!more && expr_take(&e, "") && e.p < e.end)
    return fail(r->err, STROBE_INVALID, "$for: unexpected '%.*s'", (int)(e.end - e.p > 40 ? 40 : e.end - e.p), e.p);
  for (int64_t i = from.integer; i < to.integer && !status;
       i = i > INT64_MAX - step.integer ? INT64_MAX : i + step.integer) {
    int scope = r->n_bindings;
    if (++r->steps > r->max_steps) return fail(r->err, STROBE_INVALID, "more than %zu steps", r->max_steps);
    if ((status = scope_bind(r, name, len, (struct value){.integer = i}))) return status;
    status = more ? for_clause(r, f, line, e) : body(r, f, line);
    scope_unbind(r, scope);
  }
  r->nesting -= more;
  return status;
}

static int condition(struct render *r, const struct line *l, const char *what, bool *out) {
  struct value v;
  int status = scope_evaluate(r, l->text, (size_t)l->len, &v);
  if (status) return status;
  if (v.is_string) return fail(r->err, STROBE_INVALID, "%s needs an integer, not a string", what);
  *out = v.integer != 0;
  return 0;
}

// An $if with its $elif and $else; *next gets the line after them.
static int if_chain(struct render *r, const struct frame *f, int line, int to, int *next) {
  const struct line *lines = f->file->lines;
  bool taken = false, ended = false;
  int status = 0, at = line;
  for (;;) {
    const struct line *l = &lines[at];
    bool yes = true;
    if (!taken && l->kind != LINE_ELSE && (status = condition(r, l, l->kind == LINE_IF ? "$if" : "$elif", &yes)))
      return locate(r, f, at, status);
    if (l->kind == LINE_ELSE && l->len)
      return locate(r, f, at, fail(r->err, STROBE_INVALID, "$else takes no condition: $elif does"));
    if (!taken && yes) {
      taken = true;
      if ((status = body(r, f, at))) return status;
    }
    ended |= l->kind == LINE_ELSE;
    *next = l->body_end;
    int after = l->body_end;
    while (after < to && (lines[after].kind == LINE_BLANK || lines[after].kind == LINE_NOTE)) after++;
    if (ended || after >= to || (lines[after].kind != LINE_ELIF && lines[after].kind != LINE_ELSE) ||
        lines[after].indent != lines[line].indent)
      return 0;
    at = after;
  }
}

static int let(struct render *r, const struct line *l) {
  struct expr e = scope_expression(r, l->text, (size_t)l->len);
  const char *name;
  size_t len = expr_name(&e, &name);
  struct value v;
  if (!len || !expr_take(&e, "=")) return fail(r->err, STROBE_INVALID, "$let is written: $let NAME = expression");
  int status = scope_evaluate(r, e.p, (size_t)(e.end - e.p), &v);
  return status ? status : scope_bind(r, name, len, v);
}

static int assertion(struct render *r, const struct line *l) {
  struct expr e = scope_expression(r, l->text, (size_t)l->len);
  struct value v, why;
  int status = expr_parse(&e, &v);
  if (status) return status;
  if (!expr_take(&e, ",")) return fail(r->err, STROBE_INVALID, "$assert is written: $assert expression, \"why\"");
  if ((status = expr_parse(&e, &why))) return status;
  if (v.is_string || !why.is_string) return fail(r->err, STROBE_INVALID, "$assert takes an integer and a string");
  if (expr_take(&e, "") && e.p < e.end)
    return fail(r->err, STROBE_INVALID, "$assert: unexpected '%.*s'", (int)(e.end - e.p > 40 ? 40 : e.end - e.p), e.p);
  if (v.integer) return 0;
  struct buf b = {0};
  if (!(status = scope_expand(r, why, &b)))
    status = fail(r->err, b.failed ? STROBE_NO_MEMORY : STROBE_UNSUPPORTED, "%.300s", b.len ? b.data : "");
  buf_free(&b);
  return status;
}

static int open_file(struct render *r, const char *name, size_t len, const struct template_file **out) {
  for (int i = 0; i < r->n_files; i++)
    if (strlen(r->files[i].name) == len && !memcmp(r->files[i].name, name, len)) return *out = &r->files[i], 0;
  if (r->n_files == TPL_MAX_FILES) return fail(r->err, STROBE_INVALID, "more than %d template files", TPL_MAX_FILES);
  struct kept *k = malloc(sizeof *k + len + 1);
  if (!k) return fail(r->err, STROBE_NO_MEMORY, "out of memory");
  memcpy(k->text, name, len);
  k->text[len] = 0;
  k->next = r->kept;
  r->kept = k;
  size_t size = 0;
  const char *text = r->options->load ? r->options->load(r->options->load_context, k->text, &size) : NULL;
  if (!text) return fail(r->err, STROBE_INVALID, "template %.80s is not there", k->text);
  int line, status = template_split(k->text, text, size, &r->symbols, &r->files[r->n_files], &line, r->err);
  if (status) {
    struct frame f = {&r->files[r->n_files], 0};
    locate(r, &f, line - 1, status);
    template_file_free(&r->files[r->n_files]);
    return status;
  }
  *out = &r->files[r->n_files++];
  return 0;
}

static int include(struct render *r, const struct frame *f, int line) {
  const struct line *l = &f->file->lines[line];
  struct expr e = scope_expression(r, l->text, (size_t)l->len);
  struct value name, v;
  const struct template_file *file;
  int status = expr_parse(&e, &name), scope = r->n_bindings;
  if (status) return status;
  if (!name.is_string) return fail(r->err, STROBE_INVALID, "$include is written: $include \"file\" with A = 1, B = 2");
  if (memchr(name.text, 0, name.len)) return fail(r->err, STROBE_INVALID, "$include: NUL in the name of a file");
  bool more = expr_take(&e, "with");
  while (more && !status) {
    const char *argument;
    size_t len = expr_name(&e, &argument);
    if (!len || !expr_take(&e, "="))
      return fail(r->err, STROBE_INVALID, "$include: expected NAME = expression after with");
    if (!(status = expr_parse(&e, &v))) status = scope_bind(r, argument, len, v);
    more = expr_take(&e, ",");
  }
  if (status) return status;
  if (expr_take(&e, "") && e.p < e.end)
    return fail(r->err, STROBE_INVALID, "$include: unexpected '%.*s'", (int)(e.end - e.p > 40 ? 40 : e.end - e.p), e.p);
  if (r->depth == MAX_INCLUDE) return fail(r->err, STROBE_INVALID, "includes nest deeper than %d", MAX_INCLUDE);
  r->chain[r->depth++] = (struct tpl_place){f->file->name, line + 1};
  if ((status = open_file(r, name.text, name.len, &file))) return r->depth--, status;
  struct frame inner = {file, f->shift - l->indent};
  int mark = r->sink && r->sink->mark ? r->sink->mark(r->sink->context) : 0;
  status = run(r, &inner, 0, file->n_lines);
  r->depth--;
  if (r->sink && r->sink->release) r->sink->release(r->sink->context, mark);
  scope_unbind(r, scope);
  return status;
}

static int block(struct render *r, const struct frame *f, int line) {
  const struct line *l = &f->file->lines[line];
  const struct tpl_sink *s = r->sink;
  if (!s || !s->block_begin || !s->block_end) return fail(r->err, STROBE_INVALID, "$block is not allowed here");
  if (r->in_block) return fail(r->err, STROBE_INVALID, "a $block inside a $block");
  int status = scope_substitute(r, f->file, l);
  if (status || (status = s->block_begin(s->context, r->text.data ? r->text.data : "", r->text.len,
                                         l->indent - f->shift, r->out, r->err)))
    return status;
  r->in_block = true;
  status = body(r, f, line);
  r->in_block = false;
  return status ? status : s->block_end(s->context, r->out, r->err);
}

typedef int sink_text(void *context, const char *text, size_t len, int indent, struct buf *out, struct error *err);

static int to_sink(struct render *r, const struct frame *f, const struct line *l, sink_text *call, const char *what) {
  if (!call) return fail(r->err, STROBE_INVALID, "%s is not allowed here", what);
  int status = scope_substitute(r, f->file, l);
  return status ? status
                : call(r->sink->context, r->text.data ? r->text.data : "", r->text.len, l->indent - f->shift, r->out,
                       r->err);
}

static int run_line(struct render *r, const struct frame *f, int i, int to, int *next) {
  const struct line *l = &f->file->lines[i];
  const struct tpl_sink *s = r->sink;
  *next = l->body_end;
  if (l->body_end > i + 1 && l->kind != LINE_FOR && l->kind != LINE_IF && l->kind != LINE_ELIF &&
      l->kind != LINE_ELSE && l->kind != LINE_BLOCK && l->kind != LINE_NOTE)
    *next = i + 1;
  switch (l->kind) {
  case LINE_NOTE: *next = i + 1; return 0;
  case LINE_BLANK: put_blank(r); return 0;
  case LINE_TEXT:
  case LINE_COMMENT: return put_text(r, f, l);
  case LINE_OP: return to_sink(r, f, l, s ? s->op : NULL, "a vector operation");
  case LINE_VREG: return to_sink(r, f, l, s ? s->vreg : NULL, "$vreg");
  case LINE_BLOCK: return block(r, f, i);
  case LINE_CONSTANTS:
    if (!s || !s->constants) return fail(r->err, STROBE_INVALID, "$constants is not allowed here");
    return s->constants(s->context, l->indent - f->shift, r->out, r->err);
  case LINE_FOR: return for_clause(r, f, i, scope_expression(r, l->text, (size_t)l->len));
  case LINE_IF: return if_chain(r, f, i, to, next);
  case LINE_LET: return let(r, l);
  case LINE_ASSERT: return assertion(r, l);
  case LINE_INCLUDE: return include(r, f, i);
  default: return fail(r->err, STROBE_INVALID, "%s without $if", l->kind == LINE_ELSE ? "$else" : "$elif");
  }
}

static int run(struct render *r, const struct frame *f, int from, int to) {
  for (int i = from, next = to; i < to; i = next) {
    int status = ++r->steps > r->max_steps ? fail(r->err, STROBE_INVALID, "more than %zu steps", r->max_steps)
                                           : run_line(r, f, i, to, &next);
    if (!status && r->out->failed) status = fail(r->err, STROBE_NO_MEMORY, "out of memory");
    if (!status && r->out->len - r->start > r->max_output)
      status = fail(r->err, STROBE_INVALID, "more than %zu bytes of output", r->max_output);
    if (status) return locate(r, f, i, status);
  }
  return 0;
}

int tpl_render(const char *name, const struct tpl_options *options, struct buf *out, struct error *err) {
  struct error local = {0};
  struct render *r = calloc(1, sizeof *r);
  if (!r) return fail(err, STROBE_NO_MEMORY, "out of memory");
  r->options = options;
  r->sink = options->sink;
  r->out = out;
  r->err = err ? err : &local;
  r->start = out->len;
  r->max_output = options->max_output ? options->max_output : (size_t)64 << 20;
  r->max_steps = options->max_steps ? options->max_steps : (size_t)16 << 20;
  int status = 0;
  for (size_t i = 0; i < options->n_bindings && !status; i++) {
    const struct tpl_binding *b = &options->bindings[i];
    struct value v = {.integer = b->integer};
    if (b->string) v = (struct value){.is_string = true, .text = b->string, .len = strlen(b->string)};
    status = scope_bind(r, b->name, strlen(b->name), v);
  }
  const struct template_file *file;
  if (!status) status = open_file(r, name, strlen(name), &file);
  if (!status) {
    struct frame f = {file, 0};
    status = run(r, &f, 0, file->n_lines);
  }
  if (status) out->len = r->start;
  if (status && out->data) out->data[out->len] = 0;
  for (int i = 0; i < r->n_files; i++) template_file_free(&r->files[i]);
  for (struct kept *k = r->kept, *next; k; k = next) next = k->next, free(k);
  symbols_free(&r->symbols);
  free(r->bindings);
  buf_free(&r->text);
  free(r);
  return status;
}
