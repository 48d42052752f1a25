// Kernels on a GPU, without one: the runtime's calls go to tests/fake_cuda.c, which counts what it hands out, fails
// where it is told to, and computes attention on the host from the tensor maps and parameters of a launch.
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

// cmocka has a macro of the same name as a function of ours.
#include "../gen/error.h"
#include "../runtime/gpu.h"
#include "../runtime/gpu_bench.h"
#include "../runtime/gpu_cache.h"
#include "../runtime/gpu_driver.h"
#include "../runtime/verify.h"

#include <cmocka.h>

#include "fake_driver.h"

static char home[] = "/tmp/strobe-gpu-XXXXXX", cache[64];

static int start(void **state) {
  (void)state;
  const int status = use_fake_driver(home);
  snprintf(cache, sizeof cache, "%s/strobe", home);
  return status;
}

// ---- the cache's folder ----

// Path of the one file with this ending; "" if there is none. Counts all files.
static int files(const char *ending, char *path, size_t size) {
  int n = 0;
  DIR *d = opendir(cache);
  *path = 0;
  for (struct dirent *e; d && (e = readdir(d));) {
    if (e->d_name[0] == '.') continue;
    n++;
    const size_t len = strlen(e->d_name);
    if (len >= strlen(ending) && !strcmp(e->d_name + len - strlen(ending), ending))
      snprintf(path, size, "%s/%s", cache, e->d_name);
  }
  if (d) closedir(d);
  return n;
}

static void clear_cache(void) {
  char path[PATH_MAX];
  while (files("", path, sizeof path)) assert_int_equal(unlink(path), 0);
}

static int end(void **state) {
  (void)state;
  clear_cache();
  rmdir(cache);
  return rmdir(home);
}

// ---- one use of a kernel ----

struct job {
  const char *problem;
  enum layout layout;
};

static void make(const struct job *j, struct instance *i, struct verify_case *c, struct tensors *t) {
  struct error err = {0};
  *c = (struct verify_case){.kind = input_kind_find("normal"), .seed = 3, .layout = j->layout, .pad = 8};
  int status = problem_parse(j->problem, &c->problem, &err);
  if (!status) status = problem_complete(&c->problem, &err);
  *i = (struct instance){.spec = c->problem.spec, .target = target_find("sm90a")};
  config_clear(&i->config);
  if (!status) status = config_resolve(&i->spec, i->target, &c->problem, &i->config, &err);
  c->scale = default_scale(&c->problem.spec);
  if (!status) status = verify_create(c, NULL, t, &err);
  if (status) fail_msg("%s: %s", j->problem, err.text);
  t->args.diagonal = problem_diagonal(&c->problem);
  fake->causal = i->spec.mask != MASK_FULL;
  fake->head_dim = i->spec.head_dim;
}

static int use(const struct instance *i, struct strobe_args *args, struct error *err) {
  struct gpu_kernel *k = NULL;
  *err = (struct error){0};
  int status = gpu_kernel_open(i, &k, err);
  if (!status) status = gpu_kernel_run(k, args, err);
  fake->fail_at = 0; // what goes wrong while closing can't be told to anybody
  gpu_kernel_close(k);
  return status;
}

static void nothing_left(const char *after) {
  if (fake->retained || fake->pushed || fake->modules || fake->allocations || fake->events || fake->programs)
    fail_msg("after %s: %d contexts retained, %d current, %d modules, %d allocations, %d events, %d programs", after,
             fake->retained, fake->pushed, fake->modules, fake->allocations, fake->events, fake->programs);
}

static void check_result(const struct job *j, const struct verify_case *c, const struct instance *i,
                         const struct tensors *t) {
  struct verify_result r;
  struct error err = {0};
  struct buf why = {0};
  assert_int_equal(verify_tensors(c, i, t, VERIFY_ALL_ROWS, &r, &err), 0);
  buf_str(&why, "");
  verify_print(&r, &why);
  if (!r.ok) fail_msg("%s: %s", j->problem, why.data);
  buf_free(&why);
}

