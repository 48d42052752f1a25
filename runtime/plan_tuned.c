// Where a plan's config comes from when none is given: the tuning database, or a search now.
#include "plan.h"
#include "tune.h"

#include <stdlib.h>

// That execute it: a GPU has none.
static int workers(const struct strobe_plan *p) {
  return p->instance.target->family == FAMILY_CPU ? p->context->parallel.n_workers : 1;
}

// Tunes in this thread; what it finds is recorded, or at least kept for this context.
static int measure(struct strobe_plan *p, const struct strobe_plan_options *o, struct error *err) {
  struct tune_request request = {.problem = p->problem,
                                 .target = p->instance.target,
                                 .workers = workers(p),
                                 .budget_s = o->budget_s > 0               ? o->budget_s
                                             : o->effort == STROBE_PATIENT ? 30
                                                                           : 2,
                                 .same_bits = o->same_bits != 0};
  struct tune_result result;
  config_clear(&request.base);
  int status = tune(&request, &result, err);
  if (status) return status;
  struct tune_record *records = calloc((size_t)result.n + 1, sizeof *records);
  struct buf path = {0};
  if (records) {
    const int n = tune_records(&result, records);
    tune_db_path(NULL, &path);
    if (!path.failed && path.data && *path.data) tune_db_update(path.data, records, n, NULL);
    for (int i = 0; i < n; i++) tuned_keep(&p->context->tuned, &records[i]);
  }
  buf_free(&path);
  free(records);
  tune_result_free(&result);
  return STROBE_OK;
}

// The config that was measured to be best for this bucket of sizes on this machine, if there is one.
void plan_take_tuned(struct strobe_plan *p, const struct strobe_plan_options *o) {
  struct instance *i = &p->instance;
  struct tune_record record;
  struct tune_key key;
  if (problem_flops(&p->problem) <= 0) return;
  tune_key_of(&p->problem, i->target, workers(p), &key);
  bool found = tuned_find(&p->context->tuned, &key, &record);
  if (!found && o->effort != STROBE_ESTIMATE) {
    struct error why = {0}; // no reason to have no plan
    if (measure(p, o, &why)) buf_printf(&p->why, "not tuned: %s", why.text);
    found = tuned_find(&p->context->tuned, &key, &record);
  }
  struct config c;
  if (!found || !tuned_fields(&record, &p->problem, i->target, &c) ||
      config_resolve(&i->spec, i->target, &p->problem, &c, NULL))
    return;
  i->config = c;
  buf_printf(&p->tuned, "%.3f of the default's time when measured, %d runs, bucket %s",
             record.default_ms > 0 ? record.ms / record.default_ms : 1, record.runs, key.bucket);
}
