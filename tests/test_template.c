// The template engine: what goes in comes out (tests/golden/engine-*), every mistake is one sentence with its place,
// and no template can make it run or grow without bound. STROBE_UPDATE_GOLDEN=1 writes the golden files instead of
// comparing.
#include "../gen/kernel.h"
#include "../gen/template.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// ---- loaders: texts by name, or files of tests/golden ----

struct texts {
  const char *name[4], *text[4];
  size_t len[4]; // 0: strlen
  char *owned[16];
  int n_owned;
};

static const char *load_text(void *context, const char *name, size_t *len) {
  struct texts *t = context;
  for (int i = 0; i < 4; i++)
    if (t->name[i] && !strcmp(t->name[i], name)) {
      *len = t->len[i] ? t->len[i] : strlen(t->text[i]);
      return t->text[i];
    }
  return NULL;
}

static char *read_golden(const char *name, size_t *len) {
  char path[320];
  snprintf(path, sizeof path, "tests/golden/%s", name);
  FILE *f = fopen(path, "rb");
  if (!f) return NULL;
  struct buf b = {0};
  buf_add(&b, "", 0);
  for (int c; (c = getc(f)) != EOF;) buf_char(&b, (char)c);
  fclose(f);
  *len = b.len;
  return b.data;
}

static const char *load_golden(void *context, const char *name, size_t *len) {
  struct texts *t = context;
  char *text = read_golden(name, len);
  if (text) t->owned[t->n_owned++] = text;
  return text;
}

