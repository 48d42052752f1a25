// The C API, misused: what it refuses, and that the message names the field, its value and what is allowed.
#include "api.h"

#include <math.h>
#include <stdio.h>

static strobe_context *ctx;

static int make_context(void **state) {
  (void)state;
  return strobe_context_create(&pool_options, &ctx);
}
static int free_context(void **state) {
  (void)state;
  strobe_context_destroy(ctx);
  return 0;
}

// The call failed with this status and a message that holds every one of the '|'-separated fragments.
static void refused(int got, int want, const char *fragments) {
  char list[256];
  snprintf(list, sizeof list, "%s", fragments);
  if (got != want) fail_msg("status %d, want %d (%s): %s", got, want, fragments, strobe_error());
  for (char *rest = NULL, *f = strtok_r(list, "|", &rest); f; f = strtok_r(NULL, "|", &rest))
    if (!strstr(strobe_error(), f)) fail_msg("\"%s\" is not in \"%s\"", f, strobe_error());
}

// ---- arguments and options ----

static void test_null_arguments(void **state) {
  (void)state;
  strobe_plan *plan = plan_with(ctx, "d32:f32:q1", "reference"), *none = (strobe_plan *)&none;
  struct strobe_io io = {.size = sizeof io};
  struct strobe_plan_info info = {.size = sizeof info};
  refused(strobe_context_create(NULL, NULL), STROBE_INVALID, "out NULL");
  refused(strobe_plan_create(NULL, "d32:f32", NULL, &none), STROBE_INVALID, "ctx NULL");
  assert_null(none);
  refused(strobe_plan_create(ctx, NULL, NULL, &none), STROBE_INVALID, "problem NULL");
  refused(strobe_plan_create(ctx, "d32:f32", NULL, NULL), STROBE_INVALID, "out NULL");
  refused(strobe_execute(NULL, &io), STROBE_INVALID, "plan NULL");
  refused(strobe_execute(plan, NULL), STROBE_INVALID, "io NULL");
  refused(strobe_plan_describe(NULL, &info), STROBE_INVALID, "plan NULL");
  refused(strobe_plan_describe(plan, NULL), STROBE_INVALID, "info NULL");
  info.size = 8;
  refused(strobe_plan_describe(plan, &info), STROBE_INVALID, "plan_info.size 8");
  assert_int_equal(strobe_workspace_bytes(NULL), 0);
  strobe_plan_destroy(plan);
  strobe_plan_destroy(NULL);
  strobe_context_destroy(NULL);
  assert_string_equal(strobe_version(), STROBE_VERSION);
}

static void test_context_options(void **state) {
  (void)state;
  strobe_context *c = NULL;
  struct strobe_context_options o = {.size = sizeof o, .n_workers = -1};
  refused(strobe_context_create(&o, &c), STROBE_INVALID, "n_workers -1|4096");
  o.n_workers = 5000;
  refused(strobe_context_create(&o, &c), STROBE_INVALID, "n_workers 5000|4096");
  o.size = 3;
  refused(strobe_context_create(&o, &c), STROBE_INVALID, "context_options.size 3|sizeof");
  assert_null(c);
}

// A caller that was compiled against a later version: fine as long as it uses nothing that this version lacks.
static void test_larger_struct(void **state) {
  (void)state;
  struct {
    struct strobe_context_options known;
    int64_t later;
  } o = {{.size = sizeof o, .n_workers = 2}, 0};
  strobe_context *c = NULL;
  assert_ok(strobe_context_create(&o.known, &c));
  assert_int_equal(c->parallel.n_workers, 2);
  strobe_context_destroy(c);
  o.later = 1;
  refused(strobe_context_create(&o.known, &c), STROBE_INVALID, "context_options.size|is set");
}

