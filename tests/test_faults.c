// Every allocation of every job fails once: the call says that there is no memory (or, for a plan, which rung it fell
// to and why), keeps nothing, and works when it is called again.
#include "../gen/emit.h"
#include "../gen/problem.h"
#include "../gen/set_files.h"
#include "api.h"
#include "failing_malloc.h"

#include "../runtime/cpu.h"
#include "../runtime/npy.h"

#include <dirent.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#if FAILING_MALLOC

// Memory that comes from the kernel counts too. Code that cannot lie in a memfd lies in a private mapping, and is no
// worse for it: the only failures that need no mention.
static bool mapping_failed;
static bool admit_mapping(void) {
  const bool admitted = fault_admit();
  mapping_failed |= !admitted;
  return admitted;
}

STAND_IN void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset) {
  return admit_mapping() ? (void *)syscall(SYS_mmap, at, size, protection, flags, fd, offset) : MAP_FAILED;
}
STAND_IN int mprotect(void *at, size_t size, int protection) {
  return admit_mapping() ? (int)syscall(SYS_mprotect, at, size, protection) : -1;
}
STAND_IN int memfd_create(const char *name, unsigned flags) {
  return admit_mapping() ? (int)syscall(SYS_memfd_create, name, flags) : -1;
}
STAND_IN int posix_fallocate(int fd, off_t at, off_t size) {
  return admit_mapping() ? (syscall(SYS_fallocate, fd, 0, at, size) ? errno : 0) : ENOMEM;
}

// ---- what a process holds -----------------------------------------------------------------------

static int open_files(void) {
  int n = 0;
  DIR *d = opendir("/proc/self/fd");
  while (d && readdir(d)) n++;
  if (d) closedir(d);
  return n;
}

static int executable_maps(void) {
  int n = 0;
  char line[512], mode[8];
  FILE *f = fopen("/proc/self/maps", "r");
  while (f && fgets(line, sizeof line, f)) n += sscanf(line, "%*s %7s", mode) == 1 && mode[2] == 'x';
  if (f) fclose(f);
  return n;
}

// ---- the sweep ----------------------------------------------------------------------------------

struct job {
  const char *name;
  int (*run)(const void *arg, struct error *err); // frees all it gets
  const void *arg;
  bool (*excused)(void);  // after a run that was to fail and did not: true if it said so; NULL: never
  int step, lasting_step; // every how many allocations one fails; and it and all after it
};

static int attempt(const struct job *j, long fail_at, bool lasting, struct error *err) {
  *err = (struct error){0};
  mapping_failed = false;
  faults = (struct faults){.on = true, .fail_at = fail_at, .lasting = lasting};
  const int status = j->run(j->arg, err);
  faults.on = false;
  return status;
}

static void check_attempt(const struct job *j, long n, int status, const struct error *err) {
  if (faults.live) fail_msg("%s: allocation %ld failed and %ld blocks stay", j->name, n, faults.live);
  if (status == STROBE_NO_MEMORY && strstr(err->text, "memory")) return;
  if (status || !j->excused || !j->excused())
    fail_msg("%s: allocation %ld failed and the call gave %d, \"%s\"", j->name, n, status, err->text);
}

static void sweep(const struct job *j) {
  struct error err;
  for (int i = 0; i < 2; i++) // what is made once and kept, then none
    if (attempt(j, 0, false, &err)) fail_msg("%s: %s", j->name, err.text);
  if (faults.live) fail_msg("%s: %ld blocks stay", j->name, faults.live);
  const int files = open_files(), maps = executable_maps();
  const long all = faults.calls;
  for (long n = 1; n <= all; n += j->step) check_attempt(j, n, attempt(j, n, false, &err), &err);
  for (long n = 1; n <= all; n += j->lasting_step) check_attempt(j, n, attempt(j, n, true, &err), &err);
  if (attempt(j, 0, false, &err)) fail_msg("%s, after all: %s", j->name, err.text);
  assert_int_equal(faults.calls, all);
  assert_int_equal(open_files(), files);
  assert_int_equal(executable_maps(), maps);
}

// ---- plan and execute ---------------------------------------------------------------------------