static const struct job jobs[] = {{"d64:bf16:b2h6/2q70k90", LAYOUT_BNHD},
                                  {"d64:bf16:causal:b2h4q33k50", LAYOUT_BHND},
                                  {"d128:bf16:causal_top_left:b1h2q20k9", LAYOUT_BNHD},
                                  {"d64:bf16:b2h2q5k0", LAYOUT_BNHD},
                                  {"d64:bf16:causal:b1h2q9k0", LAYOUT_BHND},
                                  {"d256:bf16:causal:b1h1q9k4", LAYOUT_BNHD}};
enum { JOBS = sizeof jobs / sizeof *jobs };

// Tensors in host memory, with padding and either layout, there and back.
static void host_tensors(void **state) {
  (void)state;
  for (int n = 0; n < JOBS; n++) {
    struct instance i;
    struct verify_case c;
    struct tensors t;
    struct error err;
    make(&jobs[n], &i, &c, &t);
    if (use(&i, &t.args, &err)) fail_msg("%s: %s", jobs[n].problem, err.text);
    check_result(&jobs[n], &c, &i, &t);
    nothing_left(jobs[n].problem);
    tensors_free(&t);
  }
}

// The n-th call fails, for all n: a status and a sentence with its name, nothing kept, and the next attempt works.
static void sweep(const struct job *j, int error, bool cached) {
  struct instance i;
  struct verify_case c;
  struct tensors t;
  struct error err;
  make(j, &i, &c, &t);
  long n = 1, failures = 0;
  for (bool done = false; !done && n < 200; n++) {
    if (!cached) clear_cache();
    fake->calls = 0, fake->fail_at = n, fake->error = error, *fake->failed = 0;
    const int status = use(&i, &t.args, &err);
    nothing_left(fake->failed);
    done = !*fake->failed;
    if (done != !status) fail_msg("call %ld, %s, failed, and the status is %d", n, fake->failed, status);
    if (status && !strstr(err.text, fake->failed)) fail_msg("\"%s\" does not name %s", err.text, fake->failed);
    const bool memory = status == STROBE_NO_MEMORY, compiler = !strncmp(fake->failed, "nvrtc", 5);
    if (status && !memory && status != STROBE_DEVICE && strcmp(fake->failed, "cuInit"))
      fail_msg("%s: status %d", fake->failed, status);
    if (status && memory != (error == (compiler ? 1 : 2))) fail_msg("%s: status %d", fake->failed, status);
    tensors_poison(&t);
    if (use(&i, &t.args, &err)) fail_msg("after %s: %s", fake->failed, err.text);
    check_result(j, &c, &i, &t);
    nothing_left("the attempt after a failure");
    failures += !done;
  }
  assert_in_range(failures, 15, 100);
  tensors_free(&t);
}

static void every_call_fails(void **state) {
  (void)state;
  static const struct job small = {"d64:bf16:causal:b1h2/1q9k12", LAYOUT_BHND};
  sweep(&small, 2, false); // first of all tests: cuInit is among the calls
  sweep(&small, 719, true);
  sweep(&small, 1, false); // no memory, says NVRTC
}

// ---- tensors in device memory ----

static void device_tensors(void **state) {
  (void)state;
  struct instance i;
  struct verify_case c;
  struct tensors t;
  struct error err = {0};
  struct gpu_kernel *k;
  make(&jobs[1], &i, &c, &t);
  assert_int_equal(gpu_kernel_open(&i, &k, &err), 0);
  assert_int_equal(gpu_kernel_enter(k, &err), 0);
  const struct gpu_driver *d = gpu_kernel_driver(k);
  void **const data[] = {&t.args.q.data, &t.args.k.data, &t.args.v.data, &t.args.o.data, (void **)&t.args.lse};
  void *host[TENSOR_COUNT];
  unsigned long long device[TENSOR_COUNT];
  for (int n = 0; n < TENSOR_COUNT; n++) {
    assert_int_equal(d->memory_allocate(&device[n], t.bytes[n]), 0);
    assert_int_equal(d->memory_upload(device[n], t.memory[n], t.bytes[n]), 0);
    host[n] = *data[n];
    *data[n] = (void *)(size_t)device[n];
    const int status = gpu_kernel_run(k, &t.args, &err);
    if (n < TENSOR_COUNT - 1) { // some here, some there
      assert_int_equal(status, STROBE_INVALID);
      assert_non_null(strstr(err.text, "all be device memory or all host memory"));
      err = (struct error){0};
    } else {
      assert_int_equal(status, 0);
    }
  }
  for (int n = 0; n < TENSOR_COUNT; n++) {
    assert_int_equal(d->memory_download(t.memory[n], device[n], t.bytes[n]), 0);
    assert_int_equal(d->memory_free(device[n]), 0);
    *data[n] = host[n];
  }
  check_result(&jobs[1], &c, &i, &t);
  gpu_kernel_leave(k);
  gpu_kernel_close(k);
  nothing_left("tensors in device memory");
  tensors_free(&t);
}

