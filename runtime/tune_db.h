// The tuning database: what was measured, as text, one record per line, sorted, so that it can be read, diffed, merged
// and committed.
//
//   # strobe tuning database 1
//   d128:bf16	q1024k1024g1	avx512bf16	1	AMD EPYC ...	0.1.0	77e4bd9c20853c4a	block_m=64,...
//   best	12.31	12.99	30	0.8
//
// Fields, separated by tabs: spec, bucket of sizes, target, workers, machine, version, template hash (these seven are
// the key), config, mark, time of the config and of the default beside it (ms), runs, and noise of the time (per cent).
#ifndef STROBE_TUNE_DB_H
#define STROBE_TUNE_DB_H

#include "../gen/buf.h"
#include "../gen/spec.h"

// What a record was measured for. A record serves only a key that is the same in every field: a newer version or
// template, or another processor, is a miss.
struct tune_key {
  char spec[64], bucket[40], target[16], machine[64], version[16], templates[20];
  int workers;
};

enum tune_mark { TUNE_TRIED, TUNE_DEFAULT, TUNE_BEST, TUNE_MARK_COUNT };
extern const char *const tune_mark_names[TUNE_MARK_COUNT]; // "tried", "default", "best"

struct tune_record {
  struct tune_key key;
  char config[256]; // every field, as config_print gives it
  enum tune_mark mark;
  double ms, default_ms, noise;
  int runs;
};

struct tune_db {
  struct tune_record *records; // sorted by line; at most one per key and config, at most one best or default per key
  int n, capacity;
  int malformed;     // lines that are no records
  struct buf others; // those lines and comments, as they stand
};

void tune_db_free(struct tune_db *db);

// The key of a problem on this machine. Sizes fall into buckets: q_len up to 1, 4, 16, 64, 256, 1024, 4096 or more;
// kv_len up to 64, 256, 1024, 4096, 16384 or more; query heads per KV head up to 1, 4, 8 or more. So a new length is
// rarely a new search.
void tune_key_of(const struct problem *p, const struct target *t, int workers, struct tune_key *key);
// The bucket alone: "q4096k4096g1"; "more" is "+".
void tune_bucket(const struct problem *p, char *out, size_t size);

// Adds the records of a database's text to db. A malformed line is counted, and kept beside the records.
// STROBE_UNSUPPORTED: the text is of a newer format; STROBE_NO_MEMORY. `name` stands for it in messages.
int tune_db_parse(struct tune_db *db, const char *text, size_t len, const char *name, struct error *err);
// Adds one record, as of another database: of two of one key and config the one that rests on more runs stays, and
// decides if either did. Of two configs a best decides before a default, then the one that rests on more runs; with as
// many the new one. STROBE_NO_MEMORY.
int tune_db_add(struct tune_db *db, const struct tune_record *r, struct error *err);
// The same for a record of a search that has just ended: if it decides, whatever decided before does not any more (the
// search had that among its finalists), and its own numbers stay. STROBE_NO_MEMORY.
int tune_db_decide(struct tune_db *db, const struct tune_record *r, struct error *err);
bool tune_db_begins(const char *text, size_t len); // as a database does, or it is empty
void tune_db_print(const struct tune_db *db, struct buf *out);
void tune_record_print(const struct tune_record *r, struct buf *out); // one line

// The config that serves a key: the record marked best, or default where the default won. NULL: none.
const struct tune_record *tune_db_find(const struct tune_db *db, const struct tune_key *key);
// Drops what this version can't use: records of other versions or templates. Returns how many.
int tune_db_prune(struct tune_db *db);

// ---- on disk ----

// Where the database lies: `given`, else $STROBE_DB, else strobe/tunings.txt in $XDG_CACHE_HOME or ~/.cache. Empty:
// nowhere (no HOME).
void tune_db_path(const char *given, struct buf *out);
// Reads a database; a file that is not there is an empty one. STROBE_IO, STROBE_UNSUPPORTED, STROBE_NO_MEMORY.
int tune_db_read(const char *path, struct tune_db *db, struct error *err);
// The same of a file that somebody named, or that is to be written again. STROBE_INVALID: it is something else.
int tune_db_read_own(const char *path, struct tune_db *db, struct error *err);
// The record of the file that decides for this key; false: there is none, or no file that can be read.
bool tune_db_lookup(const char *path, const struct tune_key *key, struct tune_record *out);
// Adds what a search found (tune_db_decide) to the database at path, or at what a link there names: under a lock beside
// it, for which others are waited for (a few seconds at most), read, changed, written to a temporary file, synced,
// renamed. Whoever is killed meanwhile leaves the old file or the new one. No records: tells whether it could be
// written. STROBE_IO, STROBE_UNSUPPORTED (a newer format, left alone), STROBE_INVALID (a file that does not begin as a
// database does, left alone).
int tune_db_update(const char *path, const struct tune_record *records, int n, struct error *err);
// The same with the records of another database (tune_db_add).
int tune_db_merge(const char *path, const struct tune_db *other, struct error *err);
// The same, then drops what tune_db_prune drops; `dropped` gets how many.
int tune_db_prune_file(const char *path, int *dropped, struct error *err);

#endif