enum { Q_LEN = 20, HEAD_DIM = 32 };
static float q[Q_LEN * HEAD_DIM], k[Q_LEN * HEAD_DIM], v[Q_LEN * HEAD_DIM], o[Q_LEN * HEAD_DIM], lse[Q_LEN];
static float wanted[Q_LEN * HEAD_DIM];
static char why[4096];
static const char problem[] = "d32:f32:causal:q20k20";

static int use(strobe_context *ctx, const char *backend) {
  static const char small[] = "block_m=16,block_n=16,stages=1"; // little to compile
  const bool fixed = backend && (!strcmp(backend, "builtin") || !strcmp(backend, "reference"));
  const struct strobe_plan_options options = {
      .size = sizeof options, .backend = backend, .config = fixed ? NULL : small};
  const struct strobe_io io = {.size = sizeof io, .q.data = q, .k.data = k, .v.data = v, .o.data = o, .lse = lse};
  struct strobe_plan_info info = {.size = sizeof info};
  strobe_plan *plan;
  int status = (int)strobe_plan_create(ctx, problem, &options, &plan);
  if (!status) status = (int)strobe_execute(plan, &io);
  if (!status) status = (int)strobe_plan_describe(plan, &info);
  if (!status) snprintf(why, sizeof why, "%s", info.why);
  strobe_plan_destroy(plan);
  return status;
}

static int plan_and_execute(const void *backend, struct error *err) {
  const struct strobe_context_options serial = {.size = sizeof serial, .n_workers = 1};
  strobe_context *ctx;
  memset(o, 0xff, sizeof o);
  int status = (int)strobe_context_create(&serial, &ctx);
  if (!status) status = use(ctx, backend);
  strobe_context_destroy(ctx);
  return status ? (fail)(err, (enum strobe_status)status, "%s", strobe_error()) : 0;
}

// A plan on a lower rung, that says that memory was short, and computes the right thing.
static bool fell_and_said_so(void) {
  if (!strstr(why, "memory") && !mapping_failed) return false;
  for (int i = 0; i < Q_LEN * HEAD_DIM; i++)
    if (!(o[i] - wanted[i] < 1e-5f && wanted[i] - o[i] < 1e-5f)) return false;
  return true;
}

static void prepare(void) {
  struct error err = {0};
  for (int i = 0; i < Q_LEN * HEAD_DIM; i++) {
    q[i] = (float)(i * 7 % 13) - 6;
    k[i] = (float)(i * 5 % 11) * 0.1f;
    v[i] = (float)(i * 3 % 17) * 0.1f;
  }
  assert_int_equal(plan_and_execute("reference", &err), 0);
  memcpy(wanted, o, sizeof o);
}

static void test_plan_and_execute(void **state) {
  (void)state;
  struct error err = {0};
  prepare();
  static const char *const backends[] = {"code", "scalar", "builtin", "reference"};
  for (int b = 0; b < 4; b++) {
    // Alone, a backend that fails is the caller's error; one whose kernel was not compiled here is not tried.
    if (plan_and_execute(backends[b], &err)) continue;
    sweep(&(struct job){backends[b], plan_and_execute, backends[b], fell_and_said_so, 1, 13});
  }
  sweep(&(struct job){"any backend", plan_and_execute, NULL, fell_and_said_so, 7, 17});
}