static void other_machines(void **state) {
  (void)state;
  struct error err = {0};
  fake->major = 8;
  assert_int_equal(gpu_has_target(target_find("sm90a"), &err), STROBE_UNSUPPORTED);
  assert_non_null(strstr(err.text, "compute capability 8.0: sm90a wants 9.0"));
  fake->major = 9, fake->devices = 0;
  err = (struct error){0};
  assert_int_equal(gpu_has_target(target_find("sm90a"), &err), STROBE_UNSUPPORTED);
  assert_non_null(strstr(err.text, "sees no GPU"));
  fake->devices = 1;
  assert_int_equal(gpu_has_target(target_find("c99"), &err), STROBE_INVALID);
}

static void bench_faults(void **state) {
  (void)state;
  struct instance i;
  struct verify_case c;
  struct tensors t;
  struct error err = {0};
  struct gpu_case timed = {.kernel = NULL};
  struct gpu_ceiling ceiling;
  const struct gpu_listener quiet = {NULL, NULL};
  make(&jobs[0], &i, &c, &t);
  assert_int_equal(gpu_kernel_open(&i, &timed.kernel, &err), 0);
  timed.problem = c.problem;
  const int own = fake->allocations;
  long n = 1;
  for (int status = 1; status && n < 400; n += n < 60 ? 1 : 23) {
    err = (struct error){0};
    fake->calls = 0, fake->fail_at = n, fake->error = 719, *fake->failed = 0;
    status = gpu_bench(&timed, 1, 2, &quiet, &ceiling, &err);
    fake->fail_at = 0;
    if (status && !strstr(err.text, fake->failed)) fail_msg("\"%s\" does not name %s", err.text, fake->failed);
    if (!strncmp(fake->failed, "cuMemFree", 9)) break; // the end: what was measured stands
    if (!status && *fake->failed) fail_msg("%s failed, and the status is 0", fake->failed);
    assert_int_equal(fake->allocations, own);
    assert_int_equal(fake->events, 0);
    assert_int_equal(fake->pushed, 0);
  }
  assert_true(n > 40);
  assert_int_equal(gpu_bench(&timed, 1, 2, &quiet, &ceiling, &err), 0);
  assert_true(timed.median_ms >= 0.5 && timed.median_ms <= 1);
  gpu_kernel_close(timed.kernel);
  tensors_free(&t);
}

// ---- the cubin cache ----

static bool compiles(const struct instance *i) {
  struct gpu_kernel *k;
  struct error err = {0};
  const int before = fake->compiles;
  if (gpu_kernel_open(i, &k, &err)) fail_msg("%s", err.text);
  const bool fresh = fake->compiles > before;
  assert_int_equal(gpu_kernel_info(k).cached, !fresh);
  gpu_kernel_close(k);
  nothing_left("a kernel of the cache");
  return fresh;
}

static struct instance instance_of(const char *problem) {
  struct instance i;
  struct verify_case c;
  struct tensors t;
  make(&(struct job){problem, LAYOUT_BNHD}, &i, &c, &t);
  tensors_free(&t);
  return i;
}

static void patch(const char *path, long at, char value) {
  FILE *f = fopen(path, "r+b");
  assert_non_null(f);
  fseek(f, at, SEEK_SET);
  const int old = fgetc(f);
  fseek(f, at, SEEK_SET);
  fputc(old ^ value, f);
  fclose(f);
}