static void test_plan_options(void **state) {
  (void)state;
  static const struct {
    struct strobe_plan_options o;
    const char *problem, *message;
    int status;
  } cases[] = {
      {{.size = 1}, "d32:f32", "plan_options.size 1", STROBE_INVALID},
      {{.backend = "quick"}, "d32:f32", "backend \"quick\"|\"code\"|\"reference\"", STROBE_INVALID},
      {{.target = "z80"}, "d32:f32", "target \"z80\"|c99", STROBE_INVALID},
      {{.scale = INFINITY}, "d32:f32", "scale inf|finite", STROBE_INVALID},
      {{.scale = NAN, .has_scale = 1}, "d32:f32", "scale|nan|finite", STROBE_INVALID},
      {{.has_scale = 2}, "d32:f32", "has_scale 2|0 or 1", STROBE_INVALID},
      {{.same_bits = 7}, "d32:f32", "same_bits 7|0 or 1", STROBE_INVALID},
      {{.config = "block_q=3"}, "d32:f32", "block_q", STROBE_INVALID},
      {{.backend = "builtin", .config = "block_n=64"},
       "d32:f32",
       "config \"block_n=64\"|builtin|fixed",
       STROBE_INVALID},
      {{.backend = "reference", .target = "c99"}, "d32:f32", "target \"c99\"|reference", STROBE_INVALID},
      {{.backend = "builtin"}, "d40:f32", "backend \"builtin\"|d40", STROBE_UNSUPPORTED},
      {{.backend = "code", .target = "c99"}, "d32:f32", "backend \"code\"|c99", STROBE_UNSUPPORTED},
      {{0}, "d0:f32", "0", STROBE_INVALID},
      {{.scale = -INFINITY, .has_scale = 1}, "d32:f32", "scale -inf|finite", STROBE_INVALID},
      {{0}, "d32:f32:h6/4", "6|4", STROBE_INVALID},
      {{0}, "d64:f32:b3000000000h3000000000q3000000000k1", "", STROBE_INVALID}, // products beyond 2^63
      {{0}, "d64:f32:b1h1q9223372036854775807k1", "", STROBE_INVALID},
      {{0}, "d64:f32:b1h1q1k9223372036854775807", "", STROBE_INVALID},
      {{0}, "d64:f32:b99999999999999999999", "", STROBE_INVALID},
      {{0}, "d32:f33", "f33", STROBE_INVALID},
      {{0}, "", "", STROBE_INVALID},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct strobe_plan_options o = cases[i].o;
    strobe_plan *plan = (strobe_plan *)&o;
    if (!o.size) o.size = sizeof o;
    refused(strobe_plan_create(ctx, cases[i].problem, &o, &plan), cases[i].status, cases[i].message);
    assert_null(plan);
    assert_true(strobe_error()[0]);
  }
}

// Each row spoils one 8-byte field of a good strobe_io.
static void test_execute_misuse(void **state) {
  (void)state;
  enum { SET, ADD };
#define FIELD(f) offsetof(struct strobe_io, f)
  static const struct {
    size_t field;
    int how;
    int64_t value;
    const char *message;
  } cases[] = {
      {FIELD(size), SET, 0, "io.size 0|sizeof"},
      {FIELD(size), SET, 16, "io.size 16|sizeof"},
      {FIELD(size), SET, INT64_MAX, "io.size|sizeof"},
      {FIELD(q.data), SET, 0, "q.data NULL|batch 2|q_len 40|heads 4|head_dim 32|f32"},
      {FIELD(k.data), SET, 0, "k.data NULL|kv_len 48|heads_kv 2"},
      {FIELD(v.data), SET, 0, "v.data NULL|kv_len 48"},
      {FIELD(o.data), SET, 0, "o.data NULL"},
      {FIELD(q.data), ADD, 2, "q.data|multiple of 4|f32"},
      {FIELD(o.data), ADD, 1, "o.data|multiple of 4|f32"},
      {FIELD(q.row_stride), SET, 31, "q.row_stride 31|head_dim, 32|q_len is 40"},
      {FIELD(k.head_stride), SET, 0, "k.head_stride 0|head_dim, 32|heads_kv is 2"},
      {FIELD(v.batch_stride), SET, -4096, "v.batch_stride -4096|batch is 2"},
      {FIELD(o.row_stride), SET, 64, "o.row_stride 64|overlap"},
      {FIELD(o.head_stride), SET, INT64_MAX / 2, "o strides|address space"},
      {FIELD(k.batch_stride), SET, INT64_MAX, "k strides|address space"},
      {FIELD(k.batch_stride), SET, INT64_MAX / 4, "k strides|address space"},
      {FIELD(workspace), SET, 32, "workspace|multiple of 64"},
      {FIELD(workspace), SET, -64, "workspace|bytes"},
      {FIELD(o.data), SET, -256, "o strides|address space"},
      {FIELD(q.row_stride), SET, INT64_MIN, "q.row_stride -9223372036854775808|head_dim, 32"},
  };
  strobe_plan *plan = plan_with(ctx, "d32:f32:b2h4/2q40k48", "builtin");
  struct tensors t = tensors_of(plan, LAYOUT_BNHD, 3);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct strobe_io io = io_of(&t);
    int64_t value;
    memcpy(&value, (char *)&io + cases[i].field, sizeof value);
    value = cases[i].value + (cases[i].how == ADD ? value : 0);
    memcpy((char *)&io + cases[i].field, &value, sizeof value);
    refused(strobe_execute(plan, &io), STROBE_INVALID, cases[i].message);
  }
  for (int64_t i = 0; i < 32; i++) assert_true(is_poison(DT_F32, t.args.o.data, i)); // nothing was written
  struct strobe_io good = io_of(&t);
  assert_ok(strobe_execute(plan, &good));
  check_result(plan, LAYOUT_BNHD, 3, &t);
  tensors_free(&t);
  strobe_plan_destroy(plan);
}

