// The command line on a machine that is full: a disk with no room, a directory that may not be written, memory that
// runs out at every allocation. One sentence, exit status 2, and no file that was not there before. Runs $STROBE_BIN,
// or ../strobe seen from this test's directory.
#include "../runtime/npy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "shell.h"

#include <dirent.h>
#include <fcntl.h>
#include <libgen.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char binary[4096], base[] = "/tmp/strobe-cli-faults-XXXXXX", dir[64], preload[64];

// ---- running ------------------------------------------------------------------------------------

struct circumstance {
  rlim_t file_size; // 0: no limit
  long fail_at;     // allocation that fails; 0: none
  bool lasting;     // and all after it
  bool nobody;      // not as root
  const char *out;  // standard output; NULL: a file
};

struct outcome {
  int code; // -1: ended by a signal
  char err[4096];
};

static void child(const char *arguments, const struct circumstance *c, int err) {
  char copy[1024], number[32], *argv[64] = {binary};
  int n = 1;
  const struct rlimit limit = {c->file_size, c->file_size};
  snprintf(copy, sizeof copy, "%s", arguments);
  for (char *word = strtok(copy, " "); word && n < 63; word = strtok(NULL, " ")) argv[n++] = word;
  if (chdir(dir) || !freopen(c->out ? c->out : "/dev/null", "wb", stdout) || dup2(err, 2) != 2) _exit(99);
  if (c->nobody && geteuid() == 0 && setresuid(65534, 65534, 65534)) _exit(99);
  if (c->fail_at) {
    snprintf(number, sizeof number, "%ld", c->fail_at);
    if (setenv("FAIL_AT", number, 1) || setenv("FAIL_FEWER", "../fewer", 1) ||
        (c->lasting && setenv("FAIL_LASTING", "1", 1)) || setenv("LD_PRELOAD", preload, 1))
      _exit(99);
  }
  setenv("OMP_NUM_THREADS", "1", 1);
  signal(SIGXFSZ, SIG_DFL);
  if (c->file_size && setrlimit(RLIMIT_FSIZE, &limit)) _exit(99);
  execv(binary, argv);
  _exit(98);
}

static struct outcome strobe(const char *arguments, const struct circumstance *c) {
  char path[128];
  struct outcome o = {.code = -1};
  snprintf(path, sizeof path, "%s/fewer", base);
  unlink(path);
  fflush(NULL);
  int ends[2]; // a pipe, which no limit on files concerns
  assert_int_equal(pipe(ends), 0);
  const pid_t pid = fork();
  assert_true(pid >= 0);
  if (!pid) child(arguments, c, ends[1]);
  close(ends[1]);
  size_t len = 0;
  for (ssize_t n; len < sizeof o.err - 1 && (n = read(ends[0], o.err + len, sizeof o.err - 1 - len)) > 0;)
    len += (size_t)n;
  close(ends[0]);
  o.err[len] = 0;
  int status = 0;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  if (WIFEXITED(status)) o.code = WEXITSTATUS(status);
  return o;
}

static int entries(void) {
  int n = 0;
  DIR *d = opendir(dir);
  for (struct dirent *e; d && (e = readdir(d));) n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
  if (d) closedir(d);
  return n;
}

static bool one_sentence(const struct outcome *o) {
  const char *line = strchr(o->err, '\n');
  return o->code == 2 && !strncmp(o->err, "strobe: ", 8) && line && !line[1];
}

static void refuses(const char *arguments, const struct circumstance *c, const char *part) {
  const int before = entries();
  const struct outcome o = strobe(arguments, c);
  if (!one_sentence(&o) || !strstr(o.err, part)) fail_msg("strobe %s: exit %d, \"%s\"", arguments, o.code, o.err);
  if (entries() != before) fail_msg("strobe %s left a file", arguments);
}

// ---- disks --------------------------------------------------------------------------------------

#define RUN "run d32 --q q.npy --k q.npy --v q.npy -o o.npy --lse l.npy"
#define EMIT "emit d32 --target c99 -o ."

static void test_a_full_disk(void **state) {
  (void)state;
  // The input is 256 x 32 floats and o as large; lse fits where o does not: neither may stay.
  const struct circumstance small = {.file_size = 4096}, none = {.file_size = 1}, plenty = {.file_size = 1 << 24};
  refuses(RUN, &small, "o.npy: File too large");
  refuses(RUN, &none, "o.npy: File too large");
  refuses(EMIT, &small, "File too large");
  refuses(EMIT, &none, "File too large");
  refuses("emit d32 --target c99 -o new/er", &small, "File too large");
  const int before = entries();
  assert_int_equal(strobe(RUN, &plenty).code, 0);
  assert_int_equal(strobe(EMIT, &plenty).code, 0);
  assert_int_equal(entries(), before + 4);
  refuses("run d32 --q q.npy --k q.npy --v q.npy -o o.npy --scale 2", &small,
          "o.npy: File too large"); // the old one stays
  assert_int_equal(strobe("run d32 --q o.npy --k q.npy --v q.npy -o p.npy", &plenty).code, 0);
}

