// Fuzzes the tuning database: any text is read, line by line, or refused with a sentence; what was read is sorted,
// prints, lines that are no records included, reads back whole, and prints the same again.
#include "../runtime/tune_db.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REQUIRE(condition)                                                                                             \
  do                                                                                                                   \
    if (!(condition)) fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition), abort();                         \
  while (0)

static void check_records(const struct tune_db *db) {
  int chosen = 0;
  for (int i = 0; i < db->n; i++) {
    const struct tune_record *r = &db->records[i];
    REQUIRE(r->mark >= 0 && r->mark < TUNE_MARK_COUNT && isfinite(r->ms) && isfinite(r->default_ms));
    for (int k = 0; k < i && r->mark != TUNE_TRIED; k++)
      if (db->records[k].mark == r->mark) REQUIRE(memcmp(&db->records[k].key, &r->key, sizeof r->key));
    chosen += tune_db_find(db, &r->key) != NULL;
  }
  REQUIRE(chosen <= db->n);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size);
int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size) {
  struct tune_db db = {0}, again = {0};
  struct error err = {0};
  struct buf once = {0}, twice = {0};
  const int status = tune_db_parse(&db, (const char *)data, size, "fuzz", &err);
  REQUIRE(status == (int)err.status && (status != 0) == (err.text[0] != 0));
  if (!status) {
    check_records(&db);
    tune_db_print(&db, &once);
    REQUIRE(!once.failed && !tune_db_parse(&again, once.data, once.len, "again", NULL));
    REQUIRE(again.malformed == db.malformed && again.n == db.n);
    tune_db_print(&again, &twice);
    REQUIRE(once.len == twice.len && !memcmp(once.data, twice.data, once.len));
    tune_db_prune(&again);
    REQUIRE(again.n <= db.n);
  }
  tune_db_free(&db);
  tune_db_free(&again);
  buf_free(&once);
  buf_free(&twice);
  return 0;
}

static const char *const tokens[] = {"# strobe tuning database 1\n",
                                     "\t",
                                     "\n",
                                     "best",
                                     "default",
                                     "tried",
                                     "1e308",
                                     "nan",
                                     "-1",
                                     "0",
                                     "2147483648",
                                     "d64:f32\tq64k64g1\tc99\t1\tx\t0.1.0\t0123456789abcdef\t",
                                     "stages=1",
                                     "\r"};

#include "fuzz_main.h"
FUZZ_MAIN("db", 3000, tokens, sizeof tokens / sizeof *tokens)
