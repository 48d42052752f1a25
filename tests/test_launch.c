// The host side of a launch (runtime/launch.h) against a driver that writes down what it is called with.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "../runtime/kernel_abi.h"
#include "../runtime/launch_params.h"

#include "../runtime/launch.h"

#include <cmocka.h>

static const struct strobe_launch kernel = {.abi = STROBE_LAUNCH_ABI,
                                            .name = "a_kernel",
                                            .head_dim = 128,
                                            .map_type = 9,
                                            .element_bytes = 2,
                                            .block_m = 128,
                                            .block_n = 176,
                                            .o_rows = 16,
                                            .o_columns = 64,
                                            .threads = 384,
                                            .shared_bytes = 200000,
                                            .persistent = 1,
                                            .tickets = 1,
                                            .causal = 1,
                                            .l2_section = 16 << 20};

static struct {
  struct {
    void *data;
    uint64_t size[5], stride[4];
    uint32_t box[5];
    int type;
  } map[8];
  int maps, launches, map_error_at, launch_error;
  unsigned grid, threads, shared;
  void *function, *stream;
  struct strobe_params params;
  struct strobe_tensor_map passed[4];
} seen;

static int encode(struct strobe_tensor_map *map, int type, unsigned rank, void *data, const uint64_t *sizes,
                  const uint64_t *strides, const uint32_t *box, const uint32_t *ones, int interleave, int swizzle,
                  int promotion, int fill) {
  assert_int_equal((uintptr_t)map % 64, 0);
  assert_int_equal(rank, 5);
  assert_int_equal(interleave, 0);
  assert_int_equal(swizzle, 3);
  assert_int_equal(fill, 0);
  assert_in_range(promotion, 1, 3);
  for (int i = 0; i < 5; i++) assert_int_equal(ones[i], 1);
  const int n = seen.maps++;
  seen.map[n].data = data;
  seen.map[n].type = type;
  memcpy(seen.map[n].size, sizes, sizeof seen.map[n].size);
  memcpy(seen.map[n].stride, strides, sizeof seen.map[n].stride);
  memcpy(seen.map[n].box, box, sizeof seen.map[n].box);
  memset(map, 0, sizeof *map);
  map->opaque[0] = (unsigned long long)n + 1;
  return seen.maps == seen.map_error_at ? 701 : 0;
}

static int launch(void *function, unsigned x, unsigned y, unsigned z, unsigned bx, unsigned by, unsigned bz,
                  unsigned shared, void *stream, void **params, void **extra) {
  assert_int_equal(y * z * by * bz, 1);
  assert_null(extra);
  seen.launches++;
  seen.grid = x, seen.threads = bx, seen.shared = shared, seen.function = function, seen.stream = stream;
  for (int i = 0; i < 4; i++) memcpy(&seen.passed[i], params[i], sizeof seen.passed[i]);
  memcpy(&seen.params, params[4], sizeof seen.params);
  return seen.launch_error;
}
static const struct strobe_driver driver = {encode, launch};

static void *at(uintptr_t address) { return (void *)address; }

// (b, n, h, d) or (b, h, n, d), packed, at made-up addresses.
static struct strobe_tensor tensor(uintptr_t address, long long rows, long long heads, int bhnd) {
  const long long d = kernel.head_dim;
  struct strobe_tensor t = {at(address), rows * heads * d, d, heads * d};
  if (bhnd) t.head_stride = rows * d, t.row_stride = d;
  return t;
}

static struct strobe_args problem(int bhnd) {
  struct strobe_args a = {.abi = STROBE_ABI,
                          .size = sizeof a,
                          .batch = 3,
                          .heads = 8,
                          .heads_kv = 2,
                          .q_len = 300,
                          .kv_len = 1000,
                          .diagonal = 700,
                          .scale = 0.5f,
                          .lse = at(0x50000),
                          .lse_batch_stride = 2400,
                          .lse_head_stride = 300,
                          .workspace = at(0x60000)};
  a.q = tensor(0x10000, a.q_len, a.heads, bhnd);
  a.k = tensor(0x20000, a.kv_len, a.heads_kv, bhnd);
  a.v = tensor(0x30000, a.kv_len, a.heads_kv, bhnd);
  a.o = tensor(0x40000, a.q_len, a.heads, bhnd);
  return a;
}

