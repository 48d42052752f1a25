#include "io_check.h"

#include <string.h>

enum { BATCH, ROW, HEAD, AXES };
enum { Q, K, V, KV_LENS, O, LSE, WORKSPACE, PARTS };

// One tensor: n[axis] places, stride[axis] elements apart, of `width` contiguous elements.
struct part {
  const char *name, *width_name, *type;
  const char *axis_name[AXES];
  const void *data;
  int64_t n[AXES], stride[AXES], width;
  int bytes;            // of an element
  uintptr_t first, end; // address range; empty if there is no element
};

static const char *const stride_name[AXES] = {"batch_stride", "row_stride", "head_stride"};

static struct part tensor_part(const char *name, const struct strobe_array *a, const struct problem *p, bool is_q,
                               int width, enum dtype type) {
  struct part t = {.name = name,
                   .width_name = width == p->spec.head_dim ? "head_dim" : "head_dim_v",
                   .type = dtype_table[type].name,
                   .axis_name = {"batch", is_q ? "q_len" : "kv_len", is_q ? "heads" : "heads_kv"},
                   .data = a->data,
                   .n = {p->batch, is_q ? p->q_len : p->kv_len, is_q ? p->heads : p->heads_kv},
                   .stride = {a->batch_stride, a->row_stride, a->head_stride},
                   .width = width,
                   .bytes = dtype_table[type].bytes};
  if (!a->batch_stride && !a->row_stride &&
      !a->head_stride) { // problem_complete has seen to it that these products fit
    t.stride[HEAD] = width;
    t.stride[ROW] = t.n[HEAD] * width;
    t.stride[BATCH] = t.n[ROW] * t.stride[ROW];
  }
  return t;
}

static bool is_empty(const struct part *t) { return !t->n[BATCH] || !t->n[ROW] || !t->n[HEAD] || !t->width; }

static int check_strides(struct part *t, struct error *err) {
  for (int axis = 0; axis < AXES; axis++) {
    if (t->n[axis] <= 1)
      t->stride[axis] = t->width; // never used; whatever the caller left there must not overflow anything
    else if (t->stride[axis] < t->width)
      return fail(err, STROBE_INVALID,
                  "%s.%s %lld: must be at least %s, %lld, as %s is %lld (0 in all three strides: packed)", t->name,
                  stride_name[axis], (long long)t->stride[axis], t->width_name, (long long)t->width, t->axis_name[axis],
                  (long long)t->n[axis]);
  }
  return STROBE_OK;
}

// Smallest stride first: each axis must step over all that the axes before it cover, so no two elements share an
// address.
static int check_disjoint(const struct part *t, struct error *err) {
  int order[AXES] = {HEAD, ROW, BATCH};
  for (int i = 0; i < AXES; i++)
    for (int j = i + 1; j < AXES; j++)
      if (t->stride[order[j]] < t->stride[order[i]]) {
        int swap = order[i];
        order[i] = order[j];
        order[j] = swap;
      }
  int64_t covered = t->width;
  for (int i = 0; i < AXES; i++) {
    const int axis = order[i];
    if (t->n[axis] <= 1) continue;
    if (t->stride[axis] < covered)
      return fail(err, STROBE_INVALID, "%s.%s %lld: must be at least %lld, or rows of %s overlap", t->name,
                  stride_name[axis], (long long)t->stride[axis], (long long)covered, t->name);
    covered += (t->n[axis] - 1) * t->stride[axis]; // no overflow: part_range has checked the sum
  }
  return STROBE_OK;
}

// Where the part lies, if that is a range of addresses at all.
static int part_range(struct part *t, struct error *err) {
  int64_t elements = t->width, bytes;
  bool over = false;
  for (int axis = 0; axis < AXES; axis++) {
    int64_t reach;
    over |= __builtin_mul_overflow(t->n[axis] - 1, t->stride[axis], &reach);
    over |= __builtin_add_overflow(elements, reach, &elements);
  }
  over |= __builtin_mul_overflow(elements, (int64_t)t->bytes, &bytes) || bytes > PTRDIFF_MAX;
  t->first = (uintptr_t)t->data;
  over |= over || __builtin_add_overflow(t->first, (uintptr_t)bytes, &t->end);
  if (over)
    return fail(err, STROBE_INVALID,
                "%s strides (%lld, %lld, %lld) with %lld x %lld x %lld rows: must stay inside the address space",
                t->name, (long long)t->stride[BATCH], (long long)t->stride[ROW], (long long)t->stride[HEAD],
                (long long)t->n[BATCH], (long long)t->n[ROW], (long long)t->n[HEAD]);
  return STROBE_OK;
}

