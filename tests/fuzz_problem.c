// Fuzzes problem strings and configs: any text is read or refused with a sentence; what is read prints, reads back,
// completes and resolves.
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
  for (int i = 0; i < target_count && !status; i++) check_config(&p, &target_table[i], config ? config : "");
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

static const char *const tokens[] = {
    "d",        "v",        "b",         "h",        "/",         "q",         "k",
    ":",        "=",        ",",         "|",        "f32",       "bf16",      "f16",
    "causal",   "full",     "kv=",       "q=",       "o=",        "window=1",  "auto",
    "table1",   "16",       "64",        "128",      "256",       "576",       "1099511627776",
    "block_m=", "block_n=", "tile_n=",   "stages=",  "unroll=",   "exp=",      "prefetch=",
    "pack_k=",  "pack_v=",  "diagonal=", "softmax=", "pingpong=", "schedule=", "-1",
    " ",        "\xff"};

#include "fuzz_main.h"
FUZZ_MAIN("problem", 200, tokens, sizeof tokens / sizeof *tokens)
