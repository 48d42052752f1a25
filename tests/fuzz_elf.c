// Fuzzes the object loader: any bytes give success or an error. libFuzzer: -DSTROBE_LIBFUZZER -fsanitize=fuzzer.
// Standalone: `fuzz_elf FILE...` loads files, `fuzz_elf N [SEED]` loads N mutations of an object that it compiles.
#include "../runtime/jit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
  struct jit_module *m;
  struct error err = {0};
  if (jit_load(data, size, "fuzz", &m, &err) == STROBE_OK) {
    jit_symbol(m, "f");
    jit_unload(m);
  } else if (!err.text[0]) {
    abort(); // an error without a reason
  }
  return 0;
}

#ifndef STROBE_LIBFUZZER

static const char source[] = "static const float table[16] __attribute__((aligned(64))) = {1, 2, 3};\n"
                             "struct big { long x[40]; };\n"
                             "extern const long shared; const long shared = 7;\n"
                             "static int g(int x) { return x + (int)table[x & 15]; }\n"
                             "struct ops { int (*run)(int); void (*copy)(struct big *, struct big *); };\n"
                             "void h(struct big *a, struct big *b) { *a = *b; }\n"
                             "const struct ops ops = {g, h};\n"
                             "int f(int n) { int s = 0; for (int i = 0; i < n; i++) s += ops.run(i) + shared;\n"
                             "  asm volatile(\".byte 0x90, 0x90\\n\"); return s; }\n";

static unsigned long long state;

static unsigned draw(void) { // xorshift64*
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return (unsigned)((state * 0x2545f4914f6cdd1dull) >> 32);
}

static void mutate(unsigned char *bytes, size_t len) {
  static const unsigned char edges[] = {0, 1, 0x7f, 0x80, 0xff};
  for (unsigned n = 1 + draw() % 8; n > 0; n--) {
    size_t at = draw() % len;
    unsigned how = draw() % 3;
    if (how == 0) bytes[at] = (unsigned char)draw();
    if (how == 1) bytes[at] ^= (unsigned char)(1u << draw() % 8);
    if (how == 2) memset(bytes + at, edges[draw() % sizeof edges], len - at < 8 ? len - at : 8);
  }
}

static int fuzz_mutations(long n) {
  struct buf object = {0};
  struct error err = {0};
  if (jit_compile(source, &object, &err)) return fprintf(stderr, "fuzz_elf: %s\n", err.text), 1;
  unsigned char *copy = malloc(object.len);
  if (!copy) return 1;
  for (long i = 0; i < n; i++) {
    memcpy(copy, object.data, object.len);
    mutate(copy, object.len);
    LLVMFuzzerTestOneInput(copy, object.len);
  }
  printf("fuzz_elf: %ld mutations of an object of %zu bytes\n", n, object.len);
  free(copy);
  buf_free(&object);
  return 0;
}

static int fuzz_file(const char *path) {
  FILE *f = fopen(path, "rb");
  if (!f) return perror(path), 1;
  struct buf bytes = {0};
  char chunk[4096];
  for (size_t n; (n = fread(chunk, 1, sizeof chunk, f)) > 0;) buf_add(&bytes, chunk, n);
  fclose(f);
  unsigned char *exact = malloc(bytes.len + 1); // no slack behind the bytes: AddressSanitizer sees every overrun
  if (exact && bytes.len) memcpy(exact, bytes.data, bytes.len);
  if (exact) LLVMFuzzerTestOneInput(exact, bytes.len);
  free(exact);
  buf_free(&bytes);
  return 0;
}

int main(int argc, char **argv) {
  char *end = NULL;
  long n = argc > 1 ? strtol(argv[1], &end, 10) : 100000;
  state = (argc > 2 ? strtoull(argv[2], NULL, 10) : 0) * 2 + 88172645463325252ull;
  if (argc < 2 || *end == 0) return fuzz_mutations(n);
  int bad = 0;
  for (int i = 1; i < argc; i++) bad |= fuzz_file(argv[i]);
  return bad;
}

#endif