// What is made once and kept (libtcc's first state, a locale, fork handlers): in a child that has made nothing yet, the
// n-th allocation fails, and the second call works.
static bool starts_cold(long n) {
  fflush(NULL);
  const pid_t pid = fork();
  if (pid == 0) {
    struct error err;
    const struct job j = {"cold", plan_and_execute, NULL, fell_and_said_so, 1, 1};
    const int status = attempt(&j, n, false, &err);
    const bool said = status == STROBE_NO_MEMORY || (!status && (faults.calls < n || fell_and_said_so()));
    _exit(said && !attempt(&j, 0, false, &err) && !strstr(why, "memory") ? 0 : 1);
  }
  int status = 0;
  return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

static void test_cold_start(void **state) {
  (void)state;
  prepare();
  for (long n = 1; n <= 250; n++)
    if (!starts_cold(n)) fail_msg("the first call of a process, allocation %ld", n);
}

// ---- execute allocates nothing ------------------------------------------------------------------

static const struct {
  const char *problem, *config, *backend;
} executions[] = {
    {"d64:f32:causal:b2h4/2q100k130", NULL, NULL},                    // prefill
    {"d64:bf16:b1h2q40k70", "stages=1", NULL},                        //
    {"d32:f32:b1h4q70k90", "algo=standard", NULL},                    // steps that share S
    {"d32:f32:b1h4q70k90", "algo=fa1", NULL},                         //
    {"d64:f32:b1h8/2q1k200", "kernel=decode,split=0", NULL},          // decode
    {"d64:bf16:causal:b2h8/2q3k300", "kernel=decode,split=64", NULL}, // in parts, and their merge
    {"d40:f16:causal:b2h4/2q9k50", NULL, "scalar"},                   //
    {"d64:f32:causal:b2h4/2q50k60", NULL, "builtin"},                 //
    {"d32:f32:causal:b1h2q40k50", NULL, "reference"},                 //
};

// Once with the plan's memory and once with the caller's, while every allocation and every mapping fails.
static void executes_without_memory(strobe_context *ctx, int i) {
  const struct strobe_plan_options options = {
      .size = sizeof options, .config = executions[i].config, .backend = executions[i].backend};
  strobe_plan *plan;
  if (strobe_plan_create(ctx, executions[i].problem, &options, &plan)) return; // a rung that is not there in this build
  struct tensors t = tensors_of(plan, LAYOUT_BNHD, 0);
  void *memory = aligned_alloc(64, (strobe_workspace_bytes(plan) + 64) / 64 * 64);
  struct strobe_io io = io_of(&t);
  for (int own = 0; own < 2; own++) {
    io.workspace = own ? NULL : memory;
    memset(t.memory[TENSOR_O], 0xff, t.bytes[TENSOR_O]);
    if (ctx->pool) pool_ended(ctx->pool, INT64_MAX / 2); // shares out small work too
    faults = (struct faults){.on = true, .fail_at = 1, .lasting = true};
    const enum strobe_status status = strobe_execute(plan, &io);
    faults.on = false;
    if (status || faults.calls)
      fail_msg("%s: status %d, %ld allocations", executions[i].problem, (int)status, faults.calls);
    check_result(plan, LAYOUT_BNHD, 0, &t);
  }
  free(memory);
  tensors_free(&t);
  strobe_plan_destroy(plan);
}

// On the context's threads, 1 to 8 of them, and on the caller's parallel-for.
static void in_order(void *context, int64_t n, strobe_body *body, void *arg) {
  const int workers = *(int *)context;
  for (int64_t i = n; i > 0; i--) body(arg, i - 1, i, (int)(i % workers));
}

static void test_execute_allocates_nothing(void **state) {
  (void)state;
  enum { MOST = 8 };
  for (int workers = 1; workers <= MOST; workers += workers < 3 ? 1 : 5)
    for (int callers = 0; callers < 2; callers++) {
      const struct strobe_context_options options = {.size = sizeof options,
                                                     .n_workers = workers,
                                                     .parallel_for = callers ? in_order : NULL,
                                                     .parallel_context = callers ? &workers : NULL};
      strobe_context *ctx;
      assert_ok(strobe_context_create(&options, &ctx));
      for (size_t i = 0; i < sizeof executions / sizeof *executions; i++) executes_without_memory(ctx, (int)i);
      strobe_context_destroy(ctx);
    }
}

// While one execution has the plan's memory another one takes its own, and says so if there is none.
struct second {
  const strobe_plan *plan;
  const struct strobe_io *io;
  enum strobe_status with_memory, without;
  long calls;
};
static struct second *second; // of the execution that is running

static void execute_twice(void *context, int64_t n, strobe_body *body, void *arg) {
  struct second *s = second;
  (void)context;
  second = NULL;
  if (s) {
    s->with_memory = strobe_execute(s->plan, s->io);
    faults = (struct faults){.on = true, .fail_at = 1, .lasting = true};
    s->without = strobe_execute(s->plan, s->io);
    faults.on = false;
    s->calls = faults.calls;
  }
  body(arg, 0, n, 0);
}

static void test_second_execution(void **state) {
  (void)state;
  const struct strobe_context_options options = {.size = sizeof options, .n_workers = 2, .parallel_for = execute_twice};
  strobe_context *ctx;
  strobe_plan *plan;
  assert_ok(strobe_context_create(&options, &ctx));
  assert_ok(strobe_plan_create(ctx, "d64:f32:b1h2q40k50", NULL, &plan));
  struct tensors a = tensors_of(plan, LAYOUT_BNHD, 0), b = tensors_of(plan, LAYOUT_BNHD, 0);
  const struct strobe_io io_a = io_of(&a), io_b = io_of(&b);
  struct second inner = {.plan = plan, .io = &io_b};
  second = &inner;
  assert_ok(strobe_execute(plan, &io_a));
  assert_int_equal(inner.with_memory, STROBE_OK);
  assert_int_equal(inner.without, STROBE_NO_MEMORY);
  assert_true(inner.calls > 0);
  check_result(plan, LAYOUT_BNHD, 0, &a);
  check_result(plan, LAYOUT_BNHD, 0, &b);
  tensors_free(&a), tensors_free(&b);
  strobe_plan_destroy(plan);
  strobe_context_destroy(ctx);
}

// ---- the generator ------------------------------------------------------------------------------

static int instance_for(const char *text, const char *target, struct instance *i, struct error *err) {
  struct problem p;
  int status = problem_parse(text, &p, err);
  *i = (struct instance){.spec = p.spec, .target = target_find(target)};
  config_clear(&i->config);
  return status ? status : config_resolve(&i->spec, i->target, &p, &i->config, err);
}

struct rendering {
  const char *problem, *target;
  enum printer printer;
};

static int render(const void *arg, struct error *err) {
  const struct rendering *r = arg;
  const struct render_options options = {.printer = r->printer, .for_tcc = true};
  struct kernel_stats stats = {0};
  struct instance i;
  struct buf out = {0};
  int status = instance_for(r->problem, r->target, &i, err);
  if (!status) status = kernel_render(&i, &options, &out, &stats, err);
  buf_free(&out);
  return status;
}

static int emit(const void *arg, struct error *err) {
  const struct rendering *r = arg;
  struct instance i;
  struct emitted e = {.suffix = NULL};
  int status = instance_for(r->problem, r->target, &i, err);
  if (!status) status = emit_kernel(&(struct emit_request){.instance = &i, .printer = r->printer}, &e, err);
  emit_free(&e);
  return status;
}

static void test_rendering(void **state) {
  (void)state;
  static const struct rendering kernels[] = {{"d8:f32", "avx512", PRINTER_CODE},
                                             {"d8:bf16:causal", "avx512bf16", PRINTER_CODE},
                                             {"d8:f32", "avx512", PRINTER_INTRIN},
                                             {"d8:f32:causal", "c99", PRINTER_SCALAR},
                                             {"d64:bf16", "sm90a", PRINTER_SCALAR}};
  char name[80];
  for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) {
    const struct rendering *r = &kernels[i];
    if (r->printer == PRINTER_CODE && !STROBE_TCC) continue;
    const bool cuda = target_find(r->target)->family == FAMILY_CUDA;
    snprintf(name, sizeof name, "emit %s %s %s", r->problem, r->target, printer_names[r->printer]);
    if (r->printer != PRINTER_CODE) sweep(&(struct job){name, emit, r, NULL, 1, 1});
    snprintf(name, sizeof name, "render %s %s %s", r->problem, r->target, printer_names[r->printer]);
    if (!cuda) sweep(&(struct job){name, render, r, NULL, 1, 1});
  }
}

