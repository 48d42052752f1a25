// .npy headers: the parser and the checks. Files are npy_file.c's.
#include "npy.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

const struct npy_type_info npy_types[NPY_TYPE_COUNT] = {
    {"<f4", "float32", 4}, {"<f8", "float64", 8}, {"<f2", "float16", 2}, {"|u1", "uint8", 1},
    {"<u2", "uint16", 2},  {"<i4", "int32", 4},   {"<i8", "int64", 8},
};

// ---- the header's text: a Python literal {'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), } ----

struct cursor {
  const char *at, *end;
  const char *name; // of the file
  struct error *err;
};

static int bad(struct cursor *c, const char *why) {
  return fail(c->err, STROBE_INVALID, "%s: not a .npy file: %s", c->name, why);
}

static void skip_space(struct cursor *c) {
  while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\n' || *c->at == '\r')) c->at++;
}

static bool take(struct cursor *c, char wanted) {
  skip_space(c);
  if (c->at == c->end || *c->at != wanted) return false;
  c->at++;
  return true;
}

// A quoted string without escapes, of at most size - 1 characters.
static bool take_string(struct cursor *c, char *out, size_t size) {
  skip_space(c);
  if (c->at == c->end || (*c->at != '\'' && *c->at != '"')) return false;
  const char quote = *c->at++;
  size_t n = 0;
  while (c->at < c->end && *c->at != quote && n + 1 < size) out[n++] = *c->at++;
  out[n] = 0;
  return take(c, quote);
}

static bool take_word(struct cursor *c, const char *word) {
  skip_space(c);
  size_t n = strlen(word);
  if ((size_t)(c->end - c->at) < n || memcmp(c->at, word, n)) return false;
  c->at += n;
  return true;
}

static bool take_size(struct cursor *c, int64_t *out) {
  skip_space(c);
  if (c->at == c->end || *c->at < '0' || *c->at > '9') return false;
  for (*out = 0; c->at < c->end && *c->at >= '0' && *c->at <= '9'; c->at++)
    if (__builtin_mul_overflow(*out, 10, out) || __builtin_add_overflow(*out, *c->at - '0', out)) return false;
  take(c, 'L'); // written by Python 2
  return true;
}

static int parse_descr(struct cursor *c, struct npy *a) {
  char descr[16];
  if (!take_string(c, descr, sizeof descr)) return bad(c, "its 'descr' is not a plain type");
  for (int i = 0; i < NPY_TYPE_COUNT; i++)
    if (!strcmp(descr, npy_types[i].descr)) return a->type = (enum npy_type)i, 0;
  for (char *p = descr; *p; p++)
    if (*p < ' ' || *p > '~') *p = '?';
  return fail(c->err, STROBE_INVALID, "%s: dtype %s; allowed: <f4, <f8, <f2, |u1, <u2 (also for bf16 bits), <i4, <i8",
              c->name, descr);
}

static int parse_order(struct cursor *c, struct npy *a) {
  (void)a;
  if (take_word(c, "False")) return 0;
  if (take_word(c, "True"))
    return fail(c->err, STROBE_INVALID, "%s: Fortran order; allowed: C order (numpy.ascontiguousarray)", c->name);
  return bad(c, "its 'fortran_order' is neither True nor False");
}

static int parse_shape(struct cursor *c, struct npy *a) {
  if (!take(c, '(')) return bad(c, "its 'shape' is not a tuple");
  while (!take(c, ')')) {
    int64_t n;
    if (!take_size(c, &n)) return bad(c, "its 'shape' holds something that is not a size below 2^63");
    if (a->rank == NPY_MAX_RANK) return fail(c->err, STROBE_INVALID, "%s: rank above 8; allowed: 0 to 8", c->name);
    a->shape[a->rank++] = n;
    if (take(c, ',')) continue;
    if (take(c, ')')) return 0;
    return bad(c, "its 'shape' is not a tuple");
  }
  return 0;
}

static const struct {
  const char *key;
  int (*parse)(struct cursor *, struct npy *);
} keys[] = {{"descr", parse_descr}, {"fortran_order", parse_order}, {"shape", parse_shape}};
enum { KEYS = sizeof keys / sizeof *keys };

static int parse_entry(struct cursor *c, struct npy *a, unsigned *seen) {
  char key[24];
  if (!take_string(c, key, sizeof key) || !take(c, ':')) return bad(c, "its header is not a dictionary");
  for (unsigned i = 0; i < KEYS; i++) {
    if (strcmp(key, keys[i].key)) continue;
    if (*seen & 1u << i) return bad(c, "its header has a key twice");
    *seen |= 1u << i;
    return keys[i].parse(c, a);
  }
  return bad(c, "its header has a key other than 'descr', 'fortran_order' and 'shape'");
}

