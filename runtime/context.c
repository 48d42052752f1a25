#include "context.h"

#include "status.h"

#include <stdlib.h>

enum { WORKERS_MAX = 4096 };

static int set_up(struct strobe_context *ctx, const struct strobe_context_options *options, struct error *err) {
  struct strobe_context_options o = {0};
  int status = options ? sized_read(&o, sizeof o, sizeof o, options, "context_options", err) : STROBE_OK;
  if (status) return status;
  if (o.n_workers < 0 || o.n_workers > WORKERS_MAX)
    return fail(err, STROBE_INVALID, "context_options.n_workers %d: must be 0 (as many as the default uses) to %d",
                o.n_workers, WORKERS_MAX);
  int workers = o.n_workers ? o.n_workers : pool_default_workers();
  if (workers > WORKERS_MAX) workers = WORKERS_MAX;
  ctx->parallel = (struct parallel){o.parallel_for, o.parallel_context, workers};
  if (!o.parallel_for) {
    status = pool_create(workers, &ctx->pool, err);
    ctx->parallel.run = pool_parallel_for;
    ctx->parallel.context = ctx->pool;
  }
  if (!status) status = tuned_init(&ctx->tuned, o.tunings, err);
  if (status) return status;
  status = kernel_table_init(&ctx->kernels, err);
  if (status) tuned_free(&ctx->tuned);
  return status;
}

enum strobe_status strobe_context_create(const struct strobe_context_options *options, strobe_context **out) {
  struct error err = {0};
  if (!out) {
    fail(&err, STROBE_INVALID, "out NULL: must point to where the context goes");
    return status_report(&err);
  }
  *out = NULL;
  struct strobe_context *ctx = calloc(1, sizeof *ctx);
  if (!ctx) {
    fail(&err, STROBE_NO_MEMORY, "no memory for a context");
  } else if (set_up(ctx, options, &err)) {
    pool_destroy(ctx->pool);
    free(ctx);
  } else {
    *out = ctx;
  }
  return status_report(&err);
}

void strobe_context_destroy(strobe_context *ctx) {
  if (!ctx) return;
  pool_destroy(ctx->pool);
  kernel_table_free(&ctx->kernels);
  tuned_free(&ctx->tuned);
  free(ctx);
}
