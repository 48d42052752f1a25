// Which of the CPU's kernels a config is of, the choice where it does not say, and how wide its rows are.
#include "cuda_kernel.h"
#include "spec.h"

const char *const kernel_names[KERNEL_COUNT] = {"prefill", "decode", "tiles"};

enum kernel_kind config_kernel(const struct config *c) {
  return c->v[CFG_KERNEL] == CONFIG_UNSET ? KERNEL_PREFILL : (enum kernel_kind)c->v[CFG_KERNEL];
}

bool instance_by_tiles(const struct instance *i) {
  const enum kernel_kind kernel = config_kernel(&i->config);
  return kernel == KERNEL_TILES || (kernel == KERNEL_DECODE && decode_by_tiles(&i->spec, i->target, &i->config));
}

// vdpbf16ps of CPUs with matrix tiles (Intel) makes half as many multiply-adds in a second as those of f32.
bool instance_pairs(const struct instance *i) {
  if (instance_by_tiles(i)) return true;
  return spec_pairs(&i->spec, i->target) && !(i->target->tiles && config_kernel(&i->config) == KERNEL_DECODE);
}

// Two parts of bf16 are cut off after 8 bits and rounded: V's second one is up to 2^-7 of it, P's too, and off by 2^-8
// of itself; the product of the second ones is left out.
double instance_p_error(const struct instance *i) {
  const struct spec *s = &i->spec;
  if (s->p == s->acc || (i->target->family == FAMILY_CPU && !instance_pairs(i))) return 0;
  return instance_by_tiles(i) && tiles_parts(s->p) == 2 ? 0x1p-14 + 0x1p-15 : dtype_table[s->p].eps;
}

static int round_up(int x, int step) { return (x + step - 1) / step * step; }

int config_k_width(const struct spec *s, const struct config *c) {
  static const int steps[KERNEL_COUNT] = {[KERNEL_PREFILL] = 4, [KERNEL_DECODE] = 1, [KERNEL_TILES] = 32};
  return round_up(s->head_dim, steps[config_kernel(c)]);
}

int config_v_width(const struct spec *s, const struct config *c) {
  const int steps[KERNEL_COUNT] = {[KERNEL_PREFILL] = c->v[CFG_TILE_N], [KERNEL_DECODE] = 1, [KERNEL_TILES] = 16};
  return round_up(s->head_dim_v, steps[config_kernel(c)]);
}

// Fields that only the prefill kernel has: who sets them wants it.
static bool has_prefill_fields(const struct config *c) {
  static const enum config_field fields[] = {CFG_TILE_N, CFG_STAGES, CFG_UNROLL,   CFG_PACK_K,
                                             CFG_PACK_V, CFG_ALGO,   CFG_DIAGONAL, CFG_TAIL_M};
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
    if (c->v[fields[i]] != CONFIG_UNSET) return true;
  return false;
}

static enum kernel_kind choose_kernel(const struct spec *s, const struct target *t, const struct problem *p,
                                      const struct config *c) {
  if (c->v[CFG_KERNEL] != CONFIG_UNSET || has_prefill_fields(c)) return config_kernel(c);
  if (decode_serves(s, t, p)) return KERNEL_DECODE;
  // Of the kernels that serve many rows prefill alone has prefetch.
  const bool tiles = tiles_serve(s, t) && c->v[CFG_PREFETCH] == CONFIG_UNSET && tiles_take(c) && tiles_pay(s, p);
  return tiles ? KERNEL_TILES : KERNEL_PREFILL;
}

int config_resolve(const struct spec *s, const struct target *t, const struct problem *p, struct config *c,
                   struct error *err) {
  static int (*const resolve[KERNEL_COUNT])(const struct spec *, const struct target *, const struct problem *,
                                            struct config *, struct error *) = {
      [KERNEL_PREFILL] = prefill_resolve, [KERNEL_DECODE] = decode_resolve, [KERNEL_TILES] = tiles_resolve};
  int status = spec_supported(s, t, err);
  if (status) return status;
  for (int i = 0; i < CFG_COUNT; i++)
    if (c->v[i] != CONFIG_UNSET && !config_field_applies((enum config_field)i, t))
      return fail(err, STROBE_INVALID, "config field %s does not apply to target %s: leave it out",
                  config_fields[i].name, t->name);
  if (t->family == FAMILY_CUDA) return cuda_config_resolve(s, t, p, c, err);
  return resolve[choose_kernel(s, t, p, c)](s, t, p, c, err);
}
