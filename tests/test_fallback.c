// A plan on systems that lack something: which rung it ends on, what it says of that, and that the results are right.
// The system is made so by the kernel, in a child: a seccomp filter, a limit, the environment.
#include "api.h"

#include "../runtime/cpu.h"
#include "../runtime/dump.h"

#include <dirent.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_MDWE_REFUSE_EXEC_GAIN 1
#endif

enum { CHILD_OK, CHILD_BAD, CHILD_SKIP };

// ---- systems ------------------------------------------------------------------------------------

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (unsigned)offsetof(struct seccomp_data, field))
#define UNLESS(value, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)(value), 0, skip)
#define UNLESS_BIT(value, skip) BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, (unsigned)(value), 0, skip)
#define REFUSE(code) BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (code))
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static bool filter(struct sock_filter *rules, size_t n) {
  const struct sock_fprog program = {(unsigned short)n, rules};
  return !prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) && !prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

// What systemd's MemoryDenyWriteExecute= does on older kernels, and then some: nothing new is ever executable.
static bool nothing_executable(void) {
  struct sock_filter rules[] = {
      LOAD(nr), UNLESS(SYS_mmap, 3),     LOAD(args[2]), UNLESS_BIT(PROT_EXEC, 1), REFUSE(EACCES),
      LOAD(nr), UNLESS(SYS_mprotect, 3), LOAD(args[2]), UNLESS_BIT(PROT_EXEC, 1), REFUSE(EACCES),
      ALLOW};
  return filter(rules, sizeof rules / sizeof *rules);
}

static bool no_memfd(void) {
  struct sock_filter rules[] = {LOAD(nr), UNLESS(SYS_memfd_create, 1), REFUSE(ENOSYS), ALLOW};
  return filter(rules, sizeof rules / sizeof *rules);
}

// No /proc, nor any other file.
static bool no_files(void) {
  struct sock_filter rules[] = {LOAD(nr), UNLESS(SYS_openat, 1), REFUSE(ENOENT), UNLESS(SYS_open, 1), REFUSE(ENOENT),
                                ALLOW};
  return filter(rules, sizeof rules / sizeof *rules);
}

static bool no_files_no_memfd(void) { return no_memfd() && no_files(); }
static bool no_gain(void) { return !prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0); }
static bool no_gain_no_memfd(void) { return no_gain() && no_memfd(); }
static bool no_avx(void) { return !setenv("STROBE_MAX_TARGET", "c99", 1); }
static bool no_avx_nothing_executable(void) { return no_avx() && nothing_executable(); }
static bool as_it_is(void) { return true; }

// A kernel of the JIT needs pages that may become executable; where no new page may, compiled-in code is what is left.
static const struct system {
  const char *name;
  bool (*make)(void);
  bool vectors, executable;
  const char *why; // in what the plan says, unless it runs "code"
} systems[] = {
    {"as it is", as_it_is, true, true, ""},
    {"no memfd", no_memfd, true, true, ""},
    {"no files", no_files, true, true, ""},
    {"no files, no memfd", no_files_no_memfd, true, true, ""},
    {"MDWE", no_gain, true, true, ""},
    {"MDWE, no memfd", no_gain_no_memfd, true, false, "make memory executable"},
    {"nothing executable", nothing_executable, true, false, "make memory executable"},
    {"no AVX", no_avx, false, true, "c99 has no vector instructions"},
    {"no AVX, nothing executable", no_avx_nothing_executable, false, false, "make memory executable"},
};
enum { SYSTEMS = sizeof systems / sizeof *systems };

// ---- plans on them ------------------------------------------------------------------------------

static const struct {
  const char *problem, *last; // the rung below the JIT: is there a compiled-in kernel?
} cases[] = {{"d64:f32:causal:b1h2q33k65", "builtin"}, {"d40:f32:b2h4/2q20k30", "reference"}};

static const char *expected(const struct system *s, const strobe_plan *p, const char *last) {
  (void)p;
#if STROBE_TCC
  const struct spec spec = p->problem.spec;
  const struct target *best = cpu_best_target(&spec);
  if (s->executable) return s->vectors && best->vregs ? "code" : "scalar";
#else
  (void)s;
#endif
  return last;
}

