// Configs: every combination of fields either resolves to something feasible or says why not; names and symbols of
// instances.
#include "../gen/spec.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct spec spec_of(const char *text, struct problem *out) {
  struct problem p;
  struct error err = {0};
  if (problem_parse(text, &p, &err)) fail_msg("%s: %s", text, err.text);
  if (out) *out = p;
  return p.spec;
}

static void print_is(const struct config *c, const struct target *t, const char *expected) {
  struct buf b = {0};
  config_print(c, t, &b);
  assert_string_equal(b.data ? b.data : "", expected);
  buf_free(&b);
}

// Parses what c prints: must give c again.
static void reads_back(const struct config *c, const struct target *t) {
  struct buf b = {0};
  struct config back;
  struct error err = {0};
  config_print(c, t, &b);
  config_clear(&back);
  if (config_parse(b.data ? b.data : "", &back, &err)) fail_msg("%s: %s", b.data, err.text);
  assert_memory_equal(&back, c, sizeof back);
  buf_free(&b);
}

static void parses_and_prints(void **state) {
  (void)state;
  static const char *const texts[] = {
      "",          "block_n=128,stages=2", "unroll=full", "unroll=auto", "exp=poly5,prefetch=0", "pack_k=0,pack_v=1",
      "unroll=32",
  };
  static const char *const canonical[] = {
      "",          "block_n=128,stages=2", "unroll=full", "unroll=auto", "exp=poly5,prefetch=0", "pack_k=0,pack_v=1",
      "unroll=32",
  };
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    struct config c;
    config_clear(&c);
    assert_int_equal(config_parse(texts[i], &c, NULL), 0);
    print_is(&c, target_find("c99"), canonical[i]);
    print_is(&c, NULL, canonical[i]);
    reads_back(&c, target_find("c99"));
  }
  struct config c;
  config_clear(&c);
  assert_int_equal(config_parse("stages=1,block_m=16", &c, NULL), 0);
  assert_int_equal(config_parse("stages=2", &c, NULL), 0); // on top of what it holds
  print_is(&c, NULL, "block_m=16,stages=2");
  assert_int_equal(config_parse("stages=auto", &c, NULL), 0);
  print_is(&c, NULL, "block_m=16");
}

static void refuses_bad_text(void **state) {
  (void)state;
  static const char *const bad[][2] = {
      {"block=1", "config field 'block' is unknown"},
      {"tilen=4", "'tile_n' is the nearest"},
      {"blockn=4", "'block_n' is the nearest"},
      {"stages", "'stages' must be name=value"},
      {"stages=", "stages '': must be 1 or 2"},
      {"stages=1,", "'' must be name=value"},
      {",", "must be name=value"},
      {"stages=1,stages=2", "stages is given twice"},
      {"stages=-1", "stages '-1': must be 1 or 2"},
      {"stages=1x", "stages '1x'"},
      {"block_m=99999999999999999999", "block_m '99999999999999999999': must be a multiple of the vector lanes"},
      {"exp=tabel2", "exp 'tabel2': must be table1, table2, poly3 or poly5; the nearest word is table2"},
      {"exp=1", "exp '1': must be table1"},
      {"unroll=ful", "the nearest word is full"},
      {"unroll=0", "unroll '0': must be auto, full or a divisor"},
      {"pack_k=full", "pack_k 'full': must be 0 or 1"},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    struct config c, before;
    struct error err = {0};
    config_clear(&c);
    before = c;
    if (config_parse(bad[i][0], &c, &err) != STROBE_INVALID) fail_msg("'%s' is accepted", bad[i][0]);
    if (!strstr(err.text, bad[i][1])) fail_msg("'%s': '%s' lacks '%s'", bad[i][0], err.text, bad[i][1]);
    assert_memory_equal(&c, &before, sizeof c);
  }
}