static int check_part(struct part *t, bool written, struct error *err) {
  if (is_empty(t)) return STROBE_OK;
  if (!t->data)
    return fail(err, STROBE_INVALID, "%s.data NULL: must point to %s %lld x %s %lld x %s %lld x %s %lld elements of %s",
                t->name, t->axis_name[BATCH], (long long)t->n[BATCH], t->axis_name[ROW], (long long)t->n[ROW],
                t->axis_name[HEAD], (long long)t->n[HEAD], t->width_name, (long long)t->width, t->type);
  if ((uintptr_t)t->data % (unsigned)t->bytes)
    return fail(err, STROBE_INVALID, "%s.data %p: must be a multiple of %d, the size of %s", t->name, t->data, t->bytes,
                t->type);
  int status = check_strides(t, err);
  if (!status) status = part_range(t, err);
  if (!status && written) status = check_disjoint(t, err);
  return status;
}

// ---- aliases ----

// True if both parts step by the same number of bytes from row to row and from batch to batch in multiples of it, and
// the columns that they use of such a row have no byte in common.
static bool share_rows(const struct part *a, const struct part *b) {
  const int64_t period = a->stride[ROW] * a->bytes;
  if (a->n[ROW] < 2 || b->n[ROW] < 2 || b->stride[ROW] * b->bytes != period) return false;
  if ((a->n[BATCH] > 1 && a->stride[BATCH] * a->bytes % period) ||
      (b->n[BATCH] > 1 && b->stride[BATCH] * b->bytes % period))
    return false;
  const int64_t width_a = ((a->n[HEAD] - 1) * a->stride[HEAD] + a->width) * a->bytes;
  const int64_t width_b = ((b->n[HEAD] - 1) * b->stride[HEAD] + b->width) * b->bytes;
  int64_t shift = (int64_t)(b->first % (uintptr_t)period) - (int64_t)(a->first % (uintptr_t)period);
  if (shift < 0) shift += period;
  return shift >= width_a && width_b <= period - shift;
}

static int check_alias(const struct part *written, const struct part *other, struct error *err) {
  if (written->first >= other->end || other->first >= written->end || share_rows(written, other)) return STROBE_OK;
  return fail(err, STROBE_INVALID, "%s overlaps %s: bytes %p to %p and %p to %p; %s must be memory of its own",
              written->name, other->name, (void *)written->first, (void *)written->end, (void *)other->first,
              (void *)other->end, written->name);
}

static int check_aliases(const struct part *parts, struct error *err) {
  for (int w = O; w < PARTS; w++)
    for (int other = 0; other < w; other++) {
      if (parts[w].first == parts[w].end || parts[other].first == parts[other].end) continue;
      int status = check_alias(&parts[w], &parts[other], err);
      if (status) return status;
    }
  return STROBE_OK;
}

// ---- the whole ----

static struct part lse_part(const struct strobe_plan *p, const struct strobe_io *io) {
  const struct problem *s = &p->problem;
  return (struct part){.name = "lse",
                       .width_name = "q_len",
                       .type = "f32",
                       .axis_name = {"batch", "rows", "heads"},
                       .data = io->lse,
                       .n = {s->batch, 1, s->heads},
                       .stride = {s->heads * s->q_len, 0, s->q_len},
                       .width = s->q_len,
                       .bytes = sizeof(float)};
}

