#include "options.h"

#include "scan.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_OPTIONS = 24, FIRST_CODE = 256 };

// ---- values ----

int parse_integer(const char *what, const char *text, int64_t least, int64_t most, int64_t *out, struct error *err) {
  char *end;
  errno = 0;
  const long long v = strtoll(text, &end, 10);
  if (end == text || *end || errno || v < least || v > most)
    return fail(err, STROBE_INVALID, "%s \"%s\": must be a whole number from %" PRId64 " to %" PRId64 "%s", what,
                quote(slice_of(text)).text, least, most,
                end == text || *end ? ""
                : v < least         ? "; the first of them is the nearest"
                                    : "; the last of them is the nearest");
  *out = v;
  return 0;
}

int parse_number(const char *what, const char *text, double *out, struct error *err) {
  char *end;
  const double v = strtod(text, &end);
  if (end == text || *end || !isfinite((float)v))
    return fail(err, STROBE_INVALID, "%s \"%s\": must be a finite number such as 0.125", what,
                quote(slice_of(text)).text);
  *out = v;
  return 0;
}

// The words of "a|b|c".
struct words {
  char text[160];
  const char *at[16];
  int n;
};

static void split(const char *value, struct words *w) {
  w->n = 0;
  w->text[0] = 0;
  strncat(w->text, value, sizeof w->text - 1);
  for (char *word = w->text; word && w->n < 16;) {
    w->at[w->n++] = word;
    word = strchr(word, '|');
    if (word) *word++ = 0;
  }
}

static int parse_choice(const struct option_row *row, const char *text, int *out, struct error *err) {
  struct words w;
  split(row->value, &w);
  for (int i = 0; i < w.n; i++)
    if (!strcmp(text, w.at[i])) return *out = i + 1, 0;
  return fail(err, STROBE_INVALID, "--%s \"%s\": must be one of %s; the nearest is %s", row->name,
              quote(slice_of(text)).text, row->value, nearest_name(slice_of(text), w.at, w.n));
}

static int store(const struct option_row *row, char *text, void *options, struct error *err) {
  void *at = (char *)options + row->offset;
  char what[48] = "--";
  strncat(what, row->name, sizeof what - 3);
  struct option_number number = {.given = true};
  int status = 0;
  switch (row->kind) {
  case OPT_FLAG: *(bool *)at = true; break;
  case OPT_TEXT:
    if (!*text) return fail(err, STROBE_INVALID, "%s is empty: must be given as %s %s", what, what, row->value);
    *(const char **)at = text;
    break;
  case OPT_INT: status = parse_integer(what, text, row->least, row->most, at, err); break;
  case OPT_NUMBER:
    status = parse_number(what, text, &number.value, err);
    if (!status) *(struct option_number *)at = number;
    break;
  case OPT_CHOICE: status = parse_choice(row, text, at, err); break;
  }
  return status;
}

// ---- parsing ----

static int unknown_option(const struct verb *v, const char *given, struct error *err) {
  const char *dashes = given;
  while (*given == '-') given++;
  char name[48] = "";
  strncat(name, given, strcspn(given, "=") < sizeof name - 1 ? strcspn(given, "=") : sizeof name - 1);
  if (given - dashes < 2) // a short option
    return fail(err, STROBE_INVALID, "%s: unknown option %.20s; strobe %s --help lists them", v->name, dashes, v->name);
  const char *names[MAX_OPTIONS + 1] = {"help"};
  int n = 1;
  for (int i = 0; i < v->n_rows && n <= MAX_OPTIONS; i++) names[n++] = v->rows[i].name;
  const char *best = nearest_name(slice_of(name), names, n);
  return fail(err, STROBE_INVALID, "%s: unknown option --%s; the nearest is --%s", v->name, quote(slice_of(name)).text,
              best);
}

static int bad_option(const struct verb *v, char **argv, int code, int option, struct error *err) {
  for (int i = 0; code == ':' && i < v->n_rows; i++)
    if (option == FIRST_CODE + i || (v->rows[i].letter && option == v->rows[i].letter))
      return fail(err, STROBE_INVALID, "%s: --%s wants a value, %s", v->name, v->rows[i].name, v->rows[i].value);
  for (int i = 0; code == '?' && i < v->n_rows; i++)
    if (option == FIRST_CODE + i) return fail(err, STROBE_INVALID, "%s: --%s takes no value", v->name, v->rows[i].name);
  if (option && option < FIRST_CODE) {
    const char letter[3] = {'-', (char)option, 0};
    return unknown_option(v, letter, err);
  }
  return unknown_option(v, argv[optind - 1], err);
}

static int check_counts(const struct verb *v, const bool *seen, struct command *c, struct error *err) {
  for (int i = 0; i < v->n_rows; i++)
    if (v->rows[i].required && !seen[i])
      return fail(err, STROBE_INVALID, "%s: --%s %s is missing; usage: strobe %s %s [OPTION]...", v->name,
                  v->rows[i].name, v->rows[i].value, v->name, v->operands);
  if (c->n_operands < v->least_operands)
    return fail(err, STROBE_INVALID, "%s: %s is missing; usage: strobe %s %s [OPTION]...", v->name, v->operands,
                v->name, v->operands);
  if (v->most_operands >= 0 && c->n_operands > v->most_operands)
    return fail(err, STROBE_INVALID, "%s: \"%s\" is one argument too many; usage: strobe %s %s%s[OPTION]...", v->name,
                quote(slice_of(c->operands[v->most_operands])).text, v->name, v->operands, *v->operands ? " " : "");
  return 0;
}