static void has_defaults(void **state) {
  (void)state;
  static const struct {
    const char *problem, *target, *given, *expected;
  } cases[] = {
      {"d128:f32", "avx512", "",
       "block_m=64,block_n=256,tile_n=4,stages=2,unroll=128,exp=table2,prefetch=8,pack_k=1,pack_v=1"},
      {"d128:bf16", "avx512bf16", "",
       "block_m=64,block_n=256,tile_n=4,stages=2,unroll=128,exp=table1,prefetch=8,pack_k=1,pack_v=1"},
      {"d40:f32", "avx512", "",
       "block_m=64,block_n=128,tile_n=4,stages=2,unroll=40,exp=table2,prefetch=8,pack_k=1,pack_v=1"},
      {"d64:f32:q255", "avx512", "",
       "block_m=64,block_n=128,tile_n=4,stages=2,unroll=64,exp=table2,prefetch=8,pack_k=0,pack_v=1"},
      {"d64:f32:q256", "avx512", "",
       "block_m=64,block_n=256,tile_n=4,stages=2,unroll=64,exp=table2,prefetch=8,pack_k=0,pack_v=1"},
      {"d176:f32", "avx512", "",
       "block_m=64,block_n=256,tile_n=4,stages=2,unroll=88,exp=table2,prefetch=8,pack_k=1,pack_v=1"},
      {"d256:f32", "avx512", "",
       "block_m=64,block_n=256,tile_n=4,stages=2,unroll=128,exp=table2,prefetch=8,pack_k=1,pack_v=1"},
      {"d256:f32", "avx512", "unroll=full",
       "block_m=64,block_n=256,tile_n=4,stages=2,unroll=256,exp=table2,prefetch=8,pack_k=1,pack_v=1"},
      {"d128:bf16:causal", "avx512bf16", "",
       "block_m=64,block_n=128,tile_n=4,stages=2,unroll=128,exp=table1,prefetch=8,pack_k=1,pack_v=1"},
      {"d128:bf16:causal:q64k4095", "avx512bf16", "",
       "block_m=64,block_n=128,tile_n=4,stages=2,unroll=128,exp=table1,prefetch=8,pack_k=0,pack_v=1"},
      {"d128:bf16:causal:q64k4096", "avx512bf16", "",
       "block_m=64,block_n=256,tile_n=4,stages=2,unroll=128,exp=table1,prefetch=8,pack_k=0,pack_v=1"},
      {"d128:bf16:q2048k255", "avx512bf16", "",
       "block_m=64,block_n=128,tile_n=4,stages=2,unroll=128,exp=table1,prefetch=8,pack_k=1,pack_v=1"},
      {"d128:bf16:q512k256", "avx512bf16", "",
       "block_m=64,block_n=256,tile_n=4,stages=2,unroll=128,exp=table1,prefetch=8,pack_k=0,pack_v=1"},
      {"d256:bf16", "avx512bf16", "unroll=auto",
       "block_m=64,block_n=256,tile_n=4,stages=2,unroll=256,exp=table1,prefetch=8,pack_k=1,pack_v=1"},
      {"d64:f32:q1", "avx512", "kernel=prefill",
       "block_m=16,block_n=128,tile_n=4,stages=2,unroll=64,exp=table2,prefetch=8,pack_k=0,pack_v=0,kernel=prefill"},
      // Matrix tiles, whose kernel has few fields; who gives one of the vector kernel's wants that.
      {"d128:bf16", "amxbf16", "", "block_m=48,block_n=256,exp=table1,kernel=tiles"},
      {"d64:bf16:q2048k2048", "amxbf16", "", "block_m=48,block_n=352,exp=table1,kernel=tiles"},
      {"d64:bf16:q150k150", "amxbf16", "", "block_m=32,block_n=160,exp=table1,kernel=tiles"},
      {"d128:bf16:q97k0", "amxbf16", "", "block_m=32,block_n=32,exp=table1,kernel=tiles"},
      {"d128:bf16:q257k385", "amxbf16", "", "block_m=48,block_n=224,exp=table1,kernel=tiles"},
      {"d32:bf16:q257k385", "amxbf16", "", "block_m=32,block_n=128,exp=table1,kernel=tiles"},
      {"d64:f16:q150k320", "amxbf16", "", "block_m=32,block_n=160,exp=table2,kernel=tiles"},
      {"d64:f16:q150k321", "amxbf16", "", "block_m=32,block_n=128,exp=table2,kernel=tiles"},
      {"d128:bf16:causal:q2048k2048", "amxbf16", "", "block_m=32,block_n=256,exp=table1,kernel=tiles"},
      {"d96:bf16:causal:q2048k1023", "amxbf16", "", "block_m=32,block_n=128,exp=table1,kernel=tiles"},
      {"d64:bf16:causal:q2048k2048", "amxbf16", "", "block_m=32,block_n=128,exp=table1,kernel=tiles"},
      {"d128:f16:causal:q2048k2048", "amxbf16", "", "block_m=256,block_n=128,exp=table2,kernel=tiles"},
      {"d128:bf16:causal:q8192k8192", "amxbf16", "", "block_m=256,block_n=256,exp=table1,kernel=tiles"},
      {"d128:bf16:q8192k8192", "amxbf16", "", "block_m=256,block_n=512,exp=table1,kernel=tiles"},
      {"d64:bf16:q8192k4900", "amxbf16", "", "block_m=256,block_n=512,exp=table1,kernel=tiles"},
      {"d64:bf16:q8192k4160", "amxbf16", "", "block_m=256,block_n=480,exp=table1,kernel=tiles"},
      {"d32:bf16:q8192k8192", "amxbf16", "", "block_m=256,block_n=256,exp=table1,kernel=tiles"},
      {"d64:bf16:h1q20k20", "amxbf16", "stages=1",
       "block_m=32,block_n=128,tile_n=4,stages=1,unroll=64,exp=table1,prefetch=8,pack_k=0,pack_v=1"},
      {"d64:bf16:h1q1k64", "amxbf16", "",
       "block_m=1,block_n=8192,exp=table1,prefetch=64,kernel=decode,block_h=1,split=0"},
      {"d128:bf16:b1h32/8q1k8192", "amxbf16", "",
       "block_m=4,block_n=1024,exp=table1,prefetch=36,kernel=decode,block_h=8,split=1024"},
      {"d64:bf16:h36/12q1k64", "amxbf16", "",
       "block_m=3,block_n=1344,exp=table1,prefetch=36,kernel=decode,block_h=12,split=0"},
      {"d128:bf16:h32/8q16k512", "amxbf16", "",
       "block_m=64,block_n=1024,exp=table1,prefetch=36,kernel=decode,block_h=1,split=0"},
      {"d128:bf16:h32/8q16k511", "amxbf16", "", "block_m=16,block_n=128,exp=table1,kernel=tiles"},
      {"d64:f32:q2048k2048", "amxbf16", "block_n=48",
       "block_m=64,block_n=48,tile_n=4,stages=2,unroll=64,exp=table2,prefetch=8,pack_k=1,pack_v=1"},
      {"d128:f32:b1h8q2048k2048", "amxbf16", "", "block_m=256,block_n=128,exp=table2,kernel=tiles"},
      {"d128:f32:b1h1q2048k2048", "amxbf16", "", "block_m=64,block_n=128,exp=table2,kernel=tiles"},
      {"d128:f32:b1h8q512k512", "amxbf16", "", "block_m=32,block_n=128,exp=table2,kernel=tiles"},
      {"d128:f16:b1h8q1024k1024", "amxbf16", "", "block_m=32,block_n=128,exp=table2,kernel=tiles"},
      {"d64:q=f32,kv=bf16", "amxbf16", "", "block_m=128,block_n=128,exp=table2,kernel=tiles"},
      {"d64:f32:b1h2q65k2048", "amxbf16", "", "block_m=32,block_n=128,exp=table2,kernel=tiles"},
      {"d64:f32:b1h2q64k2048", "amxbf16", "",
       "block_m=64,block_n=256,tile_n=4,stages=2,unroll=64,exp=table2,prefetch=8,pack_k=0,pack_v=0"},
      {"d64:f32:h1q1k64", "amxbf16", "",
       "block_m=1,block_n=8192,exp=table2,prefetch=32,kernel=decode,block_h=1,split=0"},
      {"d128:bf16:h32/8q17k9999", "amxbf16", "", "block_m=32,block_n=512,exp=table1,kernel=tiles"},
      {"d40:bf16:h32/8q16k512", "amxbf16", "", "block_m=16,block_n=128,exp=table1,kernel=tiles"},
      // Few rows of a KV head: the decode kernel, whose other fields are unset.
      {"d64:f32:q1", "avx512", "", "block_m=1,block_n=8192,exp=table2,prefetch=32,kernel=decode,block_h=1,split=0"},
      {"d128:bf16:h32/8q3", "avx512bf16", "",
       "block_m=12,block_n=1360,exp=table1,prefetch=16,kernel=decode,block_h=4,split=0"},
      {"d256:f32:h12/4q1", "avx512", "prefetch=0",
       "block_m=3,block_n=4096,exp=table2,prefetch=0,kernel=decode,block_h=4,split=0"},
      {"d64:f32:h8/2q5", "avx512", "kernel=decode",
       "block_m=20,block_n=1632,exp=table2,prefetch=24,kernel=decode,block_h=2,split=0"},
      {"d64:f32:h64/1q8", "avx512", "",
       "block_m=64,block_n=1024,exp=table2,prefetch=32,kernel=decode,block_h=1,split=0"},
      {"d64:f32:h2/1q9", "avx512", "",
       "block_m=16,block_n=128,tile_n=4,stages=2,unroll=64,exp=table2,prefetch=8,pack_k=0,pack_v=0"},
      {"d64:f32", "c99", "kernel=decode",
       "block_m=4,block_n=8192,exp=table2,prefetch=0,kernel=decode,block_h=1,split=0"},
      {"d64:bf16:q17", "avx512bf16", "",
       "block_m=32,block_n=128,tile_n=4,stages=2,unroll=64,exp=table1,prefetch=8,pack_k=0,pack_v=1"},
      {"d64:f32:q49", "avx512", "",
       "block_m=64,block_n=128,tile_n=4,stages=2,unroll=64,exp=table2,prefetch=8,pack_k=0,pack_v=0"},
      {"d64:f32:q65", "avx512", "",
       "block_m=48,block_n=128,tile_n=4,stages=2,unroll=64,exp=table2,prefetch=8,pack_k=0,pack_v=1"},
      // Tiles of fewer vectors where they leave fewer rows without a query.
      {"d64:bf16:q197k197", "avx512bf16", "",
       "block_m=64,block_n=128,tile_n=4,stages=2,unroll=64,exp=table1,prefetch=8,pack_k=0,pack_v=1,tail_m=16"},
      {"d64:f32:q577k577", "avx512", "",
       "block_m=64,block_n=256,tile_n=4,stages=2,unroll=64,exp=table2,prefetch=8,pack_k=0,pack_v=1,tail_m=16"},
      {"d64:f32:q577k577", "avx512", "tail_m=0",
       "block_m=64,block_n=256,tile_n=4,stages=2,unroll=64,exp=table2,prefetch=8,pack_k=0,pack_v=1"},
      {"d64:f32:q577k577", "avx512", "algo=fa1",
       "block_m=64,block_n=256,tile_n=4,stages=1,unroll=64,exp=table2,prefetch=8,pack_k=0,pack_v=1,algo=fa1"},
      {"d64:f32", "avx512", "tail_m=32",
       "block_m=64,block_n=256,tile_n=4,stages=2,unroll=64,exp=table2,prefetch=8,pack_k=1,pack_v=1,tail_m=32"},
      {"d128:f32:q100k100", "avx512", "",
       "block_m=64,block_n=128,tile_n=4,stages=2,unroll=128,exp=table2,prefetch=8,pack_k=0,pack_v=1,tail_m=48"},
      {"d64:f32:causal:q197k197", "avx512", "",
       "block_m=64,block_n=128,tile_n=4,stages=2,unroll=64,exp=table2,prefetch=8,pack_k=0,pack_v=1,tail_m=16"},
      {"d64:f32:q192k192", "avx512", "",
       "block_m=64,block_n=128,tile_n=4,stages=2,unroll=64,exp=table2,prefetch=8,pack_k=0,pack_v=1"},
      {"d64:f32:q48k48", "avx2", "",
       "block_m=24,block_n=192,tile_n=4,stages=1,unroll=16,exp=poly5,prefetch=8,pack_k=1,pack_v=1"},
      {"d64:f32:q77k77", "avx2", "",
       "block_m=24,block_n=192,tile_n=4,stages=1,unroll=16,exp=poly5,prefetch=8,pack_k=1,pack_v=1,tail_m=8"},
      {"d64:f32:q2047", "avx512", "",
       "block_m=64,block_n=256,tile_n=4,stages=2,unroll=64,exp=table2,prefetch=8,pack_k=0,pack_v=1"},
      {"d64:f32:q2048", "avx512", "",
       "block_m=64,block_n=256,tile_n=4,stages=2,unroll=64,exp=table2,prefetch=8,pack_k=1,pack_v=1"},
      {"d64:f32:causal:q2048", "avx512", "",
       "block_m=64,block_n=128,tile_n=4,stages=2,unroll=64,exp=table2,prefetch=8,pack_k=0,pack_v=1"},
      {"d64:f32:causal:q2049", "avx512", "",
       "block_m=64,block_n=128,tile_n=4,stages=2,unroll=64,exp=table2,prefetch=8,pack_k=1,pack_v=1,tail_m=16"},
      {"d65:f32:q65", "avx512", "",
       "block_m=48,block_n=128,tile_n=4,stages=2,unroll=68,exp=table2,prefetch=8,pack_k=1,pack_v=1"},
      {"d64:f32", "avx2", "",
       "block_m=24,block_n=256,tile_n=4,stages=1,unroll=16,exp=poly5,prefetch=8,pack_k=1,pack_v=1"},
      {"d64:bf16:causal:q9", "avx2", "kernel=prefill",
       "block_m=16,block_n=192,tile_n=4,stages=1,unroll=16,exp=poly3,prefetch=8,pack_k=1,pack_v=1,kernel=prefill"},
      {"d64:f32", "avx2", "kernel=decode",
       "block_m=4,block_n=8192,exp=poly5,prefetch=32,kernel=decode,block_h=1,split=0"},
      {"d64:f32:causal", "avx512", "diagonal=skip",
       "block_m=64,block_n=128,tile_n=4,stages=2,unroll=64,exp=table2,prefetch=8,pack_k=1,pack_v=1"},
      {"d64:f32:causal", "avx512", "diagonal=mask",
       "block_m=64,block_n=128,tile_n=4,stages=2,unroll=64,exp=table2,prefetch=8,pack_k=1,pack_v=1,diagonal=mask"},
      {"d64:f32", "avx2", "block_m=8,stages=2",
       "block_m=8,block_n=256,tile_n=4,stages=2,unroll=16,exp=poly5,prefetch=8,pack_k=1,pack_v=1"},
      {"d64:f32", "c99", "",
       "block_m=16,block_n=128,tile_n=4,stages=1,unroll=8,exp=table2,prefetch=0,pack_k=1,pack_v=1"},
      {"d64:f32:q0", "avx512", "block_m=48,stages=2",
       "block_m=48,block_n=128,tile_n=4,stages=2,unroll=64,exp=table2,prefetch=8,pack_k=0,pack_v=0"},
      // Few tiles of a GPU are smaller.
      {"d128:bf16:b1h16q512k512", "sm90a", "softmax=conditional,heavy_keys=0",
       "block_m=64,block_n=128,stages=3,q_stages=1,pingpong=0,overlap=1,flat=1,softmax=conditional,heavy_keys=0,"
       "q_regs=0,o_tma=0,schedule=persistent,l2_section=16,regs=256"},
      // A field that is given leads the others.
      {"d64:f32", "avx512", "tile_n=8",
       "block_m=32,block_n=256,tile_n=8,stages=2,unroll=64,exp=table2,prefetch=8,pack_k=1,pack_v=1"},
      {"d96:bf16", "avx512bf16", "tile_n=6",
       "block_m=48,block_n=192,tile_n=6,stages=2,unroll=96,exp=table1,prefetch=8,pack_k=1,pack_v=1"},
      {"d80:f32", "avx512", "tile_n=5",
       "block_m=48,block_n=240,tile_n=5,stages=2,unroll=80,exp=table2,prefetch=8,pack_k=1,pack_v=1"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct problem p;
    struct spec s = spec_of(cases[i].problem, &p);
    struct config c;
    struct error err = {0};
    config_clear(&c);
    assert_int_equal(config_parse(cases[i].given, &c, &err), 0);
    if (config_resolve(&s, target_find(cases[i].target), &p, &c, &err)) fail_msg("%s: %s", cases[i].problem, err.text);
    print_is(&c, target_find(cases[i].target), cases[i].expected);
  }
}

static void says_why_not(void **state) {
  (void)state;
  static const struct {
    const char *spec, *target, *given, *says;
  } cases[] = {
      {"d128:f32", "avx2", "exp=table2", "exp table2 on avx2: it looks up 16 entries in a register"},
      {"d128:f32", "avx2", "exp=table1", "must be poly3 or poly5; poly3 is the nearest"},
      {"d128:f32", "avx2", "exp=table2,kernel=decode", "poly5 is the nearest"},
      {"d128:f32", "avx2", "stages=2,block_m=24",
       "needs 26 vector registers, avx2 has 16: tile_n=2 with block_m=16 fits"},
      {"d128:f32", "avx2", "block_m=20", "24 is the nearest"},
      {"d128:f32", "avx512", "tail_m=40", "tail_m 40 with block_m=64 on avx512: must be 0, or a multiple"},
      {"d128:f32", "avx512", "tail_m=41", "48 is the nearest"},
      {"d128:f32", "avx512", "tail_m=32,block_m=32", "16 is the nearest"},
      {"d128:f32", "avx512", "tail_m=16,block_m=16", "0 is the nearest"},
      {"d128:f32", "avx512", "tail_m=16,algo=fa1", "tail_m 16 with algo=fa1: must be 0"},
      {"d128:f32", "avx512", "tail_m=16,kernel=decode", "tail_m does not apply to kernel=decode"},
      {"d128:f32", "avx512", "block_m=40", "block_m 40 on avx512: must be a multiple of the vector lanes"},
      {"d128:f32", "avx512", "block_m=40", "48 is the nearest"},
      {"d128:f32", "avx512", "block_m=0", "16 is the nearest"},
      {"d128:f32", "avx512", "block_m=128", "64 is the nearest"},
      {"d128:f32", "c99", "block_n=100", "block_n 100 on c99: must be a multiple of 16"},
      {"d128:f32", "c99", "block_n=100", "96 is the nearest"},
      {"d128:f32", "c99", "block_n=1000", "512 is the nearest"},
      {"d128:bf16", "c99", "block_n=48", "64 is the nearest"},
      {"d128:f32", "c99", "tile_n=0", "tile_n 0 with block_n=128: must be"},
      {"d128:f32:q5k5", "c99", "tile_n=0", "tile_n 0 with block_n=128: must be"},
      {"d128:f32", "c99", "tile_n=9", "8 is the nearest"},
      {"d128:f32", "c99", "block_n=128,tile_n=3", "4 is the nearest"},
      {"d128:bf16", "c99", "tile_n=1", "even with bf16; 2 is the nearest"},
      {"d128:f32", "c99", "stages=3", "stages 3 on c99: must be 1 or 2; 2 is the nearest"},
      {"d128:f32", "c99", "prefetch=65", "prefetch 65 on c99: must be 0 to 64; 64 is the nearest"},
      {"d128:f32", "c99", "pack_k=2", "pack_k 2 on c99: must be 0 or 1; 1 is the nearest"},
      {"d128:bf16", "c99", "pack_v=0", "bf16 V is always packed in pairs"},
      {"d17:f32", "avx512", "pack_k=0", "pack_k 0 with head_dim 17 of f32: rows are padded to a multiple of 4"},
      {"d16v17:f32", "avx512", "pack_v=0",
       "pack_v 0 with head_dim_v 17 of f32: rows are padded to a multiple of tile_n"},
      {"d128:f32", "avx512", "tile_n=8,block_m=64",
       "needs 48 vector registers, avx512 has 32: tile_n=4 with block_m=64 fits"},
      {"d128:f32", "avx512", "tile_n=8,block_m=48",
       "needs 37 vector registers, avx512 has 32: tile_n=4 with block_m=48 fits"},
      {"d128:f32", "avx512", "tile_n=8,block_m=64,stages=1", "needs 37 vector registers"},
      {"d128:f32", "c99", "unroll=100", "unroll 100 with head_dim 128"},
      {"d128:f32", "c99", "unroll=100", "128 is the nearest that works"},
      {"d128:bf16", "c99", "unroll=1,stages=1", "even with bf16; 2 is the nearest that works"},
      {"d128:f32", "avx512", "unroll=16",
       "makes 8 chunks of QK, whose number must divide the 4 rows of a tile (tile_n=4); unroll=32 works"},
      {"d128:bf16", "avx512bf16", "unroll=32", "makes 4 chunks of QK, whose number must divide the 2 pairs of rows"},
      {"d128:bf16", "avx512bf16", "unroll=32", "unroll=64 works"},
      {"d128:f32", "avx512", "kernel=decode,stages=1",
       "config field stages does not apply to kernel=decode: leave it out, or take kernel=prefill"},
      {"d128:f32", "avx512", "algo=fa2,stages=2", "stages 2 with algo=fa2: must be 1: "},
      {"d128:f32", "avx512", "algo=fa3,stages=1", "stages 1 with algo=fa3: must be 2: "},
      {"d128:f32", "avx512", "algo=standard,stages=2", "stages 2 with algo=standard: must be 1: "},
      {"d128:f32", "avx512", "algo=fa1,stages=2", "stages 2 with algo=fa1: must be 1: "},
      {"d128:f32", "avx512", "kernel=decode,algo=fa1", "config field algo does not apply to kernel=decode"},
      {"d128:bf16", "sm90a", "algo=fa2", "config field algo does not apply to target sm90a"},
      {"d128:f32", "avx512", "diagonal=mask", "diagonal does not apply to a full mask"},
      {"d128:f32:causal", "avx512", "kernel=decode,diagonal=mask", "diagonal does not apply to kernel=decode"},
      {"d128:bf16:causal", "sm90a", "diagonal=mask", "diagonal does not apply to target sm90a"},
      {"d128:f32", "avx512", "kernel=decode,block_m=65", "block_m 65 with kernel=decode: must be 1 to 64; 64 is the"},
      {"d128:f32", "avx512", "kernel=decode,block_h=65", "block_h 65 with kernel=decode: must be 1 to 64; 64 is the"},
      {"d128:f32", "avx512", "block_h=4",
       "block_h does not apply to kernel=prefill: leave it out, or take kernel=decode"},
      {"d128:f32", "avx512", "kernel=decode,block_n=40", "must be a multiple of 16, up to 65536; 48 is the nearest"},
      {"d128:f32", "avx512", "kernel=decode,prefetch=2000", "must be 0 to 1024; 1024 is the nearest"},
      {"d128:bf16", "avx512", "pack_v=0", "pack_v 0 with head_dim_v 128 of bf16: 16-bit rows are widened to f32"},
      {"d128:q=f32,kv=f16", "avx512bf16", "pack_k=0", "pack_k 0 with head_dim 128 of f16: 16-bit rows are widened"},
      {"d64:f32", "avx512", "kernel=tiles", "must be prefill or decode; amxbf16 alone has tiles"},
      {"d64:bf16", "avx512bf16", "kernel=tiles", "kernel tiles on avx512bf16"},
      {"d64:bf16", "amxbf16", "kernel=tiles,stages=2", "config field stages does not apply to kernel=tiles"},
      {"d64:bf16", "amxbf16", "kernel=tiles,block_m=24",
       "block_m 24 with kernel=tiles: must be 16, 32, 48, 64 or a multiple of 32, up to 256; 32 is the nearest"},
      {"d64:f32", "amxbf16", "kernel=tiles,block_m=80",
       "block_m 80 with kernel=tiles: must be 16, 32, 48, 64 or a multiple of 32, up to 256; 96 is the nearest"},
      {"d64:f16", "amxbf16", "kernel=tiles,block_m=288", "256 is the nearest"},
      {"d64:bf16", "amxbf16", "kernel=tiles,block_n=48",
       "block_n 48 with kernel=tiles: must be a multiple of 32, up to 512"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct problem p;
    struct spec s = spec_of(cases[i].spec, &p);
    struct config c, before;
    struct error err = {0};
    config_clear(&c);
    assert_int_equal(config_parse(cases[i].given, &c, &err), 0);
    before = c;
    if (!config_resolve(&s, target_find(cases[i].target), &p, &c, &err)) fail_msg("%s is accepted", cases[i].given);
    if (!strstr(err.text, cases[i].says)) fail_msg("%s: '%s' lacks '%s'", cases[i].given, err.text, cases[i].says);
    assert_memory_equal(&c, &before, sizeof c);
  }
}

// fa2 and fa3 are stages=1 and 2, one kernel with one name; standard and fa1 are kernels of their own.
static void algorithms_have_one_name(void **state) {
  (void)state;
  static const struct {
    const char *given, *same, *name;
  } cases[] = {
      {"algo=fa2", "stages=1", "attn_fwd_d64_f32_m64n256s1_avx512"},
      {"algo=fa3", "stages=2", "attn_fwd_d64_f32_m64n256s2_avx512"},
      {"algo=auto", "", "attn_fwd_d64_f32_m64n256s2_avx512"},
      {"algo=standard", "algo=standard,stages=1", "attn_fwd_d64_f32_standard_m64n256s1_avx512"},
      {"algo=fa1", "algo=fa1,stages=1", "attn_fwd_d64_f32_fa1_m64n256s1_avx512"},
  };
  for (size_t n = 0; n < sizeof cases / sizeof *cases; n++) {
    struct instance i[2];
    struct buf name = {0};
    for (int k = 0; k < 2; k++) {
      struct error err = {0};
      i[k] = (struct instance){.spec = spec_of("d64:f32", NULL), .target = target_find("avx512")};
      config_clear(&i[k].config);
      assert_int_equal(config_parse(k ? cases[n].same : cases[n].given, &i[k].config, &err), 0);
      if (config_resolve(&i[k].spec, i[k].target, NULL, &i[k].config, &err)) fail_msg("%s", err.text);
    }
    assert_memory_equal(&i[0].config, &i[1].config, sizeof i[0].config);
    instance_name(&i[0], &name);
    assert_string_equal(name.data, cases[n].name);
    buf_free(&name);
    reads_back(&i[0].config, i[0].target);
  }
}

// ---- the grid ----

enum { MAX_INSTANCES = 1 << 18 };
struct seen {
  char **symbols;
  size_t n;
};

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void check_decode(const struct spec *s, const struct target *t, const struct config *c) {
  const int *v = c->v;
  assert_true(v[CFG_BLOCK_M] >= 1 && v[CFG_BLOCK_M] <= 64 && v[CFG_BLOCK_N] % 16 == 0 && v[CFG_PREFETCH] >= 0);
  assert_true(v[CFG_STAGES] == CONFIG_UNSET && v[CFG_TILE_N] == CONFIG_UNSET && v[CFG_UNROLL] == CONFIG_UNSET);
  assert_true(t->vregs == 0 || config_vregs(s, t, c) <= t->vregs);
  assert_true(config_k_width(s, c) == s->head_dim && config_v_width(s, c) == s->head_dim_v); // read in place
  reads_back(c, t);
}

static void check_tiles(const struct spec *s, const struct target *t, const struct config *c) {
  const int *v = c->v;
  assert_true(t->tiles && v[CFG_BLOCK_M] % 16 == 0 && v[CFG_BLOCK_M] >= 16 && v[CFG_BLOCK_M] <= 256);
  assert_true(v[CFG_BLOCK_N] % 32 == 0 && v[CFG_BLOCK_N] >= 32 && v[CFG_BLOCK_N] <= 512);
  assert_true(v[CFG_STAGES] == CONFIG_UNSET && v[CFG_TILE_N] == CONFIG_UNSET && v[CFG_UNROLL] == CONFIG_UNSET);
  const int k_width = config_k_width(s, c), v_width = config_v_width(s, c);
  assert_true(k_width % 32 == 0 && k_width >= s->head_dim && k_width < s->head_dim + 32);
  assert_true(v_width % 16 == 0 && v_width >= s->head_dim_v && v_width < s->head_dim_v + 16);
  reads_back(c, t);
}

static void check_feasible(const struct spec *s, const struct target *t, const struct config *given,
                           const struct config *c) {
  const int *v = c->v;
  const enum kernel_kind kernel = config_kernel(c);
  if (kernel == KERNEL_DECODE) return check_decode(s, t, c);
  if (kernel == KERNEL_TILES) return check_tiles(s, t, c);
  const bool pairs = spec_pairs(s, t);
  const int rows = pairs ? v[CFG_TILE_N] / 2 : v[CFG_TILE_N], width = config_k_width(s, c);
  for (int f = 0; f < CFG_COUNT; f++)
    if (given->v[f] != CONFIG_UNSET && f != CFG_UNROLL) assert_int_equal(v[f], given->v[f]);
  assert_true(v[CFG_BLOCK_M] % t->lanes == 0 && v[CFG_BLOCK_M] >= t->lanes && v[CFG_BLOCK_M] <= 4 * t->lanes);
  assert_true(v[CFG_BLOCK_N] % v[CFG_TILE_N] == 0 && width % v[CFG_UNROLL] == 0);
  assert_true(width >= s->head_dim && width < s->head_dim + 4);
  assert_true(config_v_width(s, c) % v[CFG_TILE_N] == 0 && config_v_width(s, c) >= s->head_dim_v);
  assert_true(v[CFG_PACK_K] == 1 || width == s->head_dim);
  assert_true(v[CFG_PACK_V] == 1 || config_v_width(s, c) == s->head_dim_v);
  assert_true(v[CFG_STAGES] == 1 || rows % (width / v[CFG_UNROLL]) == 0);
  if (pairs) assert_true(v[CFG_TILE_N] % 2 == 0 && v[CFG_UNROLL] % 2 == 0 && v[CFG_PACK_V] == 1);
  assert_true(t->vregs == 0 || config_vregs(s, t, c) <= t->vregs);
  struct config again = *c;
  struct error err = {0};
  if (config_resolve(s, t, NULL, &again, &err)) fail_msg("resolved config is refused: %s", err.text);
  assert_memory_equal(&again, c, sizeof again);
  reads_back(c, t);
}

static void note_symbol(const struct spec *s, const struct target *t, const struct config *c, struct seen *seen) {
  struct instance i = {*s, *c, t};
  struct buf b = {0};
  instance_symbol(&i, &b);
  assert_false(b.failed);
  for (size_t k = 0; k < b.len; k++)
    assert_true((b.data[k] >= 'a' && b.data[k] <= 'z') || (b.data[k] >= '0' && b.data[k] <= '9') || b.data[k] == '_');
  assert_true(seen->n < MAX_INSTANCES);
  seen->symbols[seen->n++] = b.data;
}

static const int grid[CFG_COUNT][9] = {
    [CFG_BLOCK_M] = {16, 32, 48, 64, 24},
    [CFG_BLOCK_N] = {CONFIG_UNSET, 16, 48, 128, 512},
    [CFG_TILE_N] = {1, 2, 3, 4, 5, 6, 7, 8, 0},
    [CFG_STAGES] = {1, 2},
    [CFG_UNROLL] = {CONFIG_UNSET, 0, -2, 8, 16, 32, 17},
    [CFG_EXP] = {EXP_TABLE1, EXP_POLY5},
    [CFG_PREFETCH] = {0, 64},
    [CFG_PACK_K] = {0, 1},
    [CFG_PACK_V] = {0, 1},
};
static const int grid_size[CFG_COUNT] = {5, 5, 9, 2, 7, 2, 1, 1, 2};

static void walk_grid(const struct spec *s, const struct target *t, struct seen *seen, int *refused) {
  int at[CFG_COUNT] = {0};
  for (;;) {
    struct config given, c;
    struct error err = {0};
    for (int f = 0; f < CFG_COUNT; f++) given.v[f] = grid_size[f] ? grid[f][at[f]] : CONFIG_UNSET;
    c = given;
    if (config_resolve(s, t, NULL, &c, &err) == STROBE_OK) {
      check_feasible(s, t, &given, &c);
      if (given.v[CFG_UNROLL] > 0 && given.v[CFG_UNROLL] < s->head_dim && given.v[CFG_BLOCK_N] != CONFIG_UNSET)
        note_symbol(s, t, &c, seen);
    } else {
      ++*refused;
      assert_true(err.status == STROBE_INVALID && strlen(err.text) > 20);
      assert_memory_equal(&c, &given, sizeof c);
    }
    int f = 0;
    while (f < CFG_COUNT && (!grid_size[f] || ++at[f] == grid_size[f]))
      at[f++] = 0; // fields of other families stay unset
    if (f == CFG_COUNT) return;
  }
}

static void grid_resolves_or_says_why(void **state) {
  (void)state;
  static const char *const specs[] = {"d40:f32", "d128:f32:causal", "d128:bf16", "d33v7:q=f16,kv=bf16"};
  struct seen seen = {calloc(MAX_INSTANCES, sizeof(char *)), 0};
  int refused = 0;
  assert_non_null(seen.symbols);
  for (size_t k = 0; k < sizeof specs / sizeof *specs; k++)
    for (int i = 0; i < target_count; i++) {
      struct spec s = spec_of(specs[k], NULL);
      if (target_table[i].family == FAMILY_CPU && !spec_supported(&s, &target_table[i], NULL))
        walk_grid(&s, &target_table[i], &seen, &refused);
    }
  assert_true(seen.n > 1000 && refused > 1000);
  qsort(seen.symbols, seen.n, sizeof *seen.symbols, by_text);
  for (size_t k = 1; k < seen.n; k++)
    if (!strcmp(seen.symbols[k - 1], seen.symbols[k])) fail_msg("two instances share %s", seen.symbols[k]);
  for (size_t k = 0; k < seen.n; k++) free(seen.symbols[k]);
  free(seen.symbols);
}

// Every supported head_dim has a default config on every target.
static void every_head_dim_resolves(void **state) {
  (void)state;
  for (int i = 0; i < target_count; i++)
    for (int d = 1; d <= 576; d += d < 40 || d > 560 ? 1 : 7)
      for (int bf16 = 0; bf16 < 2; bf16++)
        for (int q = -1; q < 80; q += 27) {
          enum dtype t = bf16 ? DT_BF16 : DT_F32;
          struct problem p = {{OP_ATTN_FWD, d, 577 - d, t, t, t, t, DT_F32, MASK_FULL}, 1, 1, 1, q, 100};
          struct config c, given;
          struct error err = {0};
          if (target_table[i].family != FAMILY_CPU) continue;
          config_clear(&given);
          c = given;
          if (config_resolve(&p.spec, &target_table[i], &p, &c, &err)) fail_msg("d%d: %s", d, err.text);
          check_feasible(&p.spec, &target_table[i], &given, &c);
        }
}

static void names_instances(void **state) {
  (void)state;
  static const struct {
    const char *spec, *target, *name, *key;
  } cases[] = {
      {"d128:bf16:causal", "avx512bf16", "attn_fwd_d128_bf16_causal_m64n128s2_avx512bf16",
       "attn_fwd:d128:bf16:causal:p=bf16,acc=f32:block_m=64,block_n=128,tile_n=4,stages=2,unroll=128,exp=table1,"
       "prefetch=8,pack_k=1,"
       "pack_v=1:avx512bf16"},
      {"d64:f32", "c99", "attn_fwd_d64_f32_m16n128s1_c99", NULL},
      {"d64:bf16:o=f32", "c99", "attn_fwd_d64_qbf16_kvbf16_of32_m16n128s1_c99", NULL},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct instance x = {.spec = spec_of(cases[i].spec, NULL), .target = target_find(cases[i].target)};
    struct buf name = {0}, key = {0}, symbol = {0}, other = {0};
    config_clear(&x.config);
    assert_int_equal(config_resolve(&x.spec, x.target, NULL, &x.config, NULL), 0);
    instance_name(&x, &name), instance_key(&x, &key), instance_symbol(&x, &symbol);
    assert_string_equal(name.data, cases[i].name);
    if (cases[i].key) assert_string_equal(key.data, cases[i].key);
    assert_memory_equal(symbol.data, name.data, name.len);
    assert_int_equal(symbol.len, name.len + 9);
    assert_int_equal(symbol.data[name.len], '_');
    // Both alignments of the diagonal are one kernel.
    if (x.spec.mask == MASK_CAUSAL) {
      x.spec.mask = MASK_CAUSAL_TOP_LEFT;
      instance_symbol(&x, &other);
      assert_string_equal(other.data, symbol.data);
    }
    buf_free(&name), buf_free(&key), buf_free(&symbol), buf_free(&other);
  }
  struct instance x = {.spec = spec_of("d192v128:f16", NULL),
                       .target = target_find("c99"),
                       .config = {{64, 128, 4, 1, 8, 0, 0, 0, 0, 0, CONFIG_UNSET}}};
  struct buf name = {0};
  instance_name(&x, &name);
  assert_string_equal(name.data, "attn_fwd_d192v128_f16_m64n128s1_c99");
  buf_free(&name);
}

static void hashes_as_fnv1a(void **state) {
  (void)state;
  assert_true(hash64("", 0) == 0xcbf29ce484222325u);
  assert_true(hash64("a", 1) == 0xaf63dc4c8601ec8cu);
  assert_true(hash64("foobar", 6) == 0x85944171f73967e8u);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(parses_and_prints),
      cmocka_unit_test(algorithms_have_one_name),
      cmocka_unit_test(refuses_bad_text),
      cmocka_unit_test(has_defaults),
      cmocka_unit_test(says_why_not),
      cmocka_unit_test(grid_resolves_or_says_why),
      cmocka_unit_test(every_head_dim_resolves),
      cmocka_unit_test(names_instances),
      cmocka_unit_test(hashes_as_fnv1a),
  };
  return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