static int explain(const struct system *s, const strobe_plan *p, const char *wanted) {
  fprintf(stderr, "%s: %s by %s (%s), not %s\n", s->name, p->name.data, p->backend, p->why.data, wanted);
  return CHILD_BAD;
}

static int plan_on(const void *arg) {
  const struct system *s = arg;
  alarm(20);
  if (!s->make()) return CHILD_SKIP;
  strobe_context *ctx;
  if (strobe_context_create(&pool_options, &ctx)) return CHILD_BAD;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    strobe_plan *plan = plan_with(ctx, cases[i].problem, NULL);
    const char *wanted = expected(s, plan, cases[i].last);
    if (strcmp(plan->backend, wanted)) return explain(s, plan, wanted);
    const char *why = STROBE_TCC ? s->why : "built without libtcc";
    if (!strcmp(wanted, "code") ? plan->why.len != 0 : !strstr(plan->why.data, why)) return explain(s, plan, why);
    struct tensors t = tensors_of(plan, LAYOUT_BNHD, 0);
    const struct strobe_io io = io_of(&t);
    if (strobe_execute(plan, &io)) return explain(s, plan, strobe_error());
    check_result(plan, LAYOUT_BNHD, 0, &t);
    tensors_free(&t);
    strobe_plan_destroy(plan);
  }
  strobe_context_destroy(ctx);
  return CHILD_OK;
}

