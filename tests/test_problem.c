// Problem strings: what is read, what is printed, what is refused and in which words; sizes, diagonal, work; dtypes of
// targets.
#include "../gen/spec.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct good {
  const char *text, *canonical;
  int head_dim, head_dim_v;
  enum dtype q, kv, o;
  enum mask mask;
  int64_t batch, heads, heads_kv, q_len, kv_len;
} good[] = {
    {"d128:bf16:causal:b2h32/8q1024k1024", "d128:bf16:causal:b2h32/8q1024k1024", 128, 128, DT_BF16, DT_BF16, DT_BF16,
     MASK_CAUSAL, 2, 32, 8, 1024, 1024},
    {"d64", "d64:f32", 64, 64, DT_F32, DT_F32, DT_F32, MASK_FULL, -1, -1, -1, -1, -1},
    {"d192v128:f16", "d192v128:f16", 192, 128, DT_F16, DT_F16, DT_F16, MASK_FULL, -1, -1, -1, -1, -1},
    {"d128v128:full", "d128:f32", 128, 128, DT_F32, DT_F32, DT_F32, MASK_FULL, -1, -1, -1, -1, -1},
    {"d1:q=f32,kv=bf16,o=f16", "d1:q=f32,kv=bf16,o=f16", 1, 1, DT_F32, DT_BF16, DT_F16, MASK_FULL, -1, -1, -1, -1, -1},
    {"d576:o=f32:bf16", "d576:q=bf16,kv=bf16,o=f32", 576, 576, DT_BF16, DT_BF16, DT_F32, MASK_FULL, -1, -1, -1, -1, -1},
    {"d64:bf16:q=f32", "d64:q=f32,kv=bf16,o=bf16", 64, 64, DT_F32, DT_BF16, DT_BF16, MASK_FULL, -1, -1, -1, -1, -1},
    {"d64:q=bf16", "d64:q=bf16,kv=f32,o=bf16", 64, 64, DT_BF16, DT_F32, DT_BF16, MASK_FULL, -1, -1, -1, -1, -1},
    {"d64:kv=bf16:q=bf16", "d64:bf16", 64, 64, DT_BF16, DT_BF16, DT_BF16, MASK_FULL, -1, -1, -1, -1, -1},
    {"d64:k0:causal_top_left", "d64:f32:causal_top_left:k0", 64, 64, DT_F32, DT_F32, DT_F32, MASK_CAUSAL_TOP_LEFT, -1,
     -1, -1, -1, 0},
    {"d64:b0q0", "d64:f32:b0q0", 64, 64, DT_F32, DT_F32, DT_F32, MASK_FULL, 0, -1, -1, 0, -1},
    {"d64:h8", "d64:f32:h8", 64, 64, DT_F32, DT_F32, DT_F32, MASK_FULL, -1, 8, -1, -1, -1},
    {"d064:h08/08", "d64:f32:h8/8", 64, 64, DT_F32, DT_F32, DT_F32, MASK_FULL, -1, 8, 8, -1, -1},
    {"d64:q1099511627776", "d64:f32:q1099511627776", 64, 64, DT_F32, DT_F32, DT_F32, MASK_FULL, -1, -1, -1,
     (int64_t)1 << 40, -1},
};

static void print_is(const struct problem *p, const char *expected) {
  struct buf b = {0};
  problem_print(p, &b);
  assert_false(b.failed);
  assert_string_equal(b.data, expected);
  buf_free(&b);
}

static void reads_good_strings(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    const struct good *g = &good[i];
    struct problem p;
    struct error err = {0};
    if (problem_parse(g->text, &p, &err)) fail_msg("%s: %s", g->text, err.text);
    assert_int_equal(p.spec.op, OP_ATTN_FWD);
    assert_int_equal(p.spec.head_dim, g->head_dim);
    assert_int_equal(p.spec.head_dim_v, g->head_dim_v);
    assert_int_equal(p.spec.q, g->q);
    assert_int_equal(p.spec.kv, g->kv);
    assert_int_equal(p.spec.o, g->o);
    assert_int_equal(p.spec.p, g->q == g->kv ? g->kv : DT_F32);
    assert_int_equal(p.spec.acc, DT_F32);
    assert_int_equal(p.spec.mask, g->mask);
    assert_true(p.batch == g->batch && p.heads == g->heads && p.heads_kv == g->heads_kv);
    assert_true(p.q_len == g->q_len && p.kv_len == g->kv_len);
    print_is(&p, g->canonical);
  }
}