static int go(const struct strobe_launch *l, const struct strobe_args *a, char *text, size_t size) {
  const int map_error = seen.map_error_at, launch_error = seen.launch_error;
  memset(&seen, 0, sizeof seen);
  seen.map_error_at = map_error, seen.launch_error = launch_error;
  return strobe_launch(l, &driver, at(0x70), 132, a, at(0x80), (struct strobe_message){text, size});
}

static void check_map(int n, const struct strobe_tensor *t, const long long size[5], int box_rows, int box_panels) {
  const uint64_t stride[4] = {2 * (uint64_t)t->row_stride, 128, 2 * (uint64_t)t->head_stride,
                              2 * (uint64_t)t->batch_stride};
  assert_ptr_equal(seen.map[n].data, t->data);
  assert_int_equal(seen.map[n].type, 9);
  for (int i = 0; i < 5; i++) assert_int_equal(seen.map[n].size[i], size[i]);
  for (int i = 0; i < 4; i++) assert_int_equal(seen.map[n].stride[i], stride[i]);
  const uint32_t box[5] = {64, (uint32_t)box_rows, (uint32_t)box_panels, 1, 1};
  assert_memory_equal(seen.map[n].box, box, sizeof box);
}

static void maps_and_params(void **state) {
  (void)state;
  for (int bhnd = 0; bhnd < 2; bhnd++) {
    const struct strobe_args a = problem(bhnd);
    const long long q[5] = {64, 300, 2, 8, 3}, kv[5] = {64, 1000, 2, 2, 3};
    assert_int_equal(go(&kernel, &a, NULL, 0), STROBE_LAUNCH_OK);
    assert_int_equal(seen.maps, 4);
    check_map(0, &a.q, q, 64, 2);
    check_map(1, &a.k, kv, 176, 2);
    check_map(2, &a.v, kv, 176, 2);
    check_map(3, &a.o, q, 16, 1);
    for (unsigned i = 0; i < 4; i++) assert_int_equal(seen.passed[i].opaque[0], i + 1);
    const struct strobe_params *p = &seen.params;
    assert_ptr_equal(p->o, a.o.data);
    assert_int_equal(p->o_batch_stride, a.o.batch_stride);
    assert_int_equal(p->o_head_stride, a.o.head_stride);
    assert_int_equal(p->o_row_stride, a.o.row_stride);
    assert_ptr_equal(p->lse, a.lse);
    assert_int_equal(p->lse_batch_stride, 2400);
    assert_int_equal(p->lse_head_stride, 300);
    assert_ptr_equal(p->ticket, a.workspace);
    assert_float_equal(p->scale_log2, 0.72134752, 1e-7);
    assert_int_equal(p->heads, 8);
    assert_int_equal(p->group, 4);
    assert_int_equal(p->q_len, 300);
    assert_int_equal(p->kv_len, 1000);
    assert_int_equal(p->diagonal, 700);
    assert_int_equal(p->m_blocks, 3);
    assert_int_equal(p->all_heads, 24);
    assert_int_equal(p->tiles, 72);
    assert_int_equal(p->section, 24); // 512,000 bytes of K and V: 32 KV heads fit 16 MiB, more than there are
    assert_int_equal(seen.grid, 72);
    assert_int_equal(seen.threads, 384);
    assert_int_equal(seen.shared, 200000);
    assert_ptr_equal(seen.function, at(0x70));
    assert_ptr_equal(seen.stream, at(0x80));
  }
}

static void grids(void **state) {
  (void)state;
  struct strobe_launch l = kernel;
  struct strobe_args a = problem(0);
  a.batch = 30;
  assert_int_equal(go(&l, &a, NULL, 0), 0);
  assert_int_equal(seen.params.tiles, 720);
  assert_int_equal(seen.grid, 132);
  l.persistent = 0;
  assert_int_equal(go(&l, &a, NULL, 0), 0);
  assert_int_equal(seen.grid, 720);
  l.l2_section = 1 << 20; // K and V of two KV heads
  assert_int_equal(go(&l, &a, NULL, 0), 0);
  assert_int_equal(seen.params.section, 8);
  l.l2_section = 1;
  assert_int_equal(go(&l, &a, NULL, 0), 0);
  assert_int_equal(seen.params.section, 4); // at least the heads of one KV head
  a.diagonal = -5000000000;
  assert_int_equal(go(&l, &a, NULL, 0), 0);
  assert_int_equal(seen.params.diagonal, -INT_MAX / 2);
  a.scale = 0;
  assert_int_equal(go(&l, &a, NULL, 0), 0);
  assert_true(seen.params.scale_log2 > 0);
}

