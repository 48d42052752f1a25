// The command line: finds the verb, parses its options, runs it, and turns an error into one sentence and exit
// status 2.
#include "cmd.h"
#include "scan.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct verb *const verbs[] = {&verb_emit, &verb_run,  &verb_verify,  &verb_bench, &verb_tune,
                                    &verb_db,   &verb_list, &verb_explain, &verb_doctor};
enum { N_VERBS = sizeof verbs / sizeof *verbs };
const int verb_count = N_VERBS;

static int unknown_verb(const char *name, struct error *err) {
  static const char *const options[] = {"--help", "--version", "--man"};
  const char *names[N_VERBS];
  for (int i = 0; i < N_VERBS; i++) names[i] = verbs[i]->name;
  const bool option = *name == '-';
  return fail(err, STROBE_INVALID, "%s \"%s\": strobe --help lists the verbs; the nearest is %s",
              option ? "unknown option" : "unknown verb", quote(slice_of(name)).text,
              nearest_name(slice_of(name), option ? options : names, option ? 3 : N_VERBS));
}

static int run_verb(const struct verb *v, int argc, char **argv, struct error *err) {
  struct command c = {0};
  struct buf help = {0};
  bool wants_help;
  int code = 0;
  void *options = calloc(1, v->options_size + 1);
  if (!options) return fail(err, STROBE_NO_MEMORY, "no memory for options");
  if (!options_parse(v, argc, argv, options, &c, &wants_help, err)) {
    if (wants_help)
      options_help(v, &help), cmd_print(&help, err);
    else if (!cmd_check_cap(err))
      code = v->run(&c, err);
  }
  free(options);
  return code;
}

static int run(int argc, char **argv, struct error *err) {
  struct buf out = {0};
  const char *name = argc > 1 ? argv[1] : NULL;
  const bool by_verb = name && !strcmp(name, "help") && argc == 3; // strobe help VERB
  if (!name) return fail(err, STROBE_INVALID, "a verb is missing; strobe --help lists them");
  for (int i = 0; i < N_VERBS; i++) {
    if (by_verb && !strcmp(argv[2], verbs[i]->name)) return options_help(verbs[i], &out), cmd_print(&out, err);
    if (!strcmp(name, verbs[i]->name)) return run_verb(verbs[i], argc - 1, argv + 1, err);
  }
  const bool help = !strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help");
  const bool version = !strcmp(name, "--version"), man = !strcmp(name, "--man");
  if (by_verb && strcmp(argv[2], "help")) return unknown_verb(argv[2], err);
  if (!help && !version && !man) return unknown_verb(name, err);
  if (argc > 2 && !by_verb)
    return fail(err, STROBE_INVALID, "%s: \"%s\" is one argument too many; it takes none", name,
                quote(slice_of(argv[2])).text);
  if (version) buf_printf(&out, "strobe %s, templates %016" PRIx64 "\n", strobe_version(), templates_hash());
  if (help) options_overview(verbs, N_VERBS, &out);
  if (man) options_man(verbs, N_VERBS, strobe_version(), &out);
  return cmd_print(&out, err);
}

int main(int argc, char **argv) {
  struct error err = {0};
  signal(SIGPIPE, SIG_IGN); // a closed pipe and a full disk are errors like any other
  signal(SIGXFSZ, SIG_IGN);
  const int code = run(argc, argv, &err);
  if (!err.status) return code;
  for (char *c = err.text; *c; c++)
    if (*c == '\n' || *c == '\r') *c = ' ';
  fprintf(stderr, "strobe: %s\n", err.text);
  return 2;
}
