// Set files: one kernel a line.
#include "set.h"

#include <string.h>

enum { WORD_MAX = 512, WORDS_MAX = 16 };

struct words {
  char text[WORDS_MAX][WORD_MAX];
  int n;
};

static bool blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }

static int split(struct slice line, struct words *w, struct error *err) {
  w->n = 0;
  for (const char *c = line.at, *end = line.at + line.len; c < end;) {
    if (blank(*c)) {
      c++;
      continue;
    }
    if (*c == '#') break;
    const char *start = c;
    while (c < end && !blank(*c)) {
      if ((unsigned char)*c < ' ' || *c == 127)
        return fail(err, STROBE_INVALID, "control character %d: must be text", (unsigned char)*c);
      c++;
    }
    if (c - start >= WORD_MAX)
      return fail(err, STROBE_INVALID, "\"%s\": must be shorter than %d characters",
                  quote((struct slice){start, (size_t)(c - start)}).text, WORD_MAX);
    if (w->n == WORDS_MAX) return fail(err, STROBE_INVALID, "more than %d words; one kernel a line", WORDS_MAX);
    memcpy(w->text[w->n], start, (size_t)(c - start));
    w->text[w->n++][c - start] = 0;
  }
  return 0;
}

// "target=T", "--target=T" or "--target" and the next word.
static int field(const struct words *w, int *i, struct set_line *out, struct error *err) {
  static const char *const names[] = {"target", "printer", "set"};
  const char **const slots[] = {&out->targets, &out->printer, &out->config};
  const char *word = w->text[*i], *name = word + (strncmp(word, "--", 2) ? 0 : 2);
  const struct slice key = {name, strcspn(name, "=")};
  for (int n = 0; n < 3; n++) {
    if (!slice_is(key, names[n])) continue;
    const char *value = name[key.len] ? name + key.len + 1 : name != word && *i + 1 < w->n ? w->text[++*i] : "";
    if (!*value)
      return fail(err, STROBE_INVALID, "%s has no value; %s=%s works", names[n], names[n],
                  n == 0   ? "avx512"
                  : n == 1 ? "intrin"
                           : "stages=1");
    if (*slots[n]) return fail(err, STROBE_INVALID, "%s is given twice; allowed: once a line", names[n]);
    *slots[n] = value;
    return 0;
  }
  return fail(err, STROBE_INVALID,
              "\"%s\" after the spec: must be target=T, printer=P or set=CONFIG; the nearest is %s",
              quote(slice_of(word)).text, nearest_name(key, names, 3));
}

static int add_line(struct kernel_set *set, struct slice line, int number, const char *default_targets,
                    struct error *err) {
  struct words w;
  int status = split(line, &w, err);
  if (status || !w.n) return status;
  struct set_line fields = {.spec = w.text[0]};
  for (int i = 1; i < w.n && !status; i++) status = field(&w, &i, &fields, err);
  if (!fields.targets) fields.targets = default_targets;
  return status ? status : set_add(set, &fields, number, err);
}

int set_parse(struct kernel_set *set, struct slice text, const char *default_targets, struct error *err) {
  bool more = true;
  for (int number = 1; more; number++) {
    struct error why = {0};
    if (add_line(set, slice_cut(&text, '\n', &more), number, default_targets, &why))
      return set_fail(set, number, &why, err);
  }
  return 0;
}
