#include "tune_space.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- the space ----

enum { MAX_VALUES = 12, PER_VECTOR = -1 }; // PER_VECTOR: values are vectors of queries
struct axis {
  enum config_field field;
  int n, unit, values[MAX_VALUES];
};

// Not algo and diagonal, whose other values are there to see what the default buys.
static const struct axis prefill_axes[] = {
    {CFG_BLOCK_M, 4, PER_VECTOR, {1, 2, 3, 4}},
    {CFG_TILE_N, 6, 1, {2, 3, 4, 5, 6, 8}},
    {CFG_BLOCK_N, 6, 1, {32, 64, 96, 128, 192, 256}},
    {CFG_STAGES, 2, 1, {1, 2}},
    {CFG_UNROLL, 2, 1, {0, 8}},
    {CFG_EXP, EXP_COUNT, 1, {EXP_TABLE1, EXP_TABLE2, EXP_POLY3, EXP_POLY5}},
    {CFG_PREFETCH, 2, 1, {0, 8}},
    {CFG_PACK_K, 2, 1, {0, 1}},
    {CFG_PACK_V, 2, 1, {0, 1}},
};
static const struct axis decode_axes[] = {
    {CFG_BLOCK_N, 6, 1, {512, 1024, 2048, 4096, 8192, 16384}},
    {CFG_PREFETCH, 9, 1, {0, 4, 8, 12, 18, 24, 32, 48, 64}},
    {CFG_BLOCK_H, 7, 1, {1, 2, 4, 8, 16, 32, 64}},
    {CFG_SPLIT, 5, 1, {0, 512, 1024, 2048, 4096}},
};

static const struct axis tiles_axes[] = {
    {CFG_BLOCK_M, 6, PER_VECTOR, {1, 2, 3, 4, 8, 16}},
    {CFG_BLOCK_N, 6, 1, {64, 96, 128, 192, 256, 512}},
    {CFG_EXP, EXP_COUNT, 1, {EXP_TABLE1, EXP_TABLE2, EXP_POLY3, EXP_POLY5}},
};

// Not softmax and heavy_keys: a tuner must not trade accuracy for time. regs follows block_m.
static const struct axis cuda_axes[] = {
    {CFG_BLOCK_M, 3, 1, {128, 192, 256}},
    {CFG_BLOCK_N, 6, 1, {64, 80, 96, 112, 128, 176}},
    {CFG_STAGES, 5, 1, {2, 3, 4, 5, 6}},
    {CFG_Q_STAGES, 2, 1, {1, 2}},
    {CFG_PINGPONG, 2, 1, {0, 1}},
    {CFG_FLAT, 2, 1, {0, 1}},
    {CFG_Q_REGS, 2, 1, {0, 1}},
    {CFG_O_TMA, 3, 1, {0, 1, 2}},
    {CFG_SCHEDULE, SCHEDULE_COUNT, 1, {SCHEDULE_GRID, SCHEDULE_PERSISTENT, SCHEDULE_LPT}},
};

struct axes {
  const struct axis *axis;
  int n;
};
#define ALL(table) .axis = table, .n = sizeof table / sizeof *table
static const struct axes by_kernel[KERNEL_COUNT] = {
    [KERNEL_PREFILL] = {ALL(prefill_axes)}, [KERNEL_DECODE] = {ALL(decode_axes)}, [KERNEL_TILES] = {ALL(tiles_axes)}};
static const struct axes of_cuda = {ALL(cuda_axes)};

struct maker {
  const struct spec *s;
  const struct target *t;
  const struct problem *p;
  int workers;
  const struct config *base;
  bool same_bits;
  struct axes axes;
  int capacity;
  struct config fallback; // the heuristic's
  struct tune_space *out;
};

// Only kinds of exp as accurate as the default's: a tuner must not trade accuracy for time.
static bool worth(const struct maker *m, enum config_field field, int value) {
  return field != CFG_EXP || exp_table[value].eps <= 1.5 * exp_table[m->fallback.v[CFG_EXP]].eps;
}

// The field that a refusal is about: the sentence starts with it.
static int field_of(const char *sentence) {
  for (int i = 0; i < CFG_COUNT; i++) {
    const size_t n = strlen(config_fields[i].name);
    if (!strncmp(sentence, config_fields[i].name, n) && sentence[n] == ' ') return i;
  }
  return 0;
}