static const struct bad {
  const char *text;
  enum strobe_status status;
  const char *says[3];
} bad[] = {
    {"", STROBE_INVALID, {"must begin with the head dimension", "d128"}},
    {"bf16:d128", STROBE_INVALID, {"'bf16:d128' must begin with the head dimension"}},
    {"d", STROBE_INVALID, {"needs a number for head_dim"}},
    {"d128v", STROBE_INVALID, {"needs a number for head_dim_v"}},
    {"d-64", STROBE_INVALID, {"'d-64' needs a number"}},
    {"d0", STROBE_INVALID, {"head_dim 0: must be 1 to 576; 1 is the nearest"}},
    {"d577", STROBE_INVALID, {"head_dim 577: must be 1 to 576; 576 is the nearest"}},
    {"d99999999999999999999999999", STROBE_INVALID, {"head_dim 99999999999999999999999999: must be 1 to 576; 576"}},
    {"d128v600", STROBE_INVALID, {"head_dim_v 600"}},
    {"d64x", STROBE_INVALID, {"'x' after the head dimension in 'd64x'"}},
    {"d64:d128", STROBE_INVALID, {"head_dim is given twice", "'d128'"}},
    {"d64:", STROBE_INVALID, {"empty"}},
    {"d64::f32", STROBE_INVALID, {"empty"}},
    {"d64:bf17", STROBE_INVALID, {"field 'bf17' is unknown", "'bf16' is the nearest"}},
    {"d64:casual", STROBE_INVALID, {"field 'casual' is unknown", "'causal' is the nearest"}},
    {"d64:causal_topleft", STROBE_INVALID, {"'causal_top_left' is the nearest"}},
    {"d64:BF16", STROBE_INVALID, {"field 'BF16' is unknown"}},
    {"d64:f32:bf16", STROBE_INVALID, {"the dtype is given twice", "'bf16'"}},
    {"d64:full:causal", STROBE_INVALID, {"the mask is given twice", "'causal'"}},
    {"d64:b1:h2", STROBE_INVALID, {"sizes is given twice", "'h2'"}},
    {"d64:q=f32,q=f32", STROBE_INVALID, {"q= is given twice"}},
    {"d64:q=f32:q=f32", STROBE_INVALID, {"q= is given twice"}},
    {"d64:q=fp32", STROBE_INVALID, {"dtype 'fp32' is unknown", "'f32' is the nearest"}},
    {"d64:q=", STROBE_INVALID, {"dtype '' is unknown"}},
    {"d64:q=f32,", STROBE_INVALID, {"'' in a list of dtypes"}},
    {"d64:q=f32,v=f32", STROBE_INVALID, {"'v=f32' in a list of dtypes", "'kv' is the nearest"}},
    {"d64:k=f32", STROBE_INVALID, {"field 'k=f32' is unknown", "'kv='"}},
    {"d64:windw=4", STROBE_INVALID, {"'window=' is the nearest"}},
    {"d64:=", STROBE_INVALID, {"unknown"}},
    {"d64:window=128,0", STROBE_UNSUPPORTED, {"'window' is not supported in this version"}},
    {"d64:softcap=30", STROBE_UNSUPPORTED, {"'softcap' is not supported in this version"}},
    {"d64:sinks=4", STROBE_UNSUPPORTED, {"'sinks' is not supported in this version"}},
    {"d64:bias=full", STROBE_UNSUPPORTED, {"'bias' is not supported in this version"}},
    {"d64:dropout=0.1", STROBE_UNSUPPORTED, {"'dropout' is not supported in this version"}},
    {"d64:varlen", STROBE_UNSUPPORTED, {"'varlen' is not supported in this version"}},
    {"d64:page=16", STROBE_UNSUPPORTED, {"'page' is not supported in this version"}},
    {"d64:k_scale=0.5", STROBE_UNSUPPORTED, {"'k_scale' is not supported in this version"}},
    {"d64:e4m3", STROBE_UNSUPPORTED, {"dtype 'e4m3' is not supported in this version", "f32, bf16 and f16"}},
    {"d64:kv=e5m2", STROBE_UNSUPPORTED, {"dtype 'e5m2' is not supported in this version"}},
    {"d64:q16b2", STROBE_INVALID, {"sizes 'q16b2' can't be read from 'b2' on", "in this order", "b2h32/8q1024k1024"}},
    {"d64:b2b2", STROBE_INVALID, {"can't be read from 'b2' on"}},
    {"d64:b2/8", STROBE_INVALID, {"can't be read from '/8' on"}},
    {"d64:/8", STROBE_INVALID, {"can't be read from '/8' on"}},
    {"d64:h8/", STROBE_INVALID, {"can't be read from '/' on"}},
    {"d64:q", STROBE_INVALID, {"can't be read from 'q' on"}},
    {"d64:q-5", STROBE_INVALID, {"can't be read from 'q-5' on", "without sign"}},
    {"d64:b 2", STROBE_INVALID, {"can't be read from 'b 2' on"}},
    {"d64:q1.5", STROBE_INVALID, {"can't be read from '.5' on"}},
    {"d64:h0", STROBE_INVALID, {"heads 0: must be 1 to 1099511627776; 1 is the nearest"}},
    {"d64:h8/0", STROBE_INVALID, {"heads_kv 0: must be 1 to"}},
    {"d64:h8/3", STROBE_INVALID, {"heads 8 with heads_kv 3", "h8/2 works"}},
    {"d64:h8/16", STROBE_INVALID, {"heads 8 with heads_kv 16", "h8/8 works"}},
    {"d64:q1099511627777", STROBE_INVALID, {"q_len 1099511627777: must be 0 to 1099511627776; 1099511627776"}},
    {"d64:k99999999999999999999999", STROBE_INVALID, {"kv_len 99999999999999999999999: must be 0 to 1099511627776"}},
    {"d64:f32\n", STROBE_INVALID, {"field 'f32?' is unknown"}},
    {"d64:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
     STROBE_INVALID,
     {"...' is unknown"}},
};

