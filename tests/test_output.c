// What the program prints: list and its reasons, JSON that parses, suites, seeds, the manual page, and what a terminal
// gets that a pipe does not.
#include "../gen/spec.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <pty.h>

#include "cli_run.h"

static bool there(const char *program) {
  char command[96];
  snprintf(command, sizeof command, "command -v %s > /dev/null", program);
  return system(command) == 0;
}

static void keep(char *to, size_t size, const char *from) {
  assert_true(strlen(from) < size);
  strcpy(to, from);
}

// Runs a Python check, `d` being what strobe printed. True of programs that Python's parser takes.
static void json_holds(const char *arguments, const char *check) {
  char command[4096];
  const struct outcome *o = strobe(arguments);
  assert_true(o->code == 0 || o->code == 1);
  FILE *f = fopen(path_of("it.json"), "wb");
  assert_non_null(f);
  assert_true(fputs(o->out, f) >= 0 && !fclose(f));
  snprintf(command, sizeof command, "cd %s && python3 -c 'import json; d = json.load(open(\"it.json\")); assert %s'",
           dir, check);
  if (system(command)) fail_msg("strobe %s: not so: %s\n%.2000s", arguments, check, o->out);
  unlink(path_of("it.json"));
}

static void json_parses(void **state) {
  (void)state;
  if (!there("python3")) {
    print_message("could not check JSON: no python3\n");
    skip();
  }
  json_holds("list --json", "len(d) >= 96 and all(r[\"feasible\"] == (r[\"reason\"] == \"\") == (r[\"config\"] is not "
                            "None) == (r[\"instance\"] is not None) for r in d)");
  json_holds("list d64:f32 d24:f16:b2h8/2q9k9 --json",
             "{r[\"spec\"] for r in d} == {\"d64:f32\", \"d24:f16:b2h8/2q9k9\"}");
  json_holds("verify d32:f32:b1h1q3k5 --json --kind normal --seed 42",
             "d and all(r[\"ok\"] is True and r[\"seed\"] == 42 and \"--seed 42\" in r[\"reproduce\"] for r in d)");
  json_holds("verify d32:f32:b1h1q3k0 --json --kind nan", "d and all(r[\"ok\"] is True for r in d)");
  json_holds("verify d32:f32:b1h1q3k5 --json --kind nan --backend builtin",
             "d and all(r[k] is None for r in d for k in (\"err\", \"bound\", \"ratio\"))");
  json_holds("explain d64:f32:causal --target c99 --json",
             "d[\"target\"] == \"c99\" and d[\"config\"][\"block_n\"][\"from\"] == \"heuristic\" and d[\"phases\"] and "
             "d[\"about\"].startswith(\"tiles: \") and any(\"registers\" in p for p in d[\"phases\"])");
  // The slot model: a smaller head_dim has more of everything else to a product.
  json_holds("explain d128:bf16:q2048 --target avx512bf16 --json",
             "80 < d[\"predicted_percent\"] == d[\"predicted_percent_d128\"] < 100");
  json_holds("explain d40:bf16:q2048 --target avx512bf16 --json",
             "70 < d[\"predicted_percent\"] < 0.97 * d[\"predicted_percent_d128\"]");
  json_holds("explain d40:f32:q2048 --target avx512 --json",
             "d[\"predicted_percent\"] > 0.94 * d[\"predicted_percent_d128\"]");
  json_holds("explain d64:f32:q1k4096 --target avx512 --json", "\"predicted_percent\" not in d");
  // Matrix tiles: the floor is in products of theirs. QK, with exp and without, with rows to fetch and without: 2
  // columns of 4 steps; PV of 4 steps and of 1: 2 x 2.
  json_holds("explain d128:bf16:b1h2q1024k1024 --target amxbf16 --set kernel=tiles,block_m=32 --json",
             "d[\"floor_tile_products\"] * 16 * 16 * 32 == 2*1024*1024 * (128 + 128) and \"floor_slots\" not in d and "
             "{p[\"phase\"]: p[\"tile_products\"] for p in d[\"phases\"] if p[\"tile_products\"]} == {\"qk\": 4 * 2*4, "
             "\"pv\": (4 + 1) * 2*2} and sum(p[\"slots\"] for p in d[\"phases\"] if p[\"phase\"] == \"softmax\") > 0");
  // Of parts those products that tiles_products counts: 6 and 6 of f32, 4 and 3 of f16, 3 and 3 of the mixed one.
  json_holds(
      "explain d128:f32:b1h2q1024k1024 --target amxbf16 --set block_m=32 --json",
      "d[\"floor_tile_products\"] * 16 * 16 * 32 == 2*1024*1024 * 6 * (128 + 128) and "
      "{p[\"phase\"]: p[\"tile_products\"] for p in d[\"phases\"] if p[\"tile_products\"]} == {\"qk\": 4 * 2*4*6, "
      "\"pv\": (4 + 1) * 2*6}");
  json_holds(
      "explain d128:f16:b1h2q1024k1024 --target amxbf16 --set block_m=32 --json",
      "d[\"floor_tile_products\"] * 16 * 16 * 32 == 2*1024*1024 * (4*128 + 3*128) and "
      "{p[\"phase\"]: p[\"tile_products\"] for p in d[\"phases\"] if p[\"tile_products\"]} == {\"qk\": 4 * 2*4*4, "
      "\"pv\": (4 + 1) * 2*3}");
  json_holds(
      "explain d128:q=f32,kv=bf16:b1h2q1024k1024 --target amxbf16 --set block_m=32 --json",
      "d[\"floor_tile_products\"] * 16 * 16 * 32 == 2*1024*1024 * 3 * (128 + 128) and "
      "{p[\"phase\"]: p[\"tile_products\"] for p in d[\"phases\"] if p[\"tile_products\"]} == {\"qk\": 4 * 2*4*3, "
      "\"pv\": (4 + 1) * 2*3}");
  json_holds("explain d128:bf16:b1h2q1024k1024 --target avx512bf16 --json",
             "d[\"floor_slots\"] * 16 * 2 == 2*1024*1024 * (128 + 128) and \"floor_tile_products\" not in d and "
             "all(p[\"tile_products\"] == 0 for p in d[\"phases\"])");
  json_holds("doctor --json", "d[\"jit\"] in (True, False) and len(d[\"checks\"]) > 8 and all(set(c) == {\"check\", "
                              "\"verdict\", \"detail\"} for c in d[\"checks\"])");
  json_holds("bench d32:f32:b1h1q16k16 --runs 1 --json --seed 42", "d[0][\"seed\"] == 42 and d[0][\"ms\"] > 0");
  json_holds("bench d32:f32:b1h1q16k16 --runs 1 --kv-lens 7 --json", "d[0][\"kv_lens\"] == \"7\"");
  assert_non_null(strstr(works("bench d32:f32:b1h1q16k16 --runs 1 --kv-lens 7 --csv")->out, "k16,7,"));
  json_holds("bench d32:f32:b1h1q16k16 --runs 1 --jit --json", "d[0][\"total_ms\"] >= 0");
  json_holds("bench --ablate d32:f32:b1h2q64k200 --runs 1 --json",
             "[r[\"idea\"] for r in d][:3] == [\"standard\", \"fa1\", \"fa2\"] and len(d) >= 4 and "
             "all(r[\"ms\"] > 0 and r[\"percent\"] > 0 for r in d) and sum(r[\"default\"] for r in d) == 1");
  json_holds("bench --ablate d32:f32:causal:b1h2q64k200 --runs 1 --target c99 --json",
             "[r[\"idea\"] for r in d][-2:] == [\"+ diagonal kernel\", \"+ prefetch\"] and "
             "[\"diagonal=mask\" in r[\"config\"] for r in d] == (len(d) - 2) * [True] + 2 * [False]");
  json_holds("bench --ablate d64:f32:b1h2q1024k1024 --target c99 --backend scalar --runs 1 --json",
             "d[0][\"workspace_bytes\"] >= 4 * 2 * 1024 * 1024 > d[1][\"workspace_bytes\"] > d[2][\"workspace_bytes\"] "
             "and d[0][\"modelled_bytes\"] > 5 * 4 * 2 * 1024 * 1024 and "
             "d[0][\"modelled_bytes\"] - d[2][\"modelled_bytes\"] == 5 * 4 * 2 * 1024 * 1024");
  json_holds("explain d64:f32:b1h2q1024k1024 --target avx512 --set algo=standard --json",
             "d[\"config\"][\"algo\"][\"value\"] == \"standard\" and d[\"modelled_bytes\"] > 5 * 4 * 2 * 1024 * 1024");
  json_holds("explain d64:f32:b1h2q1024k1024 --target avx512 --json",
             "d[\"config\"][\"algo\"][\"value\"] == \"fa3\" and d[\"modelled_bytes\"] < 5 * 4 * 2 * 1024 * 1024");
  // Copies of matrix tiles have K of 32 elements, V of 16, keys of 32. Q and O; K and V read, written, and read by a
  // tile.
  json_holds("explain d40v24:bf16:b1h2q64k40 --target amxbf16 --set kernel=tiles,block_m=16 --json",
             "d[\"modelled_bytes\"] == 2 * (2*64 * (40 + 24) + 2*40 * (40 + 24) + 2*64 * (64 + 32) + 2*64/16 * 64 * "
             "(64 + 32))");
  json_holds("bench --suite cpu --only d128:f32:causal:b1h8q512 --runs 1 --json",
             "len(d) == 1 and d[0][\"resolve\"] == 86 and d[0][\"aim\"] == 89 and d[0][\"measured\"] > 0 and "
             "(d[0][\"measured\"] >= 86) == (d[0][\"reached\"] != \"no\")");
  json_holds("emit d32:f32 --target c99 -o out --json", "d[\"changed\"] is True");
  json_holds("emit d32:f32 --target c99 --name at --prefix p_ -o set --json",
             "(d[\"directory\"], d[\"function\"], d[\"header\"]) == (\"set\", \"p_at_forward\", "
             "\"at_dispatch.h\")");
}

