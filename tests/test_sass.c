// The scanner of machine code: made-up programs with known loops, and kernels beside what cuobjdump prints.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// cmocka has a macro of the same name as a function of ours.
#include "../gen/cuda_kernel.h"
#include "../runtime/gpu_nvrtc.h"
#include "sass_program.h"

// With its inner functions, beside the one of the library.
#define sass_scan scan_again
#include "../runtime/gpu_sass.c"
#undef sass_scan
bool sass_scan(const void *cubin, size_t len, struct sass_report *r);

#include <cmocka.h>

struct branch {
  int at, to;
  unsigned guard;
};
enum { ALWAYS = 7, P0 = 0, NOT_P1 = 9 };

static const struct program {
  const char *what, *letters; // branches stand where a 'b' is
  struct branch b[6];
  int loops, local, first;
} programs[] = {
    {"straight", "...wl.e", {{0}}, 0, 0, 0},
    {"clean loop", "l..w..bse", {{6, 2, P0}}, 1, 0, 0},
    {"load in the loop", "...wl.b.e", {{6, 2, P0}}, 1, 1, 64},
    {"load and store", "..lws.b.e", {{6, 2, P0}}, 1, 2, 32},
    {"A in registers", "...Wl.be", {{6, 2, NOT_P1}}, 1, 1, 64},
    {"loop without wgmma", "..l..b.w.e", {{5, 2, P0}}, 0, 0, 0},
    {"only in the outer loop", ".l.w..bs.b.e", {{6, 3, P0}, {9, 1, P0}}, 1, 0, 0},
    {"rare block inside the range", "..w.bll..b.e", {{4, 7, P0}, {9, 2, P0}}, 1, 0, 0},
    {"rare block out of line", "..w.b..b.ellb", {{4, 10, P0}, {7, 2, P0}, {12, 5, ALWAYS}}, 1, 0, 0},
    {"both sides meet it", "..w.b.b..l.b.e", {{4, 7, P0}, {6, 8, ALWAYS}, {11, 2, P0}}, 1, 1, 144},
    {"a barrier tried again out of line",
     "..bw..b.e.b.b",
     {{2, 9, P0}, {6, 2, P0}, {10, 9, P0}, {12, 3, ALWAYS}},
     1,
     0,
     0},
    {"tail of a loop that skips the wgmma", "..bwl..b.e", {{2, 5, P0}, {7, 2, P0}}, 1, 1, 64},
    {"two loops, the worse one counts", "..wlb.wllb.e", {{4, 2, P0}, {9, 6, P0}}, 2, 2, 112},
    {"entered in the middle", "b..wl.b.e", {{0, 4, P0}, {6, 2, P0}}, 1, 1, 64},
    {"leaves under a predicate", "..wEl.be", {{6, 2, ALWAYS}}, 1, 1, 64},
    {"code that is never reached", "..e.wlb", {{6, 4, ALWAYS}}, 1, 1, 80},
    {"three deep", "..l.ws.b.l.b.l.b.e", {{7, 4, P0}, {11, 3, P0}, {15, 1, P0}}, 1, 1, 80},
};

static struct sass_program assemble(const struct program *p) {
  struct sass_program s = {0};
  int b = 0;
  sass_add(&s, p->letters);
  for (int i = 0; i < s.n; i++)
    if (p->letters[i] == 'b') {
      assert_int_equal(p->b[b].at, i);
      sass_branch(&s, i, p->b[b].to, p->b[b].guard);
      b++;
    }
  return s;
}

static void known_programs(void **state) {
  (void)state;
  for (size_t n = 0; n < sizeof programs / sizeof *programs; n++) {
    const struct program *p = &programs[n];
    const struct sass_program s = assemble(p);
    unsigned char file[SASS_BYTES];
    struct sass_report r;
    assert_true(sass_scan(file, sass_file(&s, file), &r));
    if (r.loops != p->loops || r.local != p->local || r.first != p->first)
      fail_msg("%s: %d loops, %d local, first %d; not %d, %d, %d", p->what, r.loops, r.local, r.first, p->loops,
               p->local, p->first);
  }
}

static void not_understood(void **state) {
  (void)state;
  struct sass_program s = assemble(&programs[2]);
  unsigned char file[SASS_BYTES];
  struct sass_report r;
  const size_t len = sass_file(&s, file);
  for (size_t cut = 0; cut < len; cut++) {
    unsigned char *copy = malloc(cut + 1);
    memcpy(copy, file, cut);
    assert_false(sass_scan(copy, cut, &r));
    assert_int_equal(r.loops + r.local + r.first, 0);
    free(copy);
  }
  sass_branch(&s, 6, 100, P0); // to nowhere
  assert_false(sass_scan(file, sass_file(&s, file), &r));
  sass_branch(&s, 6, -1, P0);
  assert_false(sass_scan(file, sass_file(&s, file), &r));
  s = assemble(&programs[2]), s.word[6][0] += 1 << 16; // between two instructions
  assert_false(sass_scan(file, sass_file(&s, file), &r));
  s = assemble(&programs[2]), sass_add(&s, "r"); // a branch to a register
  assert_false(sass_scan(file, sass_file(&s, file), &r));
  s = assemble(&programs[2]);
  sass_file(&s, file);
  file[18] = 62; // x86-64
  assert_false(sass_scan(file, len, &r));
}