// Strides of an axis of one place are never used, so they may be anything.
static void single_places(void **state) {
  (void)state;
  struct strobe_args a = problem(0);
  a.batch = a.heads = a.heads_kv = a.q_len = a.kv_len = 1;
  struct strobe_tensor *const t[] = {&a.q, &a.k, &a.v, &a.o};
  for (int i = 0; i < 4; i++) t[i]->batch_stride = -3, t[i]->head_stride = 1, t[i]->row_stride = 1ll << 60;
  assert_int_equal(go(&kernel, &a, NULL, 0), 0);
  for (int i = 0; i < 4; i++)
    for (int s = 0; s < 4; s++) {
      assert_int_equal(seen.map[i].stride[s] % 16, 0);
      assert_true(seen.map[i].stride[s] < 1ull << 40);
    }
}

static void nothing_to_do(void **state) {
  (void)state;
  for (int which = 0; which < 3; which++) {
    struct strobe_args a = problem(0);
    *(which == 0 ? &a.batch : which == 1 ? &a.heads : &a.q_len) = 0;
    if (which == 1) a.heads_kv = 0;
    a.q.data = a.k.data = a.o.data = a.workspace = NULL;
    assert_int_equal(go(&kernel, &a, NULL, 0), 0);
    assert_int_equal(seen.maps + seen.launches, 0);
  }
}

// No key: nothing of k and v is looked at; their maps are one row of q.
static void no_keys(void **state) {
  (void)state;
  struct strobe_args a = problem(0);
  a.kv_len = 0;
  a.k = a.v = (struct strobe_tensor){NULL, 1, 1, 1};
  assert_int_equal(go(&kernel, &a, NULL, 0), 0);
  assert_int_equal(seen.launches, 1);
  assert_int_equal(seen.params.kv_len, 0);
  assert_int_equal(seen.params.section, 24);
  for (int n = 1; n < 3; n++) {
    assert_ptr_equal(seen.map[n].data, a.q.data);
    const uint64_t size[5] = {64, 1, 2, 1, 1};
    assert_memory_equal(seen.map[n].size, size, sizeof size);
    assert_int_equal(seen.map[n].box[1], 176);
  }
}

static void refused(const struct strobe_args *a, const char *says, int status) {
  char text[400] = "";
  const int got = go(&kernel, a, text, sizeof text);
  if (got != status || !strstr(text, says)) fail_msg("status %d \"%s\", not %d \"%s\"", got, text, status, says);
  assert_int_equal(seen.launches, 0);
  assert_int_equal(go(&kernel, a, NULL, 0), status); // no place for a sentence
}

static void refusals_of_tensors(void **state) {
  (void)state;
  static const char *const name[] = {"q", "k", "v", "o"};
  for (int i = 0; i < 4; i++)
    for (int what = 0; what < 9; what++) {
      struct strobe_args a = problem(0);
      struct strobe_tensor *t = i == 0 ? &a.q : i == 1 ? &a.k : i == 2 ? &a.v : &a.o;
      const long long row = t->row_stride;
      char says[64];
      const char *rest = NULL;
      switch (what) {
      case 0: t->data = NULL, rest = ".data is NULL"; break;
      case 1: t->data = (char *)t->data + 8, rest = ".data"; break;
      case 2: t->row_stride = row + 1, rest = ".row_stride"; break;
      case 3: t->row_stride = row + 4, rest = ".row_stride"; break;
      case 4: t->head_stride = 131, rest = ".head_stride 131"; break;
      case 5: t->batch_stride = -8, rest = ".batch_stride -8"; break;
      case 6: t->batch_stride = 1ll << 39, rest = ".batch_stride 549755813888"; break;
      case 7: t->head_stride = 0x7fffffffffffffff, rest = ".head_stride 9223372036854775807"; break;
      case 8:
        if (i < 3) continue; // only what is written may not overlap
        t->row_stride = 0, rest = ".row_stride 0";
        break;
      }
      snprintf(says, sizeof says, "%s%s", name[i], rest);
      refused(&a, says, STROBE_LAUNCH_INVALID);
    }
  struct strobe_args a = problem(0);
  a.k.head_stride = 131;
  refused(&a, "a multiple of 8 elements (16 bytes); 128 is the nearest", STROBE_LAUNCH_INVALID);
  a.k.head_stride = 132;
  refused(&a, "136 is the nearest", STROBE_LAUNCH_INVALID);
  a.k.head_stride = 1ll << 50;
  refused(&a, "549755813880 is the nearest", STROBE_LAUNCH_INVALID);
  a = problem(0);
  a.o.row_stride = 0;
  refused(&a, "o.row_stride 0: must be 128 or more", STROBE_LAUNCH_INVALID);
}