// Decode: does what another config does that is kept, more heads than there are being as good as all of them.
static bool redundant(const struct maker *m, const struct config *c) {
  const int *v = c->v;
  if (config_kernel(c) != KERNEL_DECODE || !m->p) return false;
  const int64_t heads = m->p->heads_kv, keys = m->p->kv_len;
  return (heads > 0 && v[CFG_BLOCK_H] > heads) || (keys > 0 && v[CFG_SPLIT] >= keys) ||
         (v[CFG_SPLIT] && v[CFG_BLOCK_N] > v[CFG_SPLIT]);
}

static int keep(struct maker *m, const struct config *given, struct error *err) {
  struct tune_space *o = m->out;
  struct config c = *given;
  struct error why = {0};
  o->enumerated++;
  if (config_resolve(m->s, m->t, m->p, &c, &why)) {
    struct tune_pruned *pruned = &o->pruned[field_of(why.text)];
    if (!pruned->count++) snprintf(pruned->why, sizeof pruned->why, "%.*s", (int)sizeof pruned->why - 1, why.text);
    o->infeasible++;
    return 0;
  }
  if (o->n && redundant(m, &c)) return o->alike++, 0; // the first is the default
  for (int i = 0; i < o->n; i++)
    if (!memcmp(&o->points[i].config, &c, sizeof c)) return o->alike++, 0;
  if (o->n == m->capacity) {
    m->capacity = m->capacity ? 2 * m->capacity : 256;
    struct tune_point *grown = realloc(o->points, (size_t)m->capacity * sizeof *grown);
    if (!grown) return fail(err, STROBE_NO_MEMORY, "no memory for %d configs", m->capacity);
    o->points = grown;
  }
  o->points[o->n++] = (struct tune_point){c, tune_cost(m->s, m->t, m->p, m->workers, &c)};
  return 0;
}

static int enumerate(struct maker *m, int axis, struct config *c, struct error *err) {
  if (axis == m->axes.n) return keep(m, c, err);
  const struct axis *a = &m->axes.axis[axis];
  if (m->base->v[a->field] != CONFIG_UNSET) return enumerate(m, axis + 1, c, err); // what was given stays
  if (m->same_bits && config_changes_bits(a->field, &m->fallback)) {
    c->v[a->field] = m->fallback.v[a->field];
    return enumerate(m, axis + 1, c, err);
  }
  int status = 0;
  bool listed = m->axes.axis == prefill_axes;
  for (int i = 0; i < a->n && !status; i++) {
    if (!worth(m, a->field, a->values[i])) continue;
    c->v[a->field] = a->values[i] * (a->unit == PER_VECTOR ? m->t->lanes : a->unit);
    listed |= c->v[a->field] == m->fallback.v[a->field];
    status = enumerate(m, axis + 1, c, err);
  }
  if (!listed && !status) { // the default's value with those of other fields
    c->v[a->field] = m->fallback.v[a->field];
    status = enumerate(m, axis + 1, c, err);
  }
  c->v[a->field] = CONFIG_UNSET;
  return status;
}

static int by_cost(const void *a, const void *b) {
  const struct tune_point *x = a, *y = b;
  if (x->cost != y->cost) return (x->cost > y->cost) - (x->cost < y->cost);
  return memcmp(&x->config, &y->config, sizeof x->config); // the same order on every machine
}

int tune_space_make(const struct spec *s, const struct target *t, const struct problem *p, int workers,
                    const struct config *base, bool same_bits, struct tune_space *out, struct error *err) {
  *out = (struct tune_space){0};
  if (t->family != FAMILY_CPU && same_bits)
    return fail(err, STROBE_UNSUPPORTED,
                "tune: a search that changes no bit of the result is for CPU targets: of the fields of %s it is not "
                "known which change a rounding",
                t->name);
  struct maker m = {
      .s = s, .t = t, .p = p, .workers = workers, .base = base, .same_bits = same_bits, .out = out, .fallback = *base};
  int status = config_resolve(s, t, p, &m.fallback, err);
  if (status) return status;
  m.axes = t->family == FAMILY_CPU ? by_kernel[config_kernel(&m.fallback)] : of_cuda;
  struct config c = *base;
  c.v[CFG_KERNEL] = m.fallback.v[CFG_KERNEL];
  status = keep(&m, &m.fallback, err);
  if (!status) status = enumerate(&m, 0, &c, err);
  if (status) {
    tune_space_free(out);
    return status;
  }
  qsort(out->points, (size_t)out->n, sizeof *out->points, by_cost);
  for (int i = 0; i < out->n; i++)
    if (!memcmp(&out->points[i].config, &m.fallback, sizeof m.fallback)) out->default_point = i;
  return 0;
}

void tune_space_free(struct tune_space *space) {
  free(space->points);
  *space = (struct tune_space){0};
}
