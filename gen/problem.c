// Problem strings. The grammar (also in README.md):
//
//   problem  = head-dim { ":" field } ;
//   head-dim = "d" number [ "v" number ] ;               1 to 576; "v" is head_dim_v, by default the same
//   field    = dtype | dtypes | mask | sizes | reserved ;  in any order, each kind (and each key of dtypes) at most
//   once dtype    = "f32" | "bf16" | "f16" ;                  of q, kv and o alike, where dtypes does not say otherwise
//   dtypes   = ( "q" | "kv" | "o" ) "=" dtype { "," dtypes } ;   default f32; o by default as q
//   mask     = "full" | "causal" | "causal_top_left" ;   default full; causal is aligned to the bottom right
//   sizes    = [ "b" number ] [ "h" number [ "/" number ] ] [ "q" number ] [ "k" number ] ;   not empty
//              batch, heads / heads_kv, q_len, kv_len: 0 to 2^40 (heads: from 1)
//   reserved = key [ "=" text ] ;                        window, softcap, sinks, ...: refused in this version
//   number   = digit { digit } ;
#include "problem.h"
#include "scan.h"

const struct size_row size_table[SIZE_COUNT] = {
    [SIZE_BATCH] = {'b', "batch", offsetof(struct problem, batch), 0},
    [SIZE_HEADS] = {'h', "heads", offsetof(struct problem, heads), 1},
    [SIZE_HEADS_KV] = {'/', "heads_kv", offsetof(struct problem, heads_kv), 1},
    [SIZE_Q] = {'q', "q_len", offsetof(struct problem, q_len), 0},
    [SIZE_K] = {'k', "kv_len", offsetof(struct problem, kv_len), 0},
};

int64_t *problem_size(struct problem *p, int row) { return (int64_t *)(void *)((char *)p + size_table[row].offset); }

static const char *const reserved[] = {
    "window", "softcap",    "sinks", "bias",    "alibi",   "dropout", "varlen", "cu_seqlens", "page",
    "paged",  "page_table", "block", "q_scale", "k_scale", "v_scale", "scale",  "splits",     "op",
};
static const char *const reserved_dtypes[] = {"f64", "e4m3", "e5m2", "fp8", "i8"};
static const char *const dtype_keys[] = {"q", "kv", "o"};
enum { KEY_Q, KEY_KV, KEY_O, KEY_COUNT };
enum {
  N_RESERVED = sizeof reserved / sizeof *reserved,
  N_RESERVED_DTYPES = sizeof reserved_dtypes / sizeof *reserved_dtypes
};

struct parser {
  struct problem p;
  struct error *err;
  int plain, dtype[KEY_COUNT]; // -1: not given
  bool mask, sizes;            // given
};

static int find_name(struct slice s, const char *const *names, int count) {
  for (int i = 0; i < count; i++)
    if (slice_is(s, names[i])) return i;
  return -1;
}

static int twice(struct parser *ps, const char *what, struct slice field) {
  return fail(ps->err, STROBE_INVALID, "%s is given twice (the second time as '%s'): once is allowed", what,
              quote(field).text);
}

static int find_dtype(struct slice s) {
  for (int i = 0; i < DT_COUNT; i++)
    if (slice_is(s, dtype_table[i].name)) return i;
  return -1;
}

static int refuse_reserved(struct parser *ps, struct slice name) {
  return fail(ps->err, STROBE_UNSUPPORTED, "'%s' is not supported in this version; leave it out", quote(name).text);
}

static int refuse_dtype(struct parser *ps, struct slice name) {
  const char *names[DT_COUNT];
  for (int i = 0; i < DT_COUNT; i++) names[i] = dtype_table[i].name;
  if (find_name(name, reserved_dtypes, N_RESERVED_DTYPES) >= 0)
    return fail(ps->err, STROBE_UNSUPPORTED, "dtype '%s' is not supported in this version: f32, bf16 and f16 are known",
                quote(name).text);
  return fail(ps->err, STROBE_INVALID, "dtype '%s' is unknown: f32, bf16 and f16 are known; '%s' is the nearest",
              quote(name).text, nearest_name(name, names, DT_COUNT));
}