static void matches_golden(const char *name, const char *text) {
  if (getenv("STROBE_UPDATE_GOLDEN")) {
    char path[320];
    snprintf(path, sizeof path, "tests/golden/%s", name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
    return;
  }
  size_t len;
  char *want = read_golden(name, &len);
  if (!want) fail_msg("tests/golden/%s is missing", name);
  int line = 1;
  size_t same = 0, start = 0; // of the line
  for (; text[same] && text[same] == want[same]; same++)
    if (text[same] == '\n') line++, start = same + 1;
  if (text[same] != want[same])
    fail_msg("tests/golden/%s, line %d: \"%.*s\" was \"%.*s\"; STROBE_UPDATE_GOLDEN=1 writes it anew", name, line,
             (int)strcspn(text + start, "\n"), text + start, (int)strcspn(want + start, "\n"), want + start);
  free(want);
}

// ---- a sink that writes down its calls ----

struct recorder {
  struct buf *out; // where mark and release are written: they have no buffer of their own
  int next, open[512], depth, calls;
};

static int record(struct buf *out, const char *what, const char *text, size_t len, int indent) {
  buf_printf(out, "[%s %d", what, indent);
  if (text) buf_char(out, ' '), buf_add(out, text, len);
  buf_str(out, "]\n");
  return 0;
}
static int on_vreg(void *c, const char *text, size_t len, int indent, struct buf *out, struct error *err) {
  if (len == 3 && !memcmp(text, "bad", 3)) return (fail)(err, STROBE_UNSUPPORTED, "the sink refuses");
  ((struct recorder *)c)->calls++;
  return record(out, "vreg", text, len, indent);
}
static int on_begin(void *c, const char *text, size_t len, int indent, struct buf *out, struct error *err) {
  (void)c, (void)err;
  return record(out, "begin", text, len, indent);
}
static int on_op(void *c, const char *text, size_t len, int indent, struct buf *out, struct error *err) {
  (void)err;
  ((struct recorder *)c)->calls++;
  return record(out, "op", text, len, indent);
}
static int on_end(void *c, struct buf *out, struct error *err) {
  (void)c, (void)err;
  buf_str(out, "[end]\n");
  return 0;
}
static int on_constants(void *c, int indent, struct buf *out, struct error *err) {
  (void)c, (void)err;
  return record(out, "constants", NULL, 0, indent);
}
static int on_mark(void *c) {
  struct recorder *r = c;
  assert_true(r->depth < 512);
  if (r->out) buf_printf(r->out, "[m%d]\n", r->next);
  return r->open[r->depth++] = r->next++;
}
static void on_release(void *c, int mark) {
  struct recorder *r = c;
  assert_true(r->depth > 0);
  assert_int_equal(r->open[--r->depth], mark);
  if (r->out) buf_printf(r->out, "[r%d]\n", mark);
}

static const struct tpl_binding bindings[] = {{"n", NULL, 3},
                                              {"name", "abc", 0},
                                              {"deep", NULL, 0},
                                              {"head_dim", NULL, 64},
                                              {"quoted", "${n == 3 ? \"}\" : \"\"}", 0}};

static int render(const char *name, tpl_loader *load, struct texts *t, struct recorder *rec, struct tpl_options o,
                  struct buf *out, struct error *err) {
  struct tpl_sink sink = {rec, on_vreg, on_begin, on_op, on_end, on_constants, on_mark, on_release};
  o.bindings = bindings;
  o.n_bindings = sizeof bindings / sizeof *bindings;
  o.load = load;
  o.load_context = t;
  if (rec) o.sink = &sink;
  int status = tpl_render(name, &o, out, err);
  if (rec) assert_int_equal(rec->depth, 0); // balanced, on failure too
  for (int i = 0; i < t->n_owned; i++) free(t->owned[i]);
  t->n_owned = 0;
  return status;
}

// One template called t; the result is the output, or the error's text.
static void gives(const char *text, const char *want) {
  struct texts t = {.name = {"t"}, .text = {text}};
  struct recorder rec = {0};
  struct buf out = {0};
  struct error err = {0};
  int status = render("t", load_text, &t, &rec, (struct tpl_options){0}, &out, &err);
  assert_int_equal(status, err.status);
  const char *got = status ? err.text : out.data ? out.data : "";
  if (strcmp(got, want)) fail_msg("template:\n%s\ngave: %s\nnot:  %s", text, got, want);
  buf_free(&out);
}

// ---- golden files ----

static void golden_files(void **state) {
  (void)state;
  int seen = 0;
  DIR *d = opendir("tests/golden");
  assert_non_null(d);
  for (struct dirent *e; (e = readdir(d));) {
    size_t n = strlen(e->d_name), len;
    if (n < 4 || strncmp(e->d_name, "engine-", 7) || strcmp(e->d_name + n - 3, ".in")) continue;
    struct texts t = {.n_owned = 0};
    struct buf out = {0};
    struct recorder rec = {.out = &out};
    struct error err = {0};
    if (!strstr(e->d_name, "sink")) rec.out = NULL;
    int status = render(e->d_name, load_golden, &t, &rec, (struct tpl_options){0}, &out, &err);
    char name[300], other[300];
    snprintf(name, sizeof name, "%.*s%s", (int)n - 3, e->d_name, status ? ".err" : ".out");
    snprintf(other, sizeof other, "%.*s%s", (int)n - 3, e->d_name, status ? ".out" : ".err");
    char *wrong = read_golden(other, &len);
    if (wrong) fail_msg("%s gave %s", e->d_name, status ? err.text : "no error");
    if (status) buf_free(&out), buf_printf(&out, "%s\n", err.text);
    matches_golden(name, out.data ? out.data : "");
    buf_free(&out);
    seen++;
  }
  closedir(d);
  assert_true(seen >= 9);
}

static void emitted_kernel(void **state) {
  (void)state;
  struct problem p;
  struct error err = {0};
  struct instance i = {.target = target_find("avx512")};
  config_clear(&i.config);
  assert_int_equal(problem_parse("d32:f32", &p, &err), 0);
  i.spec = p.spec;
  assert_int_equal(config_parse("block_m=16,block_n=32,tile_n=2,stages=1,unroll=8", &i.config, &err), 0);
  assert_int_equal(config_resolve(&i.spec, i.target, NULL, &i.config, &err), 0);
  struct render_options o = {.printer = PRINTER_INTRIN, .comments = true};
  struct buf out = {0};
  assert_int_equal(kernel_render(&i, &o, &out, NULL, &err), 0);
  assert_true(out.len < 60000);
  matches_golden("attn_fwd_d32_f32_m16n32s1_avx512.c", out.data);
  buf_free(&out);
}

static char *repeated(const char *start, const char *text, int n, const char *end) {
  struct buf b = {0};
  buf_str(&b, start);
  for (int i = 0; i < n; i++) buf_str(&b, text);
  buf_str(&b, end);
  assert_false(b.failed);
  return b.data;
}

// ---- the dialect ----

static void layout(void **state) {
  (void)state;
  gives("", "");
  gives("\n\n\n", "");
  gives("a", "a\n");
  gives("a\r\n  b  \r\n", "a\n  b\n");
  gives("a\n\n\n\nb", "a\n\nb\n");
  gives("\n\na\n   \nb\n\n", "a\n\nb\n\n");
  gives("$if 1\n      far\n    near\n", "  far\nnear\n"); // the shallowest line of a body sets its depth
  gives("    $if 1\n      a\n  b\n", "    a\n  b\n");
  gives("$for I in 0..2\n\n  a\n\nb", "a\n\na\n\nb\n");
  gives("$if 0\n  a\n\n$# between\n\n$else\n  b\n", "b\n");
  gives("$if 1\n$else\n  b\nc", "c\n");
  gives("$for I in 0..2\nbody needs depth", "body needs depth\n");
  gives("a$", "a$\n");
  gives("a $$$$ $${n}", "a $$ ${n}\n");
  gives("// ${n}", "// 3\n");
  gives("${\"\"}", "\n");
  gives("$let x = 1\n  ${x}", "  1\n"); // $let has no body: what is deeper stays where it is
}

static void loops(void **state) {
  (void)state;
  gives("$let a = 100\n$let b = -7\n$for I in 9..11\n  @op x[I], a, b",
        "[op 0 op x[9], 100, -7]\n[op 0 op x[10], 100, -7]\n");
  char *pieces = repeated("", "${n},", 400, ""),
       *joined = repeated("", "3,", 400, "\n"); // a line that outgrows its buffer
  gives(pieces, joined);
  free(pieces);
  free(joined);
  gives("$for I in 0..n step 2, J in 0..I\n  ${I}${J}", "20\n21\n");
  pieces = repeated("", "$for I in 0..1, J in 0..1\n  x\n", 250, ""); // one after the other they nest no deeper
  joined = repeated("", "x\n", 250, "");
  gives(pieces, joined);
  free(pieces);
  free(joined);
  gives("$for I in -1..1\n  ${I}", "-1\n0\n");
  gives("$for I in 9223372036854775805..9223372036854775807 step 3\n  ${I}", "9223372036854775805\n");
  gives("$for I in 0..3\n  $let I = I * 10\n  ${I}", "0\n10\n20\n");
  gives("$for n in 0..1\n  ${n}\n$if 1\n  ${n}", "0\n3\n");
  gives("$for I in (n > 2 ? 1 : 0)..n - 1\n  ${I}", "1\n");
  gives("$for I in 0..1\n  $let q = 1\n${q}", "t:3: q is not bound; the nearest name is n");
  gives("$for I in 0..1\n  $let a_long_name = 1\n${a_long_name_of_another}",
        "t:3: a_long_name_of_another is not bound");
}

static void expressions(void **state) {
  (void)state;
  gives("${1 + 2 * 3 - -4} ${7 / 2} ${-7 / 2} ${-7 % 3} ${1 << 4 | 1} ${~0} ${!5} ${!!5}", "11 3 -3 -1 17 -1 0 1\n");
  gives("${6 & 3} ${6 ^ 3} ${1 < 2 == 1} ${3 >= 3} ${2 > 3} ${1 != 1} ${-7 >> 1} ${(1 + 2) * 3}", "2 5 1 1 0 0 -4 9\n");
  gives("${1 | 0 ^ 1 & 0} ${5 & 4 == 4} ${1 + 1 << 2}", "1 1 8\n");
  gives("${0 && 1 / 0} ${1 || x} ${1 ? 5 : 1 / 0} ${0 ? nope(1 ? 2 : 3) : 6}",
        "t:1: nope is no function: min, max, abs, log2, ceil_div, join are");
  gives("${0 && 1 / 0} ${1 || x} ${1 ? 5 : 1 / 0} ${0 ? log2(3) : 6} ${0 ? \"a\" + 1 : 7}", "0 1 5 6 7\n");
  gives("${0 ? 1 : 0 ? 2 : 3} ${1 && 0 || 1} ${2 && 3}", "3 1 1\n");
  gives("${min(1, 2)} ${max(1, 2)} ${abs(-3)} ${log2(64)} ${ceil_div(7, 2)} ${ceil_div(6, 2)}", "1 2 3 6 4 3\n");
  gives("${name == \"abc\"} ${name != \"abc\"} ${name} ${\"a b\"}", "1 0 abc a b\n");
  gives("${join(I, 0..3, \"\", \"${join}\")}", "t:1: join is not bound; the nearest name is n");
  gives("${join(I, 0..2, \" | \", \"${I}:${I + n}\")}", "0:3 | 1:4\n");
  gives("${join(I, 0..2, \"\", quoted)}", "}}\n");
  gives("$let x = join(I, 0..2, \",\", \"a${I}\")\n$let y = join(J, 0..2, \";\", \"${x}${J}\")\n${y}",
        "a0,a10;a0,a11\n");
  gives("${1 ? \"{\" : \"}\"}", "{\n");
  gives("${9223372036854775807} ${-9223372036854775807 - 1} ${1 << 62}",
        "9223372036854775807 -9223372036854775808 4611686018427387904\n");
}

static void mistakes(void **state) {
  (void)state;
  static const char *const pairs[][2] = {
      {"${1 / 0}", "division by zero"},
      {"${1 % 0}", "division by zero"},
      {"${(-9223372036854775807 - 1) / -1}", "/ overflows 64 bits"},
      {"${(-9223372036854775807 - 1) % -1}", "% overflows 64 bits"},
      {"${9223372036854775807 + 1}", "+ overflows 64 bits"},
      {"${-9223372036854775807 - 2}", "- overflows 64 bits"},
      {"${9223372036854775807 * 2}", "* overflows 64 bits"},
      {"${-(-9223372036854775807 - 1)}", "- overflows 64 bits"},
      {"${abs(-9223372036854775807 - 1)}", "abs overflows 64 bits"},
      {"${9223372036854775808}", "number overflows 64 bits"},
      {"${1 << 63}", "shift by 63: 0 to 62 is allowed"},
      {"${1 >> -1}", "shift by -1: 0 to 62 is allowed"},
      {"${4 << 62}", "<< overflows 64 bits"},
      {"${log2(3)}", "log2(3): only powers of two"},
      {"${log2(0)}", "log2(0): only powers of two"},
      {"${ceil_div(1, 0)}", "ceil_div needs a >= 0 and b > 0"},
      {"${min(1)}", "min takes 2 arguments"},
      {"${abs(1, 2)}", "abs: missing ) after 1 arguments"},
      {"${sqrt(4)}", "sqrt is no function: min, max, abs, log2, ceil_div, join are"},
      {"${12ab}", "a number runs into 'a'"},
      {"${}", "an expression ends too early"},
      {"${ 1 + }", "an expression ends too early"},
      {"${1", "${ without a closing }"},
      {"${\"a}", "${ without a closing }"},
      {"${(1}", "missing )"},
      {"${1 2}", "unexpected '2' after an expression"},
      {"${1 ? 2}", "? without :"},
      {"${\"a\" + 1}", "+ needs an integer, not the string \"a\""},
      {"${-name}", "- needs an integer, not the string \"abc\""},
      {"${name && 1}", "&& needs an integer, not the string \"abc\""},
      {"${name ? 1 : 2}", "? needs an integer, not the string \"abc\""},
      {"${name == 1}", "== needs an integer, not the string \"abc\""},
      {"${@}", "unexpected '@' in an expression"},
      {"${\x01}", "unexpected '?' in an expression"},
      {"${head_dm}", "head_dm is not bound; the nearest name is head_dim"},
      {"${abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz}",
       "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz is not bound"},
      {"${join(I, 0..2, \"\", \"${I\")}", "${ without a closing }"},
      {"${join(I, 0..2, \"\", \"${1/0}\")}", "division by zero"},
      {"${join(I, 0, \"\", \"\")}", "join: expected .. after 0"},
      {"${join(I, 0..1, \"\")}", "join: expected the text to repeat"},
      {"${join(I, 0..1)}", "join: expected a separator"},
      {"${join(I, 0..1, \"\", \"\"}", "join: missing )"},
      {"${join(I, 0..1, 1, 2)}", "join takes two integers and two strings"},
      {"${join(0..1)}", "join is written join(I, A..B, \"separator\", \"text\")"},
      {"${join(I, 0..1 << 40, \"\", \"\")}", "join repeats too often"},
      {"$for", "$for is written: $for I in A..B, J in C..D"},
      {"$for I 0..2", "$for is written: $for I in A..B, J in C..D"},
      {"$for I in 0 2\n  x", "$for I: expected .. after the first bound"},
      {"$for I in 0..2 step 0\n  x", "$for I: bounds are integers and a step is at least 1"},
      {"$for I in 0..name\n  x", "$for I: bounds are integers and a step is at least 1"},
      {"$for I in 0..2 x\n  x", "$for: unexpected 'x'"},
      {"$for I in 0..2,\n  x", "$for is written: $for I in A..B, J in C..D"},
      {"$if", "an expression ends too early"},
      {"$if name\n  x", "$if needs an integer, not a string"},
      {"$if 0\n$elif name\n  x", NULL},
      {"$else", "$else without $if"},
      {"$elif 1", "$elif without $if"},
      {"$let", "$let is written: $let NAME = expression"},
      {"$let 1 = 2", "$let is written: $let NAME = expression"},
      {"$let x", "$let is written: $let NAME = expression"},
      {"$let x = 1 y", "unexpected 'y' after an expression"},
      {"$assert 0, \"because of ${n}\"", "because of 3"},
      {"$assert 1, \"\" 2", "$assert: unexpected '2'"},
      {"$assert 0, \"${1 / 0}\"", "division by zero"},
      {"$assert 0", "$assert is written: $assert expression, \"why\""},
      {"$assert 1, 2", "$assert takes an integer and a string"},
      {"$include t", "t is not bound; the nearest name is n"},
      {"$include 5", "$include is written: $include \"file\" with A = 1, B = 2"},
      {"$include \"u\"", "template u is not there"},
      {"$include \"\"", "template  is not there"},
      {"$include \"t\" with", "$include: expected NAME = expression after with"},
      {"$include \"t\" with A", "$include: expected NAME = expression after with"},
      {"$include \"t\" with A = 1,", "$include: expected NAME = expression after with"},
      {"$include \"t\" x", "$include: unexpected 'x'"},
      {"$vreg bad", "the sink refuses"},
      {"$block a()\n  $block b()\n    @x", NULL},
      {"$fo I in 0..1", "$fo is no directive; the nearest is $for"},
      {"$ x", "$ is no directive; the nearest is $if"},
      {"\tx", "a tab in the indentation: use blanks"},
      {"  \t", "a tab in the indentation: use blanks"},
  };
  for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
    char want[400];
    snprintf(want, sizeof want, "t:1: %s", pairs[i][1]);
    if (pairs[i][1]) gives(pairs[i][0], want);
  }
  gives("a\n$if 0\n  a\n$elif name\n  x", "t:4: $elif needs an integer, not a string");
  gives("$if 1\n  a\n$else 1\n  b", "t:3: $else takes no condition: $elif does");
  gives("$if 1\n  a\n$else\n  b\n$else\n  c", "t:5: $else without $if");
  gives("$block a()\n  $block b()\n    @x", "t:2: a $block inside a $block");
  gives("$block a()\n  $if 1\n    text", "t:3: only directives, @ lines and comments may stand in a $block");
}

