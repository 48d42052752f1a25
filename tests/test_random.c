// Random problems through the API: a plan as a caller would get it, work shared out in shuffled splits over several
// threads, the result against the oracle, and bit for bit against one thread and a config that may not change it.
// Runs for a few seconds from a fixed seed; a failure prints the seed of its problem. STROBE_TEST_SEED=N starts there,
// STROBE_TEST_SECONDS=N goes on longer.
#include "api.h" // before cmocka.h, which has a macro named fail
#include "guard.h"

#include "../runtime/cpu.h"

#include <stdio.h>
#include <time.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SECONDS = 3, LEAST = 4 };
#else
enum { SECONDS = 8, LEAST = 20 };
#endif

// ---- drawing ----

static uint64_t seed, drawn; // of the current problem; how often it was drawn from
static int64_t draw(int64_t n) { return (int64_t)(random_bits(seed, 200, drawn++) % (uint64_t)n); }
// 0 to about n: anything, tiny, or where tiles end.
static int64_t draw_size(int64_t n) {
  static const int64_t steps[] = {16, 32, 64, 128};
  const int64_t how = draw(4), step = steps[draw(4)];
  if (how < 2) return draw(how ? 4 : n + 1);
  const int64_t size = draw(n / step + 1) * step + draw(3) - 1; // at a tile's edge or beside it
  return size < 0 ? 0 : size;
}
#define PICK(table) table[draw((int64_t)(sizeof(table) / sizeof *(table)))]

// ---- a parallel-for that no kernel should be able to tell from any other ----

enum { MAX_SPLITS = 64, MAX_WORKERS = 4 };
struct shuffled {
  strobe_body *body;
  void *arg;
  int64_t first[MAX_SPLITS + 1];
  int order[MAX_SPLITS], splits;
  atomic_int next;
};
struct shuffled_worker {
  struct shuffled *work;
  int number;
};

static void *shuffled_run(void *argument) {
  struct shuffled_worker *w = argument;
  struct shuffled *s = w->work;
  for (int i; (i = atomic_fetch_add(&s->next, 1)) < s->splits;)
    s->body(s->arg, s->first[s->order[i]], s->first[s->order[i] + 1], w->number);
  return NULL;
}

// context: how many workers. Splits 0..n at random places (some pieces empty) and hands them out in random order.
static void shuffled_for(void *context, int64_t n, strobe_body *body, void *arg) {
  const int workers = *(int *)context;
  struct shuffled s = {.body = body, .arg = arg};
  pthread_t thread[MAX_WORKERS];
  struct shuffled_worker w[MAX_WORKERS];
  s.splits = 1 + (int)draw(n < MAX_SPLITS ? n : MAX_SPLITS);
  for (int i = 1; i < s.splits; i++) s.first[i] = draw(n + 1);
  s.first[s.splits] = n;
  for (int i = 1; i < s.splits; i++) // insertion sort
    for (int j = i; j > 0 && s.first[j] < s.first[j - 1]; j--) {
      const int64_t swap = s.first[j];
      s.first[j] = s.first[j - 1], s.first[j - 1] = swap;
    }
  for (int i = 0; i < s.splits; i++) {
    const int other = (int)draw(i + 1);
    s.order[i] = s.order[other], s.order[other] = i;
  }
  for (int i = 0; i < workers; i++) {
    w[i] = (struct shuffled_worker){&s, i};
    if (i && pthread_create(&thread[i], NULL, shuffled_run, &w[i])) abort();
  }
  shuffled_run(&w[0]);
  for (int i = 1; i < workers; i++) pthread_join(thread[i], NULL);
}

// ---- a random problem ----

struct random_case {
  char problem[160];
  const char *target; // NULL: the best
  char config[160];   // "": the heuristic
  int workers;
  float scale; // 0: the usual one
  int64_t lens[2];
  bool unequal; // lens are the sequences' lengths
  enum layout layout;
  int64_t pad;
  enum guard_side side;
  const struct input_kind *kind;
};

