// A directory for a tuning database, and records of one.
#ifndef STROBE_TESTS_TUNE_RECORDS_H
#define STROBE_TESTS_TUNE_RECORDS_H

static char directory[64], db_path[96];

static inline int set_up(void **state) {
  (void)state;
  strcpy(directory, "/tmp/strobe-tune-XXXXXX");
  if (!mkdtemp(directory)) return -1;
  snprintf(db_path, sizeof db_path, "%s/sub/tunings.txt", directory);
  return setenv("STROBE_DB", db_path, 1);
}

static inline int tear_down(void **state) {
  (void)state;
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s", directory);
  return system(command);
}

static inline struct tune_record record_of(const char *spec, const char *config, enum tune_mark mark, double ms,
                                           int runs) {
  struct tune_record r = {.mark = mark, .ms = ms, .default_ms = 2, .runs = runs, .noise = 0.5};
  struct problem p;
  assert_int_equal(problem_parse("d64:f32:b1h2q128k128", &p, NULL), 0);
  tune_key_of(&p, target_find("c99"), 1, &r.key);
  snprintf(r.key.spec, sizeof r.key.spec, "%s", spec);
  snprintf(r.config, sizeof r.config, "%s", config);
  return r;
}

#endif