static void test_standard_output_is_full(void **state) {
  (void)state;
  static const char *const verbs[] = {"--help",          "explain d32",
                                      "doctor",          "emit --help",
                                      "verify d32:q8k8", "run d32 --q q.npy --k q.npy --v q.npy -o full.npy"};
  if (access("/dev/full", W_OK)) skip();
  for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
    const struct outcome o = strobe(verbs[i], &(struct circumstance){.out = "/dev/full"});
    if (!one_sentence(&o) || !strstr(o.err, "standard output"))
      fail_msg("strobe %s: exit %d, %s", verbs[i], o.code, o.err);
  }
}

static void test_directories(void **state) {
  (void)state;
  const struct circumstance other = {.nobody = true};
  struct outcome o = strobe("--version", &other);
  if (o.code == 98) skip(); // may not run this binary
  assert_int_equal(chmod(dir, 0555), 0);
  refuses(RUN, &other, "ermission");
  refuses("emit d40 --target c99 -o .", &other, "ermission");
  refuses("emit d32 --target c99 -o deeper", &other, "ermission");
  assert_int_equal(chmod(dir, 0700), 0);
  assert_int_equal(chmod(dir, 0755), 0);
}

// ---- memory -------------------------------------------------------------------------------------

static void only_the_input(void) {
  assert_int_equal(shell("cd %s && mv q.npy .. && rm -rf * && mv ../q.npy .", dir), 0);
}

// Whatever fails, the verb does its work (a plan that falls to a lower rung, a table without colours) or says in one
// sentence that it can't, and then has written nothing.
static void sweep(const char *arguments, int wanted, long step) {
  char path[128];
  only_the_input();
  if (strobe(arguments, &(struct circumstance){.fail_at = 0}).code) return; // not with this build (TCC=0)
  only_the_input();
  for (long n = 1; n < 20000; n += step) {
    const struct circumstance c = {.fail_at = n, .lasting = n / step % 2};
    const struct outcome o = strobe(arguments, &c);
    if (o.code == 127 && strstr(o.err, "cannot allocate")) continue; // the loader of the process, before it began
    if (o.code != 0 && !one_sentence(&o))
      fail_msg("strobe %s, allocation %ld: exit %d, \"%s\"", arguments, n, o.code, o.err);
    if (o.code != 0 && !strstr(o.err, "memory")) fail_msg("strobe %s, allocation %ld: \"%s\"", arguments, n, o.err);
    // When there is no memory for the line that says what was done, it has been done.
    const bool done = !o.code || strstr(o.err, "memory for the output");
    const int files = entries() - 1;
    if (files != (done ? wanted : 0))
      fail_msg("strobe %s, allocation %ld: exit %d, %d files, \"%s\"", arguments, n, o.code, files, o.err);
    if (files) only_the_input();
    snprintf(path, sizeof path, "%s/fewer", base);
    if (!access(path, F_OK)) return; // it made fewer than n
  }
  fail_msg("strobe %s: no end to its allocations", arguments);
}

static void test_out_of_memory(void **state) {
  (void)state;
  sweep("emit d8 --target c99 -o out", 1, 1);
  sweep("explain d8 --target c99", 0, 3);
  sweep(RUN " --set block_m=16,block_n=16,stages=1", 2, 29);
  sweep("verify d8:q8k8 --target c99", 0, 41);
}

// ---- set up -------------------------------------------------------------------------------------

// Loaded before libc into the process that is to run out of memory.
static const char preload_source[] = "#include \"failing_malloc.h\"\n"
                                     "#include <fcntl.h>\n"
                                     "#include <unistd.h>\n"
                                     "__attribute__((constructor)) static void begin(void) {\n"
                                     "  const char *at = getenv(\"FAIL_AT\");\n"
                                     "  faults.fail_at = at ? atol(at) : 0;\n"
                                     "  faults.lasting = getenv(\"FAIL_LASTING\") != NULL;\n"
                                     "  faults.on = true;\n"
                                     "}\n"
                                     "__attribute__((destructor)) static void end(void) {\n"
                                     "  if (faults.calls >= faults.fail_at) return;\n"
                                     "  close(open(getenv(\"FAIL_FEWER\"), O_CREAT | O_WRONLY, 0666));\n"
                                     "}\n";

