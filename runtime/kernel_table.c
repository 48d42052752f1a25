#include "kernel_table.h"

#include "fork.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

enum entry_state { BEING_MADE, READY, FAILED };

struct kernel_entry {
  char *key;
  enum entry_state state;
  int waiting; // threads that hold this entry and wait for it; the last of them frees a FAILED one
  struct compiled_kernel compiled;
  struct error error;
  struct kernel_entry *next;
};

int kernel_table_init(struct kernel_table *t, struct error *err) {
  int status = fork_watch(err);
  if (status) return status;
  if (pthread_mutex_init(&t->lock, NULL)) return fail(err, STROBE_NO_MEMORY, "no memory for the lock of a context");
  if (pthread_cond_init(&t->changed, NULL)) {
    pthread_mutex_destroy(&t->lock);
    return fail(err, STROBE_NO_MEMORY, "no memory for the lock of a context");
  }
  atomic_init(&t->entries, NULL);
  atomic_init(&t->generation, fork_generation());
  t->makes = 0;
  return STROBE_OK;
}

static void entry_free(struct kernel_entry *e) {
  if (e->compiled.module) jit_unload(e->compiled.module);
  free(e->compiled.source);
  free(e->compiled.note);
  free(e->key);
  free(e);
}

void kernel_table_free(struct kernel_table *t) {
  for (struct kernel_entry *e = atomic_load(&t->entries), *next; e; e = next) {
    next = e->next;
    entry_free(e);
  }
  pthread_cond_destroy(&t->changed);
  pthread_mutex_destroy(&t->lock);
}

// Entries are linked and unlinked by one store, so the list is whole at any moment at which a process may fork. In the
// child, the threads that held the lock or were making a kernel are gone: a new lock, and the unfinished entries out.
// (They are leaked: another thread's half-made kernel is nothing that can be freed.)
static void repair_after_fork(struct kernel_table *t) {
  const int now = fork_generation();
  for (int was = atomic_load(&t->generation); was != now; was = atomic_load(&t->generation)) {
    if (was == -now || !atomic_compare_exchange_strong(&t->generation, &was, -now)) {
      sched_yield();
      continue;
    }
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->changed, NULL);
    struct kernel_entry *e = atomic_load(&t->entries), *kept = NULL;
    for (struct kernel_entry *next; e; e = next) {
      next = e->next;
      if (e->state != READY) continue;
      e->next = kept;
      kept = e;
    }
    atomic_store(&t->entries, kept);
    atomic_store(&t->generation, now);
  }
}

static struct kernel_entry *find(struct kernel_table *t, const char *key) {
  struct kernel_entry *e = atomic_load(&t->entries);
  while (e && strcmp(e->key, key)) e = e->next;
  return e;
}

static void unlink_entry(struct kernel_table *t, struct kernel_entry *gone) {
  struct kernel_entry *e = atomic_load(&t->entries);
  if (e == gone) {
    atomic_store(&t->entries, gone->next);
    return;
  }
  while (e->next != gone) e = e->next;
  e->next = gone->next;
}

static int wait_for(struct kernel_table *t, struct kernel_entry *e, const struct compiled_kernel **out,
                    struct error *err) {
  e->waiting++;
  while (e->state == BEING_MADE) pthread_cond_wait(&t->changed, &t->lock);
  e->waiting--;
  int status = STROBE_OK;
  if (e->state == READY) {
    *out = &e->compiled;
  } else {
    status = fail(err, e->error.status, "%s", e->error.text);
    if (!e->waiting) entry_free(e);
  }
  pthread_mutex_unlock(&t->lock);
  return status;
}

static struct kernel_entry *entry_add(struct kernel_table *t, const char *key) {
  struct kernel_entry *e = calloc(1, sizeof *e);
  if (!e) return NULL;
  e->key = strdup(key);
  if (!e->key) {
    free(e);
    return NULL;
  }
  e->next = atomic_load(&t->entries);
  atomic_store(&t->entries, e);
  return e;
}

int kernel_table_get(struct kernel_table *t, const char *key, kernel_make *make, void *arg,
                     const struct compiled_kernel **out, bool *made, struct error *err) {
  repair_after_fork(t);
  *made = false;
  pthread_mutex_lock(&t->lock);
  struct kernel_entry *e = find(t, key);
  if (e) return wait_for(t, e, out, err);
  e = entry_add(t, key);
  if (e) t->makes++;
  pthread_mutex_unlock(&t->lock);
  if (!e) return fail(err, STROBE_NO_MEMORY, "no memory for the kernel table");

  struct compiled_kernel compiled = {0};
  struct error error = {0};
  int status = make(arg, &compiled, &error);

  pthread_mutex_lock(&t->lock);
  e->compiled = compiled;
  e->error = error;
  e->state = status ? FAILED : READY;
  if (status) unlink_entry(t, e);
  bool orphan = status && !e->waiting;
  pthread_cond_broadcast(&t->changed);
  pthread_mutex_unlock(&t->lock);
  if (status) {
    fail(err, (enum strobe_status)status, "%s", error.text);
  } else {
    *out = &e->compiled;
    *made = true;
  }
  if (orphan) entry_free(e);
  return status;
}

int kernel_table_makes(struct kernel_table *t) {
  pthread_mutex_lock(&t->lock);
  int n = t->makes;
  pthread_mutex_unlock(&t->lock);
  return n;
}