static void refuses_bad_strings(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    struct problem p, before;
    memset(&p, 0x5a, sizeof p);
    before = p;
    struct error err = {0};
    int status = problem_parse(bad[i].text, &p, &err);
    if (status != (int)bad[i].status) fail_msg("'%s': status %d, '%s'", bad[i].text, status, err.text);
    assert_int_equal(err.status, status);
    assert_memory_equal(&p, &before, sizeof p); // nothing is written on failure
    for (int k = 0; k < 3 && bad[i].says[k]; k++)
      if (!strstr(err.text, bad[i].says[k])) fail_msg("'%s': '%s' lacks '%s'", bad[i].text, err.text, bad[i].says[k]);
    assert_null(strchr(err.text, '\n'));
  }
  struct problem p;
  assert_int_equal(problem_parse("d64:casual", &p, NULL), STROBE_INVALID); // no error wanted
}

static uint64_t seed = 1;
static int64_t random_below(int64_t n) {
  seed = seed * 6364136223846793005u + 1442695040888963407u;
  return (int64_t)((seed >> 33) % (uint64_t)n);
}

static int64_t random_size(int64_t min) {
  static const int64_t limits[] = {2, 9, 5000, (int64_t)1 << 31};
  int64_t x = random_below(4) == 0 ? -1 : random_below(limits[random_below(4)]);
  return x >= 0 && x < min ? min : x;
}

static struct problem random_problem(void) {
  struct spec s = {.op = OP_ATTN_FWD, .acc = DT_F32, .head_dim = 1 + (int)random_below(576)};
  s.head_dim_v = random_below(3) ? s.head_dim : 1 + (int)random_below(576);
  s.q = (enum dtype)random_below(DT_COUNT);
  s.kv = random_below(2) ? s.q : (enum dtype)random_below(DT_COUNT);
  s.o = random_below(2) ? s.q : (enum dtype)random_below(DT_COUNT);
  s.p = spec_p(&s);
  s.mask = (enum mask)random_below(MASK_COUNT);
  struct problem p = {s, random_size(0), random_size(1), -1, random_size(0), random_size(0)};
  if (p.heads > 0 && random_below(2)) {
    p.heads_kv = 1 + random_below(8);
    p.heads = p.heads_kv * (1 + random_below(8));
  }
  return p;
}

