#include "set.h"

#include <stdlib.h>
#include <string.h>

enum { ENTRIES_MAX = 4096 };

// Targets whose kernels want a CPU with certain features, the most capable last.
static const struct host_row host_rows[] = {
    {"avx2", "HAS_AVX2"}, {"avx512", "HAS_AVX512"}, {"avx512bf16", "HAS_AVX512_BF16"}, {"amxbf16", "HAS_AMX_BF16"}};
enum { N_HOSTS = sizeof host_rows / sizeof *host_rows };

const struct host_row *set_host(const struct set_entry *e) {
  if (e->printer == PRINTER_SCALAR) return NULL;
  for (int i = 0; i < N_HOSTS; i++)
    if (!strcmp(host_rows[i].target, e->instance.target->name)) return &host_rows[i];
  return NULL;
}

struct emit_request set_request(const struct kernel_set *set, int i) {
  return (struct emit_request){.instance = &set->entry[i].instance,
                               .printer = set->entry[i].printer,
                               .templates = set->templates,
                               .prefix = set->prefix,
                               .cite = set->entry[i].cite};
}

void set_free(struct kernel_set *set) {
  free(set->entry);
  set->entry = NULL;
  set->n = set->capacity = 0;
}

// ---- one line ----

static int append(struct kernel_set *set, const struct set_entry *e, struct error *err) {
  if (set->n == ENTRIES_MAX) return fail(err, STROBE_INVALID, "more than %d kernels in a set", ENTRIES_MAX);
  if (set->n == set->capacity) {
    const int capacity = set->capacity ? 2 * set->capacity : 32;
    struct set_entry *grown = realloc(set->entry, (size_t)capacity * sizeof *grown);
    if (!grown) return fail(err, STROBE_NO_MEMORY, "no memory for a set of %d kernels", capacity);
    set->entry = grown;
    set->capacity = capacity;
  }
  set->entry[set->n++] = *e;
  return 0;
}

// Of several targets those without vector instructions take no notice of a printer for them.
static int find_printer(const char *name, const struct target *t, bool several, enum printer *out, struct error *err) {
  const bool only_scalar = t->family == FAMILY_CPU && !t->vregs;
  *out = t->vregs ? PRINTER_INTRIN : PRINTER_SCALAR;
  if (!name) return 0;
  for (int i = 0; i < PRINTER_COUNT; i++) {
    if (strcmp(name, printer_names[i])) continue;
    if (only_scalar && i != PRINTER_SCALAR && !several)
      return fail(err, STROBE_INVALID, "printer %s on %s: it has no vector instructions; printer=scalar works", name,
                  t->name);
    if (!only_scalar) *out = (enum printer)i;
    return 0;
  }
  return fail(err, STROBE_INVALID, "printer \"%s\": must be one of scalar, intrin, code; the nearest is %s",
              quote(slice_of(name)).text, nearest_name(slice_of(name), printer_names, PRINTER_COUNT));
}

static int find_target(struct slice name, const struct target **out, struct error *err) {
  const char *names[64];
  int n = 0;
  for (int i = 0; i < target_count && n < 64; i++) {
    names[n++] = target_table[i].name;
    if (slice_is(name, target_table[i].name)) return *out = &target_table[i], 0;
  }
  return fail(err, STROBE_INVALID, "target \"%s\": not known; the nearest is %s", quote(name).text,
              nearest_name(name, names, n));
}

static int add_instance(struct kernel_set *set, const struct problem *p, const struct target *t,
                        const struct set_line *fields, int line, struct error *err) {
  struct set_entry e = {.instance = {.spec = p->spec, .target = t}, .line = line};
  config_clear(&e.instance.config);
  const bool several = !fields->targets || strchr(fields->targets, ',');
  int status = find_printer(fields->printer, t, several, &e.printer, err);
  if (!status) status = problem_check(p, err);
  if (!status) status = spec_supported(&p->spec, t, err);
  if (!status && fields->config) status = config_parse(fields->config, &e.instance.config, err);
  if (!status && !fields->config && set->choose)
    status = set->choose(set->choose_context, p, t, &e.instance.config, e.cite, err);
  if (!status && fields->cite) status = emit_check_cite(fields->cite, err);
  if (!status && fields->cite) memcpy(e.cite, fields->cite, strlen(fields->cite) + 1);
  if (!status) status = config_resolve(&p->spec, t, p, &e.instance.config, err);
  return status ? status : append(set, &e, err);
}

