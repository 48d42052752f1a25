#include "template_file.h"

#include "scan.h"

#include <stdlib.h>
#include <string.h>

static bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
static bool is_name(char c) { return is_name_start(c) || (c >= '0' && c <= '9'); }

// ---- symbols ----

static unsigned name_hash(const char *name, size_t len) {
  unsigned h = 2166136261u;
  for (size_t i = 0; i < len; i++) h = (h ^ (unsigned char)name[i]) * 16777619u;
  return h ^ h >> 15;
}

static bool symbols_grow(struct symbols *s) {
  int n_slots = s->n_slots ? 2 * s->n_slots : 256;
  int *slot = calloc((size_t)n_slots, sizeof *slot);
  struct symbol *symbol = realloc(s->symbol, (size_t)n_slots / 2 * sizeof *symbol);
  if (symbol) s->symbol = symbol;
  if (!slot || !symbol) return free(slot), false;
  for (int i = 0; i < s->n; i++) {
    unsigned h = name_hash(symbol[i].name, (size_t)symbol[i].len);
    while (slot[h &= (unsigned)n_slots - 1]) h++;
    slot[h] = i + 1;
  }
  free(s->slot);
  s->slot = slot;
  s->n_slots = n_slots;
  s->cap = n_slots / 2;
  return true;
}

int symbol_intern(struct symbols *s, const char *name, size_t len) {
  if (s->n == s->cap && !symbols_grow(s)) return -1;
  unsigned h = name_hash(name, len);
  for (;; h++) {
    int i = s->slot[h &= (unsigned)s->n_slots - 1];
    if (!i) break;
    if ((size_t)s->symbol[i - 1].len == len && !memcmp(s->symbol[i - 1].name, name, len)) return i - 1;
  }
  s->symbol[s->n] = (struct symbol){name, (int)len, -1};
  s->slot[h] = s->n + 1;
  return s->n++;
}

void symbols_free(struct symbols *s) {
  free(s->symbol);
  free(s->slot);
  *s = (struct symbols){0};
}

// ---- segments ----

static int add_segment(struct template_file *f, struct line *l, int kind, const char *text, const char *end, int symbol,
                       struct error *err) {
  if (end == text && kind == SEGMENT_TEXT) return 0;
  if (f->n_segments == f->cap_segments) {
    int cap = f->cap_segments ? 2 * f->cap_segments : 256;
    struct segment *s = realloc(f->segments, (size_t)cap * sizeof *s);
    if (!s) return fail(err, STROBE_NO_MEMORY, "out of memory");
    f->segments = s;
    f->cap_segments = cap;
  }
  f->segments[f->n_segments++] = (struct segment){kind, text, (int)(end - text), symbol};
  l->n_segments++;
  return 0;
}

const char *template_closing_brace(const char *p, const char *end) {
  for (bool in_string = false; p < end; p++) {
    in_string ^= *p == '"';
    if (*p == '}' && !in_string) return p;
  }
  return NULL;
}

// Splits the text of a line at ${expr} and $$, and (names) at identifiers.
static int split_segments(struct template_file *f, struct line *l, bool names, struct symbols *symbols,
                          struct error *err) {
  const char *p = l->text, *end = p + l->len, *from = p;
  l->segment = f->n_segments;
  if (l->kind == LINE_OP) // the operation's own name is never substituted
    while (p < end && is_name(*p)) p++;
  int status = 0;
  while (p < end && !status) {
    if (*p == '$' && p + 1 < end && p[1] == '{') {
      const char *close = template_closing_brace(p + 2, end);
      if (!close) return fail(err, STROBE_INVALID, "${ without a closing }");
      if (!(status = add_segment(f, l, SEGMENT_TEXT, from, p, 0, err)))
        status = add_segment(f, l, SEGMENT_EXPR, p + 2, close, 0, err);
      from = p = close + 1;
    } else if (*p == '$' && p + 1 < end && p[1] == '$') {
      status = add_segment(f, l, SEGMENT_TEXT, from, p + 1, 0, err);
      from = p += 2;
    } else if (names && *p == '"') {
      const char *close = memchr(p + 1, '"', (size_t)(end - p - 1));
      p = close ? close + 1 : end;
    } else if (names && is_name_start(*p)) {
      const char *start = p;
      while (p < end && is_name(*p)) p++;
      int symbol = symbol_intern(symbols, start, (size_t)(p - start));
      if (symbol < 0) return fail(err, STROBE_NO_MEMORY, "out of memory");
      if (!(status = add_segment(f, l, SEGMENT_TEXT, from, start, 0, err)))
        status = add_segment(f, l, SEGMENT_NAME, start, p, symbol, err);
      from = p;
    } else if (names && *p >= '0' && *p <= '9') {
      while (p < end && (is_name(*p) || *p == '.')) p++; // 0x1f, 1e5: no name inside a number
    } else {
      p++;
    }
  }
  return status ? status : add_segment(f, l, SEGMENT_TEXT, from, end, 0, err);
}

