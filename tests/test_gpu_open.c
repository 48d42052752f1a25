// Opening the driver and NVRTC: once per process, what is no driver, and what a forked child finds of it.
// tests/fake_cuda.c takes their place.
#include "api.h"

#include "../runtime/gpu_driver.h"
#include "../runtime/gpu_nvrtc.h"

#include "child.h"
#include "fake_driver.h"
#include "shell.h"

static char home[] = "/tmp/strobe-gpu-open-XXXXXX";

static int start(void **state) {
  (void)state;
  if (use_fake_driver(home)) return -1;
  fake->head_dim = 64;
  return 0;
}

static int end(void **state) {
  (void)state;
  return shell("rm -rf %s", home);
}

// ---- libraries that are something else ----

// A library without functions is refused, and not kept open.
static bool is_let_go(void *arg) {
  const char *path = arg;
  const struct gpu_driver *d;
  struct error err = {0};
  int major, minor;
  setenv("STROBE_CUDA_DRIVER", path, 1);
  setenv("STROBE_NVRTC", path, 1);
  if (gpu_driver_get(&d, &err) != STROBE_UNSUPPORTED || !strstr(err.text, "has no cuInit")) return false;
  if (dlopen(path, RTLD_NOW | RTLD_NOLOAD)) return false;
  err = (struct error){0};
  if (nvrtc_version(&major, &minor, &err) != STROBE_UNSUPPORTED || !strstr(err.text, "has no nvrtc")) return false;
  return !dlopen(path, RTLD_NOW | RTLD_NOLOAD);
}

static void other_libraries(void **state) {
  (void)state;
  char path[64];
  snprintf(path, sizeof path, "%s/other.so", home);
  assert_int_equal(shell("cc -shared -x c /dev/null -o %s", path), 0);
  assert_true(child_does(is_let_go, path)); // NVRTC is opened once in a process, also if it fails
}

// ---- fork ----

struct forked {
  strobe_context *ctx;
  strobe_plan *plan;
  struct tensors t;
  int deeper; // children of the child
};

static enum strobe_status plan_on_gpu(strobe_context *ctx, strobe_plan **plan) {
  const struct strobe_plan_options o = {.size = sizeof o, .target = "sm90a"};
  return strobe_plan_create(ctx, "d64:bf16:b1h2q9k20", &o, plan);
}

static bool refused(enum strobe_status status) {
  return status == STROBE_UNSUPPORTED && strstr(strobe_error(), "forked from one that has used it: fork before");
}

static bool works(void *arg) {
  struct forked *f = arg;
  if (plan_on_gpu(f->ctx, &f->plan)) return false;
  f->t = tensors_of(f->plan, LAYOUT_BNHD, 0);
  const struct strobe_io io = io_of(&f->t);
  if (strobe_execute(f->plan, &io)) return false;
  check_result(f->plan, LAYOUT_BNHD, 0, &f->t);
  return true;
}

// The driver isn't called.
static bool is_refused(void *arg) {
  struct forked *f = arg;
  struct error err = {0};
  const struct gpu_driver *d;
  fake->calls = 0;
  if (gpu_driver_get(&d, &err) != STROBE_UNSUPPORTED) return false;
  if (f->plan) {
    strobe_plan *another;
    const struct strobe_io io = io_of(&f->t);
    if (!refused(plan_on_gpu(f->ctx, &another)) || !refused(strobe_execute(f->plan, &io))) return false;
    if (f->deeper-- && !child_does(is_refused, f)) return false;
    strobe_plan_destroy(f->plan);
  }
  return fake->calls == 0;
}

static void *open_driver(void *arg) {
  const struct gpu_driver *d;
  *(int *)arg = gpu_driver_get(&d, NULL);
  return NULL;
}

// Before its parent has used the driver a child has one of its own. Then it is refused, with a sentence: while a thread
// that isn't in the child opens the driver, and once there is a plan.
static void forks(void **state) {
  (void)state;
  struct forked f = {.deeper = 1};
  pthread_t thread;
  int status = -1;
  assert_ok(strobe_context_create(&pool_options, &f.ctx));
  assert_true(child_does(works, &f));
  atomic_store(&fake->hold, 1);
  assert_int_equal(pthread_create(&thread, NULL, open_driver, &status), 0);
  while (atomic_load(&fake->hold) != 2) usleep(1000);
  const bool told = child_does(is_refused, &f);
  atomic_store(&fake->hold, 0);
  pthread_join(thread, NULL);
  assert_true(told);
  assert_int_equal(status, 0);
  assert_true(works(&f));
  assert_true(child_does(is_refused, &f));
  const struct strobe_io io = io_of(&f.t);
  assert_ok(strobe_execute(f.plan, &io)); // and the parent goes on
  tensors_free(&f.t);
  strobe_plan_destroy(f.plan);
  strobe_context_destroy(f.ctx);
  assert_int_equal(fake->retained + fake->pushed + fake->modules + fake->allocations, 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(other_libraries), cmocka_unit_test(forks)};
  return cmocka_run_group_tests(tests, start, end);
}
