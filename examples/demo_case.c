#include "demo.h"

#include "../runtime/verify.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLE = 32 }; // rows per head of random tensors that the oracle computes

// ---- reading ----

static int read_array(const char *dir, const char *name, const char *suffix, enum npy_type type, int rank,
                      const int64_t *shape, struct npy *a, struct error *err) {
  struct buf path = {0};
  buf_printf(&path, "%s/%s-%s.npy", dir, name, suffix);
  if (path.failed) return fail(err, STROBE_NO_MEMORY, "no memory for the name of a file");
  int status = npy_read(path.data, a, err);
  if (!status) status = npy_expect(a, path.data, 1u << type, rank, shape, err);
  buf_free(&path);
  return status;
}

// Reads an input and stores it, rounded, as the packed tensor `data` of dtype t.
static int read_input(const char *dir, const char *name, const char *suffix, enum dtype t, const int64_t *shape,
                      void *data, struct error *err) {
  struct npy a = {0};
  int status = read_array(dir, name, suffix, NPY_F4, 4, shape, &a, err);
  for (int64_t i = 0; !status && i < a.elements; i++) dtype_store(t, data, i, ((const float *)a.data)[i]);
  npy_free(&a);
  return status;
}

static int read_tensors(const char *dir, struct demo_case *c, struct error *err) {
  const struct problem *p = &c->problem;
  const struct spec *s = &p->spec;
  const struct strobe_args *a = &c->tensors.args;
  const int64_t q[] = {p->batch, p->q_len, p->heads, s->head_dim},
                k[] = {p->batch, p->kv_len, p->heads_kv, s->head_dim},
                v[] = {p->batch, p->kv_len, p->heads_kv, s->head_dim_v},
                o[] = {p->batch, p->q_len, p->heads, s->head_dim_v}, lse[] = {p->batch, p->heads, p->q_len};
  const bool causal = s->mask == MASK_CAUSAL;
  int status = read_input(dir, c->name, "q", s->q, q, a->q.data, err);
  if (!status) status = read_input(dir, c->name, "k", s->kv, k, a->k.data, err);
  if (!status) status = read_input(dir, c->name, "v", s->kv, v, a->v.data, err);
  if (!status) status = read_array(dir, c->name, causal ? "causal-o" : "o", NPY_F8, 4, o, &c->o, err);
  if (!status) status = read_array(dir, c->name, causal ? "causal-lse" : "lse", NPY_F8, 3, lse, &c->lse, err);
  return status;
}

// ---- the oracle ----

// Offset of row i of a head in want.lse and want.magnitude; times head_dim_v, in want.o and want.floor.
static int64_t want_at(const struct demo_case *c, int64_t b, int64_t h, int64_t i) {
  return (b * c->problem.heads + h) * c->n_rows + i;
}

static const double *stored_o(const struct demo_case *c, int64_t b, int64_t h, int64_t row) {
  const struct problem *p = &c->problem;
  return (const double *)c->o.data + ((b * p->q_len + row) * p->heads + h) * p->spec.head_dim_v;
}

static double stored_lse(const struct demo_case *c, int64_t b, int64_t h, int64_t row) {
  return ((const double *)c->lse.data)[(b * c->problem.heads + h) * c->problem.q_len + row];
}

static void keep_larger(double *most, double value) {
  if (!(value <= *most)) *most = value; // NaN stays
}

// Takes the stored outputs in place of the oracle's, which must be the same but for the order of float64 additions.
static void take_stored(struct demo_case *c, int64_t b, int64_t h) {
  const int dv = c->problem.spec.head_dim_v;
  for (int64_t i = 0; i < c->n_rows; i++) {
    const int64_t at = want_at(c, b, h, i);
    const double *o = stored_o(c, b, h, c->rows[i]), lse = stored_lse(c, b, h, c->rows[i]);
    for (int x = 0; x < dv; x++) keep_larger(&c->oracle_gap, fabs(c->want.o[at * dv + x] - o[x]));
    keep_larger(&c->oracle_gap, fabs(c->want.lse[at] - lse));
    memcpy(c->want.o + at * dv, o, (size_t)dv * sizeof *o);
    c->want.lse[at] = lse;
  }
}