static void test_workspace_bytes(void **state) {
  (void)state;
  strobe_plan *plan = plan_with(ctx, "d32:f32:b2h4/2q40k48", "builtin");
  struct tensors t = tensors_of(plan, LAYOUT_BNHD, 3);
  struct strobe_io io = io_of(&t);
  const size_t bytes = strobe_workspace_bytes(plan);
  assert_true(bytes > 64);
  io.workspace = aligned_alloc(64, bytes);
  assert_non_null(io.workspace);
  io.workspace_bytes = bytes - 1;
  refused(strobe_execute(plan, &io), STROBE_INVALID, "workspace_bytes|must be at least");
  io.workspace_bytes = bytes;
  assert_ok(strobe_execute(plan, &io));
  io.workspace_bytes = 0;
  assert_ok(strobe_execute(plan, &io));
  check_result(plan, LAYOUT_BNHD, 3, &t);
  free(io.workspace);
  tensors_free(&t);
  strobe_plan_destroy(plan);
}

static void test_alias(void **state) {
  (void)state;
  strobe_plan *plan = plan_with(ctx, "d32:f32:b2h4q40k40", "reference");
  struct tensors t = tensors_of(plan, LAYOUT_BNHD, 0);
  const size_t bytes = t.bytes[TENSOR_O], last = bytes - sizeof(float);
  // All of q; the last element of k; the first of v. (The other end may meet another tensor, so the name is not
  // checked.)
  void *const places[] = {t.args.q.data, (char *)t.args.k.data + last, (char *)t.args.v.data - last};
  for (int i = 0; i < 3; i++) {
    struct strobe_io io = io_of(&t);
    io.o.data = places[i];
    refused(strobe_execute(plan, &io), STROBE_INVALID, i ? "o overlaps" : "o overlaps q");
  }
  struct strobe_io io = io_of(&t);
  io.lse = t.args.o.data;
  refused(strobe_execute(plan, &io), STROBE_INVALID, "lse overlaps o");
  io.lse = (float *)t.args.k.data + 1;
  refused(strobe_execute(plan, &io), STROBE_INVALID, "lse overlaps k");
  io = io_of(&t);
  io.k = io.v = io.q; // inputs may share
  assert_ok(strobe_execute(plan, &io));
  tensors_free(&t);
  strobe_plan_destroy(plan);

  plan = plan_with(ctx, "d32:f32:b2h4q40k40", "builtin");
  t = tensors_of(plan, LAYOUT_BNHD, 0);
  io = io_of(&t);
  assert_true(strobe_workspace_bytes(plan) > 0);
  io.workspace = (void *)(((uintptr_t)t.args.q.data + 63) / 64 * 64);
  refused(strobe_execute(plan, &io), STROBE_INVALID, "workspace overlaps q");
  io.workspace = aligned_alloc(64, (strobe_workspace_bytes(plan) + 63) / 64 * 64);
  assert_non_null(io.workspace);
  io.lse = io.workspace;
  refused(strobe_execute(plan, &io), STROBE_INVALID, "workspace overlaps lse");
  free(io.workspace);
  tensors_free(&t);
  strobe_plan_destroy(plan);
}

