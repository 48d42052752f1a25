// Any text given to the template engine renders or is refused with one sentence: within its limits, without touching
// memory that is not its own, the same way twice, and leaving the output as it was when it fails.
//   clang -fsanitize=fuzzer,address,undefined -DSTROBE_LIBFUZZER tests/fuzz_template.c
//   gen/{template,template_scope,template_file,expr}.c
//     gen/{vop_parse,vop_table,vop_constants,spec,target,scan,buf,error}.c
// Without libFuzzer: `fuzz_template FILE...` runs files, `fuzz_template [COUNT] [SEED]` mutates the seeds below.
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
    if (o[i].kind == OPD_REG) REQUIRE(o[i].reg >= 0 && o[i].reg < s->vregs);
    if (o[i].kind == OPD_MASK) REQUIRE(o[i].reg >= 0 && o[i].reg < s->masks);
    if (o[i].kind == OPD_REG || o[i].kind == OPD_MASK) vop_register_name(s, &o[i], out);
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
  REQUIRE(scope.vregs >= 0 && scope.vregs <= 4096 && scope.masks >= 0 && scope.masks <= 4096);
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

#ifndef STROBE_LIBFUZZER
static const char *const seeds[] = {
    "// c ${n}\n$for I in 0..2, J in I..n step 2\n  a(${I}, ${J}) $$;\n\n$if n == 3\n  x\n$elif I\n  y\n$else\n  z\n",
    ("$vreg s[2][n], q, mask m\n$block qk(k:name, ldk)\n  $for I in 0..2\n    @fma s[I][1], q, bcast k[I*ldk + 17]\n   "
     " @first m, ldk - 4*I\n"
     "    @select q, m, k[(2 + I)*ldk], 1.5\n  @store k[-ldk], q // c\n$constants\n"),
    "$let x = join(I, 0..4, \", \", \"s${I + 1}\")\n${x} ${1 ? \"{\" : \"}\"} ${min(n, 2) << 3} ${ceil_div(7, 2) % 3 "
    "|| 1 / 0}\n",
    "$assert n == 3, \"n is ${n}\"\n  $include \"b\" with A = 1, B = A + 1\nend\f$vreg r[n]\n$let C = A\n  "
    "${C}${B}\n$# note\n",
    "$include \"b\"\n\f$if n\n  $include \"a\"\n",
    "$block a()\n  $vreg x, y[4]\n  @bcast x, -inf\n  @and x, x, 0x7fffffff\n  @load_first x, p[0], n\n",
    "${join(I, 0..2, t, t)}\n$for I in 0..1 << 40\n  ${t}${t}${t}\n"};
enum { SEEDS = sizeof seeds / sizeof *seeds };
static const char *const pieces[] = {"${",
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

static uint64_t state;
static uint32_t next(uint32_t below) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(state >> 33) % below;
}

// One edit of text (at most 2000 bytes): a byte changed, bytes taken out, a piece or a part of another seed put in.
static size_t edit(uint8_t *text, size_t len) {
  const char *put = pieces[next(sizeof pieces / sizeof *pieces)];
  size_t at = next((uint32_t)len + 1), n = strlen(put);
  switch (next(5)) {
  case 0:
    if (at < len) text[at] = (uint8_t)next(256);
    return len;
  case 1:
    n = next(8);
    if (at + n > len) return at;
    memmove(text + at, text + at + n, len - at - n);
    return len - n;
  case 2: {
    const char *seed = seeds[next(SEEDS)];
    put = seed + next((uint32_t)strlen(seed));
    n = 1 + next(40);
    if (n > strlen(put)) n = strlen(put);
  } // fall through
  default:
    if (len + n > 2000) return len;
    memmove(text + at + n, text + at, len - at);
    memcpy(text + at, put, n);
    return len + n;
  }
}

static int run_file(const char *path) {
  static uint8_t bytes[1 << 20];
  FILE *f = fopen(path, "rb");
  if (!f) return perror(path), 1;
  size_t len = fread(bytes, 1, sizeof bytes, f);
  fclose(f);
  return LLVMFuzzerTestOneInput(bytes, len);
}

int main(int argc, char **argv) {
  char *end = "";
  long count = argc > 1 ? strtol(argv[1], &end, 10) : 100000;
  if (*end) {
    int bad = 0;
    for (int i = 1; i < argc; i++) bad |= run_file(argv[i]);
    return bad;
  }
  state = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
  for (int i = 0; i < SEEDS; i++) LLVMFuzzerTestOneInput((const uint8_t *)seeds[i], strlen(seeds[i]));
  for (long i = 0; i < count; i++) {
    uint8_t text[2048];
    const char *seed = seeds[next(SEEDS)];
    size_t len = strlen(seed);
    memcpy(text, seed, len);
    for (uint32_t edits = next(8); edits; edits--) len = edit(text, len);
    LLVMFuzzerTestOneInput(text, len);
  }
  printf("fuzz_template: %ld inputs\n", count);
  return 0;
}
#endif