static void refusals(void **state) {
  (void)state;
  struct strobe_args a = problem(0);
#define REFUSED(change, says, status) (a = problem(0), change, refused(&a, says, status))
  REFUSED(a.abi = 1, "args.abi 1", STROBE_LAUNCH_INVALID);
  REFUSED(a.size = 8, "size 8", STROBE_LAUNCH_INVALID);
  REFUSED(a.batch = -1, "batch -1: must be 0 to 1073741823; 0 is the nearest", STROBE_LAUNCH_INVALID);
  REFUSED(a.q_len = 1ll << 40, "q_len 1099511627776: must be 0 to 1073741823", STROBE_LAUNCH_INVALID);
  REFUSED(a.kv_len = -7, "kv_len -7", STROBE_LAUNCH_INVALID);
  REFUSED(a.heads = 7, "heads_kv 2: must divide heads 7", STROBE_LAUNCH_INVALID);
  REFUSED(a.heads_kv = 0, "heads_kv 0: must divide", STROBE_LAUNCH_INVALID);
  REFUSED(a.batch = 100000000, "44739242 is the largest batch that fits", STROBE_LAUNCH_INVALID);
  REFUSED(a.batch = a.heads = 1 << 29, "0 is the largest batch", STROBE_LAUNCH_INVALID);
  REFUSED(a.scale = -1, "scale -1", STROBE_LAUNCH_UNSUPPORTED);
  REFUSED(a.scale = INFINITY, "scale inf", STROBE_LAUNCH_UNSUPPORTED);
  REFUSED(a.scale = NAN, "scale", STROBE_LAUNCH_UNSUPPORTED);
  REFUSED(a.workspace = NULL, "must be 64 bytes of device memory, 64-byte aligned", STROBE_LAUNCH_INVALID);
  REFUSED(a.workspace = at(0x60010), "workspace 0x60010", STROBE_LAUNCH_INVALID);
  REFUSED(a.kv_lens = &a, "kv_lens", STROBE_LAUNCH_UNSUPPORTED);
  REFUSED(a.lse = at(0x50002), "lse 0x50002", STROBE_LAUNCH_INVALID);
  struct strobe_launch l = kernel;
  l.tickets = 0;
  a = problem(0), a.workspace = NULL;
  assert_int_equal(go(&l, &a, NULL, 0), 0);
  a.lse = NULL;
  assert_int_equal(go(&l, &a, NULL, 0), 0);
  assert_null(seen.params.lse);
}

static void errors_of_the_driver(void **state) {
  (void)state;
  const struct strobe_args a = problem(0);
  for (int n = 1; n <= 4; n++) {
    seen.map_error_at = n;
    refused(&a, "cuTensorMapEncodeTiled failed with CUDA error 701 for a_kernel", STROBE_LAUNCH_CUDA);
  }
  seen.map_error_at = 0, seen.launch_error = 1;
  char text[400];
  assert_int_equal(go(&kernel, &a, text, sizeof text), STROBE_LAUNCH_CUDA);
  assert_string_equal(text, "cuLaunchKernel failed with CUDA error 1 for a_kernel");
  seen.launch_error = 2;
  assert_int_equal(go(&kernel, &a, NULL, 0), STROBE_LAUNCH_NO_MEMORY);
  seen.launch_error = 0;
  assert_int_equal(go(&kernel, &a, text, 5), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(maps_and_params), cmocka_unit_test(grids),
                                     cmocka_unit_test(single_places),   cmocka_unit_test(nothing_to_do),
                                     cmocka_unit_test(no_keys),         cmocka_unit_test(refusals_of_tensors),
                                     cmocka_unit_test(refusals),        cmocka_unit_test(errors_of_the_driver)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