// One allocation (batch, seqlen, 4, heads, head_dim) holding q, k, v and o: their address ranges overlap, their bytes
// do not.
static void test_packed_qkvo(void **state) {
  (void)state;
  enum { B = 2, N = 20, H = 2, D = 32, PART = H * D, ROW = 4 * PART };
  strobe_plan *plan = plan_with(ctx, "d32:f32:causal:b2h2q20k20", NULL);
  struct tensors t = tensors_of(plan, LAYOUT_BNHD, 0);
  float *all = malloc(sizeof(float) * B * N * ROW),
        *part[4] = {t.args.q.data, t.args.k.data, t.args.v.data, t.args.o.data};
  assert_non_null(all);
  for (int i = 0; i < B * N; i++)
    for (int p = 0; p < 4; p++) memcpy(all + i * ROW + p * PART, part[p] + i * PART, sizeof(float) * PART);
  struct strobe_io io = {.size = sizeof io, .lse = t.args.lse};
  struct strobe_array *arrays[4] = {&io.q, &io.k, &io.v, &io.o};
  for (int p = 0; p < 4; p++) *arrays[p] = (struct strobe_array){all + p * PART, (int64_t)N * ROW, ROW, D};
  assert_ok(strobe_execute(plan, &io));
  for (int i = 0; i < B * N; i++) {
    memcpy(part[3] + i * PART, all + i * ROW + 3 * PART, sizeof(float) * PART);
    for (int p = 0; p < 3; p++) assert_memory_equal(all + i * ROW + p * PART, part[p] + i * PART, sizeof(float) * PART);
  }
  check_result(plan, LAYOUT_BNHD, 0, &t);
  io.o.data = all + 3 * PART - 1; // one element into v's columns
  refused(strobe_execute(plan, &io), STROBE_INVALID, "o overlaps v");
  io.o.data = all + 3 * PART + 1; // one element into the next row's q
  refused(strobe_execute(plan, &io), STROBE_INVALID, "o overlaps q");
  io.o = (struct strobe_array){all + 3 * PART, (int64_t)N * ROW - PART, ROW, D}; // its second batch in v's columns
  refused(strobe_execute(plan, &io), STROBE_INVALID, "o overlaps");
  io.o.batch_stride = (int64_t)N * ROW;
  io.v.batch_stride = (int64_t)N * ROW + PART; // the second batch of v in o's columns
  refused(strobe_execute(plan, &io), STROBE_INVALID, "o overlaps v");
  free(all);
  tensors_free(&t);
  strobe_plan_destroy(plan);
}

// ---- a parallel-for that does not keep its side ----

static void skips_one(void *context, int64_t n, strobe_body *body, void *arg) {
  (void)context;
  body(arg, 0, n - 1, 0);
}
static void runs_half_twice(void *context, int64_t n, strobe_body *body, void *arg) {
  (void)context;
  body(arg, 0, n / 2, 0);
  body(arg, 0, n - n / 2, 0);
}
static void strange_worker(void *context, int64_t n, strobe_body *body, void *arg) {
  (void)context;
  body(arg, 0, n, 2);
}
static void beyond_the_end(void *context, int64_t n, strobe_body *body, void *arg) {
  (void)context;
  body(arg, 0, n + 1, 0);
}

static void test_bad_parallel_for(void **state) {
  (void)state;
  static const struct {
    strobe_parallel_for *run;
    const char *message;
  } cases[] = {{skips_one, "parallel_for ran"},
               {runs_half_twice, "parallel_for ran|twice"},
               {strange_worker, "parallel_for passed a worker"},
               {beyond_the_end, "parallel_for ran"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const struct strobe_context_options o = {.size = sizeof o, .n_workers = 2, .parallel_for = cases[i].run};
    strobe_context *c;
    assert_ok(strobe_context_create(&o, &c));
    strobe_plan *plan = plan_with(c, "d32:f32:b1h3q40k8", "builtin");
    struct tensors t = tensors_of(plan, LAYOUT_BNHD, 0);
    struct strobe_io io = io_of(&t);
    refused(strobe_execute(plan, &io), STROBE_INVALID, cases[i].message);
    tensors_free(&t);
    strobe_plan_destroy(plan);
    strobe_context_destroy(c);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_null_arguments),
      cmocka_unit_test(test_context_options),
      cmocka_unit_test(test_larger_struct),
      cmocka_unit_test(test_plan_options),
      cmocka_unit_test(test_execute_misuse),
      cmocka_unit_test(test_workspace_bytes),
      cmocka_unit_test(test_alias),
      cmocka_unit_test(test_packed_qkvo),
      cmocka_unit_test(test_bad_parallel_for),
  };
  return cmocka_run_group_tests(tests, make_context, free_context);
}
