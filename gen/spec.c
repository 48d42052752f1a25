#include "spec.h"
#include "scan.h"

const struct dtype_info dtype_table[DT_COUNT] = {
    [DT_F32] = {"f32", 4, 0x1p-24, 0x1p-150, 0x1.ffffffp127},
    [DT_BF16] = {"bf16", 2, 0x1p-8, 0x1p-126, 0x1.ffp127},
    [DT_F16] = {"f16", 2, 0x1p-11, 0x1p-25, 0x1.ffep15},
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

// Combinations of dtypes that CUDA kernels have. CPU kernels take any of each: what the target can't multiply is
// widened to f32.
static const struct dtype_row {
  enum dtype q, kv, o;
} cuda_dtypes[] = {{DT_BF16, DT_BF16, DT_BF16}, {DT_F16, DT_F16, DT_F16}};

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
  N_CUDA_DTYPES = sizeof cuda_dtypes / sizeof *cuda_dtypes,
  N_DIM_ROWS = sizeof head_dim_rows / sizeof *head_dim_rows
};

enum dtype spec_p(const struct spec *s) { return s->q == s->kv ? s->kv : DT_F32; }

static bool has_dtypes(const struct spec *s, const struct target *t) {
  for (int i = 0; i < N_CUDA_DTYPES && t->family == FAMILY_CUDA; i++)
    if (cuda_dtypes[i].q == s->q && cuda_dtypes[i].kv == s->kv && cuda_dtypes[i].o == s->o) return true;
  return t->family != FAMILY_CUDA;
}

static int refuse_dtypes(const struct spec *s, const struct target *t, struct error *err) {
  struct spec shown = *s;
  shown.mask = MASK_FULL;
  struct buf given = {0};
  spec_print(&shown, &given);
  int status = given.failed
                   ? fail(err, STROBE_NO_MEMORY, "out of memory while checking dtypes")
                   : fail(err, STROBE_UNSUPPORTED,
                          "%s on %s: this target can do bf16 or f16 for q, kv and o alike; the CPU targets can "
                          "do what you asked for",
                          given.data, t->name);
  buf_free(&given);
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
  if (!has_dtypes(s, t)) return refuse_dtypes(s, t, err);
  if (s->p != spec_p(s) || s->acc != DT_F32)
    return fail(err, STROBE_UNSUPPORTED, "p %s, acc %s: p must be %s and acc f32", dtype_table[s->p].name,
                dtype_table[s->acc].name, dtype_table[spec_p(s)].name);
  return check_head_dims(s, t, err);
}
