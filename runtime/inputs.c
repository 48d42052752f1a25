#include "inputs.h"
#include "reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// splitmix64's finaliser over a counter: stateless, so any element can be drawn alone.
static uint64_t mix(uint64_t x) {
  x ^= x >> 30, x *= 0xbf58476d1ce4e5b9u;
  x ^= x >> 27, x *= 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

uint64_t random_bits(uint64_t seed, uint64_t stream, uint64_t index) {
  return mix(mix(seed * 0x9e3779b97f4a7c15u + stream) + (index + 1) * 0x9e3779b97f4a7c15u);
}

double random_uniform(uint64_t seed, uint64_t stream, uint64_t index) {
  return (double)(random_bits(seed, stream, index) >> 11) * 0x1p-53;
}

double random_normal(uint64_t seed, uint64_t stream, uint64_t index) { // Box-Muller, one of the two
  uint64_t bits = random_bits(seed, stream, index);
  double radius = ((double)(bits >> 32) + 1) * 0x1p-32, angle = (double)(uint32_t)bits * 0x1p-32;
  return sqrt(-2 * log(radius)) * cos(6.283185307179586 * angle);
}

// ---- kinds ----

enum { STREAM_Q, STREAM_K, STREAM_V, STREAM_AUX }; // the first three are enum input_tensor

// Number of this row's element 0 in a packed (batch, seqlen, heads, dim) tensor.
static uint64_t row_index(enum input_tensor which, const struct input_place *at) {
  const struct strobe_args *a = at->args;
  int64_t rows = which == INPUT_Q ? a->q_len : a->kv_len, heads = which == INPUT_Q ? a->heads : a->heads_kv;
  return ((uint64_t)(at->b * rows + at->n) * (uint64_t)heads + (uint64_t)at->h) * (uint64_t)at->dim;
}

static void normal_row(enum input_tensor which, const struct input_place *at, double mean, double deviation,
                       double *out) {
  uint64_t first = row_index(which, at);
  for (int x = 0; x < at->dim; x++) out[x] = mean + deviation * random_normal(at->seed, which, first + (uint64_t)x);
}

static void fill(const struct input_place *at, double value, double *out) {
  for (int x = 0; x < at->dim; x++) out[x] = value;
}

// q is about 1 and k about score / (scale head_dim): key j then has about that score for every query. Noise on both
// keeps products apart: with q = 1, 16-bit k near 70 take a dozen values, and equal terms of a sum round alike.
static void scored(enum input_tensor which, const struct input_place *at, double score, double noise, double *out) {
  if (which == INPUT_V)
    normal_row(which, at, 0, 1, out);
  else if (which == INPUT_Q)
    normal_row(which, at, 1, 0.0625, out);
  else
    normal_row(which, at, score / (at->scale * at->dim), noise, out);
}

static void kind_normal(enum input_tensor which, const struct input_place *at, double *out) {
  normal_row(which, at, 0, 1, out);
}

static void kind_uniform(enum input_tensor which, const struct input_place *at, double *out) {
  uint64_t first = row_index(which, at);
  for (int x = 0; x < at->dim; x++) out[x] = 2 * random_uniform(at->seed, which, first + (uint64_t)x) - 1;
}

static void kind_large(enum input_tensor which, const struct input_place *at, double *out) {
  normal_row(which, at, 0, which == INPUT_Q ? 10 : 1, out);
}

static double position(const struct input_place *at) { return (double)at->n / (double)at->args->kv_len; }
static void kind_ramp_up(enum input_tensor which, const struct input_place *at, double *out) {
  scored(which, at, 20 * position(at), 0.1, out);
}
static void kind_ramp_down(enum input_tensor which, const struct input_place *at, double *out) {
  scored(which, at, 20 - 20 * position(at), 0.1, out);
}
static void kind_ramp_steep(enum input_tensor which, const struct input_place *at, double *out) {
  scored(which, at, (double)at->n, 0.1, out);
}
static void kind_sink(enum input_tensor which, const struct input_place *at, double *out) {
  scored(which, at, at->n == 0 ? 30 : 0, 1, out);
}

static void kind_spikes(enum input_tensor which, const struct input_place *at, double *out) {
  uint64_t bits = random_bits(at->seed, STREAM_AUX, row_index(which, at));
  scored(which, at, bits % 50 ? 0 : bits & 1024 ? 300 : -300, 1, out);
}

static void kind_negative(enum input_tensor which, const struct input_place *at, double *out) {
  scored(which, at, -1000, 1, out);
}

// The signs of a key are a code, and each query has the signs of one key, which so gets a score of about 100.
// Magnitudes of k differ: equal products would round alike, all in one direction.
static void kind_one_hot(enum input_tensor which, const struct input_place *at, double *out) {
  if (which == INPUT_V) {
    normal_row(which, at, 0, 1, out);
    return;
  }
  struct input_place key = *at;
  double size = 1;
  if (which == INPUT_Q && at->args->kv_len > 0) {
    uint64_t keys =
        (uint64_t)(at->n < at->args->kv_len ? at->n + 1 : at->args->kv_len); // visible under both causal masks
    key.n = (int64_t)(random_bits(at->seed, STREAM_AUX, row_index(which, at)) % keys);
    key.h = at->h / (at->args->heads / at->args->heads_kv);
    size = 100 / (at->scale * at->dim);
  }
  uint64_t first = row_index(INPUT_K, &key);
  for (int x = 0; x < at->dim; x++) {
    uint64_t bits = random_bits(at->seed, INPUT_K, first + (uint64_t)x);
    double magnitude = which == INPUT_Q ? size : 0.5 + (double)(bits >> 11) * 0x1p-53;
    out[x] = bits & 1 ? magnitude : -magnitude;
  }
}

static void kind_equal(enum input_tensor which, const struct input_place *at, double *out) {
  struct input_place same = *at;
  if (which == INPUT_K) same.n = 0;
  normal_row(which, &same, 0, 1, out);
}

static void kind_large_v(enum input_tensor which, const struct input_place *at, double *out) {
  normal_row(which, at, 0, which == INPUT_V ? 1e4 : 1, out);
}

static void kind_outliers(enum input_tensor which, const struct input_place *at, double *out) {
  uint64_t first = row_index(which, at);
  normal_row(which, at, 0, 1, out);
  for (int x = 0; x < at->dim; x++) {
    uint64_t bits = random_bits(at->seed, STREAM_AUX + 1 + (uint64_t)which, first + (uint64_t)x);
    if (bits % 1000 == 0) out[x] += 10 * random_normal(at->seed, STREAM_AUX + 4 + (uint64_t)which, first + (uint64_t)x);
  }
}

static void kind_denormal(enum input_tensor which, const struct input_place *at, double *out) {
  normal_row(which, at, 0, which == INPUT_K ? 1 : 0x1p-130, out);
}

static void kind_zeros(enum input_tensor which, const struct input_place *at, double *out) {
  (void)which;
  fill(at, 0, out);
}

// One element in about 8 rows of each tensor is bad: whole rows of O for q, what sees the key for k and v.
static void spoil(enum input_tensor which, const struct input_place *at, double bad, double *out) {
  normal_row(which, at, 0, 1, out);
  int64_t rows = which == INPUT_Q ? at->args->q_len : at->args->kv_len, every = rows / 4 + 1;
  uint64_t bits = random_bits(at->seed, STREAM_AUX, row_index(which, at));
  if (at->n % every == every - 1 - every / (2 + which)) out[bits % (uint64_t)at->dim] = bits >> 40 & 1 ? bad : -bad;
}
static void kind_nan(enum input_tensor which, const struct input_place *at, double *out) { spoil(which, at, NAN, out); }
static void kind_inf(enum input_tensor which, const struct input_place *at, double *out) {
  spoil(which, at, INFINITY, out);
}

static void kind_inf_keys(enum input_tensor which, const struct input_place *at, double *out) {
  normal_row(which, at, 0, 1, out);
  for (int x = 0; x < at->dim; x++)
    if (which == INPUT_Q)
      out[x] = fabs(out[x]);
    else if (which == INPUT_K && at->n < at->args->kv_len / 2)
      out[x] = -INFINITY;
}

const struct input_kind input_kinds[] = {
    {"normal", true, kind_normal, "N(0, 1)"},
    {"uniform", true, kind_uniform, "uniform in -1 to 1"},
    {"large", true, kind_large, "scores of standard deviation 10"},
    {"ramp-up", true, kind_ramp_up, "scores rise from 0 to 20 along the keys: every block has a new maximum"},
    {"ramp-down", true, kind_ramp_down, "scores fall from 20 to 0 along the keys"},
    {"ramp-steep", true, kind_ramp_steep, "the score of key j is about j: only the last keys count"},
    {"sink", true, kind_sink, "the first key's score is 30, the others' about 0"},
    {"spikes", true, kind_spikes, "one key in 50 has a score of 300 or -300"},
    {"negative", true, kind_negative, "all scores about -1000"},
    {"one-hot", true, kind_one_hot, "one key per query has a score of about 100, far above the others"},
    {"equal", true, kind_equal, "all keys of a head are equal, and so all scores of a row"},
    {"large-v", true, kind_large_v, "V is N(0, 1) times 10^4"},
    {"outliers", true, kind_outliers, "N(0, 1), and one element in 1000 plus N(0, 100), of standard deviation 10"},
    {"denormal", true, kind_denormal, "Q and V below the smallest normal f32"},
    {"zeros", true, kind_zeros, "all zero"},
    {"nan", false, kind_nan, "N(0, 1) with a NaN in a few rows of each tensor"},
    {"inf", false, kind_inf, "N(0, 1) with an Inf or -Inf in a few rows of each tensor"},
    {"inf-keys", false, kind_inf_keys, "the first half of all keys are -Inf, and Q is positive: whole blocks of -Inf"},
};
const int input_kind_count = sizeof input_kinds / sizeof input_kinds[0];

const struct input_kind *input_kind_find(const char *name) {
  for (int i = 0; i < input_kind_count; i++)
    if (!strcmp(input_kinds[i].name, name)) return &input_kinds[i];
  return NULL;
}

// ---- filling ----

int inputs_fill(const struct spec *s, const struct strobe_args *args, const struct input_kind *kind, uint64_t seed,
                struct error *err) {
  const struct strobe_tensor *tensor[] = {&args->q, &args->k, &args->v};
  const enum dtype type[] = {s->q, s->kv, s->kv};
  const int dim[] = {s->head_dim, s->head_dim, s->head_dim_v};
  const int widest = s->head_dim > s->head_dim_v ? s->head_dim : s->head_dim_v;
  double *values = malloc((size_t)widest * sizeof *values);
  if (!values) return fail(err, STROBE_NO_MEMORY, "no memory for a row of inputs of %d elements", widest);
  struct input_place at = {.args = args, .seed = seed, .scale = default_scale(s)};
  for (int which = INPUT_Q; which <= INPUT_V; which++) {
    const struct strobe_tensor *t = tensor[which];
    const int64_t rows = which == INPUT_Q ? args->q_len : args->kv_len,
                  heads = which == INPUT_Q ? args->heads : args->heads_kv;
    at.dim = dim[which];
    for (at.b = 0; at.b < args->batch; at.b++)
      for (at.n = 0; at.n < rows; at.n++)
        for (at.h = 0; at.h < heads; at.h++) {
          kind->row((enum input_tensor)which, &at, values);
          int64_t first = at.b * t->batch_stride + at.h * t->head_stride + at.n * t->row_stride;
          for (int x = 0; x < at.dim; x++) dtype_store(type[which], t->data, first + x, values[x]);
        }
  }
  free(values);
  return 0;
}

void inputs_spoil_unused(const struct spec *s, const struct strobe_args *args) {
  const struct strobe_tensor *const tensor[] = {&args->k, &args->v};
  const int dim[] = {s->head_dim, s->head_dim_v};
  for (int64_t b = 0; b < args->batch && args->kv_lens; b++)
    for (int64_t n = reference_keys(args, b); n < args->kv_len; n++)
      for (int64_t h = 0; h < args->heads_kv; h++)
        for (int i = 0; i < 2; i++) {
          const int64_t first = b * tensor[i]->batch_stride + h * tensor[i]->head_stride + n * tensor[i]->row_stride;
          for (int x = 0; x < dim[i]; x++) dtype_store(s->kv, tensor[i]->data, first + x, NAN);
        }
}