// Every CPU target that can do it, but no dot products for a spec that has no use for them; if none can, what c99 says.
static int add_everywhere(struct kernel_set *set, const struct problem *p, const struct set_line *fields, int line,
                          struct error *err) {
  int status = spec_supported(&p->spec, target_find("c99"), err);
  for (int i = 0; i < target_count && !status; i++) {
    const struct target *t = &target_table[i];
    const bool plain = t->vregs && t->bf16_dot && !t->tiles && !spec_pairs(&p->spec, t); // like the target without
    if (t->family == FAMILY_CPU && !plain && !spec_supported(&p->spec, t, NULL))
      status = add_instance(set, p, t, fields, line, err);
  }
  return status;
}

int set_add(struct kernel_set *set, const struct set_line *fields, int line, struct error *err) {
  struct problem p;
  int status = problem_parse(fields->spec, &p, err);
  if (!status && !fields->targets) return add_everywhere(set, &p, fields, line, err);
  bool more = true;
  for (struct slice rest = slice_of(fields->targets ? fields->targets : ""); more && !status;) {
    const struct target *t = NULL;
    status = find_target(slice_cut(&rest, ',', &more), &t, err);
    if (!status) status = add_instance(set, &p, t, fields, line, err);
  }
  return status;
}

// ---- order ----

// Of the CPU targets the most capable first; c99 last. CUDA kernels are apart: their entry point is another one.
static int rank(const struct set_entry *e) {
  const struct host_row *host = set_host(e);
  return e->instance.target->family == FAMILY_CUDA ? N_HOSTS + 1 : host ? (int)(host - host_rows) + 1 : 0;
}

// Rows of a KV head that a decode kernel takes at a time: the kernel of the smallest tile that holds them is chosen.
static int decode_rows(const struct set_entry *e) {
  return config_kernel(&e->instance.config) == KERNEL_DECODE ? e->instance.config.v[CFG_BLOCK_M] : 1 << 20;
}

// 0: the dispatcher could never choose the second.
static int by_use(const void *a, const void *b) {
  const struct set_entry *x = a, *y = b;
  const struct spec *s = &x->instance.spec, *t = &y->instance.spec;
  const int difference[] = {s->head_dim - t->head_dim, s->head_dim_v - t->head_dim_v,
                            (int)s->q - (int)t->q,     (int)s->kv - (int)t->kv,
                            (int)s->o - (int)t->o,     (s->mask != MASK_FULL) - (t->mask != MASK_FULL),
                            rank(y) - rank(x),         decode_rows(x) - decode_rows(y)};
  for (size_t i = 0; i < sizeof difference / sizeof *difference; i++)
    if (difference[i]) return difference[i];
  return 0;
}

static int by_use_and_line(const void *a, const void *b) {
  const int use = by_use(a, b);
  return use ? use : ((const struct set_entry *)a)->line - ((const struct set_entry *)b)->line;
}

int set_fail(const struct kernel_set *set, int line, const struct error *why, struct error *err) {
  if (!set->file) return fail(err, why->status, "%s", why->text);
  return fail(err, why->status, "%s:%d: %s", set->file, line, why->text);
}

static int refuse_double(const struct kernel_set *set, const struct set_entry *before, const struct set_entry *e,
                         struct error *err) {
  struct error why = {0};
  struct buf spec = {0};
  spec_print(&e->instance.spec, &spec);
  fail(&why, STROBE_INVALID,
       "%s on %s%s: %s %d has a kernel for the same calls, so that this one would never be chosen%s; leave out one of "
       "them",
       spec.failed ? "spec" : spec.data, e->instance.target->name,
       e->printer == PRINTER_SCALAR && e->instance.target->vregs ? " (by printer scalar, so for every CPU)" : "",
       set->file ? "line" : "SPEC", before->line,
       before->instance.spec.mask == e->instance.spec.mask
           ? ""
           : " (causal and causal_top_left differ only in args->diagonal)");
  buf_free(&spec);
  return set_fail(set, e->line, &why, err);
}

int set_finish(struct kernel_set *set, struct error *err) {
  if (!set->n)
    return fail(err, STROBE_INVALID, "%s%sno kernel in it; d64:f32:causal is a line of one", set->file ? set->file : "",
                set->file ? ": " : "");
  if (!*set->name) memcpy(set->name, "attn", sizeof "attn");
  qsort(set->entry, (size_t)set->n, sizeof *set->entry, by_use_and_line);
  for (int i = 1; i < set->n; i++)
    if (!by_use(&set->entry[i - 1], &set->entry[i])) return refuse_double(set, &set->entry[i - 1], &set->entry[i], err);
  return 0;
}
