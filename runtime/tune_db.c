#include "tune_db.h"

#include "../gen/kernel.h"
#include "../gen/scan.h"
#include "cpu.h"
#include "gpu.h"

#include <ctype.h>
#include <inttypes.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const tune_mark_names[TUNE_MARK_COUNT] = {"tried", "default", "best"};
static const char head[] = "# strobe tuning database ";
enum { FORMAT = 1, FIELDS = 13 };

void tune_db_free(struct tune_db *db) {
  free(db->records);
  buf_free(&db->others);
  *db = (struct tune_db){0};
}

// ---- keys ----

static void put_bucket(char **at, const char *end, char letter, int64_t value, const int64_t *bounds) {
  while (*bounds && value > *bounds) bounds++;
  if (*at >= end) return;
  *at += *bounds ? snprintf(*at, (size_t)(end - *at), "%c%" PRId64, letter, *bounds)
                 : snprintf(*at, (size_t)(end - *at), "%c+", letter);
}

void tune_bucket(const struct problem *p, char *out, size_t size) {
  static const int64_t q[] = {1, 4, 16, 64, 256, 1024, 4096, 0}, k[] = {64, 256, 1024, 4096, 16384, 0},
                       g[] = {1, 4, 8, 0};
  char *at = out;
  const char *end = out + size;
  put_bucket(&at, end, 'q', p->q_len, q);
  put_bucket(&at, end, 'k', p->kv_len, k);
  put_bucket(&at, end, 'g', p->heads / (p->heads_kv > 0 ? p->heads_kv : 1), g);
}

// A field of a line: no tabs, no line ends, never empty.
static void put_field(char *to, size_t size, const char *text) {
  size_t n = 0;
  for (; *text && n + 1 < size; text++) to[n++] = isprint((unsigned char)*text) ? *text : ' ';
  if (!n) to[n++] = '-';
  to[n] = 0;
}

void tune_key_of(const struct problem *p, const struct target *t, int workers, struct tune_key *key) {
  *key = (struct tune_key){.workers = workers};
  struct buf spec = {0};
  spec_print(&p->spec, &spec);
  put_field(key->spec, sizeof key->spec, spec.failed ? "" : spec.data);
  buf_free(&spec);
  tune_bucket(p, key->bucket, sizeof key->bucket);
  put_field(key->target, sizeof key->target, t->name);
  char name[64];
  (t->family == FAMILY_CPU ? cpu_name : gpu_name)(name, sizeof name);
  put_field(key->machine, sizeof key->machine, name);
  put_field(key->version, sizeof key->version, STROBE_VERSION);
  snprintf(key->templates, sizeof key->templates, "%016" PRIx64, templates_hash());
}

static int compare_keys(const struct tune_key *a, const struct tune_key *b) {
  const char *const x[] = {a->spec, a->bucket, a->target, a->machine, a->version, a->templates};
  const char *const y[] = {b->spec, b->bucket, b->target, b->machine, b->version, b->templates};
  for (size_t i = 0; i < sizeof x / sizeof *x; i++) {
    int order = strcmp(x[i], y[i]);
    if (order) return order;
  }
  return (a->workers > b->workers) - (a->workers < b->workers);
}

static int compare(const struct tune_record *a, const struct tune_record *b) {
  int order = compare_keys(&a->key, &b->key);
  return order ? order : strcmp(a->config, b->config);
}

// ---- lines ----

// Numbers have a point whatever the host's locale has.
static locale_t begin_numbers(locale_t *before) {
  const locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
  *before = c ? uselocale(c) : (locale_t)0;
  return c;
}

static void end_numbers(locale_t c, locale_t before) {
  uselocale(before);
  freelocale(c);
}

void tune_record_print(const struct tune_record *r, struct buf *out) {
  const struct tune_key *k = &r->key;
  locale_t before, c = begin_numbers(&before);
  out->failed |= !c;
  if (!c) return;
  buf_printf(out, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t%.6g\t%.6g\t%d\t%.3g\n", k->spec, k->bucket, k->target,
             k->workers, k->machine, k->version, k->templates, r->config, tune_mark_names[r->mark], r->ms,
             r->default_ms, r->runs, r->noise);
  end_numbers(c, before);
}

void tune_db_print(const struct tune_db *db, struct buf *out) {
  buf_printf(out, "%s%d\n", head, FORMAT);
  if (db->others.len) buf_add(out, db->others.data, db->others.len);
  for (int i = 0; i < db->n; i++) tune_record_print(&db->records[i], out);
}

static bool take_text(struct slice s, char *to, size_t size) {
  if (s.len == 0 || s.len >= size) return false;
  for (size_t i = 0; i < s.len; i++)
    if ((unsigned char)s.at[i] < ' ') return false; // a NUL would end the field when it is written again
  memcpy(to, s.at, s.len);
  to[s.len] = 0;
  return true;
}

static bool take_integer(struct slice s, int *out) {
  int64_t value;
  if (scan_number(&s, 1 << 30, &value) != SCAN_OK || s.len) return false;
  *out = (int)value;
  return true;
}

static bool take_positive(struct slice s, double *out) {
  char text[32], *end;
  locale_t before, c = begin_numbers(&before);
  const bool there = c && take_text(s, text, sizeof text);
  if (there) *out = strtod(text, &end);
  if (c) end_numbers(c, before);
  return there && !*end && isfinite(*out) && *out >= 0;
}

static bool take_mark(struct slice s, enum tune_mark *out) {
  for (int i = 0; i < TUNE_MARK_COUNT; i++)
    if (slice_is(s, tune_mark_names[i])) return *out = (enum tune_mark)i, true;
  return false;
}