static const char *const dtypes[] = {
    "f32", "bf16", "f16", "f32", "bf16", "bf16:o=f32", "f16:o=f32", "q=f32,kv=bf16,o=f32", "q=bf16,kv=f16"};
static const char *const masks[] = {"full", "causal", "causal", "causal_top_left"};
static const int groups[] = {1, 1, 2, 3, 4, 8};
static const int head_dims[] = {8, 16, 32, 40, 64, 64, 80, 96, 128};
static const float scales[] = {0, 0, 0, 0.02f, -0.3f, 1.0f};
static const int64_t pads[] = {0, 0, 1, 7, 16};
// What to change, each with the values that are drawn; a config that is refused is drawn again.
static const char *const fields[] = {
    "block_m=8",   "block_m=16",    "block_m=32", "block_m=64", "block_n=32",    "block_n=64", "block_n=160",
    "stages=1",    "stages=2",      "unroll=8",   "exp=poly5",  "exp=poly3",     "exp=table2", "pack_k=0",
    "pack_v=0",    "tail_m=8",      "tail_m=16",  "tail_m=32",  "tile_n=2",      "prefetch=7", "tile_n=8",
    "unroll=full", "kernel=decode", "split=32",   "block_h=2",  "algo=standard", "algo=fa1",   "diagonal=mask"};
// Fields that may not change a bit.
static const char *const neutral[] = {"prefetch=5", "unroll=full", "unroll=8", "pack_k=0", "pack_k=1", "prefetch=0"};
static const char *const tails[] = {"tail_m=0", "tail_m=8", "tail_m=16", "tail_m=32", "tail_m=48"};

static int64_t draw_head_dim(void) { return draw(3) ? PICK(head_dims) : 1 + draw(160); }

static void draw_case(struct random_case *c) {
  const int group = PICK(groups), heads_kv = 1 + (int)draw(group > 2 ? 1 : 3);
  const int64_t d = draw_head_dim(), dv = draw(4) ? d : draw_head_dim();
  // Decode's shapes, one in four.
  const int64_t q_len = draw(4) ? draw_size(140) : 1 + draw(3);
  const char *const dtype = PICK(dtypes), *const mask = PICK(masks);
  const int64_t kv_len = draw_size(300);
  for (int b = 0; b < 2; b++) c->lens[b] = draw(kv_len + 1);
  c->unequal = !draw(4);
  snprintf(c->problem, sizeof c->problem, "d%lldv%lld:%s:%s:b%dh%d/%dq%lldk%lld", (long long)d, (long long)dv, dtype,
           mask, 1 + (int)draw(2), group * heads_kv, heads_kv, (long long)q_len, (long long)kv_len);
  const struct target *t = &target_table[draw(target_count)];
  c->target = draw(2) && t->family == FAMILY_CPU && cpu_has_target(t) ? t->name : NULL;
  if (c->target && !t->vregs && draw(4)) c->target = NULL; // lane loops are slow: seldom
  c->config[0] = 0;
  c->workers = 1 + (int)draw(MAX_WORKERS);
  c->scale = PICK(scales);
  c->layout = (enum layout)draw(LAYOUT_COUNT);
  c->pad = PICK(pads);
  c->side = (enum guard_side)draw(2);
  c->kind = &input_kinds[draw(input_kind_count)];
}

static void describe(const struct random_case *c, const strobe_plan *p, struct buf *out) {
  buf_printf(out, "STROBE_TEST_SEED=%llu: %s target %s config %s", (unsigned long long)seed, c->problem,
             c->target ? c->target : "best", p->config.data);
  buf_printf(out, " (%s) workers %d layout %s pad %lld", p->backend, c->workers, layout_names[c->layout],
             (long long)c->pad);
  if (c->unequal) buf_printf(out, " kv_lens %lld,%lld", (long long)c->lens[0], (long long)c->lens[1]);
  buf_printf(out, " scale %.9g kind %s", (double)p->scale, c->kind->name);
}

