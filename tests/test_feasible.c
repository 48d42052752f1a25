// A config that config_resolve takes is one that every printer can print: random ones, of all CPU targets, dtypes,
// masks, head dims and algorithms. STROBE_TEST_SEED=N starts elsewhere, STROBE_TEST_CONFIGS=N draws more.
#include "../gen/kernel.h"
#include "../runtime/inputs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

enum { CONFIGS = 400 };

static uint64_t seed, drawn;
static int64_t draw(int64_t n) { return (int64_t)(random_bits(seed, 300, drawn++) % (uint64_t)n); }
#define PICK(table) table[draw((int64_t)(sizeof(table) / sizeof *(table)))]

static const char *const dtypes[] = {"f32", "bf16", "f16", "q=f32,kv=bf16", "q=bf16,kv=f16", "bf16:o=f32"};
static const char *const masks[] = {"full", "causal", "causal_top_left"};
static const int head_dims[] = {1, 8, 20, 40, 64, 64, 96, 128, 128, 130};
static const char *const fields[] = {
    "block_m=%d", "block_n=%d", "tile_n=%d", "stages=%d", "unroll=%d", "prefetch=%d", "pack_k=%d", "pack_v=%d",
};
static const int values[][6] = {{8, 16, 24, 32, 48, 64}, {32, 64, 96, 128, 160, 512}, {1, 3, 4, 6, 7, 8},
                                {1, 2, 2, 2, 1, 2},      {4, 8, 16, 20, 32, 64},      {0, 1, 5, 8, 8, 64},
                                {0, 0, 0, 1, 0, 1},      {0, 0, 0, 1, 0, 1}};
static const char *const words[] = {"exp=poly3",     "exp=poly5",     "exp=table1",     "exp=table2",
                                    "algo=standard", "algo=fa1",      "algo=fa2",       "algo=fa3",
                                    "kernel=decode", "kernel=decode", "kernel=prefill", "block_h=4",
                                    "split=32",      "unroll=full",   "diagonal=mask",  "diagonal=skip"};

static void draw_config(char *text, size_t room) {
  size_t n = 0;
  text[0] = 0;
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
    if (draw(2)) continue;
    n += (size_t)snprintf(text + n, room - n, "%s", n ? "," : "");
    n += (size_t)snprintf(text + n, room - n, fields[i], PICK(values[i]));
  }
  for (int i = (int)draw(3); i > 0; i--) n += (size_t)snprintf(text + n, room - n, "%s%s", n ? "," : "", PICK(words));
}

// Draws until something is feasible.
static void draw_instance(struct instance *i, char problem[80], char config[160]) {
  for (;;) {
    struct problem p;
    const struct target *t = &target_table[draw(target_count)];
    if (t->family != FAMILY_CPU) continue;
    const int d = PICK(head_dims), v = draw(3) ? d : PICK(head_dims);
    snprintf(problem, 80, "d%dv%d:%s:%s:h8/2q%dk4000", d, v, PICK(dtypes), PICK(masks),
             draw(4) ? 2000 : 1 + (int)draw(8));
    assert_int_equal(problem_parse(problem, &p, NULL), 0);
    assert_int_equal(problem_complete(&p, NULL), 0);
    draw_config(config, 160);
    *i = (struct instance){.spec = p.spec, .target = t};
    config_clear(&i->config);
    if (!config_parse(config, &i->config, NULL) && !config_resolve(&p.spec, t, &p, &i->config, NULL)) return;
  }
}

static void what_is_feasible_prints(void **state) {
  (void)state;
  const char *given = getenv("STROBE_TEST_SEED"), *many = getenv("STROBE_TEST_CONFIGS");
  const uint64_t first = given ? strtoull(given, NULL, 10) : 1;
  const long n = many ? strtol(many, NULL, 10) : CONFIGS;
  int failed = 0;
  for (long c = 0; c < n; c++) {
    struct instance i;
    char problem[80], config[160];
    seed = first + (uint64_t)c, drawn = 0;
    draw_instance(&i, problem, config);
    for (int printer = 0; printer < PRINTER_COUNT; printer++) {
      const struct render_options o = {.printer = (enum printer)printer};
      struct kernel_stats stats;
      struct buf out = {0};
      struct error err = {0};
      if (printer != PRINTER_SCALAR && !i.target->vregs) continue;
      if (printer == PRINTER_CODE && !STROBE_TCC) continue; // no encoder
      if (kernel_render(&i, &o, &out, &stats, &err) && ++failed < 20)
        print_error("STROBE_TEST_SEED=%llu: %s %s --set %s, printer %s: %s\n", (unsigned long long)seed, problem,
                    i.target->name, config, printer_names[printer], err.text);
      buf_free(&out);
    }
  }
  assert_int_equal(failed, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(what_is_feasible_prints)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
