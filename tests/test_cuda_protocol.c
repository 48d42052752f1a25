// The barrier protocol of CUDA kernels without a GPU: every role as a list of operations, interleaved at random. A GPU
// shows a mistake here as wrong numbers, or as a kernel that never ends.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

// cmocka has a macro of the same name as a function of ours.
#include "../gen/cuda_kernel.h"

#include <cmocka.h>

#include "cuda_instances.h"

enum { WAIT, ARRIVE, LOAD, READ, STAGE, LEAVE };
struct action {
  int kind, a, b, c; // WAIT bar parity; ARRIVE bar count; LOAD buffer value bar; READ buffer value; ...
};
struct role {
  struct action op[4000];
  int n, at;
};
struct bar {
  int count, pending, phase;
};
enum { MAX_BARS = 80, MAX_BUFFERS = 48, MAX_ROLES = 8 };
struct machine {
  struct bar bar[MAX_BARS];
  int buffer[MAX_BUFFERS];
  struct role role[MAX_ROLES];
  int roles;
};

static void add(struct role *r, int kind, int a, int b, int c) {
  assert_true(r->n < 4000);
  r->op[r->n++] = (struct action){kind, a, b, c};
}

struct layout {
  int stages, q_stages, warpgroups, k_full, k_empty, v_full, v_empty, q_full, q_empty, o_full, k, v, q;
  bool o_tma, q_regs, flat;
};

static void load(struct role *r, int full, int buffer, int value) { add(r, LOAD, buffer, value, full); }

// Value of a buffer: what lies in it. Blocks and tiles are numbered over the whole run.
static void producer(struct role *r, const struct layout *l, const int *blocks, int tiles) {
  int k = 0, kp = 1, v = 0, vp = 1, number = 0, v_due = -1;
  for (int t = 0; t < tiles; t++) {
    for (int n = 0; n < blocks[t]; n++, number++) {
      add(r, WAIT, l->k_empty + k, kp, 0);
      load(r, l->k_full + k, l->k + k, number);
      if (++k == l->stages) k = 0, kp ^= 1;
      if (v_due >= 0) {
        add(r, WAIT, l->v_empty + v, vp, 0);
        load(r, l->v_full + v, l->v + v, v_due);
        if (++v == l->stages) v = 0, vp ^= 1;
      }
      v_due = number;
    }
    if (!l->flat || t == tiles - 1) {
      add(r, WAIT, l->v_empty + v, vp, 0);
      load(r, l->v_full + v, l->v + v, v_due);
      if (++v == l->stages) v = 0, vp ^= 1;
      v_due = -1;
    }
  }
}

static void q_loader(struct role *r, const struct layout *l, int tiles) {
  for (int t = 0, q = 0, p = 1; t < tiles; t++) {
    add(r, WAIT, l->q_empty + q, p, 0);
    for (int w = l->warpgroups - 1; w >= 0; w--) load(r, w ? -1 : l->q_full + q, l->q + 4 * q + w, t);
    if (++q == l->q_stages) q = 0, p ^= 1;
  }
}

static void storer(struct role *r, const struct layout *l, int arrivals, int tiles) {
  for (int t = 0, q = 0, p = 0; t < tiles; t++) {
    for (int w = 0; w < l->warpgroups; w++) {
      add(r, WAIT, l->o_full + q * l->warpgroups + w, p, 0);
      add(r, LEAVE, l->q + 4 * q + w, t, 0);
    }
    add(r, ARRIVE, l->q_empty + q, arrivals, 0);
    if (++q == l->q_stages) q = 0, p ^= 1;
  }
}

// One of the rings, and the place in it.
struct place {
  int stage, phase;
};
static void advance(const struct layout *l, struct place *p) {
  if (++p->stage == l->stages) p->stage = 0, p->phase ^= 1;
}
static void take_v(struct role *r, const struct layout *l, struct place *v, int number) {
  add(r, READ, l->v + v->stage, number, 0);
  add(r, ARRIVE, l->v_empty + v->stage, 4, 0);
  advance(l, v);
}