static int ask_oracle(struct demo_case *c, int64_t most, struct error *err) {
  const struct problem *p = &c->problem;
  const size_t dv = (size_t)p->spec.head_dim_v, heads = (size_t)(p->batch * p->heads);
  const double scale = 1 / sqrt(p->spec.head_dim); // of the stored outputs: not rounded to f32
  c->rows = calloc((size_t)most, sizeof *c->rows);
  if (!c->rows) return fail(err, STROBE_NO_MEMORY, "no memory for %lld row numbers", (long long)most);
  c->n_rows = verify_sample(p->q_len, most, 1, c->rows);
  const size_t n = heads * (size_t)c->n_rows;
  double *memory = calloc(n * (2 * dv + 2), sizeof *memory);
  if (!memory) return fail(err, STROBE_NO_MEMORY, "no memory for the oracle's %zu rows", n);
  c->want = (struct reference_out){memory, memory + 2 * n * dv, memory + n * dv, memory + 2 * n * dv + n};
  const struct reference_rows rows = {.index = c->rows, .count = c->n_rows, .scale = &scale};
  int status = 0;
  for (int64_t b = 0; b < p->batch; b++)
    for (int64_t h = 0; h < p->heads && !status; h++) {
      const size_t at = (size_t)want_at(c, b, h, 0);
      const struct reference_out out = {c->want.o + at * dv, c->want.lse + at, c->want.floor + at * dv,
                                        c->want.magnitude + at};
      status = reference_some(&p->spec, &c->tensors.args, b, h, &rows, &out, err);
      if (!status && c->o.data && p->spec.q == DT_F32) take_stored(c, b, h);
    }
  return status;
}

// ---- cases ----

static int begin(const char *name, const char *problem, struct demo_case *c, struct error *err) {
  *c = (struct demo_case){.name = name};
  int status = problem_parse(problem, &c->problem, err);
  if (!status) status = problem_complete(&c->problem, err);
  if (status) return status;
  return tensors_create(&c->problem, LAYOUT_BNHD, 0, default_scale(&c->problem.spec), NULL, &c->tensors, err);
}

int demo_case_read(const char *dir, const char *name, const char *problem, struct demo_case *c, struct error *err) {
  int status = begin(name, problem, c, err);
  if (!status) status = read_tensors(dir, c, err);
  return status ? status : ask_oracle(c, c->problem.q_len, err);
}

int demo_case_random(const char *problem, struct demo_case *c, struct error *err) {
  int status = begin("random", problem, c, err);
  if (!status) status = inputs_fill(&c->problem.spec, &c->tensors.args, input_kind_find("normal"), 1, err);
  return status ? status : ask_oracle(c, SAMPLE, err);
}

void demo_case_free(struct demo_case *c) {
  tensors_free(&c->tensors);
  free(c->rows);
  free(c->want.o);
  npy_free(&c->o);
  npy_free(&c->lse);
  *c = (struct demo_case){.name = NULL};
}

// ---- comparing ----

// False and NaN are alike "not within": an element that was never written is NaN.
static void compare_o(const struct demo_case *c, const struct instance *kernel, int64_t b, int64_t h, int64_t i,
                      struct demo_errors *e) {
  const struct spec *s = &c->problem.spec;
  const struct strobe_args *a = &c->tensors.args;
  const int64_t row = c->rows[i], at = want_at(c, b, h, i), keys = reference_visible(s, a, b, row);
  const int64_t first = b * a->o.batch_stride + h * a->o.head_stride + row * a->o.row_stride;
  for (int x = 0; x < s->head_dim_v; x++) {
    const double want = c->want.o[at * s->head_dim_v + x], got = dtype_load(s->o, a->o.data, first + x);
    const double error = fabs(got - want),
                 bound = reference_bound_o(s, kernel, keys, want, c->want.floor[at * s->head_dim_v + x],
                                           c->want.magnitude[at]);
    if (!(error <= e->o)) e->o = error, e->o_bound = bound;
    keep_larger(&e->o_ratio, error / bound);
    if (c->o.data) keep_larger(&e->stored, fabs(got - stored_o(c, b, h, row)[x]));
  }
}

static void compare_lse(const struct demo_case *c, const struct instance *kernel, int64_t b, int64_t h, int64_t i,
                        struct demo_errors *e) {
  const struct spec *s = &c->problem.spec;
  const struct strobe_args *a = &c->tensors.args;
  const int64_t row = c->rows[i], at = want_at(c, b, h, i);
  const double want = c->want.lse[at], got = a->lse[b * a->lse_batch_stride + h * a->lse_head_stride + row];
  const double bound = reference_bound_lse(s, kernel, reference_visible(s, a, b, row), want, c->want.magnitude[at]);
  keep_larger(&e->lse, fabs(got - want));
  keep_larger(&e->lse_ratio, fabs(got - want) / bound);
}

struct demo_errors demo_compare(const struct demo_case *c, const struct instance *kernel) {
  struct demo_errors e = {.stored = c->o.data ? 0 : NAN};
  for (int64_t b = 0; b < c->problem.batch; b++)
    for (int64_t h = 0; h < c->problem.heads; h++)
      for (int64_t i = 0; i < c->n_rows; i++) {
        compare_o(c, kernel, b, h, i, &e);
        compare_lse(c, kernel, b, h, i, &e);
      }
  e.ok = e.o_ratio <= 1 && e.lse_ratio <= 1;
  return e;
}