static void cache_hits_and_misses(void **state) {
  (void)state;
  char path[PATH_MAX];
  struct stat st;
  const struct instance a = instance_of("d64:bf16"), b = instance_of("d64:bf16:causal");
  clear_cache();
  assert_true(compiles(&a));
  assert_false(compiles(&a));
  assert_true(compiles(&b)); // another text
  assert_false(compiles(&a));
  assert_false(compiles(&b));
  assert_int_equal(files(".cubin", path, sizeof path), 2);
  clear_cache();
  assert_true(compiles(&a));
  assert_int_equal(files(".cubin", path, sizeof path), 1);
  assert_int_equal(stat(path, &st), 0);
  assert_int_equal(st.st_mode & 0777, 0600);

  const long size = (long)st.st_size; // a bit flipped anywhere: a miss, and the file is made anew
  for (long at = 0; at < size; at += at < 64 ? 3 : 307) {
    const bool in_unused = at >= 48 + 8 && at < 48 + 8 + 512; // of the compiler's path
    patch(path, at, 1);
    const bool fresh = compiles(&a);
    if (!fresh && !in_unused) fail_msg("byte %ld was changed and the file is still taken", at);
    if (!fresh) patch(path, at, 1);
  }
  for (long length = 0; length < size; length += 977) { // cut off
    assert_int_equal(truncate(path, length), 0);
    assert_true(compiles(&a));
    assert_false(compiles(&a));
  }
}

static void cache_trust(void **state) {
  (void)state;
  char path[PATH_MAX], aside[PATH_MAX + 8];
  const struct instance a = instance_of("d64:bf16");
  clear_cache();
  assert_true(compiles(&a));
  files(".cubin", path, sizeof path);
  static const mode_t modes[] = {0620, 0602, 0666};
  for (int n = 0; n < 3; n++) {
    assert_int_equal(chmod(path, modes[n]), 0);
    assert_true(compiles(&a)); // replaced by one of our own
    assert_false(compiles(&a));
  }
  snprintf(aside, sizeof aside, "%s.aside", path);
  assert_int_equal(rename(path, aside), 0);
  assert_int_equal(symlink(aside, path), 0);
  assert_true(compiles(&a)); // links are not followed
  assert_false(compiles(&a));
  unlink(aside);
  unlink(path);
  assert_int_equal(mkfifo(path, 0600), 0); // nor does a pipe keep anybody waiting
  assert_true(compiles(&a));
  if (geteuid()) {
    print_message("note: not root, so no file of another owner was tried\n");
  } else {
    assert_false(compiles(&a));
    assert_int_equal(chown(path, 65534, 65534), 0);
    assert_true(compiles(&a));
    assert_false(compiles(&a));
  }
  clear_cache();
}

// The key holds options and text; a hit also wants the compiler's library as it was.
static void cache_key(void **state) {
  (void)state;
  char other[80];
  struct buf cubin = {0}, got = {0};
  clear_cache();
  snprintf(other, sizeof other, "%s/library", home);
  FILE *f = fopen(other, "w");
  fputs("13.0", f);
  fclose(f);
  buf_str(&cubin, "the cubin");
  const struct cubin_key key = {"text", 4, "-O3"}, options = {"text", 4, "-O2"}, text = {"texT", 4, "-O3"},
                         moved = {"\ntext", 5, "-O"};
  cubin_cache_put(&key, other, &cubin);
  assert_false(cubin_cache_get(&options, &got));
  assert_false(cubin_cache_get(&text, &got));
  assert_false(cubin_cache_get(&moved, &got));
  assert_true(cubin_cache_get(&key, &got));
  assert_int_equal(got.len, cubin.len);
  assert_memory_equal(got.data, cubin.data, cubin.len);
  const char *library = getenv("STROBE_NVRTC");
  char *kept = strdup(library);
  setenv("STROBE_NVRTC", "/another", 1);
  assert_false(cubin_cache_get(&key, &got));
  setenv("STROBE_NVRTC", kept, 1);
  free(kept);
  assert_true(cubin_cache_get(&key, &got));
  f = fopen(other, "a"); // another version in its place
  fputs(".1", f);
  fclose(f);
  assert_false(cubin_cache_get(&key, &got));
  cubin_cache_put(&key, other, &cubin);
  assert_true(cubin_cache_get(&key, &got));
  unlink(other);
  assert_false(cubin_cache_get(&key, &got));
  cubin_cache_put(&key, other, &cubin); // made by what is not there: not kept
  cubin_cache_put(&key, NULL, &cubin);
  assert_false(cubin_cache_get(&key, &got));
  buf_free(&cubin);
  buf_free(&got);
  clear_cache();
}

