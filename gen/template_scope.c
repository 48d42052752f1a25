// Names and values of a render: bindings, expressions over them, and the text of lines with values put in.
#include "template_scope.h"

#include <stdlib.h>
#include <string.h>

int scope_bind(struct render *r, const char *name, size_t len, struct value value) {
  int symbol = symbol_intern(&r->symbols, name, len);
  if (r->n_bindings == r->cap_bindings) {
    int cap = r->cap_bindings ? 2 * r->cap_bindings : 128;
    struct binding *b = realloc(r->bindings, (size_t)cap * sizeof *b);
    if (!b) return fail(r->err, STROBE_NO_MEMORY, "out of memory");
    r->bindings = b;
    r->cap_bindings = cap;
  }
  if (symbol < 0) return fail(r->err, STROBE_NO_MEMORY, "out of memory");
  struct symbol *s = &r->symbols.symbol[symbol];
  r->bindings[r->n_bindings] = (struct binding){symbol, s->binding, value};
  s->binding = r->n_bindings++;
  return 0;
}

void scope_unbind(struct render *r, int n) {
  while (r->n_bindings > n) {
    const struct binding *b = &r->bindings[--r->n_bindings];
    r->symbols.symbol[b->symbol].binding = b->hidden;
  }
}

static int distance(const char *a, int n, const char *b, int m) { // edit distance of names of at most 30 letters
  int row[32];
  if (n > 30 || m > 30) return 99;
  for (int j = 0; j <= m; j++) row[j] = j;
  for (int i = 1; i <= n; i++)
    for (int j = 1, diagonal = row[0]++; j <= m; j++) {
      int change = diagonal + (a[i - 1] != b[j - 1]), least = row[j] < row[j - 1] ? row[j] + 1 : row[j - 1] + 1;
      diagonal = row[j];
      row[j] = change < least ? change : least;
    }
  return row[m];
}

static bool lookup(void *context, const char *name, size_t len, struct value *out, struct error *err) {
  struct render *r = context;
  int symbol = symbol_intern(&r->symbols, name, len);
  if (symbol >= 0 && r->symbols.symbol[symbol].binding >= 0) {
    *out = r->bindings[r->symbols.symbol[symbol].binding].value;
    return true;
  }
  if (symbol < 0) {
    fail(err, STROBE_NO_MEMORY, "out of memory");
    return false;
  }
  int best = -1, best_distance = 99;
  for (int i = 0; i < r->n_bindings; i++) {
    const struct symbol *s = &r->symbols.symbol[r->bindings[i].symbol];
    int d = distance(name, (int)len, s->name, s->len);
    if (d < best_distance) best = r->bindings[i].symbol, best_distance = d;
  }
  if (best >= 0 && best_distance <= 2 + (int)len / 4)
    fail(err, STROBE_INVALID, "%.*s is not bound; the nearest name is %.*s", (int)(len > 60 ? 60 : len), name,
         r->symbols.symbol[best].len, r->symbols.symbol[best].name);
  else
    fail(err, STROBE_INVALID, "%.*s is not bound", (int)(len > 60 ? 60 : len), name);
  return false;
}

static int join(void *context, const char *name, size_t len, int64_t from, int64_t to, struct value separator,
                struct value text, struct value *out, struct error *err);

struct expr scope_expression(struct render *r, const char *text, size_t len) {
  return (struct expr){.p = text, .end = text + len, .lookup = lookup, .join = join, .context = r, .err = r->err};
}

int scope_evaluate(struct render *r, const char *text, size_t len, struct value *out) {
  struct expr e = scope_expression(r, text, len);
  int status = expr_parse(&e, out);
  if (status) return status;
  return expr_take(&e, "") && e.p < e.end ? fail(r->err, STROBE_INVALID, "unexpected '%.*s' after an expression",
                                                 (int)(e.end - e.p > 40 ? 40 : e.end - e.p), e.p)
                                          : 0;
}

// No line and no join is longer than the output may be: text that is built from itself would fill the memory.
static int too_long(struct render *r, const struct buf *b) {
  return b->len <= r->max_output ? 0 : fail(r->err, STROBE_INVALID, "more than %zu bytes of output", r->max_output);
}