static int in_child(int (*f)(const void *), const void *arg) {
  fflush(NULL);
  const pid_t pid = fork();
  if (pid == 0) _exit(f(arg));
  int status = 0;
  assert_true(pid > 0 && waitpid(pid, &status, 0) == pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : CHILD_BAD;
}

static void test_systems(void **state) {
  (void)state;
  for (int i = 0; i < SYSTEMS; i++) {
    const int got = in_child(plan_on, &systems[i]);
    if (got == CHILD_SKIP) print_message("note: cannot make a system with %s here\n", systems[i].name);
    if (got == CHILD_BAD) fail_msg("on a system with %s", systems[i].name);
  }
}

// A host may run on its own file system, with no /proc at all, where it has the right to mount.
static int plan_without_proc(const void *arg) {
  (void)arg;
  alarm(20);
  if (syscall(SYS_unshare, 0x00020000 | 0x10000000)) return CHILD_SKIP;                 // CLONE_NEWNS, CLONE_NEWUSER
  if (syscall(SYS_mount, "none", "/", NULL, 1L << 18 | 16384, NULL)) return CHILD_SKIP; // MS_PRIVATE | MS_REC
  if (syscall(SYS_mount, "none", "/proc", "tmpfs", 0, NULL)) return CHILD_SKIP;
  return access("/proc/self", F_OK) ? plan_on(&systems[0]) : CHILD_SKIP;
}

static void test_no_proc(void **state) {
  (void)state;
  const int got = in_child(plan_without_proc, NULL);
  if (got == CHILD_SKIP) {
    print_message("note: may not mount here\n");
    skip();
  }
  assert_int_equal(got, CHILD_OK);
}

// ---- a cap on the target ------------------------------------------------------------------------

static void test_cap(void **state) {
  (void)state;
  const struct target *best = cpu_best_target(&(struct spec){.head_dim = 64, .head_dim_v = 64});
  assert_int_equal(setenv("STROBE_MAX_TARGET", "no-such-target", 1), 0);
  assert_true(cpu_has_target(best));
  for (int i = 0; i < target_count; i++) {
    const struct target *t = &target_table[i];
    if (t->family != FAMILY_CPU || !cpu_has_target(t)) continue;
    assert_int_equal(setenv("STROBE_MAX_TARGET", t->name, 1), 0);
    assert_true(cpu_has_target(t) && cpu_has_target(target_find("c99")));
    assert_int_equal(setenv("STROBE_MAX_TARGET", "c99", 1), 0);
    assert_int_equal(cpu_has_target(t), !strcmp(t->name, "c99"));
    unsetenv("STROBE_MAX_TARGET");
  }
}

// Dot products of bf16 pairs where they are as fast as multiply-adds, tiles where there are any.
static void test_bf16_target(void **state) {
  (void)state;
  struct problem bf16, mixed;
  if (!cpu_has_target(target_find("avx512bf16"))) skip();
  assert_int_equal(problem_parse("d64:bf16", &bf16, NULL) || problem_parse("d64:q=f32,kv=bf16", &mixed, NULL), 0);
#if defined(__x86_64__)
  const char *vectors = __builtin_cpu_is("intel") ? "avx512" : "avx512bf16";
  const bool tiles = cpu_has_target(target_find("amxbf16"));
  assert_string_equal(cpu_best_vector_target(&bf16.spec)->name, vectors);
  assert_string_equal(cpu_best_target(&bf16.spec)->name, tiles ? "amxbf16" : vectors);
  assert_string_equal(cpu_best_target(&mixed.spec)->name, tiles ? "amxbf16" : "avx512");
  assert_string_equal(cpu_best_vector_target(&mixed.spec)->name, "avx512");
#endif
}

// ---- what the JIT writes for people, where files may not grow -----------------------------------

static char dir[] = "/tmp/strobe-fallback-XXXXXX";

// Files that were dumped, and the bytes of the smallest and the largest.
static int entries(rlim_t size[2]) {
  int n = 0;
  DIR *d = opendir(dir);
  struct stat st;
  size[0] = RLIM_INFINITY, size[1] = 0;
  for (struct dirent *e; d && (e = readdir(d));) {
    if (e->d_name[0] == '.' || fstatat(dirfd(d), e->d_name, &st, 0)) continue;
    n++;
    if ((rlim_t)st.st_size < size[0]) size[0] = (rlim_t)st.st_size;
    if ((rlim_t)st.st_size > size[1]) size[1] = (rlim_t)st.st_size;
  }
  if (d) closedir(d);
  return n;
}

// How large a file may become, and how many are to be dumped.
struct dump_limit {
  rlim_t bytes;
  int files;
};

// SIGXFSZ has its default action here: a write beyond the limit would end the process.
static int dump_with_limit(const void *arg) {
  const struct dump_limit *want = arg;
  const struct rlimit limit = {want->bytes, RLIM_INFINITY};
  char map[64];
  struct stat st;
  rlim_t size[2];
  alarm(20);
  signal(SIGXFSZ, SIG_DFL);
  if (setenv("STROBE_DUMP", dir, 1) || setenv("STROBE_PERF", "1", 1) || setrlimit(RLIMIT_FSIZE, &limit))
    return CHILD_SKIP;
  strobe_context *ctx;
  if (strobe_context_create(&pool_options, &ctx)) return CHILD_BAD;
  strobe_plan *plan = plan_with(ctx, "d32:f32:h1q8k8", NULL);
  const bool said = plan->why.data && strstr(plan->why.data, "STROBE_DUMP") && strstr(plan->why.data, "File too large");
  if (plan->compiled && (said != (want->files < 2) || entries(size) != want->files))
    return explain(&systems[0], plan, "File too large");
  snprintf(map, sizeof map, "/tmp/perf-%ld.map", (long)getpid());
  const bool mapped = !stat(map, &st) && (rlim_t)st.st_size > limit.rlim_cur;
  unlink(map);
  strobe_plan_destroy(plan);
  strobe_context_destroy(ctx);
  return mapped ? CHILD_BAD : CHILD_OK;
}

static void test_dump_and_perf_map_with_a_limit(void **state) {
  (void)state;
  struct dump_limit limit = {50, 0}; // not even a line of the perf map
  char command[80];
  rlim_t size[2];
  assert_non_null(mkdtemp(dir));
  const int none = in_child(dump_with_limit, &limit);
  limit = (struct dump_limit){RLIM_INFINITY, 2}; // text and object
  const int both = in_child(dump_with_limit, &limit), dumped = entries(size);
  snprintf(command, sizeof command, "rm -rf %s/*", dir);
  assert_int_equal(system(command), 0);
  limit = (struct dump_limit){size[0], 1};
  const int one = dumped == 2 ? in_child(dump_with_limit, &limit) : CHILD_OK; // without libtcc no object
  snprintf(command, sizeof command, "rm -rf %s", dir);
  assert_int_equal(system(command), 0);
  assert_int_equal(none, CHILD_OK);
  assert_int_equal(both, CHILD_OK);
  if (dumped == 2) assert_true(size[0] < size[1]);
  assert_int_equal(one, CHILD_OK);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_systems),
      cmocka_unit_test(test_no_proc),
      cmocka_unit_test(test_cap),
      cmocka_unit_test(test_bf16_target),
      cmocka_unit_test(test_dump_and_perf_map_with_a_limit),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
