// `emit --tuned`: configs from the tuning database.
#ifndef STROBE_GEN_CMD_EMIT_TUNED_H
#define STROBE_GEN_CMD_EMIT_TUNED_H

#include "../runtime/tune_db.h"
#include "set.h"

struct emit_tuned {
  const char *machine; // records of this processor serve
  char here[64];
  struct tune_db db;
  struct buf path; // of the database
  int found, missing;
  char first[200]; // that had no record: "d64:f32 on avx2"
};

// db, machine: as given on the command line, or NULL: the usual database, this CPU. STROBE_IO, STROBE_UNSUPPORTED (a
// newer format), STROBE_INVALID, STROBE_NO_MEMORY. On success the kernels that are added to set from now on are tuned.
int emit_tuned_open(struct emit_tuned *t, const char *db, const char *machine, struct kernel_set *set,
                    struct error *err);
void emit_tuned_close(struct emit_tuned *t);
// One line on standard error if kernels had no record.
void emit_tuned_report(const struct emit_tuned *t);

#endif