// What a writer that was killed has left goes with a later write, once it is a day old; nothing else does.
static void cache_leftovers(void **state) {
  (void)state;
  static const struct {
    const char *name;
    int days;
    bool stays;
  } left[] = {{"0123456789abcdef0123456789abcdef.cubin.aB3x9Z", 2, false},
              {"0123456789abcdef0123456789abcdef.cubin.aB3x9Y", 0, true}, // may be one that is being written
              {"0123456789abcdef0123456789abcdef.cubin.old", 2, true},
              {"0123456789abcdef0123456789abcdef.cubin", 2, true},
              {"mine.cubin.aB3x9Z", 2, true},
              {"tunings.txt", 2, true}};
  enum { LEFT = sizeof left / sizeof *left };
  const struct instance a = instance_of("d64:bf16");
  char path[LEFT][PATH_MAX];
  clear_cache();
  for (int n = 0; n < LEFT; n++) {
    const struct timespec then = {time(NULL) - left[n].days * 86400L, 0}, times[] = {then, then};
    snprintf(path[n], sizeof path[n], "%s/%s", cache, left[n].name);
    FILE *f = fopen(path[n], "w");
    assert_non_null(f);
    fclose(f);
    assert_int_equal(utimensat(AT_FDCWD, path[n], times, 0), 0);
  }
  assert_true(compiles(&a));
  assert_false(compiles(&a));
  for (int n = 0; n < LEFT; n++)
    if (!access(path[n], F_OK) != left[n].stays)
      fail_msg("%s %s", left[n].name, left[n].stays ? "is gone" : "is there");
  clear_cache();
}

// A full disk, and folders that are not there or can't be written: a kernel all the same, no part of a file.
static void cache_without_room(void **state) {
  (void)state;
  char path[PATH_MAX];
  const struct instance a = instance_of("d64:bf16");
  struct rlimit old, small;
  clear_cache();
  signal(SIGXFSZ, SIG_IGN);
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
  static const rlim_t room[] = {0, 100, 700, 4000};
  for (int n = 0; n < 4; n++) {
    small = (struct rlimit){room[n], old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    const bool fresh = compiles(&a);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_true(fresh);
    assert_int_equal(files("", path, sizeof path), 0);
  }
  static const char *const homes[] = {"/proc/nowhere", "/dev/null", "relative", ""};
  for (int n = 0; n < 4; n++) {
    setenv("XDG_CACHE_HOME", homes[n], 1);
    setenv("HOME", homes[n], 1);
    assert_true(compiles(&a));
    unsetenv("XDG_CACHE_HOME");
    assert_true(compiles(&a));
    unsetenv("HOME");
    assert_true(compiles(&a));
  }
  setenv("HOME", home, 1); // ~/.cache/strobe
  assert_true(compiles(&a));
  assert_false(compiles(&a));
  snprintf(path, sizeof path, "rm -r %s/.cache", home);
  assert_int_equal(system(path), 0);
  setenv("XDG_CACHE_HOME", home, 1);
  assert_true(compiles(&a));
  assert_false(compiles(&a));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(every_call_fails), cmocka_unit_test(host_tensors),
                                     cmocka_unit_test(device_tensors),   cmocka_unit_test(other_machines),
                                     cmocka_unit_test(bench_faults),     cmocka_unit_test(cache_hits_and_misses),
                                     cmocka_unit_test(cache_trust),      cmocka_unit_test(cache_key),
                                     cmocka_unit_test(cache_leftovers),  cmocka_unit_test(cache_without_room)};
  return cmocka_run_group_tests(tests, start, end);
}