// Every line says what config_resolve says.
static void list_tells_why_not(void **state) {
  (void)state;
  static const char *const specs[] = {"d64:f32", "d63:bf16", "d64:f16:causal", "d72v64:f32", "d128:bf16:q=f32"};
  for (int s = 0; s < 5; s++) {
    char arguments[64];
    snprintf(arguments, sizeof arguments, "list %s --set block_n=64,stages=1", specs[s]);
    const struct outcome *o = works(arguments);
    for (int t = 0; t < target_count; t++) {
      struct problem p;
      struct config c;
      struct error err = {0};
      char line[32];
      assert_int_equal(problem_parse(specs[s], &p, NULL), 0);
      config_clear(&c);
      assert_int_equal(config_parse("block_n=64,stages=1", &c, NULL), 0);
      const bool bad = config_resolve(&p.spec, &target_table[t], &p, &c, &err);
      snprintf(line, sizeof line, "\n%s ", target_table[t].name);
      const char *at = strstr(o->out, line), *end = at ? strchr(at + 1, '\n') : NULL;
      if (!end) fail_msg("%s: no line for %s in %s", arguments, target_table[t].name, o->out);
      const char *want = bad ? err.text : "block_n=64,", *found = strstr(at, want);
      if (!found || found > end) fail_msg("%s: \"%s\" is not in %.*s", arguments, want, (int)(end - at), at);
    }
  }
}

