// What a search found: order, records.
#include "tune.h"

#include <stdlib.h>
#include <string.h>

static int by_ratio(const void *a, const void *b) {
  const struct tune_candidate *x = a, *y = b;
  if ((x->ratio > 0) != (y->ratio > 0)) return x->ratio > 0 ? -1 : 1;
  if (x->ratio != y->ratio) return (x->ratio > y->ratio) - (x->ratio < y->ratio);
  return strcmp(x->text, y->text);
}

void tune_result_sort(struct tune_result *o) {
  char best[sizeof o->candidates->text];
  memcpy(best, o->candidates[o->best].text, sizeof best);
  qsort(o->candidates, (size_t)o->n, sizeof *o->candidates, by_ratio);
  for (int i = 0; i < o->n; i++) {
    if (!strcmp(o->candidates[i].text, best)) o->best = i;
    if (o->candidates[i].is_default) o->default_at = i;
  }
}

void tune_result_free(struct tune_result *r) {
  free(r->candidates);
  *r = (struct tune_result){0};
}

int tune_records(const struct tune_result *r, struct tune_record *records) {
  int n = 0;
  double default_ms = r->n ? r->candidates[r->default_at].ms : 0;
  for (int i = 0; i < r->n; i++) {
    const struct tune_candidate *c = &r->candidates[i];
    if (!c->runs || c->ratio <= 0) continue;
    struct tune_record *record = &records[n++];
    *record = (struct tune_record){
        .key = r->key, .ms = c->ratio * default_ms, .default_ms = default_ms, .noise = r->noise, .runs = c->runs};
    // A search that was stopped decides nothing.
    record->mark = i != r->best || r->stopped ? TUNE_TRIED : i == r->default_at ? TUNE_DEFAULT : TUNE_BEST;
    memcpy(record->config, c->text, sizeof record->config);
  }
  return n;
}
