#include "cmd_emit_tuned.h"

#include "../runtime/cpu.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// ---- which record ----

struct wish {
  struct tune_key key; // workers: any
  int64_t size[3];     // upper ends of the buckets of q_len, kv_len and group; -1: not given, any
  enum kernel_kind kernel;
};

// "q1024k4096g+": upper ends, a "+" is without one.
static bool parse_bucket(const char *text, int64_t size[3]) {
  static const char letters[] = "qkg";
  for (int i = 0; i < 3; i++) {
    char *end;
    if (*text++ != letters[i]) return false;
    size[i] = *text == '+' ? (end = (char *)text + 1, INT64_MAX) : strtoll(text, &end, 10);
    if (end == text) return false;
    text = end;
  }
  return !*text;
}

static int make_wish(const struct emit_tuned *t, const struct problem *p, const struct target *target, struct wish *w,
                     struct error *err) {
  struct problem whole = *p;
  struct config heuristic;
  config_clear(&heuristic);
  int status = problem_complete(&whole, err);
  if (!status) status = config_resolve(&p->spec, target, p, &heuristic, err);
  if (status) return status;
  tune_key_of(&whole, target, 0, &w->key);
  if (target->family == FAMILY_CPU || t->machine != t->here) // else the GPU that is here
    snprintf(w->key.machine, sizeof w->key.machine, "%s", t->machine);
  w->kernel = config_kernel(&heuristic);
  parse_bucket(w->key.bucket, w->size);
  if (p->q_len < 0) w->size[0] = -1;
  if (p->kv_len < 0 && p->q_len < 0) w->size[1] = -1;
  if (p->kv_len < 0 && w->kernel == KERNEL_DECODE) w->size[1] = -1; // not one key, as kv_len = q_len would have it
  if (p->heads < 0) w->size[2] = -1;
  return 0;
}

static bool serves(const struct wish *w, const struct tune_record *r, int64_t size[3]) {
  const struct tune_key *a = &w->key, *b = &r->key;
  struct config c;
  config_clear(&c);
  if (r->mark == TUNE_TRIED || strcmp(a->spec, b->spec) || strcmp(a->target, b->target) ||
      strcmp(a->machine, b->machine) || strcmp(a->version, b->version) || strcmp(a->templates, b->templates) ||
      !parse_bucket(b->bucket, size) || config_parse(r->config, &c, NULL) || config_kernel(&c) != w->kernel)
    return false;
  for (int i = 0; i < 3; i++)
    if (w->size[i] >= 0 && w->size[i] != size[i]) return false;
  return true;
}

// Of several: for the longest K and V, then the longest Q, then the fewest query heads to a KV head and the fewest
// workers.
static int64_t preference(const struct tune_record *a, const int64_t x[3], const struct tune_record *b,
                          const int64_t y[3]) {
  if (x[1] != y[1]) return x[1] > y[1] ? 1 : -1;
  if (x[0] != y[0]) return x[0] > y[0] ? 1 : -1;
  if (x[2] != y[2]) return x[2] < y[2] ? 1 : -1;
  return b->key.workers - a->key.workers;
}

static const struct tune_record *choose_record(const struct tune_db *db, const struct wish *w) {
  const struct tune_record *best = NULL;
  int64_t best_size[3] = {0}, size[3];
  for (int i = 0; i < db->n; i++) {
    const struct tune_record *r = &db->records[i];
    if (!serves(w, r, size) || (best && preference(r, size, best, best_size) <= 0)) continue;
    best = r;
    memcpy(best_size, size, sizeof size);
  }
  return best;
}

// ---- what is cited ----

static int timed_beside(const struct tune_db *db, const struct tune_record *r) {
  int n = 0;
  for (int i = 0; i < db->n; i++) {
    struct tune_key k = db->records[i].key;
    n += !memcmp(&k, &r->key, sizeof k);
  }
  return n;
}

static void cite_record(const struct tune_db *db, const struct tune_record *r, char cite[EMIT_CITE_MAX + 1]) {
  char gain[96] = "the default, nothing timed was faster";
  if (r->mark == TUNE_BEST && r->default_ms > 0)
    snprintf(gain, sizeof gain, "%.1f %% less time than the default: %.4g against %.4g ms",
             100 * (1 - r->ms / r->default_ms), r->ms, r->default_ms);
  snprintf(cite, EMIT_CITE_MAX + 1, "%s, %d runs, noise %.1f %%, best of %d configs; bucket %s, %d worker%s, %s", gain,
           r->runs, r->noise, timed_beside(db, r), r->key.bucket, r->key.workers, r->key.workers == 1 ? "" : "s",
           r->key.machine);
  for (char *c = cite; *c; c++) // a database may hold anything
    if (*c < ' ' || *c > '~' || *c == '\\' || *c == '?') *c = '.';
}

static int choose(void *context, const struct problem *p, const struct target *target, struct config *config,
                  char cite[EMIT_CITE_MAX + 1], struct error *err) {
  struct emit_tuned *t = context;
  struct wish w, other;
  int status = make_wish(t, p, target, &w, err);
  if (status) return status;
  const struct tune_record *r = choose_record(&t->db, &w);
  struct problem same = *p; // the same kernel
  same.spec.mask = p->spec.mask == MASK_CAUSAL_TOP_LEFT ? MASK_CAUSAL : MASK_CAUSAL_TOP_LEFT;
  if (!r && p->spec.mask != MASK_FULL && !(status = make_wish(t, &same, target, &other, err)))
    r = choose_record(&t->db, &other);
  if (status) return status;
  struct config c;
  config_clear(&c);
  if (r && !config_parse(r->config, &c, NULL) && !config_resolve(&p->spec, target, p, &c, NULL)) {
    *config = c;
    cite_record(&t->db, r, cite);
    t->found++;
  } else if (!t->missing++) {
    snprintf(t->first, sizeof t->first, "%s on %s", w.key.spec, target->name);
  }
  return 0;
}

// ---- the database ----

int emit_tuned_open(struct emit_tuned *t, const char *db, const char *machine, struct kernel_set *set,
                    struct error *err) {
  cpu_name(t->here, sizeof t->here);
  t->machine = machine ? machine : t->here;
  tune_db_path(db, &t->path);
  if (t->path.failed || !t->path.data) return fail(err, STROBE_NO_MEMORY, "no memory for a path");
  if (!*t->path.data)
    return fail(err, STROBE_INVALID, "emit: --tuned: there is no HOME and no STROBE_DB; --db FILE names the database");
  if (db && access(db, R_OK))
    return fail(err, STROBE_IO, "emit: --db \"%.300s\": must be a tuning database; strobe tune writes one", db);
  const int status = tune_db_read_own(t->path.data, &t->db, err);
  if (status) return status;
  if (t->db.malformed)
    fprintf(stderr, "strobe: %s: %d malformed line%s skipped\n", t->path.data, t->db.malformed,
            t->db.malformed == 1 ? "" : "s");
  set->choose = choose;
  set->choose_context = t;
  return 0;
}

void emit_tuned_close(struct emit_tuned *t) {
  tune_db_free(&t->db);
  buf_free(&t->path);
}

void emit_tuned_report(const struct emit_tuned *t) {
  if (!t->missing) return;
  char more[48] = "";
  if (t->missing > 1) snprintf(more, sizeof more, " nor for %d others", t->missing - 1);
  fprintf(stderr, "strobe: no record of %s for %s%s in %s: the default config is taken\n", t->machine, t->first, more,
          t->path.data);
}