static void list_has_the_whole_grid(void **state) {
  (void)state;
  const struct outcome *o = works("list --csv");
  static const char header[] = "target,spec,feasible,here,\"config, or why not\"\n";
  assert_memory_equal(o->out, header, sizeof header - 1);
  int lines = 0;
  for (const char *c = o->out; (c = strchr(c, '\n')); c++) lines++;
  assert_true((lines - 1) % target_count == 0 && lines - 1 >= 60 * target_count);
  const int all = (lines - 1) / target_count;
  o = works("list --target c99 --csv");
  lines = 0;
  for (const char *c = o->out; (c = strchr(c, '\n')); c++) lines++;
  assert_int_equal(lines - 1, all);
}

static void the_quick_suite_passes(void **state) {
  (void)state;
  const struct outcome *o = works("verify --suite quick");
  if (!strstr(o->out, " passed, 0 failed")) fail_msg("%s", o->out);
  char help[8192], problem[80];
  keep(help, sizeof help, works("verify --help")->out);
  const char *at = strstr(help, "problems of --suite quick:\n"), *end = strstr(help, "--suite full takes");
  assert_true(at && end);
  o = works("verify --suite quick --backend reference --kind zeros");
  for (at = strchr(at, '\n') + 1; at < end; at = strchr(at, '\n') + 1) { // run, or named in a note
    assert_int_equal(sscanf(at, " %79s", problem), 1);
    struct problem p;
    struct buf text = {0};
    assert_int_equal(problem_parse(problem, &p, NULL), 0);
    assert_int_equal(problem_complete(&p, NULL), 0);
    problem_print(&p, &text);
    if (!strstr(o->out, problem) && !strstr(o->out, text.data)) fail_msg("%s is not in %s", problem, o->out);
    buf_free(&text);
  }
}