// One warpgroup; its four warps arrive together. Of a tile it skips the first blocks, which the mask hides from it.
static void consumer(struct role *r, const struct layout *l, int w, const int *blocks, const int *skips, int tiles) {
  struct place k = {0, 0}, v = {0, 0};
  for (int t = 0, number = 0; t < tiles; t++) {
    const int q = l->q_stages == 2 ? t & 1 : 0, qp = (l->q_stages == 2 ? t >> 1 : t) & 1;
    const int before = l->q_stages == 2 ? (t - 1) & 1 : 0;
    const bool boundary = l->flat && t > 0; // its first S is computed under the last PV of the tile before
    add(r, WAIT, l->q_full + q, qp, 0);
    if (l->q_regs) {
      add(r, READ, l->q + 4 * q + w, t, 0);
      if (!l->o_tma || (l->q_stages == 1 && t == 0)) add(r, ARRIVE, l->q_empty + q, 4, 0);
    }
    for (int n = 0; n < skips[t]; n++, advance(l, &k)) {
      add(r, WAIT, l->k_full + k.stage, k.phase, 0);
      add(r, ARRIVE, l->k_empty + k.stage, 4, 0);
    }
    for (int n = skips[t]; n < blocks[t]; n++, advance(l, &k)) {
      const bool first = n == skips[t], with_pv = !first || boundary;
      add(r, WAIT, l->k_full + k.stage, k.phase, 0);
      if (with_pv) add(r, WAIT, l->v_full + v.stage, v.phase, 0);
      add(r, READ, l->k + k.stage, number + n, 0);
      if (!l->q_regs) add(r, READ, l->q + 4 * q + w, t, 0);
      add(r, ARRIVE, l->k_empty + k.stage, 4, 0);
      if (!l->o_tma && !l->q_regs && n == blocks[t] - 1) add(r, ARRIVE, l->q_empty + q, 4, 0);
      if (with_pv) take_v(r, l, &v, number + (first ? -1 : n - 1));
      for (int x = 0; first && x < skips[t]; x++, advance(l, &v)) {
        add(r, WAIT, l->v_full + v.stage, v.phase, 0);
        add(r, ARRIVE, l->v_empty + v.stage, 4, 0);
      }
      if (first && boundary && l->o_tma) {
        add(r, STAGE, l->q + 4 * before + w, t - 1, 0);
        add(r, ARRIVE, l->o_full + before * l->warpgroups + w, 4, 0);
      }
    }
    number += blocks[t];
    if (l->flat && t < tiles - 1) continue;
    add(r, WAIT, l->v_full + v.stage, v.phase, 0);
    take_v(r, l, &v, number - 1);
    if (!l->o_tma) continue;
    if (l->q_stages == 1) add(r, WAIT, l->q_empty, t & 1, 0);
    add(r, STAGE, l->q + 4 * q + w, t, 0);
    add(r, ARRIVE, l->o_full + q * l->warpgroups + w, 4, 0);
  }
}

static void arrive(struct bar *b, int n) {
  b->pending -= n;
  assert_true(b->pending >= 0); // more arrivals than the phase takes
  if (!b->pending) b->pending = b->count, b->phase++;
}

enum { STAGED = 1 << 20 }; // in a slab of a Q buffer: O of this tile
static void step(struct machine *m, const struct action *o) {
  switch (o->kind) {
  case ARRIVE: arrive(&m->bar[o->a], o->b); break;
  case LOAD:
    m->buffer[o->a] = o->b;
    if (o->c >= 0) arrive(&m->bar[o->c], 1);
    break;
  case READ: assert_int_equal(m->buffer[o->a], o->b); break;
  case STAGE: m->buffer[o->a] = STAGED + o->b; break; // what was there has been read by this warpgroup
  case LEAVE: assert_int_equal(m->buffer[o->a], STAGED + o->b); break;
  }
}

// False: a deadlock.
static bool run_machine(struct machine *m, unsigned *seed) {
  int left = 0;
  for (int i = 0; i < m->roles; i++) left += m->role[i].n;
  for (int idle = 0; left;) {
    *seed = *seed * 1664525u + 1013904223u;
    struct role *r = &m->role[(*seed >> 16) % (unsigned)m->roles];
    const struct action *o = &r->op[r->at];
    if (r->at == r->n || (o->kind == WAIT && (m->bar[o->a].phase & 1) == o->b)) {
      if (++idle > 20000) return false;
      continue;
    }
    step(m, o);
    r->at++, left--, idle = 0;
  }
  return true;
}

