// `bench --suite hopper`: the grid of the FlashAttention-3 paper, 16384 tokens, heads x head_dim = 2048.
#include "cmd.h"

#include <stdio.h>
#include <stdlib.h>

enum { TOKENS = 16384, WIDTH = 2048, TEXT = 64 };

int bench_suite(const char *dtype, struct bench_problems *out, struct error *err) {
  static const int dims[] = {64, 128, 256};
  enum { DIMS = 3, MASKS = 2, LENGTHS = 6, ALL = DIMS * MASKS * LENGTHS };
  *out = (struct bench_problems){.text = calloc(ALL, sizeof(char *)), .memory = malloc(ALL * TEXT)};
  if (!out->text || !out->memory) return fail(err, STROBE_NO_MEMORY, "no memory for the problems of a suite");
  for (int d = 0; d < DIMS; d++)
    for (int causal = 0; causal < MASKS; causal++)
      for (int length = 512; length <= TOKENS; length *= 2) {
        char *text = out->text[out->n] = out->memory + out->n * TEXT;
        snprintf(text, TEXT, "d%d:%s%s:b%dh%dq%dk%d", dims[d], dtype, causal ? ":causal" : "", TOKENS / length,
                 WIDTH / dims[d], length, length);
        out->n++;
      }
  return 0;
}

void bench_problems_free(struct bench_problems *p) {
  free(p->text);
  free(p->memory);
}
