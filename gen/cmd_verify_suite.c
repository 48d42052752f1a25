#include "cmd_verify.h"

// What each is there for. Quick stays under 10 s on one core; full may take minutes. A spec that no target of a machine
// can serve is named in a note.
const struct suite_row suite_rows[] = {
    {SUITE_QUICK, "d64:f32:b1h2/1q65k130", "tails in both directions, two heads on one"},
    {SUITE_QUICK, "d64:f32:causal:b2h1q50k50", "diagonal inside one tile, batch"},
    {SUITE_QUICK, "d64:bf16:b1h2/1q33k129", "one key beyond a block: an odd pair of rows"},
    {SUITE_QUICK, "d64:bf16:causal:b1h1q40k100", "diagonal off by kv_len - q_len"},
    {SUITE_QUICK, "d64:bf16:o=f32:causal:b1h1q31k31", "f32 output of bf16 inputs"},
    {SUITE_QUICK, "d128:f32:causal:b1h1q20k160", "two KV blocks, one of them partial"},
    {SUITE_QUICK, "d128:bf16:b1h3/1q1k200", "decode: one query row, three heads on one"},
    {SUITE_QUICK, "d64:f32:causal:b1h1q30k12", "rows that see no key"},
    {SUITE_QUICK, "d32:f32:causal_top_left:b1h1q17k40", "the other alignment of the diagonal"},
    {SUITE_QUICK, "d40:f32:b1h1q16k17", "a head_dim that is no multiple of 16"},
    {SUITE_QUICK, "d64:f16:b1h1q20k70", "f16"},
    {SUITE_QUICK, "d64:f32:b1h1q7k0", "no key at all"},
    {SUITE_FULL, "d8:f32:b1h1q100k300", "the smallest head_dim in steps of 8"},
    {SUITE_FULL, "d33:f32:causal:b1h2q65k65", "an odd head_dim"},
    {SUITE_FULL, "d33:bf16:b1h1q20k65", "an odd head_dim of pairs"},
    {SUITE_FULL, "d80:bf16:causal:b1h2/1q130k130", "head_dim 80"},
    {SUITE_FULL, "d96:f32:causal:b1h1q257k257", "head_dim 96, three KV blocks"},
    {SUITE_FULL, "d112:bf16:b1h1q64k257", "head_dim 112"},
    {SUITE_FULL, "d256:bf16:causal:b1h1q150k300", "head_dim 256: QK is not unrolled whole"},
    {SUITE_FULL, "d256:f32:b1h1q70k140", "head_dim 256 in f32"},
    {SUITE_FULL, "d192v128:bf16:causal:b1h2q100k100", "head_dim_v is smaller"},
    {SUITE_FULL, "d576v512:bf16:b1h4/1q1k300", "multi-head latent attention, decode"},
    {SUITE_FULL, "d128:q=f32,kv=f16:b1h4/1q4k500", "f32 queries, f16 cache"},
    {SUITE_FULL, "d128:f16:causal:b1h2q130k130", "f16, causal"},
    {SUITE_FULL, "d64:f32:b9h3q49k49", "many tiny problems"},
    {SUITE_FULL, "d64:f32:causal:b1h25/5q70k70", "an odd number of heads"},
    {SUITE_FULL, "d64:bf16:causal:b1h2/1q513k513", "beyond four KV blocks"},
    {SUITE_FULL, "d128:f32:causal:b1h1q1000k1000", "long, not a multiple of anything"},
    {SUITE_FULL, "d128:bf16:b1h1q100k2048", "many KV blocks: rescales add up"},
    {SUITE_FULL, "d64:f32:causal_top_left:b1h2q200k90", "top-left diagonal with more queries than keys"},
    {SUITE_FULL, "d64:f32:causal:b1h1q90k20", "whole tiles of rows that see no key"},
    {SUITE_FULL, "d128:bf16:b3h8/1q16k1000", "decode with 16 query rows, batch"},
    {SUITE_FULL, "d64:f32:b1h2q0k8", "no query"},
};
const int suite_count = sizeof suite_rows / sizeof *suite_rows;

void suite_help(struct buf *out) {
  static const char *const titles[] = {"", "problems of --suite quick", "--suite full takes these too"};
  enum suite last = SUITE_NONE;
  for (int i = 0; i < suite_count; i++) {
    if (suite_rows[i].from != last) buf_printf(out, "%s:\n", titles[last = suite_rows[i].from]);
    buf_printf(out, "  %-36s%s\n", suite_rows[i].problem, suite_rows[i].about);
  }
}