static int check_workspace(const struct strobe_plan *p, const struct strobe_io *io, struct part *w, struct error *err) {
  *w = (struct part){.name = "workspace", .first = (uintptr_t)io->workspace};
  w->end = w->first;
  if (!io->workspace) return STROBE_OK;
  if (io->workspace_bytes && io->workspace_bytes < p->workspace_bytes)
    return fail(err, STROBE_INVALID, "workspace_bytes %zu: must be at least %zu, strobe_workspace_bytes of this plan",
                io->workspace_bytes, p->workspace_bytes);
  if (w->first % 64)
    return fail(err, STROBE_INVALID, "workspace %p: must be a multiple of 64 (%zu bytes, or NULL)", io->workspace,
                p->workspace_bytes);
  if (__builtin_add_overflow(w->first, p->workspace_bytes, &w->end))
    return fail(err, STROBE_INVALID, "workspace %p: must have %zu bytes after it", io->workspace, p->workspace_bytes);
  return STROBE_OK;
}

static int64_t length_of(const struct strobe_io *io, int64_t b) {
  return io->kv_lens_bytes == 8 ? ((const int64_t *)io->kv_lens)[b] : ((const int32_t *)io->kv_lens)[b];
}

static int check_kv_lens(const struct strobe_plan *p, const struct strobe_io *io, struct part *l, struct error *err) {
  const struct problem *s = &p->problem;
  *l = (struct part){.name = "kv_lens", .first = (uintptr_t)io->kv_lens, .end = (uintptr_t)io->kv_lens};
  if (!io->kv_lens) return STROBE_OK;
  if (io->kv_lens_bytes != 4 && io->kv_lens_bytes != 8)
    return fail(err, STROBE_INVALID, "kv_lens_bytes %d: must be 4 (int32_t) or 8 (int64_t)", io->kv_lens_bytes);
  if (l->first % (unsigned)io->kv_lens_bytes)
    return fail(err, STROBE_INVALID, "kv_lens %p: must be a multiple of %d, kv_lens_bytes", io->kv_lens,
                io->kv_lens_bytes);
  if (p->gpu)
    return fail(err, STROBE_UNSUPPORTED, "kv_lens on %s: must be NULL in this version; the CPU targets take it",
                p->instance.target->name);
  l->end += (uintptr_t)(s->batch * io->kv_lens_bytes);
  for (int64_t b = 0; b < s->batch; b++) {
    const int64_t n = length_of(io, b);
    if (n < 0 || n > s->kv_len)
      return fail(err, STROBE_INVALID, "kv_lens[%lld] %lld: must be 0 to kv_len, %lld", (long long)b, (long long)n,
                  (long long)s->kv_len);
  }
  return STROBE_OK;
}

int io_check(const struct strobe_plan *p, const struct strobe_io *io, struct strobe_args *args, struct error *err) {
  const struct problem *s = &p->problem;
  struct part parts[PARTS] = {[Q] = tensor_part("q", &io->q, s, true, s->spec.head_dim, s->spec.q),
                              [K] = tensor_part("k", &io->k, s, false, s->spec.head_dim, s->spec.kv),
                              [V] = tensor_part("v", &io->v, s, false, s->spec.head_dim_v, s->spec.kv),
                              [O] = tensor_part("o", &io->o, s, true, s->spec.head_dim_v, s->spec.o),
                              [LSE] = lse_part(p, io)};
  int status = STROBE_OK;
  for (int i = Q; i <= LSE && !status; i++)
    if (i != KV_LENS && (i != LSE || io->lse)) status = check_part(&parts[i], i >= O, err);
  if (!status) status = check_kv_lens(p, io, &parts[KV_LENS], err);
  if (!status) status = check_workspace(p, io, &parts[WORKSPACE], err);
  if (!status) status = check_aliases(parts, err);
  if (status) return status;
  struct strobe_tensor *const tensor[] = {[Q] = &args->q, [K] = &args->k, [V] = &args->v, [O] = &args->o};
  const struct strobe_array *const array[] = {[Q] = &io->q, [K] = &io->k, [V] = &io->v, [O] = &io->o};
  for (int i = Q; i <= O; i++)
    if (i != KV_LENS)
      *tensor[i] =
          (struct strobe_tensor){array[i]->data, parts[i].stride[BATCH], parts[i].stride[HEAD], parts[i].stride[ROW]};
  args->kv_lens = io->kv_lens;
  args->kv_lens_bytes = (unsigned)io->kv_lens_bytes;
  args->lse = io->lse;
  args->lse_batch_stride = s->heads * s->q_len;
  args->lse_head_stride = s->q_len;
  return STROBE_OK;
}
