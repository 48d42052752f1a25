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
  int workers = o.n_workers ? o.n_workers : parallel_default_workers();
  ctx->parallel = (struct parallel){.run = o.parallel_for ? o.parallel_for : parallel_openmp,
                                    .context = o.parallel_for ? o.parallel_context : &ctx->parallel,
                                    .n_workers = workers < 1             ? 1
                                                 : workers > WORKERS_MAX ? WORKERS_MAX
                                                                         : workers};
  return kernel_table_init(&ctx->kernels, err);
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
    free(ctx);
  } else {
    *out = ctx;
  }
  return status_report(&err);
}

void strobe_context_destroy(strobe_context *ctx) {
  if (!ctx) return;
  kernel_table_free(&ctx->kernels);
  free(ctx);
}