static bool simulate(const struct instance *i, unsigned seed) {
  static struct machine m;
  struct cuda_kernel k;
  cuda_derive(i, &k);
  const int *c = i->config.v;
  struct layout l = {.stages = c[CFG_STAGES],
                     .q_stages = c[CFG_Q_STAGES],
                     .warpgroups = k.warpgroups,
                     .o_tma = c[CFG_O_TMA] == 1,
                     .q_regs = c[CFG_Q_REGS],
                     .flat = c[CFG_FLAT]};
  int bars = 0;
  memset(&m, 0, sizeof m);
#define BARS(name, number, arrivals)                                                                                   \
  l.name = bars;                                                                                                       \
  for (int n = 0; n < (number); n++) m.bar[bars++] = (struct bar){(arrivals), (arrivals), 0}
  BARS(k_full, l.stages, 1);
  BARS(k_empty, l.stages, 4 * k.warpgroups);
  BARS(v_full, l.stages, 1);
  BARS(v_empty, l.stages, 4 * k.warpgroups);
  BARS(q_full, l.q_stages, 1);
  BARS(q_empty, l.q_stages, k.q_empty_count);
  BARS(o_full, l.q_stages * k.warpgroups, 4);
  l.k = 0, l.v = l.stages, l.q = 2 * l.stages;
  int blocks[12], skips[12], tiles = 1 + (int)(seed % 12);
  for (int t = 0; t < tiles; t++) blocks[t] = 1 + (int)((seed >> 8) * 2654435761u >> (t + 3)) % 12;
  for (int t = 0; t < tiles; t++) blocks[t] = blocks[t] < 1 ? 1 : blocks[t];
  producer(&m.role[m.roles++], &l, blocks, tiles);
  q_loader(&m.role[m.roles++], &l, tiles);
  if (l.o_tma) storer(&m.role[m.roles++], &l, k.q_empty_count, tiles);
  for (int w = 0; w < k.warpgroups; w++) {
    const int rows = i->spec.mask == MASK_FULL ? 0 : 64 * (k.warpgroups - 1 - w), n = c[CFG_BLOCK_N];
    for (int t = 0; t < tiles; t++) {
      skips[t] = (rows + (seed >> t & 1 ? n - 1 : 0)) / n; // as the diagonal falls
      if (skips[t] >= blocks[t]) skips[t] = blocks[t] - 1; // every warpgroup visits a block
    }
    consumer(&m.role[m.roles++], &l, w, blocks, skips, tiles);
  }
  return run_machine(&m, &seed);
}

static bool ends(const struct instance *i) {
  for (unsigned seed = 0; seed < 60; seed++)
    if (!simulate(i, seed * 2654435761u + seed % 12)) return false;
  return true;
}

static void protocol(void **state) {
  (void)state;
  for (int n = 0; n < N_DEFAULTS; n++) {
    struct instance i;
    struct error err = {0};
    assert_int_equal(resolve(defaults[n], NULL, &i, &err), 0);
    if (!ends(&i)) fail_msg("%s: deadlock", defaults[n]);
  }
}

// At a mask warpgroups skip blocks. Rings that are too short for that end in a deadlock, here and on a GPU; resolving
// refuses exactly those.
static void short_rings(void **state) {
  (void)state;
  int refused = 0, taken = 0;
  for (int block_m = 64; block_m <= 256; block_m += 64)
    for (int block_n = 16; block_n <= 64; block_n += 16)
      for (int flat = 0; flat < 2; flat++)
        for (int stages = 2; stages < 8; stages++) {
          char set[120];
          struct instance i, short_one;
          struct error err = {0};
          snprintf(set, sizeof set, "block_m=%d,block_n=%d,flat=%d,q_stages=1,q_regs=0,o_tma=0,pingpong=0,stages=%d",
                   block_m, block_n, flat, stages);
          if (!resolve("d64:bf16:causal", set, &i, &err)) {
            if (!ends(&i)) fail_msg("%s: deadlock", set);
            taken++;
          } else if (strstr(err.text, "for ever")) {
            assert_int_equal(resolve("d64:bf16", set, &short_one, &err), 0); // without a mask nothing is skipped
            assert_true(ends(&short_one));
            short_one.spec.mask = MASK_CAUSAL;
            if (ends(&short_one)) fail_msg("%s: refused, but no deadlock", set);
            refused++;
          }
        }
  assert_true(taken > 20 && refused > 5);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(protocol), cmocka_unit_test(short_rings)};
  return cmocka_run_group_tests_name("cuda_protocol", tests, NULL, NULL);
}