// ---- beside cuobjdump ----

static struct buf compile(const char *problem) {
  struct error err = {0};
  struct problem p;
  struct buf text = {0}, cubin = {0};
  struct gpu_report report;
  assert_int_equal(problem_parse(problem, &p, &err), 0);
  struct instance i = {.spec = p.spec, .target = target_find("sm90a")};
  config_clear(&i.config);
  const struct render_options o = {.for_tcc = true};
  int status = config_resolve(&p.spec, i.target, &p, &i.config, &err);
  if (!status) status = cuda_kernel_render(&i, &o, NULL, NULL, &text, &err);
  if (!status) status = nvrtc_compile(text.data, &cubin, &report, &err);
  if (status) fail_msg("%s: %s", problem, err.text);
  buf_free(&text);
  return cubin;
}

// The text section of a cubin with one kernel.
static struct flow flow_of(const struct buf *cubin, int *ints, bool *bools, enum kind *kinds, int most) {
  Elf64_Ehdr h;
  Elf64_Shdr s;
  struct flow f = {.n = 0};
  memcpy(&h, cubin->data, sizeof h);
  for (int n = 0; n < h.e_shnum; n++) {
    memcpy(&s, cubin->data + h.e_shoff + (size_t)n * sizeof s, sizeof s);
    if (s.sh_type != SHT_PROGBITS || !(s.sh_flags & SHF_EXECINSTR)) continue;
    f = (struct flow){
        .n = (int)(s.sh_size / 16), .next = {ints, ints + most}, .kind = kinds, .cut = {bools, bools + most}};
    assert_true(f.n > 0 && f.n < most);
    assert_true(read_flow((const unsigned char *)cubin->data + s.sh_offset, &f));
  }
  return f;
}

static enum kind kind_in(const char *text) {
  static const struct {
    const char *name;
    enum kind kind;
  } names[] = {{"LDL", LOCAL}, {"STL", LOCAL}, {"HGMMA", WGMMA}, {"BRA", BRANCH}, {"EXIT", EXIT}};
  while (*text == ' ') text++;
  if (*text == '@') text = strchr(text, ' ') + strspn(strchr(text, ' '), " ");
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (!strncmp(text, names[i].name, strlen(names[i].name))) return names[i].kind;
  return PLAIN;
}

// Lines as "        /*0320*/              @!P0 BRA 0xb3f0 ;      /* 0x000000b000308947 */".
static int compare_listing(FILE *listing, const struct flow *f) {
  char line[400];
  int compared = 0;
  while (fgets(line, sizeof line, listing)) {
    unsigned at;
    const char *text = strstr(line, "*/");
    if (!text || strstr(line, "/* 0x") == strstr(line, "/*") || sscanf(line, " /*%x*/", &at) != 1 ||
        at / 16 >= (unsigned)f->n)
      continue;
    const enum kind want = kind_in(text + 2);
    if (f->kind[at / 16] != want) fail_msg("kind %d: %s", (int)f->kind[at / 16], line);
    const char *target = want == BRANCH ? strstr(text, " 0x") : NULL;
    if (target && strtol(target, NULL, 16) != 16l * f->next[1][at / 16])
      fail_msg("target %x: %s", 16u * (unsigned)f->next[1][at / 16], line);
    const bool goes_on = f->next[0][at / 16] != NONE || at / 16 == (unsigned)f->n - 1;
    if ((want == BRANCH || want == EXIT) && strstr(text, "@") && !goes_on) fail_msg("ends: %s", line);
    if ((want == BRANCH || want == EXIT) && !strchr(text, '@') && !strstr(text, "BRA.") && goes_on &&
        at / 16 != (unsigned)f->n - 1)
      fail_msg("goes on: %s", line);
    compared++;
  }
  return compared;
}

static void beside_cuobjdump(void **state) {
  (void)state;
  int major, minor;
  struct error err = {0};
  if (nvrtc_version(&major, &minor, &err)) {
    print_message("could not check: machine code of kernels: %s\n", err.text);
    return;
  }
  if (system("cuobjdump --version >/dev/null 2>&1")) {
    print_message("could not check: the encoding against a disassembly: no cuobjdump in PATH\n");
    return;
  }
  enum { MOST = 1 << 14 };
  static int ints[2 * MOST];
  static bool bools[2 * MOST];
  static enum kind kinds[MOST];
  static const char *const problems[] = {"d128:bf16:causal", "d256:f16:causal", "d64:bf16"};
  for (int n = 0; n < 3; n++) {
    struct buf cubin = compile(problems[n]);
    const struct flow f = flow_of(&cubin, ints, bools, kinds, MOST);
    char path[] = "/tmp/strobe-sass-XXXXXX", command[80];
    const int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, cubin.data, cubin.len) == (ssize_t)cubin.len && !close(fd));
    snprintf(command, sizeof command, "cuobjdump -sass %s", path);
    FILE *listing = popen(command, "r");
    assert_non_null(listing);
    assert_int_equal(compare_listing(listing, &f), f.n);
    pclose(listing);
    unlink(path);
    buf_free(&cubin);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(known_programs), cmocka_unit_test(not_understood),
                                     cmocka_unit_test(beside_cuobjdump)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
