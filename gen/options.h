// The command line as tables. One table of options per verb parses the arguments (over getopt_long) and prints --help.
#ifndef STROBE_GEN_OPTIONS_H
#define STROBE_GEN_OPTIONS_H

#include "buf.h"
#include "error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum option_kind {
  OPT_FLAG,   // bool
  OPT_TEXT,   // const char *; NULL: not given. Empty text is refused
  OPT_INT,    // int64_t between least and most; what the struct holds stays if not given
  OPT_NUMBER, // struct option_number
  OPT_CHOICE, // int: 1 + the index of the word in `value`, "intrin|code|scalar"; 0: not given
};

struct option_number {
  bool given;
  double value; // finite as an f32
};

struct option_row {
  const char *name; // without "--"
  char letter;      // 0: none
  enum option_kind kind;
  size_t offset;     // of the value in the verb's struct
  const char *value; // what --help calls it; for OPT_CHOICE also the words
  const char *about;
  int64_t least, most; // OPT_INT
  bool required;
};
#define OPTION(kind_, struct_, field_, ...)                                                                            \
  { .kind = kind_, .offset = offsetof(struct_, field_), __VA_ARGS__ }

struct command {
  const void *options; // the verb's struct, filled
  char **operands;
  int n_operands;
};

struct verb {
  const char *name;
  const char *operands;          // as in the usage line: "PROBLEM..."
  const char *about;             // one line
  const char *details;           // paragraphs for --help
  const char *example;           // a command and what it prints
  void (*more)(struct buf *out); // appends tables to --help; NULL: none
  const struct option_row *rows;
  int n_rows;
  size_t options_size;
  void (*defaults)(void *options);                        // NULL: all zero
  int least_operands, most_operands;                      // most -1: any number
  int (*run)(const struct command *c, struct error *err); // the exit code when err holds nothing
};

// Parses the arguments after the verb: argv[0] is the verb itself. Fills `options` (zeroed, then defaults, then what
// was given); operands may stand between options and are moved to the end of argv. `*help` is set, and nothing is
// checked, when --help is there. Refuses unknown, ambiguous and repeated options, values out of range, and too few or
// many operands.
int options_parse(const struct verb *v, int argc, char **argv, void *options, struct command *c, bool *help,
                  struct error *err);

void options_help(const struct verb *v, struct buf *out);                   // one verb
void options_overview(const struct verb *const *v, int n, struct buf *out); // the program
// The manual page strobe(1), in the man macros of troff, from the same tables (gen/cmd_man.c).
void options_man(const struct verb *const *v, int n, const char *version, struct buf *out);

// Whole-text numbers; `what` names the value in the sentence ("--runs").
int parse_integer(const char *what, const char *text, int64_t least, int64_t most, int64_t *out, struct error *err);
int parse_number(const char *what, const char *text, double *out, struct error *err);

#endif
