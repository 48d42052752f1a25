#include "verify.h"
#include "reference.h"
#include "verify_blocks.h"

#include <math.h>
#include <stdlib.h>

int verify_create(const struct verify_case *c, const struct tensor_allocator *allocator, struct tensors *t,
                  struct error *err) {
  int status = tensors_create(&c->problem, c->layout, c->pad, c->scale, allocator, t, err);
  if (status) return status;
  t->args.kv_lens = c->kv_lens;
  t->args.kv_lens_bytes = sizeof *c->kv_lens;
  status = inputs_fill(&t->spec, &t->args, c->kind, c->seed, err);
  if (status)
    tensors_free(t);
  else
    inputs_spoil_unused(&t->spec, &t->args);
  return status;
}

// ---- which rows ----

static int ascending(const void *a, const void *b) {
  const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

int64_t verify_sample(int64_t q_len, int64_t most, uint64_t seed, int64_t *rows) {
  if (q_len <= most) {
    for (int64_t i = 0; i < q_len; i++) rows[i] = i;
    return q_len < 0 ? 0 : q_len;
  }
  int64_t n = 0;
  for (int64_t i = 0; i < most; i++) {
    const int64_t last = q_len - 1, random = (int64_t)(random_bits(seed, 100, (uint64_t)i) % (uint64_t)q_len);
    const int64_t edge = random / 16 * 16 + (i & 4 ? -1 : 0); // either side of a tile's edge
    rows[n++] = i == 0 ? 0 : i == 1 ? last : i % 2 ? random : edge < 0 ? 0 : edge;
  }
  qsort(rows, (size_t)n, sizeof *rows, ascending);
  int64_t kept = 0;
  for (int64_t i = 0; i < n; i++)
    if (!i || rows[i] != rows[i - 1]) rows[kept++] = rows[i];
  return kept;
}

// All rows while that is about 2^30 multiply-adds (a second), else what fits, but at least 8.
static int64_t auto_rows(const struct spec *s, const struct strobe_args *a) {
  double per_row = 2.0 * (double)a->batch * (double)a->heads * (double)(a->kv_len + 1) * (s->head_dim + s->head_dim_v);
  double rows = 0x1p30 / (per_row < 1 ? 1 : per_row);
  if (rows >= (double)a->q_len) return a->q_len;
  return rows < 8 ? 8 : (int64_t)rows;
}

// ---- comparing ----

struct comparison {
  const struct spec *spec;
  const struct instance *kernel;
  const struct strobe_args *args;
  struct verify_result *result;
  bool whole_blocks;
  int64_t batch, head;
  int64_t *rows, n_rows;
  struct reference_out ref;
};

static void note_first(struct comparison *c, double got, double want, int64_t row, int64_t column) {
  if (c->result->first.batch < 0)
    c->result->first = (struct verify_worst){
        .got = got, .want = want, .batch = c->batch, .head = c->head, .row = row, .column = column};
}

static void compare_element(struct comparison *c, struct verify_worst *w, double got, double want, double bound,
                            int64_t row, int64_t column) {
  if (!isfinite(want) || !isfinite(got)) {
    bool same = isnan(want) ? isnan(got) : isinf(want) && (got == want || (isnan(got) && w == &c->result->o));
    // Within the bound of where o's dtype ends, rounding may give infinity.
    same |= w == &c->result->o && isinf(got) && isfinite(want) && (got > 0) == (want > 0) &&
            fabs(want) + bound >= dtype_table[c->spec->o].over;
    const struct verify_place at = {
        c->spec, c->kernel, c->args, c->batch, c->head, row, w == &c->result->o ? column : -1};
    if (same) return;
    if (c->whole_blocks && c->kernel && verify_excuses(&at, got, want)) {
      c->result->excused++;
      return;
    }
    c->result->nonfinite++;
    note_first(c, got, want, row, column);
    return;
  }
  // A bound that is none would pass anything.
  double err = fabs(got - want), ratio = bound < INFINITY ? err / bound : INFINITY;
  if (err > w->largest_err) w->largest_err = err;
  if (w->batch >= 0 && ratio <= w->ratio) return;
  *w = (struct verify_worst){.err = err,
                             .bound = bound,
                             .ratio = ratio,
                             .got = got,
                             .want = want,
                             .batch = c->batch,
                             .head = c->head,
                             .row = row,
                             .column = column,
                             .largest_err = w->largest_err};
}

static void compare_row(struct comparison *c, int64_t i) {
  const struct strobe_args *a = c->args;
  const int64_t row = c->rows[i], dv = c->spec->head_dim_v;
  const int64_t first = c->batch * a->o.batch_stride + c->head * a->o.head_stride + row * a->o.row_stride;
  const double A = c->ref.magnitude[i], lse = c->ref.lse[i];
  const int64_t keys = reference_visible(c->spec, a, c->batch, row);
  for (int64_t x = 0; x < dv; x++) {
    const double want = c->ref.o[i * dv + x], got = dtype_load(c->spec->o, a->o.data, first + x);
    const double bound = reference_bound_o(c->spec, c->kernel, keys, want, c->ref.floor[i * dv + x], A);
    compare_element(c, &c->result->o, got, want, bound, row, x);
  }
  if (!a->lse) return;
  const double got = a->lse[c->batch * a->lse_batch_stride + c->head * a->lse_head_stride + row];
  compare_element(c, &c->result->lse, got, lse, reference_bound_lse(c->spec, c->kernel, keys, lse, A), row, 0);
}

static void count_unwritten(struct comparison *c) {
  const struct strobe_args *a = c->args;
  for (int64_t row = 0; row < a->q_len; row++) {
    const int64_t first = c->batch * a->o.batch_stride + c->head * a->o.head_stride + row * a->o.row_stride;
    const int64_t at = c->batch * a->lse_batch_stride + c->head * a->lse_head_stride + row;
    int64_t before = c->result->unwritten;
    for (int64_t x = 0; x < c->spec->head_dim_v; x++)
      c->result->unwritten += is_poison(c->spec->o, a->o.data, first + x);
    if (a->lse) c->result->unwritten += is_poison(DT_F32, a->lse, at);
    if (c->result->unwritten > before) note_first(c, NAN, 0, row, 0);
  }
}

static int compare_head(struct comparison *c, struct error *err) {
  const struct reference_rows rows = {.index = c->rows, .count = c->n_rows};
  int status = reference_some(c->spec, c->args, c->batch, c->head, &rows, &c->ref, err);
  if (status) return status;
  for (int64_t i = 0; i < c->n_rows; i++) compare_row(c, i);
  c->result->rows += c->n_rows;
  count_unwritten(c);
  return 0;
}

static int compare_all(struct comparison *c, uint64_t seed, int64_t most, struct error *err) {
  const struct strobe_args *a = c->args;
  for (c->batch = 0; c->batch < a->batch; c->batch++)
    for (c->head = 0; c->head < a->heads; c->head++) {
      c->n_rows = verify_sample(a->q_len, most, seed + (uint64_t)(c->batch * a->heads + c->head), c->rows);
      int status = compare_head(c, err);
      if (status) return status;
    }
  return 0;
}

static int verify_all(const struct spec *s, const struct instance *kernel, const struct strobe_args *args,
                      uint64_t seed, int64_t max_rows, bool whole_blocks, struct verify_result *r, struct error *err) {
  static const struct verify_worst nothing = {.batch = -1};
  *r = (struct verify_result){
      .o = nothing, .lse = nothing, .first = nothing, .lse_wanted = args->lse != NULL, .ok = false};
  int64_t most = max_rows < 0 ? args->q_len : max_rows == 0 ? auto_rows(s, args) : max_rows;
  if (most > args->q_len) most = args->q_len;
  const size_t n = most > 0 ? (size_t)most : 1, dv = (size_t)s->head_dim_v;
  double *memory = n > SIZE_MAX / 32 / dv ? NULL : malloc(n * (2 * dv + 2) * sizeof *memory);
  int64_t *rows = malloc(n * sizeof *rows);
  int status = 0;
  if (!memory || !rows) {
    status = fail(err, STROBE_NO_MEMORY, "no memory to verify %zu rows of %zu elements", n, dv);
  } else {
    struct comparison c = {
        .spec = s, .kernel = kernel, .args = args, .result = r, .whole_blocks = whole_blocks, .rows = rows};
    c.ref = (struct reference_out){memory, memory + 2 * n * dv, memory + n * dv, memory + 2 * n * dv + n};
    status = compare_all(&c, seed, most, err);
  }
  free(memory);
  free(rows);
  r->ok = !status && !r->nonfinite && !r->unwritten && !(r->o.ratio > 1) && !(r->lse.ratio > 1);
  return status;
}

int verify_args(const struct spec *s, const struct instance *kernel, const struct strobe_args *args, uint64_t seed,
                int64_t max_rows, struct verify_result *r, struct error *err) {
  return verify_all(s, kernel, args, seed, max_rows, false, r, err);
}

int verify_tensors(const struct verify_case *c, const struct instance *kernel, const struct tensors *t,
                   int64_t max_rows, struct verify_result *r, struct error *err) {
  int status = verify_all(&t->spec, kernel, &t->args, c->seed, max_rows, c->whole_blocks, r, err);
  r->padding = tensors_padding_changed(t);
  r->ok = r->ok && !r->padding;
  return status;
}

// ---- printing ----

static void print_place(const char *what, const struct verify_worst *w, struct buf *out) {
  buf_printf(out, "%s[batch %lld, head %lld, row %lld", what, (long long)w->batch, (long long)w->head,
             (long long)w->row);
  buf_printf(out, ", column %lld] is %.9g, the reference %.9g", (long long)w->column, w->got, w->want);
}

void verify_print(const struct verify_result *r, struct buf *out) {
  if (r->ok) return;
  if (r->unwritten) {
    buf_printf(out, "%lld output elements were not written, the first in batch %lld, head %lld, row %lld",
               (long long)r->unwritten, (long long)r->first.batch, (long long)r->first.head, (long long)r->first.row);
  } else if (r->nonfinite) {
    buf_printf(out, "%lld elements are finite where the reference is not, or the reverse; ", (long long)r->nonfinite);
    print_place("the first, ", &r->first, out);
  } else if (r->o.ratio > 1 || r->lse.ratio > 1) {
    const bool lse = r->lse.ratio > r->o.ratio;
    const struct verify_worst *w = lse ? &r->lse : &r->o;
    print_place(lse ? "lse" : "o", w, out);
    buf_printf(out, ": error %.3g, bound %.3g", w->err, w->bound);
  } else if (r->padding) {
    buf_printf(out, "%lld elements of padding were overwritten", (long long)r->padding);
  } else {
    buf_str(out, "the comparison was not made");
  }
}

void verify_case_print(const struct verify_case *c, struct buf *out) {
  problem_print(&c->problem, out);
  buf_printf(out, " kind %s seed %llu layout %s pad %lld scale %.9g", c->kind->name, (unsigned long long)c->seed,
             layout_names[c->layout], (long long)c->pad, (double)c->scale);
  for (int64_t b = 0; b < c->problem.batch && c->kv_lens; b++)
    buf_printf(out, "%s%lld", b ? "," : " kv_lens ", (long long)c->kv_lens[b]);
}
