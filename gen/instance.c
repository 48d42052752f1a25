#include "spec.h"

uint64_t hash64(const void *data, size_t len) {
  const unsigned char *p = data;
  uint64_t h = 0xcbf29ce484222325u;
  for (size_t i = 0; i < len; i++) h = (h ^ p[i]) * 0x100000001b3u;
  return h;
}

// One kernel serves both alignments of the diagonal: they differ in an argument.
static enum mask kernel_mask(enum mask m) { return m == MASK_CAUSAL_TOP_LEFT ? MASK_CAUSAL : m; }

void instance_name(const struct instance *i, struct buf *out) {
  const struct spec *s = &i->spec;
  const int *v = i->config.v;
  const char *q = dtype_table[s->q].name, *kv = dtype_table[s->kv].name, *o = dtype_table[s->o].name;
  enum mask mask = kernel_mask(s->mask);
  buf_printf(out, "%s_d%d", op_names[s->op], s->head_dim);
  if (s->head_dim_v != s->head_dim) buf_printf(out, "v%d", s->head_dim_v);
  if (s->q == s->kv && s->q == s->o)
    buf_printf(out, "_%s", q);
  else
    buf_printf(out, "_q%s_kv%s_o%s", q, kv, o);
  if (mask != MASK_FULL) buf_printf(out, "_%s", mask_names[mask]);
  const enum kernel_kind kernel = config_kernel(&i->config);
  if (kernel == KERNEL_DECODE)
    buf_printf(out, "_decode_m%dn%dh%d%s_%s", v[CFG_BLOCK_M], v[CFG_BLOCK_N], v[CFG_BLOCK_H],
               v[CFG_SPLIT] ? "_split" : "", i->target->name);
  else if (kernel == KERNEL_TILES)
    buf_printf(out, "_tiles_m%dn%d_%s", v[CFG_BLOCK_M], v[CFG_BLOCK_N], i->target->name);
  else
    buf_printf(out, "%s%s_m%dn%ds%d_%s", v[CFG_ALGO] == CONFIG_UNSET ? "" : "_",
               v[CFG_ALGO] == CONFIG_UNSET ? "" : algo_names[v[CFG_ALGO]], v[CFG_BLOCK_M], v[CFG_BLOCK_N],
               v[CFG_STAGES], i->target->name);
}

void instance_key(const struct instance *i, struct buf *out) {
  struct spec s = i->spec;
  s.mask = kernel_mask(s.mask);
  buf_printf(out, "%s:", op_names[s.op]);
  spec_print(&s, out);
  buf_printf(out, ":p=%s,acc=%s:", dtype_table[s.p].name, dtype_table[s.acc].name);
  config_print(&i->config, i->target, out);
  buf_printf(out, ":%s", i->target->name);
}

void instance_symbol(const struct instance *i, struct buf *out) {
  struct buf key = {0};
  instance_key(i, &key);
  uint64_t h = key.failed ? 0 : hash64(key.data, key.len);
  instance_name(i, out);
  buf_printf(out, "_%08x", (unsigned)(h ^ h >> 32));
  if (key.failed) out->failed = true;
  buf_free(&key);
}