static void ignore_state(void *context, enum file_state state, const char *name) {
  (void)context, (void)state, (void)name;
}

// A set with all its files, the manifest read again, written, and compared.
static int own_set(const void *arg, struct error *err) {
  const char *directory = arg;
  struct kernel_set set = {.dispatcher = true, .file = "set", .prefix = "p_"},
                    again = {.dispatcher = true, .file = "m"};
  struct set_files files = {.output = NULL};
  int changed = 0, counts[FILE_STATES];
  int status = set_parse(&set, slice_of("d8:f32 target=c99\nd64:bf16 target=sm90a # two"), NULL, err);
  if (!status) status = set_finish(&set, err);
  if (!status) status = set_files_render(&set, false, &files, err);
  if (!status) status = set_parse_manifest(&again, slice_of(files.output[0].text.data), err);
  if (!status) status = set_files_write(&files, directory, NULL, NULL, &changed, err);
  if (!status) status = set_files_check(&files, directory, ignore_state, NULL, counts, err);
  if (!status && counts[FILE_CURRENT] != files.n) status = (fail)(err, STROBE_INTERNAL, "not what was written");
  set_files_free(&files);
  set_free(&set);
  set_free(&again);
  return status;
}

static void test_sets(void **state) {
  char directory[] = "/tmp/strobe-faults-XXXXXX";
  (void)state;
  assert_non_null(mkdtemp(directory));
  sweep(&(struct job){"a set of files", own_set, directory, NULL, 1, 1});
  char command[64];
  snprintf(command, sizeof command, "rm -r %s", directory);
  assert_int_equal(system(command), 0);
}

