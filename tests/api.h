// Shared by the tests of the API: a plan for a problem, tensors for it, and the io struct that joins them.
#ifndef STROBE_TESTS_API_H
#define STROBE_TESTS_API_H

#include "../runtime/plan.h"
#include "../runtime/verify.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define assert_ok(call)                                                                                                \
  do {                                                                                                                 \
    if ((call) != STROBE_OK) fail_msg("%s: %s", #call, strobe_error());                                                \
  } while (0)

// A parallel-for on plain threads: what a host with a pool of its own passes, and what ThreadSanitizer understands.
enum { POOL = 3 };
struct pool_worker {
  strobe_body *body;
  void *arg;
  int64_t n;
  atomic_llong *next;
  int worker;
};
static inline void *pool_run(void *argument) {
  struct pool_worker *w = argument;
  for (long long i; (i = atomic_fetch_add(w->next, 1)) < w->n;) w->body(w->arg, i, i + 1, w->worker);
  return NULL;
}
static inline void pool_for(void *context, int64_t n, strobe_body *body, void *arg) {
  atomic_llong next = 0;
  pthread_t thread[POOL];
  struct pool_worker w[POOL];
  if (context) atomic_fetch_add((atomic_int *)context, 1);
  for (int i = 0; i < POOL; i++) {
    w[i] = (struct pool_worker){body, arg, n, &next, i};
    if (pthread_create(&thread[i], NULL, pool_run, &w[i])) abort();
  }
  for (int i = 0; i < POOL; i++) pthread_join(thread[i], NULL);
}
static const struct strobe_context_options pool_options = {
    .size = sizeof pool_options, .n_workers = POOL, .parallel_for = pool_for};

static inline strobe_plan *plan_with(strobe_context *ctx, const char *problem, const char *backend) {
  const struct strobe_plan_options o = {.size = sizeof o, .backend = backend};
  strobe_plan *plan = NULL;
  assert_ok(strobe_plan_create(ctx, problem, &o, &plan));
  return plan;
}

// Random inputs for the plan's problem; outputs and padding poisoned.
static inline struct verify_case case_of(const strobe_plan *p, enum layout layout, int64_t pad) {
  return (struct verify_case){.problem = p->problem,
                              .kind = input_kind_find("normal"),
                              .seed = 7,
                              .layout = layout,
                              .pad = pad,
                              .scale = p->scale};
}
static inline struct tensors tensors_of(const strobe_plan *p, enum layout layout, int64_t pad) {
  const struct verify_case c = case_of(p, layout, pad);
  struct tensors t;
  struct error err = {0};
  if (verify_create(&c, NULL, &t, &err)) fail_msg("%s", err.text);
  return t;
}

static inline struct strobe_array array_of(const struct strobe_tensor *t) {
  return (struct strobe_array){t->data, t->batch_stride, t->row_stride, t->head_stride};
}
static inline struct strobe_io io_of(const struct tensors *t) {
  return (struct strobe_io){.size = sizeof(struct strobe_io),
                            .q = array_of(&t->args.q),
                            .k = array_of(&t->args.k),
                            .v = array_of(&t->args.v),
                            .o = array_of(&t->args.o),
                            .lse = t->args.lse};
}

// Fails the test unless o and lse are within the bound of the oracle and no padding was touched.
static inline void check_result(const strobe_plan *p, enum layout layout, int64_t pad, const struct tensors *t) {
  const struct verify_case c = case_of(p, layout, pad);
  struct verify_result r;
  struct error err = {0};
  struct buf text = {0};
  if (verify_tensors(&c, &p->instance, t, VERIFY_ALL_ROWS, &r, &err)) fail_msg("%s", err.text);
  verify_print(&r, &text);
  if (!r.ok) fail_msg("%s, backend %s: %s", p->name.data, p->backend, text.data);
  buf_free(&text);
}

#endif