// ---- lines ----

static const struct {
  const char *name;
  enum line_kind kind;
} directives[] = {{"for", LINE_FOR},         {"if", LINE_IF},
                  {"elif", LINE_ELIF},       {"else", LINE_ELSE},
                  {"let", LINE_LET},         {"assert", LINE_ASSERT},
                  {"include", LINE_INCLUDE}, {"vreg", LINE_VREG},
                  {"block", LINE_BLOCK},     {"constants", LINE_CONSTANTS}};

static int classify_directive(struct line *l, struct error *err) {
  const char *p = l->text + 1, *end = l->text + l->len, *start = p;
  while (p < end && is_name(*p)) p++;
  size_t len = (size_t)(p - start);
  for (size_t i = 0; i < sizeof directives / sizeof directives[0]; i++) {
    if (strlen(directives[i].name) != len || memcmp(start, directives[i].name, len)) continue;
    l->kind = directives[i].kind;
    while (p < end && *p == ' ') p++;
    l->text = p;
    l->len = (int)(end - p);
    return 0;
  }
  const char *names[sizeof directives / sizeof directives[0]];
  for (size_t i = 0; i < sizeof directives / sizeof directives[0]; i++) names[i] = directives[i].name;
  const struct slice name = {start, len};
  return fail(err, STROBE_INVALID, "$%s is no directive; the nearest is $%s", quote(name).text,
              nearest_name(name, names, sizeof directives / sizeof directives[0]));
}

static int classify(struct line *l, struct error *err) {
  char c = l->text[0], next = l->len > 1 ? l->text[1] : 0;
  if (c == '$' && next == '#') return l->kind = LINE_NOTE, 0;
  if (c == '$' && next != '{' && next != '$') return classify_directive(l, err);
  if (c == '@') {
    l->kind = LINE_OP;
    l->text++;
    l->len--;
    return 0;
  }
  l->kind = c == '/' && next == '/' ? LINE_COMMENT : LINE_TEXT;
  return 0;
}

// From the last line to the first: what is known of later lines lets the search skip bodies and runs of blank lines
// (whose body_end is the next line that is not blank), so that it is linear even in a file made to be slow.
static void find_bodies(struct template_file *f) {
  for (int i = f->n_lines - 1; i >= 0; i--) {
    struct line *l = &f->lines[i];
    l->body_end = i + 1;
    l->body_indent = l->indent;
    if (l->kind == LINE_BLANK && i + 1 < f->n_lines && l[1].kind == LINE_BLANK) l->body_end = l[1].body_end;
    if (l->kind == LINE_BLANK || l->kind == LINE_TEXT || l->kind == LINE_OP || l->kind == LINE_COMMENT) continue;
    bool first = true;
    for (int j = i + 1; j < f->n_lines; j = f->lines[j].body_end) {
      const struct line *b = &f->lines[j];
      if (b->kind == LINE_BLANK) continue;
      if (b->indent <= l->indent) break;
      if (first || b->indent < l->body_indent) l->body_indent = b->indent;
      first = false;
      l->body_end = b->body_end;
    }
  }
}

int template_split(const char *name, const char *text, size_t len, struct symbols *symbols, struct template_file *out,
                   int *line, struct error *err) {
  *out = (struct template_file){.name = name};
  *line = 1;
  int n = 0;
  if (len > 16 << 20) return fail(err, STROBE_INVALID, "a template of %zu bytes; 16 MiB at most", len);
  for (size_t i = 0; i < len; i++) n += text[i] == '\n';
  out->lines = calloc((size_t)n + 1, sizeof *out->lines);
  if (!out->lines) return fail(err, STROBE_NO_MEMORY, "out of memory");
  const char *p = text, *end = text + len;
  for (; p < end; *line += 1) {
    const char *stop = memchr(p, '\n', (size_t)(end - p)), *next = stop ? stop + 1 : end;
    if (!stop) stop = end;
    while (stop > p && (stop[-1] == ' ' || stop[-1] == '\r')) stop--;
    struct line *l = &out->lines[out->n_lines++];
    const char *start = p;
    while (start < stop && *start == ' ') start++;
    if (start < stop && *start == '\t') return fail(err, STROBE_INVALID, "a tab in the indentation: use blanks");
    *l = (struct line){.kind = LINE_BLANK, .indent = (int)(start - p), .text = start, .len = (int)(stop - start)};
    int status = l->len ? classify(l, err) : 0;
    bool names = l->kind == LINE_OP || l->kind == LINE_VREG || l->kind == LINE_BLOCK;
    if (!status && (names || l->kind == LINE_TEXT || l->kind == LINE_COMMENT))
      status = split_segments(out, l, names, symbols, err);
    if (status) return status;
    p = next;
  }
  find_bodies(out);
  return 0;
}

void template_file_free(struct template_file *f) {
  free(f->lines);
  free(f->segments);
  *f = (struct template_file){0};
}