// "128v64" after the d.
static int parse_head_dim(struct parser *ps, struct slice field) {
  struct slice s = {field.at + 1, field.len - 1};
  int *const dims[] = {&ps->p.spec.head_dim, &ps->p.spec.head_dim_v};
  static const char *const names[] = {"head_dim", "head_dim_v"};
  for (int i = 0; i < 2; i++) {
    int64_t value;
    struct slice digits = s;
    enum scan got = scan_number(&s, HEAD_DIM_MAX, &value);
    if (got == SCAN_NONE)
      return fail(ps->err, STROBE_INVALID, "'%s' needs a number for %s, as in d128 or d192v128", quote(field).text,
                  names[i]);
    digits.len -= s.len;
    if (got == SCAN_TOO_LARGE || value < 1)
      return fail(ps->err, STROBE_INVALID, "%s %s: must be 1 to %d; %d is the nearest", names[i], quote(digits).text,
                  HEAD_DIM_MAX, value < 1 && got == SCAN_OK ? 1 : HEAD_DIM_MAX);
    *dims[i] = (int)value;
    if (i == 0 && s.len && s.at[0] == 'v')
      s.at++, s.len--;
    else if (i == 0)
      break;
  }
  if (s.len)
    return fail(ps->err, STROBE_INVALID, "'%s' after the head dimension in '%s': d128 or d192v128 is allowed",
                quote(s).text, quote(field).text);
  if (!ps->p.spec.head_dim_v) ps->p.spec.head_dim_v = ps->p.spec.head_dim;
  return STROBE_OK;
}

static int refuse_sizes(struct parser *ps, struct slice field, struct slice rest) {
  return fail(ps->err, STROBE_INVALID,
              "sizes '%s' can't be read from '%s' on: b (batch), h (heads, or heads/heads_kv), q (q_len) and k "
              "(kv_len) are allowed "
              "in this order, each at most once and with a number without sign, as in b2h32/8q1024k1024",
              quote(field).text, quote(rest).text);
}

static int parse_sizes(struct parser *ps, struct slice field) {
  if (ps->sizes) return twice(ps, "a list of sizes", field);
  ps->sizes = true;
  struct slice s = field;
  for (int i = 0; i < SIZE_COUNT && s.len; i++) {
    const struct size_row *row = &size_table[i];
    if (s.at[0] != row->prefix || (i == SIZE_HEADS_KV && ps->p.heads < 0)) continue;
    struct slice rest = s;
    int64_t value;
    s.at++, s.len--;
    struct slice digits = s;
    enum scan got = scan_number(&s, SIZE_MAX_ALLOWED, &value);
    if (got == SCAN_NONE) return refuse_sizes(ps, field, rest);
    digits.len -= s.len;
    if (got == SCAN_TOO_LARGE || value < row->min)
      return fail(ps->err, STROBE_INVALID, "%s %s: must be %d to %lld; %lld is the nearest", row->name,
                  quote(digits).text, (int)row->min, (long long)SIZE_MAX_ALLOWED,
                  (long long)(got == SCAN_OK ? row->min : SIZE_MAX_ALLOWED));
    *problem_size(&ps->p, i) = value;
  }
  if (s.len) return refuse_sizes(ps, field, s);
  return problem_check_heads(&ps->p, ps->err);
}

// "q=bf16,kv=bf16,o=f32"
static int parse_dtypes(struct parser *ps, struct slice list) {
  bool more = true;
  while (more) {
    struct slice item = slice_cut(&list, ',', &more), value = item;
    bool assigned;
    struct slice key = slice_cut(&value, '=', &assigned);
    int k = find_name(key, dtype_keys, KEY_COUNT);
    if (k < 0 || !assigned)
      return fail(ps->err, STROBE_INVALID,
                  "'%s' in a list of dtypes: q, kv and o are allowed, as in q=bf16,kv=bf16,o=f32; '%s' is "
                  "the nearest",
                  quote(item).text, nearest_name(key, dtype_keys, KEY_COUNT));
    if (ps->dtype[k] >= 0) return twice(ps, k == KEY_Q ? "q=" : k == KEY_KV ? "kv=" : "o=", item);
    if ((ps->dtype[k] = find_dtype(value)) < 0) return refuse_dtype(ps, value);
  }
  return STROBE_OK;
}

static int refuse_unknown(struct parser *ps, struct slice field, struct slice key, bool assigned) {
  const char *names[DT_COUNT + MASK_COUNT + KEY_COUNT + N_RESERVED];
  int n = 0;
  for (int i = 0; i < DT_COUNT && !assigned; i++) names[n++] = dtype_table[i].name;
  for (int i = 0; i < MASK_COUNT && !assigned; i++) names[n++] = mask_names[i];
  for (int i = 0; i < KEY_COUNT && assigned; i++) names[n++] = dtype_keys[i];
  for (int i = 0; i < N_RESERVED && assigned; i++) names[n++] = reserved[i];
  return fail(
      ps->err, STROBE_INVALID,
      "field '%s' is unknown: a dtype (f32, bf16, f16, or q=,kv=,o=), a mask (full, causal, causal_top_left) or sizes "
      "(b2h32/8q1024k1024) is allowed; '%s%s' is the nearest name",
      quote(field).text, nearest_name(key, names, n), assigned ? "=" : "");
}