// NULL: the config is refused for this problem.
static strobe_plan *plan_of(strobe_context *ctx, const struct random_case *c, const char *config) {
  const struct strobe_plan_options o = {.size = sizeof o, .target = c->target, .config = config, .scale = c->scale};
  strobe_plan *plan = NULL;
  const int status = strobe_plan_create(ctx, c->problem, &o, &plan);
  if (status && !*config)
    fail_msg("STROBE_TEST_SEED=%llu: %s: %s", (unsigned long long)seed, c->problem, strobe_error());
  if (status && status != STROBE_INVALID && status != STROBE_UNSUPPORTED)
    fail_msg("STROBE_TEST_SEED=%llu: %s, %s: %s", (unsigned long long)seed, c->problem, config, strobe_error());
  return plan;
}

// A config of up to three drawn fields that this problem takes, else the heuristic.
static strobe_plan *draw_plan(strobe_context *ctx, struct random_case *c) {
  for (int tries = 0; tries < 6; tries++) {
    size_t n = 0;
    c->config[0] = 0;
    for (int i = (int)draw(4); i > 0; i--)
      n += (size_t)snprintf(c->config + n, sizeof c->config - n, "%s%s", n ? "," : "", PICK(fields));
    strobe_plan *plan = plan_of(ctx, c, c->config);
    if (plan) return plan;
  }
  c->config[0] = 0;
  return plan_of(ctx, c, "");
}

// ---- running it ----

static strobe_context *context_of(int *workers, bool shuffled) {
  const struct strobe_context_options o = {.size = sizeof o,
                                           .n_workers = *workers,
                                           .parallel_for = shuffled ? shuffled_for : NULL,
                                           .parallel_context = shuffled ? workers : NULL};
  strobe_context *ctx = NULL;
  assert_ok(strobe_context_create(&o, &ctx));
  return ctx;
}

struct copy {
  void *o, *lse;
};
static struct copy execute(const strobe_plan *p, struct tensors *t) {
  struct strobe_io io = io_of(t);
  io.kv_lens = t->args.kv_lens, io.kv_lens_bytes = (int)t->args.kv_lens_bytes;
  tensors_poison(t);
  assert_ok(strobe_execute(p, &io));
  struct copy r = {malloc(t->bytes[TENSOR_O]), malloc(t->bytes[TENSOR_LSE])};
  assert_true(r.o && r.lse);
  memcpy(r.o, t->memory[TENSOR_O], t->bytes[TENSOR_O]);
  memcpy(r.lse, t->memory[TENSOR_LSE], t->bytes[TENSOR_LSE]);
  return r;
}

// The same problem with one worker of the context's own, and `config`, gives the same bits by the same backend, or is
// refused.
static bool same_bits(const struct random_case *c, const strobe_plan *p, const char *config, struct tensors *t,
                      const struct copy *want) {
  int one = 1;
  strobe_context *ctx = context_of(&one, false);
  strobe_plan *plan = plan_of(ctx, c, config);
  bool same = true;
  if (plan && strcmp(plan->backend, p->backend)) {
    if (STROBE_TCC) fail_msg("STROBE_TEST_SEED=%llu: %s: %s", (unsigned long long)seed, config, plan->why.data);
  } else if (plan) {
    struct copy got = execute(plan, t);
    same = !memcmp(want->o, got.o, t->bytes[TENSOR_O]) && !memcmp(want->lse, got.lse, t->bytes[TENSOR_LSE]);
    free(got.o), free(got.lse);
  }
  strobe_plan_destroy(plan);
  strobe_context_destroy(ctx);
  return same;
}

static void check_oracle(const struct random_case *c, const strobe_plan *p, const struct verify_case *v,
                         const struct tensors *t) {
  struct verify_result r;
  struct error err = {0};
  if (verify_tensors(v, &p->instance, t, 24, &r, &err)) fail_msg("%s", err.text);
  if (r.ok) return;
  struct buf text = {0};
  describe(c, p, &text);
  buf_str(&text, ": ");
  verify_print(&r, &text);
  fail_msg("%s", text.data);
}

