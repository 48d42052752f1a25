// `strobe verify`: what its parts share.
#ifndef STROBE_GEN_CMD_VERIFY_H
#define STROBE_GEN_CMD_VERIFY_H

#include "cmd.h"

#include "../runtime/verify.h"

struct verify_options {
  const char *target, *set, *kind, *kv_lens;
  int backend, layout, suite;
  int64_t seed;
  bool json;
};

// What one case is run on; target NULL: the backend has its own.
struct combination {
  const struct target *target;
  const char *backend;
};

struct session {
  const struct verify_options *opt;
  strobe_context *ctx;
  int64_t *kv_lens; // of the problem at hand; NULL: all kv_len
  struct table table;
  struct buf json_text, failures, notes;
  struct json json;
  int done, failed, skipped;
  struct {
    int cases, failed;
    struct verify_worst worst;
  } group; // of the plan at hand: a suite prints a line for each
  double worst_ratio;
  struct progress progress;
};

// One case into the table (of a suite: into the group), the JSON, and the failures if it is one.
void verify_report(struct session *s, const struct verify_case *c, const struct combination *on,
                   const struct strobe_plan_info *info, const struct verify_result *r);
// The line of a suite's table for what was reported since verify_group_begin.
void verify_group_begin(struct session *s);
void verify_group_end(struct session *s, const struct problem *p, const struct strobe_plan_info *info);

void verify_begin(struct session *s); // the head of the table
int verify_session_print(struct session *s, struct error *err);

// ---- the problems of --suite ----

enum suite { SUITE_NONE, SUITE_QUICK, SUITE_FULL }; // full holds quick, and takes every kind of inputs

struct suite_row {
  enum suite from; // the smallest suite that has it
  const char *problem, *about;
};
extern const struct suite_row suite_rows[];
extern const int suite_count;

void suite_help(struct buf *out); // "  d64:f32:b1h2/1q65k130  what it is for", one a line

#endif
