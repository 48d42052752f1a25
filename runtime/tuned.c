#include "tuned.h"

#include "../gen/config_queries.h"
#include "fork.h"

#include <string.h>

int tuned_init(struct tuned *t, const char *text, struct error *err) {
  *t = (struct tuned){.seen = {.st_nlink = 0}};
  int status = text ? tune_db_parse(&t->own, text, strlen(text), "context_options.tunings", err) : 0;
  if (!status && t->own.malformed)
    status =
        fail(err, STROBE_INVALID,
             "context_options.tunings: %d lines are not records of a tuning database; strobe db export --c writes it",
             t->own.malformed);
  if (status) tune_db_free(&t->own);
  return status;
}

void tuned_free(struct tuned *t) {
  tune_db_free(&t->own);
  tune_db_free(&t->file);
}

static bool same_file(const struct stat *a, const struct stat *b) {
  return a->st_nlink && a->st_ino == b->st_ino && a->st_dev == b->st_dev && a->st_size == b->st_size &&
         a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

static void refresh(struct tuned *t) {
  struct buf path = {0};
  struct stat now;
  tune_db_path(NULL, &path);
  if (!path.failed && path.data && *path.data && !stat(path.data, &now) && S_ISREG(now.st_mode) &&
      !same_file(&t->seen, &now)) {
    struct tune_db db = {0};
    if (tune_db_read(path.data, &db, NULL)) tune_db_free(&db);
    tune_db_free(&t->file);
    t->file = db;
    t->seen = now;
  }
  buf_free(&path);
}

bool tuned_find(struct tuned *t, const struct tune_key *key, struct tune_record *out) {
  fork_lock();
  refresh(t);
  const struct tune_record *r = tune_db_find(&t->file, key);
  if (!r) r = tune_db_find(&t->own, key);
  if (r) *out = *r;
  fork_unlock();
  return r != NULL;
}

bool tuned_fields(const struct tune_record *r, const struct problem *p, const struct target *t, struct config *fields) {
  struct config all, fit;
  config_clear(fields);
  if (config_parse(r->config, fields, NULL)) return false;
  fields->v[CFG_TAIL_M] = CONFIG_UNSET; // of the length that it was measured at
  all = fit = *fields;
  fit.v[CFG_BLOCK_M] = CONFIG_UNSET;
  if (config_resolve(&p->spec, t, p, &all, NULL)) return false;
  if (t->family == FAMILY_CPU && config_kernel(&all) == KERNEL_PREFILL && !config_changes_bits(CFG_BLOCK_M, &all) &&
      !config_resolve(&p->spec, t, p, &fit, NULL) &&
      prefill_rows(p->q_len, fit.v[CFG_BLOCK_M], fit.v[CFG_TAIL_M]) <
          prefill_rows(p->q_len, all.v[CFG_BLOCK_M], all.v[CFG_TAIL_M]))
    fields->v[CFG_BLOCK_M] = CONFIG_UNSET;
  return true;
}

void tuned_keep(struct tuned *t, const struct tune_record *r) {
  fork_lock();
  tune_db_decide(&t->own, r, NULL); // without memory the next plan measures again
  fork_unlock();
}
