// --kv-lens: the lengths of the sequences of a batch, as a list or from a .npy file.
#include "cmd.h"
#include "scan.h"

#include "../runtime/npy.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

const char cmd_kv_lens_about[] =
    "keys of each sequence: a list, 100,7,512, or a .npy file of integers (default: kv_len)";

static int wrong_count(const char *text, int64_t count, int64_t batch, struct error *err) {
  return fail(err, STROBE_INVALID,
              "--kv-lens \"%.60s\" has %" PRId64 " lengths: must have %" PRId64 ", one for each of the batch", text,
              count, batch);
}

static int check_length(int64_t n, int64_t at, int64_t kv_len, struct error *err) {
  if (n >= 0 && n <= kv_len) return 0;
  return fail(err, STROBE_INVALID, "--kv-lens: length %" PRId64 " is %" PRId64 ": must be 0 to kv_len, %" PRId64, at, n,
              kv_len);
}

static int from_file(const char *path, const struct problem *p, int64_t *out, struct error *err) {
  static const unsigned types = 1u << NPY_I4 | 1u << NPY_I8;
  static const int64_t any[1] = {-1};
  struct npy a = {0};
  int status = npy_read(path, &a, err);
  if (!status) status = npy_expect(&a, path, types, 1, any, err);
  if (!status && a.shape[0] != p->batch) status = wrong_count(path, a.shape[0], p->batch, err);
  for (int64_t b = 0; b < p->batch && !status; b++) {
    out[b] = a.type == NPY_I4 ? ((const int32_t *)a.data)[b] : ((const int64_t *)a.data)[b];
    status = check_length(out[b], b, p->kv_len, err);
  }
  npy_free(&a);
  return status;
}

static int from_list(const char *text, const struct problem *p, int64_t *out, struct error *err) {
  struct slice rest = slice_of(text);
  int64_t count = 0, n;
  bool more = true;
  while (more) {
    struct slice item = slice_cut(&rest, ',', &more), digits = item;
    if (scan_number(&digits, INT64_MAX, &n) != SCAN_OK || digits.len)
      return fail(err, STROBE_INVALID, "--kv-lens: '%s' must be a length, as in --kv-lens 100,7,512, or a .npy file",
                  quote(item).text);
    int status = count < p->batch ? check_length(n, count, p->kv_len, err) : 0;
    if (status) return status;
    if (count < p->batch) out[count] = n;
    count++;
  }
  return count == p->batch ? 0 : wrong_count(text, count, p->batch, err);
}

int cmd_kv_lens(const char *text, const struct problem *p, int64_t **out, struct error *err) {
  *out = NULL;
  if (!text) return 0;
  int64_t *lens = malloc((size_t)(p->batch > 0 ? p->batch : 1) * sizeof *lens);
  if (!lens) return fail(err, STROBE_NO_MEMORY, "no memory for %" PRId64 " lengths", p->batch);
  const size_t len = strlen(text);
  const bool is_file = len > 4 && !strcmp(text + len - 4, ".npy");
  int status = is_file ? from_file(text, p, lens, err) : from_list(text, p, lens, err);
  if (status) {
    free(lens);
    return status;
  }
  *out = lens;
  return 0;
}