// ---- bounds ----

static void without_a_sink(void **state) {
  (void)state;
  static const char *const pairs[][2] = {{"@op x", "t:1: a vector operation is not allowed here"},
                                         {"$vreg s", "t:1: $vreg is not allowed here"},
                                         {"$block a()\n  @x", "t:1: $block is not allowed here"},
                                         {"$constants", "t:1: $constants is not allowed here"}};
  struct tpl_sink empty = {0};
  for (int i = 0; i < 8; i++) {
    struct texts t = {.name = {"t"}, .text = {pairs[i / 2][0]}};
    struct buf out = {0};
    struct error err = {0};
    assert_int_equal(render("t", load_text, &t, NULL, (struct tpl_options){.sink = i % 2 ? &empty : NULL}, &out, &err),
                     STROBE_INVALID);
    assert_string_equal(err.text, pairs[i / 2][1]);
    buf_free(&out);
  }
  struct buf out = {0};
  struct error err = {0};
  assert_int_equal(tpl_render("none", &(struct tpl_options){0}, &out, &err), STROBE_INVALID); // no loader, no bindings
  assert_string_equal(err.text, "template none is not there");
  assert_int_equal(tpl_render("none", &(struct tpl_options){0}, &out, NULL), STROBE_INVALID);
  buf_free(&out);
}

