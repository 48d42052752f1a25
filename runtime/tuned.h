// What a context knows from the tuning database: the file, read again when it changed, and records that came with the
// program.
#ifndef STROBE_TUNED_H
#define STROBE_TUNED_H

#include "tune_db.h"

#include <sys/stat.h>

struct tuned {         // under fork_lock
  struct tune_db own;  // strobe_context_options.tunings
  struct tune_db file; // as of `seen`
  struct stat seen;    // st_nlink 0: no file yet
};

// text may be NULL. STROBE_INVALID (a malformed line), STROBE_UNSUPPORTED (a newer format), STROBE_NO_MEMORY.
int tuned_init(struct tuned *t, const char *text, struct error *err);
void tuned_free(struct tuned *t);

// The record that serves a key: of the file, else of the program's own. A database that can't be read serves none.
bool tuned_find(struct tuned *t, const struct tune_key *key, struct tune_record *out);
// The fields of a record for another problem of its bucket: all, but for a block_m that leaves more of the last tile of
// queries empty than the heuristic's would, and gives way to it. False: no config for these sizes.
bool tuned_fields(const struct tune_record *r, const struct problem *p, const struct target *t, struct config *fields);
// Keeps a result for this context even where no file can be written.
void tuned_keep(struct tuned *t, const struct tune_record *r);

#endif