static bool looks_like_sizes(struct slice s) {
  bool prefix = s.at[0] == 'b' || s.at[0] == 'h' || s.at[0] == 'q' || s.at[0] == 'k' || s.at[0] == '/';
  return prefix && (s.len == 1 || !((s.at[1] >= 'a' && s.at[1] <= 'z') || s.at[1] == '='));
}

static int parse_field(struct parser *ps, struct slice field) {
  struct slice value = field;
  bool assigned;
  struct slice key = slice_cut(&value, '=', &assigned);
  if (field.len == 0)
    return fail(ps->err, STROBE_INVALID,
                "a field between colons is empty: remove a ':' or write the field, as in d128:bf16");
  if (find_name(key, reserved, N_RESERVED) >= 0) return refuse_reserved(ps, key);
  if (assigned)
    return find_name(key, dtype_keys, KEY_COUNT) >= 0 ? parse_dtypes(ps, field) : refuse_unknown(ps, field, key, true);
  if (looks_like_sizes(field)) return parse_sizes(ps, field);
  int mask = find_name(field, mask_names, MASK_COUNT), dtype = find_dtype(field);
  if (mask >= 0) {
    if (ps->mask) return twice(ps, "the mask", field);
    ps->mask = true;
    ps->p.spec.mask = (enum mask)mask;
    return STROBE_OK;
  }
  if (dtype >= 0) {
    if (ps->plain >= 0) return twice(ps, "the dtype", field);
    ps->plain = dtype;
    return STROBE_OK;
  }
  if (find_name(field, reserved_dtypes, N_RESERVED_DTYPES) >= 0) return refuse_dtype(ps, field);
  if (field.at[0] == 'd' && field.len > 1 && field.at[1] >= '0' && field.at[1] <= '9')
    return twice(ps, "head_dim", field);
  return refuse_unknown(ps, field, key, false);
}

static void settle_dtypes(struct parser *ps) {
  const int *d = ps->dtype;
  int fallback = ps->plain >= 0 ? ps->plain : DT_F32;
  int q = d[KEY_Q] >= 0 ? d[KEY_Q] : fallback;
  struct spec *s = &ps->p.spec;
  s->q = (enum dtype)q;
  s->kv = (enum dtype)(d[KEY_KV] >= 0 ? d[KEY_KV] : fallback);
  s->o = (enum dtype)(d[KEY_O] >= 0 ? d[KEY_O] : ps->plain >= 0 ? ps->plain : q);
  s->p = spec_p(s);
  s->acc = DT_F32;
}

int problem_parse(const char *text, struct problem *p, struct error *err) {
  struct parser ps = {
      .p = {.spec = {.op = OP_ATTN_FWD, .mask = MASK_FULL}}, .err = err, .plain = -1, .dtype = {-1, -1, -1}};
  for (int i = 0; i < SIZE_COUNT; i++) *problem_size(&ps.p, i) = -1;
  struct slice rest = slice_of(text), whole = rest;
  bool more;
  struct slice first = slice_cut(&rest, ':', &more);
  if (first.len == 0 || first.at[0] != 'd')
    return fail(err, STROBE_INVALID, "problem '%s' must begin with the head dimension, as in d128 or d192v128",
                quote(whole).text);
  int status = parse_head_dim(&ps, first);
  while (status == STROBE_OK && more) {
    struct slice field = slice_cut(&rest, ':', &more);
    status = parse_field(&ps, field);
  }
  if (status != STROBE_OK) return status;
  settle_dtypes(&ps);
  *p = ps.p;
  return STROBE_OK;
}

void problem_print(const struct problem *p, struct buf *out) {
  const char *separator = ":";
  struct problem copy = *p;
  spec_print(&p->spec, out);
  for (int i = 0; i < SIZE_COUNT; i++) {
    int64_t value = *problem_size(&copy, i);
    if (value < 0 || (i == SIZE_HEADS_KV && p->heads < 0)) continue;
    buf_printf(out, "%s%c%lld", separator, size_table[i].prefix, (long long)value);
    separator = "";
  }
}
