// Any text given to the template engine renders or is refused with one sentence: within its limits, without touching
// memory that is not its own, the same way twice, and leaving the output as it was when it fails.
#include "../gen/printer.h"
#include "../gen/template.h"
#include "../gen/vop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REQUIRE(condition)                                                                                             \
  do                                                                                                                   \
    if (!(condition)) fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition), abort();                         \
  while (0)

enum { MAX_OUTPUT = 20000, MAX_STEPS = 300 };

// Two files: what stands before the first form feed, and what stands behind it.
struct input {
  const char *text[2];
  size_t len[2];
  int loads;
};

static const char *load(void *context, const char *name, size_t *len) {
  struct input *in = context;
  int i = strcmp(name, "a") == 0 ? 0 : strcmp(name, "b") == 0 ? 1 : -1;
  if (i < 0) return NULL;
  in->loads++;
  *len = in->len[i];
  return in->text[i];
}

// The sink resolves operands as a printer does, so that the operand parser is fuzzed with it.
static int on_vreg(void *c, const char *text, size_t len, int indent, struct buf *out, struct error *err) {
  (void)indent, (void)out;
  return vop_declare(c, text, len, err);
}
static int on_begin(void *c, const char *text, size_t len, int indent, struct buf *out, struct error *err) {
  REQUIRE(indent >= 0);
  buf_str(out, "{\n");
  return vop_open_block(c, text, len, err);
}
static int on_op(void *c, const char *text, size_t len, int indent, struct buf *out, struct error *err) {
  const struct vop_scope *s = c;
  const struct vop *op;
  struct operand o[VOP_MAX_OPERANDS];
  int n, status = vop_parse(s, text, len, &op, o, &n, err);
  REQUIRE(indent >= 0);
  for (int i = 0; i < n && !status; i++) {
    REQUIRE(o[i].text >= text && o[i].text + o[i].text_len <= text + len);
    static const enum operand_kind registers[CLASS_COUNT] = {OPD_REG, OPD_MASK, OPD_TILE};
    for (int k = 0; k < CLASS_COUNT; k++) {
      if (o[i].kind != registers[k]) continue;
      REQUIRE(o[i].reg >= 0 && o[i].reg < s->used[k]);
      c_register_name(s, &o[i], out);
    }
    REQUIRE(o[i].index.n >= 0 && o[i].index.n <= VOP_MAX_TERMS);
    for (int t = 0; t < o[i].index.n; t++) REQUIRE(o[i].index.term[t].name < s->n_names);
  }
  return status;
}
static int on_end(void *c, struct buf *out, struct error *err) {
  (void)err;
  ((struct vop_scope *)c)->n_names = 0;
  buf_str(out, "}\n");
  return 0;
}
static int on_constants(void *c, int indent, struct buf *out, struct error *err) {
  (void)c, (void)indent, (void)out, (void)err;
  return 0;
}
static int on_mark(void *c) { return ((struct vop_scope *)c)->n_vreg; }
static void on_release(void *c, int mark) {
  REQUIRE(mark <= ((struct vop_scope *)c)->n_vreg);
  vop_release(c, mark);
}

static int render(struct input *in, bool drop_comments, struct buf *out, struct error *err) {
  static const struct tpl_binding bindings[] = {
      {"n", NULL, 3}, {"I", NULL, 0}, {"name", "f32", 0}, {"t", "${join(I, 0..2, t, t)}", 0}};
  struct vop_scope scope;
  memset(&scope, 0, sizeof scope);
  struct tpl_sink sink = {&scope, on_vreg, on_begin, on_op, on_end, on_constants, on_mark, on_release};
  struct tpl_options o = {bindings, 4, load, in, &sink, drop_comments, MAX_OUTPUT, MAX_STEPS};
  int status = tpl_render("a", &o, out, err);
  for (int k = 0; k < CLASS_COUNT; k++) REQUIRE(scope.used[k] >= 0 && scope.used[k] <= 4096);
  return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len) {
  struct input in = {.loads = 0};
  char *copy[2];
  const uint8_t *cut = len ? memchr(data, '\f', len) : NULL;
  in.len[0] = cut ? (size_t)(cut - data) : len;
  in.len[1] = cut ? len - in.len[0] - 1 : 0;
  for (int i = 0; i < 2; i++) { // each of its exact size, so that AddressSanitizer sees an overrun
    in.text[i] = copy[i] = malloc(in.len[i] ? in.len[i] : 1);
    if (!copy[i]) return 0;
    if (in.len[i]) memcpy(copy[i], i ? cut + 1 : data, in.len[i]);
  }
  struct buf out[2] = {{0}};
  struct error err[2] = {{0}};
  bool drop = len & 1;
  int status[2];
  for (int i = 0; i < 2; i++) {
    buf_str(&out[i], "kept");
    in.loads = 0;
    status[i] = render(&in, drop, &out[i], &err[i]);
    REQUIRE(in.loads <= 2); // a file is loaded once
    REQUIRE(status[i] == (int)err[i].status && (status[i] != 0) == (err[i].text[0] != 0));
    REQUIRE(!memcmp(out[i].data, "kept", 4) && (!status[i] || (out[i].len == 4 && !out[i].data[4])));
    REQUIRE(out[i].len <= 4 + MAX_OUTPUT && out[i].cap < (1 << 20) + 8 * len);
  }
  if (status[0]) { // a place, then one line
    int file = err[0].text[0];
    REQUIRE((file == 'a' || file == 'b') && err[0].text[1] == ':' && err[0].text[2] >= '1' && err[0].text[2] <= '9');
    for (const char *c = err[0].text; *c; c++) REQUIRE((unsigned char)*c >= ' ' && *c != 127);
  }
  REQUIRE(status[0] == status[1] && !strcmp(err[0].text, err[1].text));
  REQUIRE(out[0].len == out[1].len && !memcmp(out[0].data, out[1].data, out[0].len));
  for (int i = 0; i < 2; i++) buf_free(&out[i]), free(copy[i]);
  return 0;
}

static const char *const tokens[] = {"${",
                                     "}",
                                     "$$",
                                     "\"",
                                     "$for I in 0..3\n  ",
                                     "$if ",
                                     "$else\n",
                                     "$let n = ",
                                     "$include \"b\"",
                                     "@",
                                     "join(J, 0..2, \"\", ",
                                     "(",
                                     ")",
                                     "[",
                                     "]",
                                     "..",
                                     " ? ",
                                     " : ",
                                     " && ",
                                     " << ",
                                     "*",
                                     "/",
                                     "-",
                                     "n",
                                     "I",
                                     "9223372036854775807",
                                     "\n",
                                     "\n  ",
                                     "\n    ",
                                     "\f",
                                     "$block a(k:f32, n)\n  ",
                                     "$vreg v[4096]",
                                     "mask ",
                                     "bcast ",
                                     ", ",
                                     "\t",
                                     "//",
                                     "$#"};

#include "fuzz_main.h"
FUZZ_MAIN("template", 2000, tokens, sizeof tokens / sizeof *tokens)