static int parse(const void *arg, struct error *err) {
  struct problem p;
  struct buf text = {0};
  int status = problem_parse(arg, &p, err);
  if (!status) status = problem_complete(&p, err);
  if (!status) problem_print(&p, &text);
  if (!status && text.failed) status = (fail)(err, STROBE_NO_MEMORY, "no memory");
  buf_free(&text);
  return status;
}

// ---- files and the oracle -----------------------------------------------------------------------

static char path[] = "/tmp/strobe-faults-XXXXXX/a.npy";

static int write_and_read(const void *arg, struct error *err) {
  const int64_t shape[] = {Q_LEN, HEAD_DIM};
  struct npy a = {.data = NULL};
  (void)arg;
  int status = npy_write(path, NPY_F4, 2, shape, q, err);
  if (!status) status = npy_read(path, &a, err);
  npy_free(&a);
  return status;
}

static int verify(const void *arg, struct error *err) {
  struct verify_case c = {.kind = input_kind_find("normal"), .seed = 7, .pad = 3, .scale = 0.25f};
  struct tensors t = {.spec.head_dim = 0};
  struct verify_result r;
  struct buf text = {0};
  int status = problem_parse(arg, &c.problem, err);
  if (!status) status = problem_complete(&c.problem, err);
  if (!status) status = verify_create(&c, NULL, &t, err);
  if (!status) status = verify_tensors(&c, NULL, &t, VERIFY_ALL_ROWS, &r, err);
  if (!status) verify_print(&r, &text);
  if (!status && text.failed) status = (fail)(err, STROBE_NO_MEMORY, "no memory");
  buf_free(&text);
  tensors_free(&t);
  return status;
}

static void test_files_and_oracle(void **state) {
  (void)state;
  char *slash = strrchr(path, '/');
  *slash = 0;
  assert_non_null(mkdtemp(path));
  *slash = '/';
  sweep(&(struct job){"npy", write_and_read, NULL, NULL, 1, 1});
  *slash = 0;
  struct dirent *e;
  DIR *d = opendir(path);
  assert_non_null(d);
  while ((e = readdir(d))) assert_true(e->d_name[0] == '.' || !strcmp(e->d_name, "a.npy"));
  closedir(d);
  *slash = '/';
  unlink(path);
  *slash = 0;
  assert_int_equal(rmdir(path), 0);
  sweep(&(struct job){"verify", verify, "d8:bf16:causal:b1h2q20k30", NULL, 1, 1});
  sweep(&(struct job){"parse", parse, "d64v32:q=f32,kv=bf16:causal:b2h8/2q10k20", NULL, 1, 1});
}

#else
static void test_plan_and_execute(void **state) { (void)state, (void)faults, skip(); }
static void test_cold_start(void **state) { (void)state, skip(); }
static void test_execute_allocates_nothing(void **state) { (void)state, skip(); }
static void test_second_execution(void **state) { (void)state, skip(); }
static void test_rendering(void **state) { (void)state, skip(); }
static void test_files_and_oracle(void **state) { (void)state, skip(); }
#endif

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_cold_start), // before anything is warm
      cmocka_unit_test(test_plan_and_execute),
      cmocka_unit_test(test_execute_allocates_nothing),
      cmocka_unit_test(test_second_execution),
      cmocka_unit_test(test_rendering),
      cmocka_unit_test(test_sets),
      cmocka_unit_test(test_files_and_oracle),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
