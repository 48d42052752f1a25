#include "gpu.h"
#include "io_check.h"
#include "reference_step.h"
#include "status.h"

#include <stdatomic.h>

// One step of one call, as its workers see it. The guards are for a caller's parallel-for: a wrong one must be an
// error, not two workers in one scratch or rows that nobody computed.
struct step_call {
  const struct strobe_plan *plan;
  const struct strobe_args *args;
  const struct strobe_step *step; // NULL: the reference
  char *scratch;
  int64_t n;
  atomic_llong done;
  atomic_ullong places; // sum of last^2 - first^2: of 0 to n, in whatever pieces, n^2
  atomic_int bad_worker, bad_range, status;
};

static void step_body(void *arg, int64_t first, int64_t last, int worker) {
  struct step_call *c = arg;
  if (worker < 0 || worker >= c->plan->context->parallel.n_workers) {
    atomic_store(&c->bad_worker, 1);
    return;
  }
  if (first < 0 || last > c->n || first > last) {
    atomic_store(&c->bad_range, 1);
    return;
  }
  if (c->step) {
    c->step->run(c->args, first, last, c->scratch + (size_t)worker * c->plan->scratch_bytes);
  } else {
    char *const own = c->scratch + (size_t)worker * c->plan->scratch_bytes;
    int status = reference_step_run(&c->plan->problem.spec, c->args, first, last, own);
    if (status) atomic_store(&c->status, status);
  }
  atomic_fetch_add(&c->done, last - first);
  atomic_fetch_add(&c->places, (unsigned long long)(last - first) * (unsigned long long)(last + first));
}

static int run_step(const struct strobe_plan *p, const struct strobe_args *args, const struct strobe_step *step,
                    char *scratch, bool alone, struct error *err) {
  const struct parallel *parallel = &p->context->parallel;
  struct step_call c = {.plan = p, .args = args, .step = step, .scratch = scratch};
  c.n = step ? step->items(args) : reference_step_items(args);
  if (c.n <= 0) return STROBE_OK;
  if (alone)
    step_body(&c, 0, c.n, 0);
  else
    parallel->run(parallel->context, c.n, step_body, &c);
  if (atomic_load(&c.bad_worker))
    return fail(err, STROBE_INVALID, "parallel_for passed a worker that is not in 0 to n_workers - 1, %d",
                parallel->n_workers - 1);
  if (atomic_load(&c.bad_range) || atomic_load(&c.done) != c.n)
    return fail(err, STROBE_INVALID, "parallel_for ran %lld of %lld items: must run body over all of 0 to n, each once",
                (long long)atomic_load(&c.done), (long long)c.n);
  if (atomic_load(&c.places) != (unsigned long long)c.n * (unsigned long long)c.n)
    return fail(err, STROBE_INVALID,
                "parallel_for ran some of %lld items twice: must run body over all of 0 to n, each once",
                (long long)c.n);
  if (atomic_load(&c.status))
    return fail(err, (enum strobe_status)atomic_load(&c.status), "the reference refused what io_check had let pass");
  return STROBE_OK;
}

static int run_all(const struct strobe_plan *p, struct strobe_args *args, char *workspace, bool alone,
                   struct error *err) {
  const struct strobe_kernel *k = p->kernel;
  if (!k) return run_step(p, args, NULL, workspace, alone, err);
  args->workspace = workspace;
  if (k->workspace_bytes && k->workspace_bytes(args) > (strobe_i64)p->shared_bytes)
    return fail(err, STROBE_INTERNAL, "the kernel's workspace depends on more than the problem's sizes");
  int status = STROBE_OK;
  for (unsigned i = 0; i < k->n_steps && !status; i++)
    status = run_step(p, args, &k->step[i], workspace + p->shared_bytes, alone, err);
  return status;
}

// Small work is this thread's alone unless the pool's are awake. A caller's parallel-for always gets it.
static int run_steps(const struct strobe_plan *p, struct strobe_args *args, char *workspace, struct error *err) {
  struct pool *pool = p->small ? p->context->pool : NULL;
  if (!pool) return run_all(p, args, workspace, false, err);
  const int status = run_all(p, args, workspace, !pool_is_warm(pool, pool_clock()), err);
  pool_ended(pool, pool_clock());
  return status;
}

// In the plan's own memory; while another execution has that, in memory of this call's.
static int run_in_own(const struct strobe_plan *p, struct strobe_args *args, struct error *err) {
  void *const memory = p->workspace ? workspace_borrow(p->workspace) : NULL;
  if (memory || !p->workspace_bytes) {
    const int status = run_steps(p, args, memory, err);
    if (memory) workspace_return(p->workspace);
    return status;
  }
  struct workspace *another;
  int status = workspace_create(p->workspace_bytes, &another, err);
  if (status) return status;
  status = run_steps(p, args, workspace_borrow(another), err);
  workspace_free(another);
  return status;
}

static int execute(const struct strobe_plan *p, const struct strobe_io *caller, struct error *err) {
  struct strobe_io io;
  // kv_lens came later than the rest.
  int status = sized_read(&io, sizeof io, offsetof(struct strobe_io, kv_lens), caller, "io", err);
  struct strobe_args args = plan_args(p);
  if (!status) status = io_check(p, &io, &args, err);
  if (status || !args.batch || !args.heads || !args.q_len) return status;
  if (p->gpu) return gpu_kernel_run(p->gpu, &args, err);
  return io.workspace ? run_steps(p, &args, io.workspace, err) : run_in_own(p, &args, err);
}

enum strobe_status strobe_execute(const strobe_plan *plan, const struct strobe_io *io) {
  struct error err = {0};
  if (!plan || !io)
    fail(&err, STROBE_INVALID, "%s NULL: must be given", !plan ? "plan" : "io");
  else
    execute(plan, io, &err);
  return status_report(&err);
}
