// A set: the kernels of one directory, with one dispatcher. Read from a set file, from a manifest, or from the command
// line.
#ifndef STROBE_GEN_SET_H
#define STROBE_GEN_SET_H

#include "emit.h"
#include "scan.h"

struct set_entry {
  struct instance instance;
  enum printer printer;
  int line; // of the set file, or number of the operand, for messages
  char cite[EMIT_CITE_MAX + 1];
};

// Gives the config of a kernel whose line leaves it open: fills config (all unset before) and cite, or neither.
typedef int set_chooser(void *context, const struct problem *p, const struct target *t, struct config *config,
                        char cite[EMIT_CITE_MAX + 1], struct error *err);

struct kernel_set {
  char name[65], prefix[65]; // the dispatcher's entry point is PREFIX + NAME + _forward
  bool dispatcher;           // false: only the kernels' own files
  const char *file;          // that the lines are of, for messages; NULL: operands
  struct templates templates;
  set_chooser *choose; // NULL: the heuristic does
  void *choose_context;
  struct set_entry *entry; // ordered by set_finish
  int n, capacity;
};

// One kernel, as text. Fields that are not given are NULL.
struct set_line {
  const char *spec;
  const char *targets; // "c99,avx512": one instance each; NULL: every CPU target that can do the spec
  const char *printer; // NULL: intrin, or scalar on c99
  const char *config;  // as after --set
  const char *cite;    // what the config was taken from
};

// Adds the instances of one line. `line` is what errors of later lines call it.
int set_add(struct kernel_set *set, const struct set_line *fields, int line, struct error *err);

// Adds the lines of a set file: SPEC [target=T,...] [printer=P] [set=CONFIG], fields also as --target T; "#" begins a
// comment. default_targets is for lines without a target. Errors are one sentence that begins with FILE:LINE.
int set_parse(struct kernel_set *set, struct slice text, const char *default_targets, struct error *err);

// Adds what a manifest lists; takes name and prefix from it where the set has none yet.
int set_parse_manifest(struct kernel_set *set, struct slice text, struct error *err);
bool set_is_manifest(struct slice text);

// Puts the entries in the order in which the dispatcher tries them, so that the order of lines does not matter.
// Refuses entries that could never be chosen. Gives the set its default name.
int set_finish(struct kernel_set *set, struct error *err);
// Records why as err, with the place of the line before it.
int set_fail(const struct kernel_set *set, int line, const struct error *why, struct error *err);
void set_free(struct kernel_set *set);

struct emit_request set_request(const struct kernel_set *set, int i);

// ---- what a dispatcher must know about a target ----

struct host_row {
  const char *target;
  const char *feature; // macro of the dispatcher: a bit that cpu_features() must have; NULL: none
};
// NULL: the printed text runs on every CPU.
const struct host_row *set_host(const struct set_entry *e);

#endif