static void stops(const char *text, size_t max_steps, size_t max_output, const char *want) {
  struct texts t = {.name = {"t"}, .text = {text}};
  struct recorder rec = {0};
  struct buf out = {0};
  struct error err = {0};
  buf_str(&out, "before");
  int status = render("t", load_text, &t, &rec, (struct tpl_options){.max_steps = max_steps, .max_output = max_output},
                      &out, &err);
  assert_string_equal(err.text, want);
  assert_int_equal(status, STROBE_INVALID);
  assert_string_equal(out.data, "before"); // as it was
  assert_int_equal(out.len, 6);
  assert_true(out.cap < 1 << 20); // and never much longer than it may be
  buf_free(&out);
}

static void bounded(void **state) {
  (void)state;
  stops("$for I in 0..1 << 60\n  $# nothing", 1000, 0, "t:2: more than 1000 steps");
  stops("$for I in 0..1 << 60\n", 1000, 0, "t:1: more than 1000 steps");
  stops("$for I in 0..1000, J in 0..1000\n  x", 0, 5000, "t:2: more than 5000 bytes of output");
  stops("$include \"t\"\n$include \"t\"", 0, 0,
        "t:1: includes nest deeper than 32 (included from t:1, t:1, t:1, t:1, t:1, t:1, t:1, t:1, t:1, t:1, t:1, t:1, "
        "t:1, t:1, t:1, t:1, t:1, "
        "t:1, t:1, t:1, t:1, t:1, t:1, t:1, t:1, t:1, t:1, t:1, t:1, t:1, t:1, t:1)");
  stops("$let x = join(I, 0..1 << 40, \"\", \"${I}\")", 0, 5000, "t:1: more than 5000 bytes of output");
  char *deep_column = repeated("", " ", 3000000, "x"); // refused before its indentation is written
  stops(deep_column, 0, 5000, "t:1: more than 5000 bytes of output");
  free(deep_column);
  // What a join made lives as long as the render: its overhead counts too.
  stops("$for I in 0..1000\n  $let x = join(J, 0..1, \"\", \"a\")", 0, 5000, "t:2: join repeats too often");
  // Text that is made of itself: a million times a million characters, and joins that never end.
  stops("$let a = join(I, 0..1000, \"\", \"x\")\n${a}${a}${a}${a}${a}${a}${a}${a}${a}${a}", 0, 5000,
        "t:2: more than 5000 bytes of output");
  stops("$let a = join(I, 0..1000, \"\", \"x\")\n$let b = join(I, 0..1, \"\", \"${a}${a}${a}${a}${a}${a}\")", 0, 5000,
        "t:2: more than 5000 bytes of output");
  stops("$let t = \"${join(I, 0..2, t, t)}\"\n${join(I, 0..2, t, t)}", 0, 0, "t:2: joins nest deeper than 16");

  static const struct {
    const char *start, *text, *end, *want;
    int n;
  } deep[] = {{"${", "(", "1}", "t:1: an expression nests deeper than 64", 100000},
              {"${", "-", "1}", "t:1: an expression nests deeper than 64", 100000},
              {"${", "min(", "1}", "t:1: an expression nests deeper than 64", 100000},
              {"${", "1 ? ", "1}", "t:1: an expression nests deeper than 64", 100000},
              {"${", "0 ? 1 : ", "1}", "t:1: an expression nests deeper than 64", 100000},
              {"$for A in 0..1", ", A in 0..1", "\n  x", "t:1: bodies nest deeper than 200", 100000}};
  for (size_t i = 0; i < sizeof deep / sizeof *deep; i++) {
    char *text = repeated(deep[i].start, deep[i].text, deep[i].n, deep[i].end);
    stops(text, 0, 0, deep[i].want);
    free(text);
  }
  struct buf nested = {0};
  for (int i = 0; i < 300; i++) buf_printf(&nested, "%*s$if 1\n", i, "");
  buf_printf(&nested, "%300sx", "");
  stops(nested.data, 0, 0, "t:201: bodies nest deeper than 200");
  buf_free(&nested);

  char *text = repeated("${1", " + 1", 20000, "}");
  gives(text, "20001\n"); // long is not deep
  free(text);
  text = repeated("a\n$if 1\n", "\n", 400000, "  b");
  clock_t start = clock();
  gives(text, "a\n\nb\n");
  assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 2); // linear in blank lines
  free(text);
}