static int parse_dictionary(struct cursor *c, struct npy *a) {
  unsigned seen = 0;
  if (!take(c, '{')) return bad(c, "its header is not a dictionary");
  while (!take(c, '}')) {
    int status = parse_entry(c, a, &seen);
    if (status) return status;
    if (take(c, ',')) continue;
    if (take(c, '}')) break;
    return bad(c, "its header is not a dictionary");
  }
  skip_space(c);
  if (c->at != c->end) return bad(c, "its header goes on after the dictionary");
  return seen == (1u << KEYS) - 1 ? 0 : bad(c, "its header lacks 'descr', 'fortran_order' or 'shape'");
}

// ---- sizes ----

static int set_sizes(struct npy *a, const char *name, struct error *err) {
  int64_t n = 1, bytes;
  bool empty = false, big = false;
  for (int i = 0; i < a->rank; i++) {
    if (a->shape[i] == 0)
      empty = true; // numpy refuses a product that overflows even so
    else if (__builtin_mul_overflow(n, a->shape[i], &n))
      big = true;
  }
  if (big || __builtin_mul_overflow(n, npy_types[a->type].bytes, &bytes) || (uint64_t)bytes > SIZE_MAX / 2)
    return fail(err, STROBE_INVALID, "%s: the product of its shape is too large for this machine's memory", name);
  a->elements = empty ? 0 : n;
  a->bytes = (size_t)a->elements * (size_t)npy_types[a->type].bytes;
  return 0;
}

// Magic, version and length of the dictionary: *start and *end of its text.
static int parse_preamble(const unsigned char *p, size_t len, struct cursor *c, size_t *start, size_t *end) {
  static const unsigned char magic[] = {0x93, 'N', 'U', 'M', 'P', 'Y'};
  if (len < sizeof magic || memcmp(p, magic, sizeof magic)) return bad(c, "it does not begin with \\x93NUMPY");
  if (len < 10) return bad(c, "it ends within its header");
  if (p[6] < 1 || p[6] > 3 || p[7] != 0)
    return fail(c->err, STROBE_INVALID, "%s: .npy version %d.%d; allowed: 1.0, 2.0, 3.0", c->name, p[6], p[7]);
  *start = p[6] == 1 ? 10 : 12;
  if (len < *start) return bad(c, "it ends within its header");
  size_t n = p[8] | (size_t)p[9] << 8;
  if (p[6] > 1) n |= (size_t)p[10] << 16 | (size_t)p[11] << 24;
  if (n > len - *start) return bad(c, "it ends within its header");
  *end = *start + n;
  return 0;
}

int npy_parse(const void *bytes, size_t len, const char *name, struct npy *a, size_t *offset, struct error *err) {
  struct cursor c = {.name = name, .err = err};
  size_t start = 0, end = 0;
  *a = (struct npy){0};
  int status = parse_preamble(bytes, len, &c, &start, &end);
  if (status) return status;
  c.at = (const char *)bytes + start;
  c.end = (const char *)bytes + end;
  status = parse_dictionary(&c, a);
  if (!status) status = set_sizes(a, name, err);
  if (!status && len - end != a->bytes)
    status = fail(err, STROBE_INVALID, "%s: %s: its shape and dtype take %zu bytes of data, and it holds %zu", name,
                  len - end < a->bytes ? "truncated" : "longer than its header says", a->bytes, len - end);
  *offset = end;
  if (status) *a = (struct npy){0};
  return status;
}

// ---- expectations ----

static void list_types(unsigned types, char *out, size_t size) {
  size_t n = 0;
  out[0] = 0;
  for (int i = 0; i < NPY_TYPE_COUNT && n < size; i++)
    if (types & 1u << i) n += (size_t)snprintf(out + n, size - n, "%s%s", n ? " or " : "", npy_types[i].name);
}

static void list_shape(int rank, const int64_t *shape, char *out, size_t size) {
  size_t n = (size_t)snprintf(out, size, "(");
  for (int i = 0; i < rank && n < size; i++) {
    if (shape[i] < 0)
      n += (size_t)snprintf(out + n, size - n, "%sany", i ? ", " : "");
    else
      n += (size_t)snprintf(out + n, size - n, "%s%" PRId64, i ? ", " : "", shape[i]);
  }
  if (n < size) snprintf(out + n, size - n, ")");
}

int npy_expect(const struct npy *a, const char *name, unsigned types, int rank, const int64_t *shape,
               struct error *err) {
  char have[200], want[200];
  if (!(types & 1u << a->type)) {
    list_types(types, want, sizeof want);
    return fail(err, STROBE_INVALID, "%s: dtype %s; allowed: %s", name, npy_types[a->type].name, want);
  }
  bool same = a->rank == rank;
  for (int i = 0; same && i < rank; i++) same = shape[i] < 0 || shape[i] == a->shape[i];
  if (same) return 0;
  list_shape(a->rank, a->shape, have, sizeof have);
  list_shape(rank, shape, want, sizeof want);
  if (a->rank != rank)
    return fail(err, STROBE_INVALID, "%s: rank %d, shape %s; allowed: rank %d, shape %s", name, a->rank, have, rank,
                want);
  return fail(err, STROBE_INVALID, "%s: shape %s; allowed: %s", name, have, want);
}