static int build_tables(const struct verb *v, char letters[3 * MAX_OPTIONS], struct option longs[MAX_OPTIONS + 2],
                        struct error *err) {
  if (v->n_rows > MAX_OPTIONS) return fail(err, STROBE_INTERNAL, "%s: too many options in its table", v->name);
  char *s = letters;
  *s++ = ':'; // a missing value is ':', not '?'
  *s++ = 'h';
  for (int i = 0; i < v->n_rows; i++) {
    const struct option_row *row = &v->rows[i];
    longs[i] =
        (struct option){row->name, row->kind == OPT_FLAG ? no_argument : required_argument, NULL, FIRST_CODE + i};
    if (!row->letter) continue;
    *s++ = row->letter;
    if (row->kind != OPT_FLAG) *s++ = ':';
  }
  *s = 0;
  longs[v->n_rows] = (struct option){"help", no_argument, NULL, 'h'};
  longs[v->n_rows + 1] = (struct option){0};
  return 0;
}

int options_parse(const struct verb *v, int argc, char **argv, void *options, struct command *c, bool *help,
                  struct error *err) {
  char letters[3 * MAX_OPTIONS];
  struct option longs[MAX_OPTIONS + 2];
  bool seen[MAX_OPTIONS] = {false};
  *help = false;
  memset(options, 0, v->options_size);
  if (v->defaults) v->defaults(options);
  int status = build_tables(v, letters, longs, err);
  opterr = 0;
  optind = 0; // glibc: start afresh
  for (int code; !status && (code = getopt_long(argc, argv, letters, longs, NULL)) != -1;) {
    if (code == 'h') return *help = true, 0;
    if (code == '?' || code == ':') return bad_option(v, argv, code, optopt, err);
    int i = code - FIRST_CODE;
    for (int r = 0; code < FIRST_CODE && r < v->n_rows; r++)
      if (v->rows[r].letter == code) i = r;
    if (seen[i]) return fail(err, STROBE_INVALID, "%s: --%s is given twice; allowed: once", v->name, v->rows[i].name);
    seen[i] = true;
    status = store(&v->rows[i], optarg, options, err);
  }
  if (status) return status;
  *c = (struct command){.options = options, .operands = argv + optind, .n_operands = argc - optind};
  return check_counts(v, seen, c, err);
}

// ---- help ----

static void help_row(char letter, const char *name, const char *value, const char *about, struct buf *out) {
  const size_t start = out->len;
  buf_str(out, "  ");
  if (letter)
    buf_printf(out, "-%c, ", letter);
  else
    buf_str(out, "    ");
  buf_printf(out, "--%s%s%s", name, value ? " " : "", value ? value : "");
  if (out->len - start > 36) {
    buf_char(out, '\n');
    buf_printf(out, "%38s", "");
  } else {
    while (!out->failed && out->len - start < 38) buf_char(out, ' ');
  }
  buf_printf(out, "%s\n", about);
}

void options_help(const struct verb *v, struct buf *out) {
  buf_printf(out, "usage: strobe %s%s%s", v->name, *v->operands ? " " : "", v->operands);
  for (int i = 0; i < v->n_rows; i++)
    if (v->rows[i].required) buf_printf(out, " --%s %s", v->rows[i].name, v->rows[i].value);
  buf_printf(out, " [OPTION]...\n\n%s\n", v->about);
  if (*v->details) buf_printf(out, "%s\n", v->details);
  buf_str(out, "\noptions:\n");
  for (int i = 0; i < v->n_rows; i++) {
    const struct option_row *row = &v->rows[i];
    help_row(row->letter, row->name, row->kind == OPT_FLAG ? NULL : row->value, row->about, out);
  }
  help_row('h', "help", NULL, "print this text", out);
  if (v->more) buf_char(out, '\n'), v->more(out);
  buf_printf(out, "\nexit status: 0 done, 1 a check failed, 2 bad input or not supported here\n\nexample:\n%s\n",
             v->example);
}

void options_overview(const struct verb *const *v, int n, struct buf *out) {
  buf_str(out,
          "usage: strobe VERB [ARGUMENT]... [OPTION]...\n\n"
          "Strobe generates attention kernels: as C files to keep, or as machine code in this process.\n\nverbs:\n");
  for (int i = 0; i < n; i++) buf_printf(out, "  %-9s %s\n", v[i]->name, v[i]->about);
  buf_str(out, "\n  strobe VERB --help   the verb's options and a worked example\n"
               "  strobe --version     version and template hash\n"
               "  strobe --man         the manual page, for man -l -\n\n"
               "example:\n"
               "  $ strobe emit d64:f32:causal --target avx512 -o third_party/attn\n"
               "  $ strobe bench d128:bf16:causal:b1h8q2048k2048\n");
}
