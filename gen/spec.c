#include "spec.h"
#include "scan.h"

const struct dtype_info dtype_table[DT_COUNT] = {
    [DT_F32] = {"f32", 4, 0x1p-24},
    [DT_BF16] = {"bf16", 2, 0x1p-8},
    [DT_F16] = {"f16", 2, 0x1p-11},
};
const char *const op_names[] = {[OP_ATTN_FWD] = "attn_fwd"};
const char *const mask_names[MASK_COUNT] = {
    [MASK_FULL] = "full", [MASK_CAUSAL] = "causal", [MASK_CAUSAL_TOP_LEFT] = "causal_top_left"};

void spec_print(const struct spec *s, struct buf *out) {
  const char *q = dtype_table[s->q].name, *kv = dtype_table[s->kv].name, *o = dtype_table[s->o].name;
  buf_printf(out, "d%d", s->head_dim);
  if (s->head_dim_v != s->head_dim) buf_printf(out, "v%d", s->head_dim_v);
  if (s->q == s->kv && s->q == s->o)
    buf_printf(out, ":%s", q);
  else
    buf_printf(out, ":q=%s,kv=%s,o=%s", q, kv, o);
  if (s->mask != MASK_FULL) buf_printf(out, ":%s", mask_names[s->mask]);
}

// ---- what this version has kernels for ----

// Combinations of dtypes, per family; a row that needs bf16_dot holds only on targets that have it.
static const struct dtype_row {
  enum target_family family;
  enum dtype q, kv, o;
  bool needs_bf16_dot;
} dtype_rows[] = {
    {FAMILY_CPU, DT_F32, DT_F32, DT_F32, false},  {FAMILY_CPU, DT_BF16, DT_BF16, DT_BF16, true},
    {FAMILY_CPU, DT_BF16, DT_BF16, DT_F32, true}, {FAMILY_CUDA, DT_BF16, DT_BF16, DT_BF16, false},
    {FAMILY_CUDA, DT_F16, DT_F16, DT_F16, false},
};

// Head dimensions, per family: multiples of step in lo..hi; same_v: head_dim_v must equal head_dim.
static const struct head_dim_row {
  enum target_family family;
  int step, lo, hi;
  bool same_v;
} head_dim_rows[] = {
    {FAMILY_CPU, 1, 1, 576, false},
    {FAMILY_CUDA, 64, 64, 256, true},
};

enum {
  N_DTYPE_ROWS = sizeof dtype_rows / sizeof *dtype_rows,
  N_DIM_ROWS = sizeof head_dim_rows / sizeof *head_dim_rows
};

static bool dtype_row_holds(const struct dtype_row *r, const struct target *t) {
  return r->family == t->family && (t->bf16_dot || !r->needs_bf16_dot);
}

static const struct dtype_row *find_dtypes(const struct spec *s, const struct target *t) {
  for (int i = 0; i < N_DTYPE_ROWS; i++) {
    const struct dtype_row *r = &dtype_rows[i];
    if (dtype_row_holds(r, t) && r->q == s->q && r->kv == s->kv && r->o == s->o) return r;
  }
  return NULL;
}

// "f32, bf16, q=bf16,kv=bf16,o=f32": the combinations that t can do.
static void list_dtypes(const struct target *t, struct buf *list) {
  for (int i = 0; i < N_DTYPE_ROWS; i++) {
    const struct dtype_row *r = &dtype_rows[i];
    if (!dtype_row_holds(r, t)) continue;
    if (list->len) buf_str(list, ", ");
    if (r->q == r->kv && r->q == r->o)
      buf_str(list, dtype_table[r->q].name);
    else
      buf_printf(list, "q=%s,kv=%s,o=%s", dtype_table[r->q].name, dtype_table[r->kv].name, dtype_table[r->o].name);
  }
}

