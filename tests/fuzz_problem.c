// Fuzzes problem strings and configs: any text is read or refused with a sentence; what is read prints, reads back,
// completes and resolves. With libFuzzer: clang -DSTROBE_LIBFUZZER -fsanitize=fuzzer,address,undefined. Otherwise
// `fuzz_problem [RUNS] [SEED]` mutates the seeds below by itself (default 1,000,000 runs).
#include "../gen/spec.h"

#include <math.h>
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

static void check_refusal(int status, const struct error *err) {
  REQUIRE((int)err->status == status && strlen(err->text) > 10);
  for (const char *c = err->text; *c; c++) REQUIRE(*c >= ' ' && *c <= '~');
}

static void check_config(const struct problem *p, const struct target *t, const char *text) {
  struct instance i = {.spec = p->spec, .target = t};
  struct config back;
  struct error err = {0};
  struct buf printed = {0}, symbol = {0};
  config_clear(&i.config);
  int status = config_parse(text, &i.config, &err);
  if (!status) status = config_resolve(&p->spec, t, p, &i.config, &err);
  if (status) {
    check_refusal(status, &err);
    return;
  }
  config_print(&i.config, t, &printed);
  config_clear(&back);
  REQUIRE(config_parse(printed.data, &back, NULL) == 0 && memcmp(&back, &i.config, sizeof back) == 0);
  REQUIRE(config_resolve(&p->spec, t, p, &back, NULL) == 0 && memcmp(&back, &i.config, sizeof back) == 0);
  REQUIRE(t->vregs == 0 || config_vregs(&p->spec, t, &back) <= t->vregs);
  instance_symbol(&i, &symbol);
  REQUIRE(!symbol.failed && symbol.len > 20);
  buf_free(&printed), buf_free(&symbol);
}

// Text up to a '|' is a problem, what follows a config.
static void check_text(char *text) {
  char *config = strchr(text, '|');
  if (config) *config++ = 0;
  struct problem p, again;
  struct error err = {0};
  int status = problem_parse(text, &p, &err);
  if (status) {
    check_refusal(status, &err);
    problem_parse("d64:bf16", &p, NULL); // the config gets its turn all the same
  }
  struct buf printed = {0}, twice = {0};
  problem_print(&p, &printed);
  REQUIRE(problem_parse(printed.data, &again, NULL) == 0);
  problem_print(&again, &twice);
  REQUIRE(strcmp(printed.data, twice.data) == 0);
  buf_free(&printed), buf_free(&twice);
  err = (struct error){0};
  status = problem_complete(&p, &err);
  if (status)
    check_refusal(status, &err);
  else
    REQUIRE(problem_flops(&p) >= 0 && isfinite(problem_flops(&p)) && p.heads % p.heads_kv == 0 && p.kv_len >= 0);
  for (int i = 0; i < target_count; i++) check_config(&p, &target_table[i], config ? config : "");
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
  char *text = malloc(size + 1); // of exactly this size: reading past the end is seen
  if (!text) return 0;
  if (size) memcpy(text, data, size);
  text[size] = 0;
  check_text(text);
  free(text);
  return 0;
}

#ifndef STROBE_LIBFUZZER
static const char *const seeds[] = {
    "d128:bf16:causal:b2h32/8q1024k1024|block_n=128,stages=2",
    "d192v128:q=f32,kv=bf16,o=f16:causal_top_left|unroll=full,exp=poly5,prefetch=8",
    "d64:f32:full:b1h8q0k5|block_m=48,tile_n=6,pack_k=0,pack_v=1",
    "d256:o=f32:bf16:b1099511627776h1q1k1|unroll=auto,stages=1,exp=table1",
    "d40:window=128,0:softcap=30:k_scale|tile_n=5",
};
static const char alphabet[] = "dvbhqk/:=,|0123456789f16f32bf_causaltopleft-. \n\x80\xff";

static unsigned long long state;
static size_t below(size_t n) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (size_t)(state >> 33) % n;
}

// Cuts, copies, inserts and replaces within text of at most cap bytes; returns the new length.
static size_t mutate(char *text, size_t len, size_t cap) {
  size_t at = below(len + 1), n = below(6) + 1;
  if (n > len - at) n = len - at;
  switch (below(4)) {
  case 0: memmove(text + at, text + at + n, len - at - n); return len - n;
  case 1:
    if (len + n > cap) return len;
    memmove(text + at + n, text + at, len - at); // doubles n bytes
    return len + n;
  case 2:
    if (len == cap) return len;
    memmove(text + at + 1, text + at, len - at);
    text[at] = alphabet[below(sizeof alphabet - 1)];
    return len + 1;
  default:
    if (at < len) text[at] = alphabet[below(sizeof alphabet - 1)];
    return len;
  }
}

int main(int argc, char **argv) {
  long runs = argc > 1 ? atol(argv[1]) : 1000000;
  state = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
  for (long i = 0; i < runs; i++) {
    char text[160];
    const char *seed = seeds[below(sizeof seeds / sizeof *seeds)];
    size_t len = strlen(seed);
    memcpy(text, seed, len);
    for (size_t k = below(6); k > 0; k--) len = mutate(text, len, sizeof text);
    LLVMFuzzerTestOneInput((const unsigned char *)text, len);
  }
  printf("fuzz_problem: %ld runs\n", runs);
  return 0;
}
#endif