static void any_bytes(void **state) {
  (void)state;
  static const char bytes[] = "a\0b\n${\0}\n";
  struct texts t = {.name = {"t"}, .text = {bytes}, .len = {sizeof bytes - 1}};
  struct buf out = {0};
  struct error err = {0};
  assert_int_equal(render("t", load_text, &t, NULL, (struct tpl_options){0}, &out, &err), STROBE_INVALID);
  assert_memory_equal(err.text, "t:2: ", 5);
  buf_free(&out);
  // Text without a terminating zero, at the end of what may be read.
  for (const char *const *s =
           (const char *const[]){"a ${n", "@", "$", "${", "$if 1", "  ", "$let x = \"", "@op n", NULL};
       *s; s++) {
    size_t len = strlen(*s);
    char *exact = malloc(len);
    assert_non_null(exact);
    memcpy(exact, *s, len);
    struct texts e = {.name = {"t"}, .text = {exact}, .len = {len}};
    struct recorder rec = {0};
    render("t", load_text, &e, &rec, (struct tpl_options){0}, &out, NULL);
    free(exact);
    buf_free(&out);
  }
}

static void deterministic(void **state) {
  (void)state;
  struct buf out[2] = {{0}};
  for (int i = 0; i < 2; i++) {
    struct texts t = {.n_owned = 0};
    struct recorder rec = {.out = &out[i]};
    assert_int_equal(render("engine-sink.in", load_golden, &t, &rec, (struct tpl_options){0}, &out[i], NULL), 0);
  }
  assert_string_equal(out[0].data, out[1].data);
  buf_free(&out[0]);
  buf_free(&out[1]);
}

static void comments_dropped(void **state) {
  (void)state;
  struct texts t = {.name = {"t"}, .text = {"// gone\na // stays\n\n\n  // gone ${1/0}\nb\n"}};
  struct buf out = {0};
  assert_int_equal(render("t", load_text, &t, NULL, (struct tpl_options){.drop_comments = true}, &out, NULL), 0);
  assert_string_equal(out.data, "a // stays\nb\n");
  buf_free(&out);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(golden_files),   cmocka_unit_test(emitted_kernel),   cmocka_unit_test(layout),
      cmocka_unit_test(loops),          cmocka_unit_test(expressions),      cmocka_unit_test(mistakes),
      cmocka_unit_test(without_a_sink), cmocka_unit_test(bounded),          cmocka_unit_test(any_bytes),
      cmocka_unit_test(deterministic),  cmocka_unit_test(comments_dropped),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