// Targets that can do these dtypes, for the sentence that refuses them on another.
static void list_targets(const struct spec *s, struct buf *list) {
  for (int i = 0; i < target_count; i++) {
    if (!find_dtypes(s, &target_table[i])) continue;
    if (list->len) buf_str(list, " or ");
    buf_str(list, target_table[i].name);
  }
}

static int refuse_dtypes(const struct spec *s, const struct target *t, struct error *err) {
  struct spec shown = *s;
  shown.mask = MASK_FULL;
  struct buf given = {0}, allowed = {0}, elsewhere = {0};
  spec_print(&shown, &given);
  list_dtypes(t, &allowed);
  list_targets(s, &elsewhere);
  bool half = s->q == DT_F16 || s->kv == DT_F16 || s->o == DT_F16;
  const char *have = allowed.len ? allowed.data : "no dtype";
  bool failed = given.failed || allowed.failed || elsewhere.failed;
  int status;
  if (failed)
    status = fail(err, STROBE_NO_MEMORY, "out of memory while checking dtypes");
  else if (elsewhere.len)
    status = fail(err, STROBE_UNSUPPORTED, "%s on %s: this target can do %s; target %s can do what you asked for",
                  given.data, t->name, have, elsewhere.data);
  else
    status = fail(err, STROBE_UNSUPPORTED, "%s on %s: %s; %s can do %s", given.data, t->name,
                  half ? "f16 is not supported in this version, use bf16 or f32"
                       : "this combination of q, kv and o dtypes is not supported in this version",
                  t->name, have);
  buf_free(&given), buf_free(&allowed), buf_free(&elsewhere);
  return status;
}

static int check_head_dims(const struct spec *s, const struct target *t, struct error *err) {
  const struct head_dim_row *r = NULL;
  for (int i = 0; i < N_DIM_ROWS; i++)
    if (head_dim_rows[i].family == t->family) r = &head_dim_rows[i];
  if (!r) return fail(err, STROBE_UNSUPPORTED, "target %s: no head_dim is supported in this version", t->name);
  const struct {
    const char *name;
    int value;
  } dims[] = {{"head_dim", s->head_dim}, {"head_dim_v", s->head_dim_v}};
  for (int i = 0; i < (r->same_v ? 1 : 2); i++) {
    int d = dims[i].value;
    if (r->step == 1 && (d < r->lo || d > r->hi))
      return fail(err, STROBE_UNSUPPORTED, "%s %d on %s: must be %d to %d; %d is the nearest", dims[i].name, d, t->name,
                  r->lo, r->hi, (int)nearest_multiple(d, 1, r->lo, r->hi));
    if (d < r->lo || d > r->hi || d % r->step)
      return fail(err, STROBE_UNSUPPORTED, "%s %d on %s: must be a multiple of %d, %d to %d; %d is the nearest",
                  dims[i].name, d, t->name, r->step, r->lo, r->hi, (int)nearest_multiple(d, r->step, r->lo, r->hi));
  }
  if (r->same_v && s->head_dim_v != s->head_dim)
    return fail(err, STROBE_UNSUPPORTED,
                "head_dim_v %d with head_dim %d on %s: they must be equal in this version; d%d works", s->head_dim_v,
                s->head_dim, t->name, s->head_dim);
  return STROBE_OK;
}

int spec_supported(const struct spec *s, const struct target *t, struct error *err) {
  if (s->op != OP_ATTN_FWD) return fail(err, STROBE_UNSUPPORTED, "op %d: must be attn_fwd", (int)s->op);
  if (!find_dtypes(s, t)) return refuse_dtypes(s, t, err);
  if (s->p != s->kv || s->acc != DT_F32)
    return fail(err, STROBE_UNSUPPORTED, "p %s, acc %s: p must be kv's dtype (%s) and acc f32", dtype_table[s->p].name,
                dtype_table[s->acc].name, dtype_table[s->kv].name);
  return check_head_dims(s, t, err);
}
