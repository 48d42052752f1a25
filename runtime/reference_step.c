#include "reference_step.h"

enum { ROWS = 16 }; // as many as the oracle converts to double at a time

static int64_t blocks(const struct strobe_args *args) { return (args->q_len + ROWS - 1) / ROWS; }

int64_t reference_step_items(const struct strobe_args *args) { return args->batch * args->heads * blocks(args); }

static void store_row(const struct spec *s, const struct strobe_args *a, int64_t b, int64_t h, int64_t row,
                      const double *o, double lse) {
  const int64_t at = b * a->o.batch_stride + h * a->o.head_stride + row * a->o.row_stride;
  for (int x = 0; x < s->head_dim_v; x++) dtype_store(s->o, a->o.data, at + x, o[x]);
  if (a->lse) a->lse[b * a->lse_batch_stride + h * a->lse_head_stride + row] = (float)lse;
}

static int run_item(const struct spec *s, const struct strobe_args *args, int64_t item, double *o, double *memory) {
  const int64_t block = item % blocks(args), head = item / blocks(args);
  const int64_t b = head / args->heads, h = head % args->heads, first = block * ROWS;
  int64_t index[ROWS];
  double lse[ROWS];
  const struct reference_rows rows = {
      .index = index, .count = args->q_len - first < ROWS ? args->q_len - first : ROWS, .memory = memory};
  for (int r = 0; r < rows.count; r++) index[r] = first + r;
  int status = reference_some(s, args, b, h, &rows, &(struct reference_out){.o = o, .lse = lse}, NULL);
  for (int r = 0; r < rows.count && !status; r++) store_row(s, args, b, h, first + r, o + r * s->head_dim_v, lse[r]);
  return status;
}

int64_t reference_step_bytes(const struct spec *s, const struct strobe_args *args) {
  const int64_t rows = reference_bytes(s, args->kv_len), o = ROWS * (int64_t)s->head_dim_v * (int64_t)sizeof(double);
  return rows < 0 || rows > INT64_MAX - o ? -1 : rows + o;
}

int reference_step_run(const struct spec *s, const struct strobe_args *args, int64_t first, int64_t last,
                       void *scratch) {
  double *const o = scratch, *const memory = o + ROWS * s->head_dim_v;
  int status = STROBE_OK;
  for (int64_t item = first; item < last && !status; item++) status = run_item(s, args, item, o, memory);
  return status;
}