static bool same(const struct problem *a, const struct problem *b) {
  const struct spec *s = &a->spec, *t = &b->spec;
  return s->op == t->op && s->head_dim == t->head_dim && s->head_dim_v == t->head_dim_v && s->q == t->q &&
         s->kv == t->kv && s->o == t->o && s->p == t->p && s->acc == t->acc && s->mask == t->mask &&
         a->batch == b->batch && a->heads == b->heads && a->heads_kv == b->heads_kv && a->q_len == b->q_len &&
         a->kv_len == b->kv_len;
}

static void print_then_parse_is_identity(void **state) {
  (void)state;
  for (int i = 0; i < 10000; i++) {
    struct problem p = random_problem(), back;
    struct buf text = {0};
    struct error err = {0};
    problem_print(&p, &text);
    if (problem_parse(text.data, &back, &err)) fail_msg("%s: %s", text.data, err.text);
    if (!same(&p, &back)) fail_msg("%s does not read back", text.data);
    print_is(&back, text.data);
    buf_free(&text);
  }
}

static void completes_sizes(void **state) {
  (void)state;
  static const char *const cases[][2] = {
      {"d64", "d64:f32:b1h1/1q1024k1024"},
      {"d64:h8q5", "d64:f32:b1h8/8q5k5"},
      {"d64:k7", "d64:f32:b1h1/1q1024k7"},
      {"d64:b3h8/2q0k9", "d64:f32:b3h8/2q0k9"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct problem p;
    assert_int_equal(problem_parse(cases[i][0], &p, NULL), 0);
    assert_int_equal(problem_complete(&p, NULL), 0);
    print_is(&p, cases[i][1]);
    assert_int_equal(problem_complete(&p, NULL), 0); // idempotent
    print_is(&p, cases[i][1]);
  }
}

static void refuses_sizes_that_overflow(void **state) {
  (void)state;
  static const struct {
    const char *text, *says; // NULL: allowed
  } cases[] = {
      {"d64:bf16:b1h1q536870912k536870912", NULL}, // 2^58 pairs exactly
      {"d64:bf16:b1h1q536870912k536870913", "kv_len 536870912 would"},
      {"d64:bf16:b1h1q1099511627776k1099511627776", "2^58 pairs of a query and a key"},
      {"d64:f32:b256h1q1099511627776k1", NULL}, // 2^8 2^40 2^8 bytes: 2^56 exactly
      {"d64:f32:b256h2q1099511627776k1", "q of batch 256, 2 heads"},
      {"d64:f32:b256h2/1q1k1099511627776", NULL},
      {"d64:f32:b512h1q1k1099511627776", "549755813888 rows would"},
      {"d64:f32:b1099511627776h1q1k1", NULL},
      {"d64:f32:b1099511627776h2q1k1", "1 of each would"},
      {"d64:f32:b1099511627776h1099511627776q1k1", "2^40 heads in all"},
      {"d64:f32:b0h1099511627776q1099511627776k1", "must fit in 2^56 bytes"},
      {"d64v576:f32:b256h1q1k1099511627776", "v of batch 256"},
      {"d1v576:f32:b8192h1q17179869184k1", "o of batch 8192"},
      {"d1:bf16:b32768h1q1099511627776k1", "lse of batch 32768"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct problem p;
    struct error err = {0};
    assert_int_equal(problem_parse(cases[i].text, &p, &err), 0);
    int status = problem_complete(&p, &err);
    if (status != (cases[i].says ? STROBE_INVALID : STROBE_OK)) fail_msg("%s: %d %s", cases[i].text, status, err.text);
    if (cases[i].says && !strstr(err.text, cases[i].says)) fail_msg("%s: %s", cases[i].text, err.text);
  }
  struct problem p;
  struct error err = {0};
  assert_int_equal(problem_parse("d64:h6", &p, NULL), 0);
  p.heads_kv = 4; // as read from files
  assert_int_equal(problem_complete(&p, &err), STROBE_INVALID);
  assert_non_null(strstr(err.text, "h6/3 works"));
  p.heads_kv = -2;
  err = (struct error){0};
  assert_int_equal(problem_complete(&p, &err), STROBE_INVALID);
  assert_non_null(strstr(err.text, "heads_kv -2"));
}

// The closed form of the work against a count of visible pairs.
static void counts_flops(void **state) {
  (void)state;
  static const enum mask masks[] = {MASK_FULL, MASK_CAUSAL, MASK_CAUSAL_TOP_LEFT};
  for (int m = 0; m < 3; m++)
    for (int64_t q = 0; q < 9; q++)
      for (int64_t k = 0; k < 9; k++) {
        struct problem p = {{.head_dim = 8, .head_dim_v = 16, .mask = masks[m]}, 3, 4, 2, q, k};
        int64_t pairs = 0, diagonal = problem_diagonal(&p);
        assert_true(diagonal == (m == 0 ? k : m == 1 ? k - q : 0));
        for (int64_t i = 0; i < q; i++)
          for (int64_t j = 0; j < k; j++) pairs += j <= i + diagonal;
        assert_true(problem_flops(&p) == 2.0 * (8 + 16) * 12 * (double)pairs);
      }
  struct problem p;
  assert_int_equal(problem_parse("d128:b2h32q2048k2048", &p, NULL), 0);
  assert_true(problem_flops(&p) == 4.0 * 128 * 64 * 2048 * 2048);
  p.q_len = -1;
  assert_true(problem_flops(&p) == 0);
}

static void knows_what_targets_can_do(void **state) {
  (void)state;
  static const struct {
    const char *text, *target, *says; // NULL: supported
  } cases[] = {
      {"d64:f32", "c99", NULL},
      {"d64:bf16", "c99", NULL},
      {"d64:bf16:o=f32", "c99", NULL},
      {"d64:f32", "avx512", NULL},
      {"d64:f32", "avx512bf16", NULL},
      {"d64:f32", "sm90a", "the CPU targets can do what you asked for"},
      {"d256:bf16", "avx512bf16", NULL},
      {"d8:bf16:o=f32", "avx512bf16", NULL},
      {"d64:bf16", "avx512", NULL},
      {"d64:f16", "avx512bf16", NULL},
      {"d64:q=f32,kv=bf16", "c99", NULL},
      {"d64:q=bf16,kv=f32,o=f16", "avx512", NULL},
      {"d64:q=f32,kv=bf16", "sm90a",
       "d64:q=f32,kv=bf16,o=f32 on sm90a: this target can do bf16 or f16 for q, kv and o"},
      {"d1", "c99", NULL},
      {"d33v7:bf16", "avx512bf16", NULL},
      {"d576v512", "avx512", NULL},
      {"d100:bf16", "sm90a", "head_dim 100 on sm90a: must be a multiple of 64, 64 to 256; 128 is the nearest"},
      {"d192v128:bf16", "sm90a",
       "head_dim_v 128 with head_dim 192 on sm90a: they must be equal in this version; d192 works"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct problem p;
    struct error err = {0};
    assert_int_equal(problem_parse(cases[i].text, &p, NULL), 0);
    int status = spec_supported(&p.spec, target_find(cases[i].target), &err);
    if (status != (cases[i].says ? STROBE_UNSUPPORTED : STROBE_OK))
      fail_msg("%s: %d %s", cases[i].text, status, err.text);
    if (cases[i].says && !strstr(err.text, cases[i].says)) fail_msg("%s: %s", cases[i].text, err.text);
  }
  assert_null(target_find("avx513"));
  assert_null(target_find(NULL));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(reads_good_strings),           cmocka_unit_test(refuses_bad_strings),
      cmocka_unit_test(print_then_parse_is_identity), cmocka_unit_test(completes_sizes),
      cmocka_unit_test(refuses_sizes_that_overflow),  cmocka_unit_test(counts_flops),
      cmocka_unit_test(knows_what_targets_can_do),
  };
  return cmocka_run_group_tests_name("problem", tests, NULL, NULL);
}