static void add_value(struct buf *b, const struct value *v) {
  if (v->is_string)
    buf_add(b, v->text, v->len);
  else
    buf_int(b, v->integer);
}

int scope_expand(struct render *r, struct value text, struct buf *b) {
  int status = 0;
  for (const char *p = text.text, *end = p + text.len; p < end && !status;) {
    const char *open = p;
    while (open + 1 < end && !(open[0] == '$' && open[1] == '{')) open++;
    if (open + 1 >= end) open = end;
    buf_add(b, p, (size_t)(open - p));
    if (open == end) break;
    const char *close = template_closing_brace(open + 2, end);
    struct value v;
    if (!close) return fail(r->err, STROBE_INVALID, "${ without a closing }");
    if (!(status = scope_evaluate(r, open + 2, (size_t)(close - open - 2), &v)))
      add_value(b, &v), status = too_long(r, b);
    p = close + 1;
  }
  return status;
}

static int join(void *context, const char *name, size_t len, int64_t from, int64_t to, struct value separator,
                struct value text, struct value *out, struct error *err) {
  struct render *r = context;
  struct buf b = {0};
  int status = 0, scope = r->n_bindings;
  if (++r->joins > MAX_JOIN) return fail(err, STROBE_INVALID, "joins nest deeper than %d", MAX_JOIN);
  for (int64_t i = from; i < to && !status; i++) {
    if (++r->steps > r->max_steps || b.len + r->kept_bytes > r->max_output)
      status = fail(err, STROBE_INVALID, "join repeats too often");
    if (!status) status = scope_bind(r, name, len, (struct value){.integer = i});
    if (i > from) buf_add(&b, separator.text, separator.len);
    if (!status) status = scope_expand(r, text, &b);
    scope_unbind(r, scope);
  }
  r->joins--;
  *out = (struct value){.is_string = true, .text = ""};
  bool empty = !b.len && !b.failed; // nothing to keep, so that joins in a loop cost memory only for what they hold
  struct kept *k = status || empty || b.failed ? NULL : malloc(sizeof *k + b.len + 1);
  if (k) {
    memcpy(k->text, b.data, b.len);
    k->next = r->kept;
    r->kept = k;
    r->kept_bytes += sizeof *k + b.len;
    *out = (struct value){.is_string = true, .text = k->text, .len = b.len};
  }
  buf_free(&b);
  return status || empty || k ? status : fail(err, STROBE_NO_MEMORY, "out of memory");
}

// ---- the text of a line ----

// A dozen pieces make a line, most of them one to four bytes: they are copied here, without a call or a terminating
// zero.
static inline void put(struct buf *b, const char *text, size_t len) {
  if (len > 16 || b->cap - b->len <= 16) {
    buf_add(b, text, len);
    return;
  }
  char *to = b->data + b->len;
  for (size_t i = 0; i < len; i++) to[i] = text[i];
  b->len += len;
}

static inline void put_value(struct buf *b, const struct value *v) {
  if (v->is_string || v->integer < 0 || v->integer > 99) {
    add_value(b, v);
    return;
  }
  const char digits[2] = {(char)('0' + v->integer / 10), (char)('0' + v->integer % 10)};
  put(b, digits + (v->integer < 10), 1 + (v->integer >= 10));
}

int scope_substitute(struct render *r, const struct template_file *f, const struct line *l) {
  struct buf *b = &r->text;
  b->len = 0;
  for (int i = 0; i < l->n_segments; i++) {
    const struct segment *s = &f->segments[l->segment + i];
    int bound = s->kind == SEGMENT_NAME ? r->symbols.symbol[s->symbol].binding : -1;
    struct value v;
    const struct value *value = bound < 0 ? &v : &r->bindings[bound].value;
    int status = 0;
    if (bound < 0 && s->kind != SEGMENT_EXPR) {
      put(b, s->text, (size_t)s->len);
    } else if (bound >= 0 || !(status = scope_evaluate(r, s->text, (size_t)s->len, &v))) {
      put_value(b, value);
      status = too_long(r, b);
    }
    if (status) return status;
  }
  buf_add(b, "", 0);
  return b->failed ? fail(r->err, STROBE_NO_MEMORY, "out of memory") : too_long(r, b);
}