static bool build_preload(void) {
  char path[128];
  snprintf(path, sizeof path, "%s/preload.c", base);
  FILE *f = fopen(path, "w");
  if (!f) return false;
  const bool written = fputs(preload_source, f) >= 0;
  return !fclose(f) && written &&
         !shell("cc -std=gnu11 -D_GNU_SOURCE -O1 -shared -fPIC -Itests %s -o %s", path, preload);
}

static int set_up(void **state) {
  char self[4000], path[128];
  const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
  const char *given = getenv("STROBE_BIN");
  static float data[256 * 32];
  const int64_t shape[] = {1, 256, 1, 32};
  (void)state;
  if (n <= 0 || !mkdtemp(base)) return -1;
  self[n] = 0;
  snprintf(binary, sizeof binary, "%s/../strobe", dirname(self));
  if (given && !realpath(given, binary)) return -1;
  snprintf(dir, sizeof dir, "%s/work", base);
  snprintf(preload, sizeof preload, "%s/preload.so", base);
  if (chmod(base, 0755) || mkdir(dir, 0755) || !build_preload()) return -1;
  for (int i = 0; i < 256 * 32; i++) data[i] = (float)(i % 13) - 6;
  snprintf(path, sizeof path, "%s/q.npy", dir);
  return npy_write(path, NPY_F4, 4, shape, data, NULL);
}

static int tear_down(void **state) {
  (void)state;
  return shell("rm -rf %s", base);
}

// What is no regular file is not replaced by one: /dev/null would be gone for all.
static void test_a_pipe_stays_a_pipe(void **state) {
  (void)state;
  char path[128];
  struct stat st;
  const struct circumstance none = {.out = NULL};
  snprintf(path, sizeof path, "%s/pipe", dir);
  assert_int_equal(mkfifo(path, 0600), 0);
  const struct outcome o = strobe("db export --db nothing.txt -o pipe", &none);
  assert_int_equal(o.code, 2);
  assert_non_null(strstr(o.err, "not a regular file"));
  assert_int_equal(stat(path, &st), 0);
  assert_true(S_ISFIFO(st.st_mode));
  unlink(path);
}

// Whoever is killed in the midst leaves the earlier manifest: it comes last.
static void test_the_manifest_comes_last(void **state) {
  (void)state;
  _Alignas(struct inotify_event) char events[16384];
  char path[128], last[256] = "";
  int moved = 0;
  const struct circumstance none = {.out = NULL};
  snprintf(path, sizeof path, "%s/set", dir);
  assert_int_equal(mkdir(path, 0755), 0);
  assert_int_equal(shell("echo d16:f32 target=c99 > %s/set.txt", dir), 0);
  const int watch = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
  const bool watched = watch >= 0 && inotify_add_watch(watch, path, IN_MOVED_TO) >= 0;
  if (!watched) print_message("  note: the system has no inotify left: the order of a set's files is not tested\n");
  const struct outcome o = strobe("emit --set-file set.txt -o set", &none);
  if (o.code) fail_msg("%s", o.err);
  const ssize_t n = watched ? read(watch, events, sizeof events) : 0;
  for (ssize_t at = 0; at < n; moved++) {
    const struct inotify_event *e = (const struct inotify_event *)(events + at);
    snprintf(last, sizeof last, "%s", e->name);
    at += (ssize_t)(sizeof *e + e->len);
  }
  if (watch >= 0) close(watch);
  assert_true(moved >= 5 || !watched);
  if (watched) assert_string_equal(last, "manifest.json");
  assert_int_equal(shell("rm -r %s/set %s/set.txt", dir, dir), 0);
}

// One length too many for the batch.
static void test_lengths_of_another_batch(void **state) {
  (void)state;
  char path[128];
  const struct circumstance none = {.out = NULL};
  snprintf(path, sizeof path, "%s/lens.npy", dir);
  assert_int_equal(npy_write(path, NPY_I8, 1, (const int64_t[]){3}, (const int64_t[]){2, 1, 2}, NULL), 0);
  const struct outcome o = strobe("verify d16:f32:b2q2k2 --kv-lens lens.npy", &none);
  assert_int_equal(o.code, 2);
  assert_non_null(strstr(o.err, "has 3 lengths: must have 2"));
  unlink(path);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_full_disk),
      cmocka_unit_test(test_standard_output_is_full),
      cmocka_unit_test(test_directories),
      cmocka_unit_test(test_out_of_memory),
      cmocka_unit_test(test_a_pipe_stays_a_pipe),
      cmocka_unit_test(test_the_manifest_comes_last),
      cmocka_unit_test(test_lengths_of_another_batch),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