// What was resolved, with one field changed, gives the same bits.
static void check_field(const struct random_case *c, const strobe_plan *p, const char *field, struct tensors *t,
                        const struct copy *want, const char *what) {
  char changed[300];
  const size_t name = strcspn(field, "=") + 1;
  const char *at = p->config.data;
  while (*at && strncmp(at, field, name)) at = strchr(at, ',') ? strchr(at, ',') + 1 : "";
  if (*at)
    snprintf(changed, sizeof changed, "%.*s%s%s", (int)(at - p->config.data), p->config.data, field,
             at + strcspn(at, ","));
  else // unset is a value of it
    snprintf(changed, sizeof changed, "%s,%s", p->config.data, field);
  if ((*at && strncmp(at, field, strlen(field))) || !strncmp(field, "tail_m", 6))
    if (!same_bits(c, p, changed, t, want)) fail_msg("%s: %s gives other bits", what, field);
}

static void run_case(void) {
  struct random_case c;
  drawn = 0;
  draw_case(&c);
  strobe_context *ctx = context_of(&c.workers, true);
  strobe_plan *plan = draw_plan(ctx, &c);
  const struct verify_case v = {.problem = plan->problem,
                                .kind = c.kind,
                                .seed = seed,
                                .layout = c.layout,
                                .pad = c.pad,
                                .scale = plan->scale,
                                .kv_lens = c.unequal ? c.lens : NULL};
  const struct tensor_allocator guard = guard_allocator(c.side);
  struct tensors t;
  struct error err = {0};
  struct buf text = {0};
  describe(&c, plan, &text);
  if (STROBE_TCC && !c.config[0] && plan->instance.target->vregs && strcmp(plan->backend, "code"))
    fail_msg("%s: no machine code: %s", text.data, plan->why.data);
  if (verify_create(&v, &guard, &t, &err)) fail_msg("%s: %s", text.data, err.text);
  for (int id = TENSOR_Q; id <= TENSOR_V; id++) assert_int_equal(guard_read_only(t.memory[id], t.bytes[id]), 0);
  struct copy got = execute(plan, &t);
  check_oracle(&c, plan, &v, &t);
  if (!same_bits(&c, plan, plan->config.data, &t, &got)) fail_msg("%s: one thread gives other bits", text.data);
  if (plan->instance.target) {
    check_field(&c, plan, PICK(neutral), &t, &got, text.data);
    if (strstr(plan->config.data, "pack_v=")) check_field(&c, plan, PICK(tails), &t, &got, text.data); // prefill
  }
  free(got.o), free(got.lse);
  buf_free(&text);
  tensors_free(&t);
  strobe_plan_destroy(plan);
  strobe_context_destroy(ctx);
}

// cmocka reports a signal; this says where.
static int tell_seed(void **state) {
  (void)state;
  if (seed) print_message("STROBE_TEST_SEED=%llu\n", (unsigned long long)seed);
  return 0;
}

static void random_problems(void **state) {
  (void)state;
  const char *given = getenv("STROBE_TEST_SEED");
  const uint64_t first = given ? strtoull(given, NULL, 10) : 1;
  given = getenv("STROBE_TEST_SECONDS");
  const long seconds = given ? strtol(given, NULL, 10) : SECONDS;
  struct timespec start, now;
  clock_gettime(CLOCK_MONOTONIC, &start);
  uint64_t n = 0;
  do {
    seed = first + n++;
    run_case();
    clock_gettime(CLOCK_MONOTONIC, &now);
  } while (n < LEAST || now.tv_sec - start.tv_sec < seconds);
  seed = 0;
  print_message("%llu problems from seed %llu\n", (unsigned long long)n, (unsigned long long)first);
}

int main(void) {
  setenv("STROBE_DB", "/nonexistent/tunings.txt", 0); // configs are those of the heuristic
  const struct CMUnitTest tests[] = {cmocka_unit_test_teardown(random_problems, tell_seed)};
  return cmocka_run_group_tests_name("random", tests, NULL, NULL);
}