static bool parse_line(struct slice line, struct tune_record *r) {
  struct slice f[FIELDS];
  bool more = true;
  for (int i = 0; i < FIELDS; i++) {
    if (!more) return false;
    f[i] = slice_cut(&line, '\t', &more);
  }
  struct tune_key *k = &r->key;
  return !more && take_text(f[0], k->spec, sizeof k->spec) && take_text(f[1], k->bucket, sizeof k->bucket) &&
         take_text(f[2], k->target, sizeof k->target) && take_integer(f[3], &k->workers) &&
         take_text(f[4], k->machine, sizeof k->machine) && take_text(f[5], k->version, sizeof k->version) &&
         take_text(f[6], k->templates, sizeof k->templates) && take_text(f[7], r->config, sizeof r->config) &&
         take_mark(f[8], &r->mark) && take_positive(f[9], &r->ms) && take_positive(f[10], &r->default_ms) &&
         take_integer(f[11], &r->runs) && take_positive(f[12], &r->noise);
}

bool tune_db_begins(const char *text, size_t len) {
  return !len || (len >= sizeof head - 1 && !memcmp(text, head, sizeof head - 1));
}

int tune_db_parse(struct tune_db *db, const char *text, size_t len, const char *name, struct error *err) {
  struct slice rest = {text, len};
  bool more = len > 0, first = true;
  int status = 0;
  while (more && !status) {
    struct slice line = slice_cut(&rest, '\n', &more);
    while (line.len && line.at[line.len - 1] == '\r') line.len--; // as some editors leave it
    struct slice number = line;
    struct tune_record r;
    if (first && line.len > sizeof head - 1 && !memcmp(line.at, head, sizeof head - 1)) {
      int64_t format;
      number.at += sizeof head - 1, number.len -= sizeof head - 1;
      if (scan_number(&number, 1 << 20, &format) != SCAN_OK || format > FORMAT)
        return fail(err, STROBE_UNSUPPORTED, "%.300s is a tuning database of format %s; this version reads up to %d",
                    name, quote((struct slice){line.at + sizeof head - 1, line.len - sizeof head + 1}).text, FORMAT);
    } else if (line.len) {
      memset(&r, 0, sizeof r);
      const bool comment = line.at[0] == '#', record = !comment && parse_line(line, &r);
      if (record)
        status = tune_db_add(db, &r, err);
      else
        buf_add(&db->others, line.at, line.len), buf_char(&db->others, '\n');
      db->malformed += !record && !comment;
      if (db->others.failed) status = fail(err, STROBE_NO_MEMORY, "no memory for the lines of a tuning database");
    }
    first = false;
  }
  return status;
}

// ---- records ----

// Where r is, or belongs.
static int place_of(const struct tune_db *db, const struct tune_record *r, bool *there) {
  int low = 0, high = db->n;
  *there = false;
  while (low < high) {
    int middle = low + (high - low) / 2, order = compare(&db->records[middle], r);
    if (order == 0) return *there = true, middle;
    if (order < 0)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

static struct tune_record *decides(const struct tune_db *db, const struct tune_key *key) {
  struct tune_record want = {.key = *key};
  bool there;
  for (int i = place_of(db, &want, &there); i < db->n && !compare_keys(&db->records[i].key, key); i++)
    if (db->records[i].mark != TUNE_TRIED) return &db->records[i];
  return NULL;
}

// A best was significantly better than the default, of which there are always more runs.
static bool stronger(const struct tune_record *a, const struct tune_record *b) {
  return a->mark != b->mark ? a->mark > b->mark : a->runs >= b->runs;
}

int tune_db_add(struct tune_db *db, const struct tune_record *r, struct error *err) {
  struct tune_record *decided = decides(db, &r->key), new = *r;
  if (decided && r->mark != TUNE_TRIED && strcmp(decided->config, r->config))
    (stronger(r, decided) ? decided : &new)->mark = TUNE_TRIED;
  bool there;
  int at = place_of(db, r, &there);
  if (there) {
    struct tune_record *old = &db->records[at];
    const enum tune_mark mark = old->mark > new.mark ? old->mark : new.mark;
    if (old->runs <= new.runs) *old = new;
    old->mark = mark;
  } else {
    if (db->n == db->capacity) {
      int capacity = db->capacity ? 2 * db->capacity : 64;
      struct tune_record *grown = realloc(db->records, (size_t)capacity * sizeof *grown);
      if (!grown) return fail(err, STROBE_NO_MEMORY, "no memory for %d tuning records", capacity);
      db->records = grown;
      db->capacity = capacity;
    }
    memmove(db->records + at + 1, db->records + at, (size_t)(db->n - at) * sizeof *db->records);
    db->records[at] = new;
    db->n++;
  }
  return 0;
}

int tune_db_decide(struct tune_db *db, const struct tune_record *r, struct error *err) {
  bool there;
  struct tune_record *decided = r->mark == TUNE_TRIED ? NULL : decides(db, &r->key);
  if (decided) decided->mark = TUNE_TRIED;
  const int at = place_of(db, r, &there);
  if (!there || r->mark == TUNE_TRIED) return tune_db_add(db, r, err);
  db->records[at] = *r;
  return 0;
}

const struct tune_record *tune_db_find(const struct tune_db *db, const struct tune_key *key) {
  return decides(db, key);
}

int tune_db_prune(struct tune_db *db) {
  char hash[20];
  snprintf(hash, sizeof hash, "%016" PRIx64, templates_hash());
  int kept = 0, n = db->n;
  for (int i = 0; i < n; i++)
    if (!strcmp(db->records[i].key.version, STROBE_VERSION) && !strcmp(db->records[i].key.templates, hash))
      db->records[kept++] = db->records[i];
  db->n = kept;
  return n - kept;
}