static void seeds_change_the_inputs(void **state) {
  (void)state;
  char first[2048], second[2048];
  static const char seven[] = "verify d32:f32:b1h1q9k9 --kind normal --backend reference --layout bnhd --seed 7";
  keep(first, sizeof first, works(seven)->out);
  keep(second, sizeof second, works(seven)->out);
  assert_string_equal(first, second);
  assert_string_not_equal(
      first, works("verify d32:f32:b1h1q9k9 --kind normal --backend reference --layout bnhd --seed 8")->out);
}

// Every option of every --help is in the manual page, which troff takes without a word.
static void the_manual_has_every_option(void **state) {
  (void)state;
  static char man[100000];
  static const char *const verbs[] = {"emit", "run", "verify", "bench", "tune", "db", "list", "explain", "doctor"};
  keep(man, sizeof man, works("--man")->out);
  assert_true(strlen(man) > 5000 && strlen(man) < sizeof man - 1);
  for (int v = 0; v < 9; v++) {
    char text[64], option[40], word[80];
    snprintf(text, sizeof text, ".SS strobe %s\n", verbs[v]);
    const char *section = strstr(man, text), *end = section ? strstr(section, "Example:") : NULL;
    assert_non_null(end);
    snprintf(text, sizeof text, "%s --help", verbs[v]);
    int options = 0;
    for (const char *at = works(text)->out; (at = strstr(at, " --")); at++) {
      if (at[-1] != ' ' && at[-1] != ',') continue; // in a sentence
      if (sscanf(at, " --%39[a-z-]", option) != 1 || !strcmp(option, "help")) continue;
      int n = snprintf(word, sizeof word, "\\fB\\-\\-");
      for (const char *c = option; *c; c++)
        n += snprintf(word + n, sizeof word - (size_t)n, *c == '-' ? "\\-" : "%c", *c);
      const char *found = strstr(section, word);
      if (!found || found > end) fail_msg("%s of %s is not in the manual page", option, verbs[v]);
      options++;
    }
    assert_true(options >= 1);
  }
  FILE *f = fopen(path_of("strobe.1"), "wb");
  assert_non_null(f);
  assert_true(fputs(man, f) >= 0 && !fclose(f));
  char command[400];
  snprintf(command, sizeof command, "groff -man -Tutf8 -ww -z %s > %s/groff.txt 2>&1 && test ! -s %s/groff.txt",
           path_of("strobe.1"), dir, dir);
  if (!there("groff")) print_message("could not check the manual page: no groff\n");
  if (there("groff")) assert_int_equal(system(command), 0);
}

// ---- a terminal ----

// Runs strobe with standard output and error on a pseudo-terminal; what it wrote is in got.out.
static void on_terminal(const char *arguments) {
  char copy[256], *argv[32] = {binary};
  int n = 1, terminal, status;
  snprintf(copy, sizeof copy, "%s", arguments);
  for (char *word = strtok(copy, " "); word && n < 31; word = strtok(NULL, " ")) argv[n++] = word;
  fflush(NULL);
  const pid_t child = forkpty(&terminal, NULL, NULL, NULL);
  if (child < 0) { // a container without /dev/pts
    print_message("could not check terminals: %s\n", strerror(errno));
    skip();
  }
  if (!child) {
    execv(binary, argv);
    _exit(98);
  }
  size_t len = 0;
  for (ssize_t r; (r = read(terminal, got.out + len, sizeof got.out - 1 - len)) > 0;) len += (size_t)r;
  got.out[len] = 0;
  close(terminal);
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFEXITED(status));
}

