// Fuzzes set files and manifests: any text is read or refused with a sentence; what is read gives a manifest that reads
// back as the same set.
#include "../gen/set_manifest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REQUIRE(condition)                                                                                             \
  do                                                                                                                   \
    if (!(condition)) {                                                                                                \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                                  \
      abort();                                                                                                         \
    }                                                                                                                  \
  while (0)

static int read_set(struct kernel_set *set, struct slice text, struct error *err) {
  const int status = set_is_manifest(text) ? set_parse_manifest(set, text, err) : set_parse(set, text, NULL, err);
  return status ? status : set_finish(set, err);
}

// The outputs of a set, of which only the names matter here.
static void manifest_of(const struct kernel_set *set, struct buf *out) {
  struct output *o = calloc((size_t)set->n, sizeof *o);
  REQUIRE(o);
  for (int i = 0; i < set->n; i++) {
    const struct emit_request r = set_request(set, i);
    o[i].kernel = i;
    emit_symbol(&r, &o[i].name);
  }
  manifest_write(set, o, set->n, out);
  for (int i = 0; i < set->n; i++) buf_free(&o[i].name);
  free(o);
}

static void check_text(struct slice text) {
  struct kernel_set set = {.dispatcher = true, .file = "set"}, again = {.dispatcher = true, .file = "again"};
  struct error err = {0};
  struct buf first = {0}, second = {0};
  const int status = read_set(&set, text, &err);
  if (status) {
    REQUIRE((int)err.status == status && strlen(err.text) > 10);
  } else {
    manifest_of(&set, &first);
    const struct slice written = {first.data, first.len};
    REQUIRE(set_is_manifest(written));
    REQUIRE(read_set(&again, written, NULL) == 0 && again.n == set.n);
    manifest_of(&again, &second);
    REQUIRE(!first.failed && strcmp(first.data, second.data) == 0);
  }
  buf_free(&first), buf_free(&second);
  set_free(&set), set_free(&again);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
  char *text = malloc(size + !size); // of exactly this size: reading past the end is seen
  if (!text) return 0;
  if (size) memcpy(text, data, size);
  if (!memchr(text, 0, size)) check_text((struct slice){text, size}); // a NUL byte is refused where files are read
  free(text);
  return 0;
}

static const char *const tokens[] = {"d64",
                                     ":f32",
                                     ":bf16",
                                     ":causal",
                                     "target=",
                                     "--target ",
                                     "c99",
                                     "avx2",
                                     ",avx512",
                                     "sm90a",
                                     "printer=",
                                     "intrin",
                                     "scalar",
                                     "set=",
                                     "stages=1",
                                     "block_n=32",
                                     "kernel=decode",
                                     "\n",
                                     " ",
                                     "\t",
                                     "\r",
                                     "#",
                                     "{",
                                     "}",
                                     "[",
                                     "]",
                                     "\"",
                                     ":",
                                     ",",
                                     "\\u0041",
                                     "\"files\": [",
                                     "\"spec\": \"d8\"",
                                     "\"file\": \"a.c\"",
                                     "\"name\": \"",
                                     "\"prefix\": \"",
                                     "null",
                                     "1e3",
                                     "\xff"};

#include "fuzz_main.h"
FUZZ_MAIN("set", 600, tokens, sizeof tokens / sizeof *tokens)