static void colours_only_on_a_terminal(void **state) {
  (void)state;
  unsetenv("NO_COLOR");
  assert_null(strstr(works("list d64")->out, "\033["));
  on_terminal("list d64");
  assert_non_null(strstr(got.out, "\033["));
  setenv("NO_COLOR", "1", 1);
  on_terminal("list d64");
  assert_null(strstr(got.out, "\033["));
  assert_non_null(strstr(got.out, "block_m="));
  unsetenv("NO_COLOR");
}

// Parts of a sequence and work items, from the problem alone: as text, as JSON, and why.
static void explain_says_how_decode_is_split(void **state) {
  (void)state;
  static const struct {
    const char *problem;
    int parts, keys, items;
    const char *why;
  } cases[] = {{"d128:bf16:b1h32/8q1k8192", 8, 1024, 8, "from the problem alone"},
               {"d128:f32:b2h32/8q1k8192", 16, 512, 32, "from the problem alone"},
               {"d128:bf16:b1h32/8q1k8192 --set split=4096", 2, 4096, 2, "given"},
               {"d128:bf16:b64h32/8q1k8192", 1, 0, 64, "enough for all cores, or too few keys"},
               {"d128:bf16:b1h32/8q1k512", 1, 0, 1, "enough for all cores, or too few keys"},
               {"d128:bf16:b1h32/8q1k8192 --set block_h=2,split=0", 1, 0, 4, "given"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char arguments[120], text[80];
    snprintf(arguments, sizeof arguments, "explain %s --target avx512bf16", cases[i].problem);
    const struct outcome *o = works(arguments);
    snprintf(text, sizeof text, "split: %d parts of %d keys", cases[i].parts, cases[i].keys);
    if (!strstr(o->out, text) != (cases[i].parts == 1)) fail_msg("%s: %s\n%s", arguments, text, o->out);
    snprintf(text, sizeof text, "work items: %d, for any number of threads", cases[i].items);
    if (!strstr(o->out, text) || !strstr(o->out, cases[i].why)) fail_msg("%s: %s\n%s", arguments, text, o->out);
    snprintf(arguments, sizeof arguments, "explain %s --target avx512bf16 --json", cases[i].problem);
    o = works(arguments);
    snprintf(text, sizeof text, "\"splits\": %d", cases[i].parts);
    if (!strstr(o->out, text)) fail_msg("%s: %s\n%s", arguments, text, o->out);
    snprintf(text, sizeof text, "\"work_items\": %d", cases[i].items);
    if (!strstr(o->out, text)) fail_msg("%s: %s\n%s", arguments, text, o->out);
  }
  assert_null(strstr(works("explain d128:bf16:b1h8q512k512 --json")->out, "work_items"));
}

static void progress_only_on_a_terminal(void **state) {
  (void)state;
  static const char slow[] = "bench d32:f32:b1h1q16k16 --runs 35", wipe[] = "\r\033[K";
  assert_string_equal(works(slow)->err, "");
  on_terminal(slow);
  assert_non_null(strstr(got.out, wipe));
  assert_non_null(strstr(got.out, "of 35"));
  on_terminal("bench d32:f32:b1h1q16k16 --runs 1"); // well under a second
  assert_null(strstr(got.out, wipe));
}

static int begin(void **state) {
  (void)state;
  return make_directory() ? 0 : -1;
}

int main(int argc, char **argv) {
  (void)argc;
  if (!find_binary(argv[0])) return 1;
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(json_parses),
      cmocka_unit_test(list_tells_why_not),
      cmocka_unit_test(list_has_the_whole_grid),
      cmocka_unit_test(the_quick_suite_passes),
      cmocka_unit_test(seeds_change_the_inputs),
      cmocka_unit_test(the_manual_has_every_option),
      cmocka_unit_test(explain_says_how_decode_is_split),
      cmocka_unit_test(colours_only_on_a_terminal),
      cmocka_unit_test(progress_only_on_a_terminal),
  };
  return cmocka_run_group_tests(tests, begin, remove_directory);
}
