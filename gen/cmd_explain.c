#include "cmd.h"
#include "cuda_kernel.h"
#include "traffic.h"
#include "tune_space.h"

#include "../runtime/cpu.h"
#include "../runtime/tuned.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

struct explain_options {
  const char *target, *set;
  bool json;
};

#define ROW(kind, field, ...) OPTION(kind, struct explain_options, field, __VA_ARGS__)
static const struct option_row rows[] = {
    ROW(OPT_TEXT, target, .name = "target", .letter = 't', .value = "T",
        .about = "any target, here or not (default: the best that this CPU can run)"),
    ROW(OPT_TEXT, set, .name = "set", .value = "CONFIG", .about = "fields of the config, as in block_n=128,stages=2"),
    ROW(OPT_FLAG, json, .name = "json", .about = "print the numbers as JSON"),
};

// A product of 16 x 32 and 32 x 16 bf16: Intel's figure for tdpbf16ps is one begun every 16 cycles.
enum { TILE_MULTIPLY_ADDS = 16 * 16 * 32, TILE_CYCLES = 16 };

// Everything that is explained, computed once; printed as text or as JSON.
struct explained {
  struct problem problem; // complete
  struct instance instance;
  struct config given; // as --set gave it, or the tuning database
  bool tuned;
  enum printer printer;
  struct kernel_stats stats;
  struct buf name, problem_text;
  size_t text_bytes;                // of what libtcc compiles
  double flops;                     // of the whole problem
  double fma_slots, tile_products;  // its multiply-adds by vectors, or by matrix tiles; 0: by the other
  double predicted, predicted_d128; // per cent of peak by the slot model, for this head_dim and for 128; 0: no model
  double least_bytes, cached_bytes, unfused_elements, unfused_bytes, fused_elements;
  double moved_bytes; // of kernel=prefill and tiles; 0: none
};

// ---- numbers ----

static bool is_cuda(const struct explained *e) { return e->instance.target->family == FAMILY_CUDA; }
static bool by_tiles(const struct explained *e) { return !is_cuda(e) && instance_by_tiles(&e->instance); }

static void count_traffic(struct explained *e) {
  const struct problem *p = &e->problem;
  const struct spec *s = &p->spec;
  const double heads = (double)p->batch * (double)p->heads, heads_kv = (double)p->batch * (double)p->heads_kv;
  const double n = (double)p->q_len, m = (double)p->kv_len, d = s->head_dim, dv = s->head_dim_v;
  const double q_bytes = heads * n * (d * dtype_table[s->q].bytes + dv * dtype_table[s->o].bytes);
  const double kv_row = (d + dv) * dtype_table[s->kv].bytes, pairs = e->flops / (2 * (d + dv));
  e->least_bytes = q_bytes + heads_kv * m * kv_row;
  const double tile = e->instance.config.v[CFG_BLOCK_M]; // of rows of a KV head (decode), or of a query head
  const bool decode = config_kernel(&e->instance.config) == KERNEL_DECODE;
  const bool copied = config_kernel(&e->instance.config) == KERNEL_TILES;
  const double row = copied ? (d + dv) * 2 * tiles_parts(s->kv) : kv_row;
  e->cached_bytes = decode ? heads_kv * ceil(heads * n / heads_kv / tile) * m * kv_row : pairs / tile * row;
  if (!is_cuda(e) && !decode) e->moved_bytes = traffic_bytes(p, &e->instance);
  e->fused_elements = heads * n * (d + dv) + heads_kv * m * (d + dv);
  e->unfused_elements = heads * 4 * n * m + heads * (n + m) * (d + dv);
  e->unfused_bytes = heads * 4 * n * m * 4 + q_bytes + heads * m * kv_row;
}

static int count_work(struct explained *e, struct error *err) {
  const struct target *t = e->instance.target;
  struct buf text = {0};
  e->printer = is_cuda(e) || !t->vregs ? PRINTER_SCALAR : PRINTER_CODE; // CUDA kernels have one printer, of their own
  struct render_options o = {.printer = e->printer, .for_tcc = true};
  struct error no_encoder = {0};
  int status = kernel_render(&e->instance, &o, &text, &e->stats, &no_encoder);
  if (status == STROBE_UNSUPPORTED &&
      e->printer == PRINTER_CODE) { // no encoder: operations are counted, bytes are not known
    text.len = 0;
    o = (struct render_options){.printer = e->printer = PRINTER_INTRIN};
    status = kernel_render(&e->instance, &o, &text, &e->stats, err);
  } else if (status) {
    fail(err, no_encoder.status, "%s", no_encoder.text);
  }
  e->text_bytes = text.len;
  buf_free(&text);
  if (status) return status;
  e->flops = problem_flops(&e->problem);
  const bool pairs = instance_pairs(&e->instance);
  if (by_tiles(e))
    e->tile_products = e->flops * tiles_products(&e->problem.spec) / (2.0 * TILE_MULTIPLY_ADDS);
  else if (!is_cuda(e))
    e->fma_slots = e->flops / (t->lanes * (pairs ? 4.0 : 2.0));
  count_traffic(e);
  return status;
}

// What the slot model says of this kernel, and of one for d128 with the same fields given: measured per cents of two
// head dims should be in the same proportion.
static void predict(struct explained *e) {
  const struct target *t = e->instance.target;
  struct problem other = e->problem;
  struct config c = e->given;
  if (t->family != FAMILY_CPU || !t->vregs) return; // lane loops: a compiler decides
  e->predicted = tune_percent(&e->problem.spec, t, &e->problem, &e->instance.config);
  other.spec.head_dim = other.spec.head_dim_v = 128;
  if (e->predicted > 0 && !config_resolve(&other.spec, t, &other, &c, NULL))
    e->predicted_d128 = tune_percent(&other.spec, t, &other, &c);
}

// The config that a plan for one worker would take from the tuning database.
static void take_tuned(struct explained *e, const struct target *t) {
  struct tune_key key;
  struct tune_record r;
  struct buf path = {0};
  struct config fields;
  tune_db_path(NULL, &path);
  tune_key_of(&e->problem, t, 1, &key);
  const bool found = !path.failed && path.data && *path.data && tune_db_lookup(path.data, &key, &r);
  buf_free(&path);
  if (found && tuned_fields(&r, &e->problem, t, &fields)) e->given = fields, e->tuned = true;
}

static int explain(const char *text, const struct explain_options *o, struct explained *e, struct error *err) {
  const struct target *t = NULL;
  int status = problem_parse(text, &e->problem, err);
  if (!status) status = problem_complete(&e->problem, err);
  if (!status) status = o->target ? cmd_target(o->target, &t, err) : cmd_target_here(NULL, &e->problem.spec, &t, err);
  config_clear(&e->given);
  if (!status && o->set) status = config_parse(o->set, &e->given, err);
  if (!status && !o->set) take_tuned(e, t);
  if (!status) status = cmd_instance(&e->problem, t, o->set, &e->instance, err);
  if (!status && e->tuned) {
    e->instance.config = e->given;
    status = config_resolve(&e->problem.spec, t, &e->problem, &e->instance.config, err);
  }
  if (!status) status = count_work(e, err);
  if (status) return status;
  predict(e);
  instance_name(&e->instance, &e->name);
  problem_print(&e->problem, &e->problem_text);
  return e->name.failed || e->problem_text.failed ? fail(err, STROBE_NO_MEMORY, "no memory for the explanation") : 0;
}

// "block_n=128" of one field, as config_print gives it, without the name.
static void field_value(const struct explained *e, int field, char *out, size_t size) {
  const struct config *c = &e->instance.config;
  const bool prefill = !is_cuda(e) && config_kernel(c) == KERNEL_PREFILL;
  if (field == CFG_ALGO && prefill) { // said by stages
    snprintf(out, size, "%s", algo_names[config_algo(c)]);
    return;
  }
  if (field == CFG_DIAGONAL && prefill && e->instance.spec.mask != MASK_FULL) {
    snprintf(out, size, "%s", c->v[field] == DIAGONAL_MASK ? "mask" : "skip");
    return;
  }
  struct buf all = {0};
  config_print(&e->instance.config, e->instance.target, &all);
  const char *name = config_fields[field].name, *at = all.failed ? NULL : all.data;
  const size_t len = strlen(name);
  while (at && !(!strncmp(at, name, len) && at[len] == '=')) at = (at = strchr(at, ',')) ? at + 1 : NULL;
  out[0] = 0;
  if (at) strncat(out, at + len + 1, strcspn(at + len + 1, ",") < size - 1 ? strcspn(at + len + 1, ",") : size - 1);
  buf_free(&all);
}

// unroll=auto (0) leaves the choice to the heuristic.
static bool is_given(const struct explained *e, int field) {
  return e->given.v[field] != CONFIG_UNSET && !(field == CFG_UNROLL && e->given.v[field] == 0);
}

// Where the value of a field is from, and why it is that one.
static const char *field_from(const struct explained *e, int field, struct buf *why) {
  if (!is_given(e, field)) return cmd_reason(&e->problem, &e->instance, (enum config_field)field, why), "heuristic";
  buf_str(why, e->tuned ? "measured on this machine" : "--set says so");
  return e->tuned ? "tuned" : "given";
}

// ---- text ----

static void print_config(const struct explained *e, bool colour, struct buf *out) {
  static const char *const header[] = {"field", "value", "from", "why", "what it is"};
  struct table t;
  char value[32];
  table_begin(&t, "lllll", header);
  for (int i = 0; i < CFG_COUNT; i++) {
    if (!config_field_applies((enum config_field)i, e->instance.target)) continue;
    field_value(e, i, value, sizeof value);
    if (!*value) continue; // the kernel has no such field
    table_cell(&t, CELL_PLAIN, "%s", config_fields[i].name);
    table_cell(&t, CELL_PLAIN, "%s", value);
    struct buf why = {0};
    table_cell(&t, CELL_PLAIN, "%s", field_from(e, i, &why));
    out->failed |= why.failed;
    table_cell(&t, CELL_PLAIN, "%s", why.failed ? "" : why.data);
    table_cell(&t, CELL_FAINT, "%s", config_fields[i].about);
    buf_free(&why);
  }
  table_print(&t, colour, out);
  table_free(&t);
}

static void print_phases(const struct explained *e, bool colour, struct buf *out) {
  static const char *const header[] = {"phase", "operations", "multiply-adds",  "instructions",
                                       "bytes", "slots",      "m.-adds / slot", "tile products"};
  const struct kernel_stats *k = &e->stats;
  struct table t;
  int products = 0;
  for (int i = 0; i < k->n_phases; i++) products += k->phase[i].tile_products;
  table_begin(&t, products ? "lrrrrrrr" : "lrrrrrr", header);
  for (int i = 0; i < k->n_phases; i++) {
    const struct phase_stats *f = &k->phase[i];
    table_cell(&t, CELL_PLAIN, "%s", f->name);
    table_cell(&t, CELL_PLAIN, "%d", f->ops);
    table_cell(&t, CELL_PLAIN, "%d", f->fmas);
    table_cell(&t, CELL_PLAIN, f->instructions ? "%d" : "-", f->instructions);
    table_cell(&t, CELL_PLAIN, f->bytes ? "%d" : "-", f->bytes);
    table_cell(&t, CELL_PLAIN, f->slots > 0 ? "%.0f" : "-", f->slots);
    table_cell(&t, CELL_PLAIN, f->slots > 0 && f->fmas ? "%.3f" : "-", f->fmas / f->slots);
    if (products) table_cell(&t, CELL_PLAIN, f->tile_products ? "%d" : "-", f->tile_products);
  }
  table_print(&t, colour, out);
  table_free(&t);
}

static void print_registers(const struct explained *e, struct buf *out) {
  const struct kernel_stats *k = &e->stats;
  if (!k->vregs_limit) {
    buf_printf(out, "\nregisters: %d arrays of %d lanes; a compiler decides where they live\n", k->vregs_peak,
               e->instance.target->lanes);
    return;
  }
  buf_printf(out, "\nregisters: %d of %d vector registers at most", k->vregs_peak, k->vregs_limit);
  if (k->gprs_peak) buf_printf(out, ", %d general registers in a block", k->gprs_peak);
  buf_char(out, '\n');
  for (int i = 0; i < k->n_phases; i++)
    if (*k->phase[i].registers) buf_printf(out, "  %-13s %s\n", k->phase[i].name, k->phase[i].registers);
}

static void print_size(const struct explained *e, struct buf *out) {
  buf_printf(out, "\nscratch: %lld bytes per worker\n", (long long)e->stats.scratch_bytes);
  buf_printf(out, "text: %zu bytes of C by printer %s%s\n", e->text_bytes, printer_names[e->printer],
             e->printer == PRINTER_INTRIN ? "; this build has no encoder, so instruction bytes are not known"
                                          : " for libtcc");
  if (e->stats.code_bytes)
    buf_printf(out, "code: %d bytes of vector instructions; the instruction cache has %d\n", e->stats.code_bytes,
               e->instance.target->l1i_bytes);
}

static void print_floor(const struct explained *e, struct buf *out) {
  buf_printf(out, "\nfloor of %s\n", e->problem_text.data);
  buf_printf(out, "  work     %.4g GFLOP", 1e-9 * e->flops);
  if (by_tiles(e))
    buf_printf(
        out, " = %.4g M full products of matrix tiles, 16 x 16 x 32, of %d cycles each (Intel's figure): %.4g M cycles",
        1e-6 * e->tile_products, TILE_CYCLES, 1e-6 * TILE_CYCLES * e->tile_products);
  else if (!is_cuda(e))
    buf_printf(out, " = %.4g M multiply-add slots of %d lanes", 1e-6 * e->fma_slots, e->instance.target->lanes);
  if (e->predicted > 0)
    buf_printf(out, "\n  model    %.1f %% of peak: the share of these slots among all that the kernel takes",
               e->predicted);
  if (e->predicted_d128 > 0) buf_printf(out, "; %.3f of what it predicts for d128", e->predicted / e->predicted_d128);
  buf_printf(out, "\n  memory   %.4g MB: every element of Q, K, V and O once\n", 1e-6 * e->least_bytes);
  const bool decode = config_kernel(&e->instance.config) == KERNEL_DECODE;
  if (e->moved_bytes > 0)
    buf_printf(out,
               "  moved    %.4g MB between scratch memory and caches or memory, as a model of algo=%s has it: %s\n",
               1e-6 * e->moved_bytes, algo_names[config_algo(&e->instance.config)],
               traffic_about[config_algo(&e->instance.config)]);
  else
    buf_printf(out, "  cache    %.4g MB: K and V once per tile of %d %s\n", 1e-6 * e->cached_bytes,
               e->instance.config.v[CFG_BLOCK_M], decode ? "rows" : "queries");
  if (decode && e->least_bytes > 0)
    buf_printf(out,
               "  time     memory / read bandwidth of a core (`strobe bench` measures both): each GB/s of it reads the "
               "problem %.4g times a second\n",
               1e9 / e->least_bytes);
  buf_printf(out, "\nmemory traffic against the unfused algorithm, which writes and reads S and P\n");
  buf_printf(out, "  unfused  4 N^2 + 4 d N = %.4g M elements, %.4g MB with S and P in f32\n",
             1e-6 * e->unfused_elements, 1e-6 * e->unfused_bytes);
  buf_printf(out, "  fused    4 d N         = %.4g M elements, %.4g MB, %.1f times less\n", 1e-6 * e->fused_elements,
             1e-6 * e->least_bytes, e->least_bytes > 0 ? e->unfused_bytes / e->least_bytes : 1);
}

static void print_text(const struct explained *e, bool colour, struct buf *out) {
  const struct target *t = e->instance.target;
  buf_printf(out, "%s\n%s on %s: %s\n\n", e->name.data, e->problem_text.data, t->name, t->about);
  cmd_explain_tiles(&e->problem, &e->instance, out);
  print_config(e, colour, out);
  if (is_cuda(e)) {
    buf_printf(out, "\ntext: %zu bytes of CUDA C for NVRTC\n\n", e->text_bytes);
    cuda_explain(&e->instance, &e->problem, out);
  } else {
    print_registers(e, out);
    buf_printf(
        out, "\nphases, as rendered (loops around them run many times; slots are those of the multiply-add pipes%s)\n",
        by_tiles(e) ? ", beside which products of tiles run" : "");
    print_phases(e, colour, out);
    print_size(e, out);
  }
  print_floor(e, out);
}

// ---- JSON ----

static void print_json(const struct explained *e, struct buf *out) {
  struct json j = {.out = out};
  char value[32];
  json_object(&j, NULL);
  json_string(&j, "problem", e->problem_text.data);
  json_string(&j, "instance", e->name.data);
  json_string(&j, "target", e->instance.target->name);
  json_object(&j, "config");
  for (int i = 0; i < CFG_COUNT; i++) {
    if (!config_field_applies((enum config_field)i, e->instance.target)) continue;
    field_value(e, i, value, sizeof value);
    if (!*value) continue;
    json_object(&j, config_fields[i].name);
    json_string(&j, "value", value);
    struct buf why = {0};
    json_string(&j, "from", field_from(e, i, &why));
    out->failed |= why.failed;
    json_string(&j, "why", why.failed ? "" : why.data);
    buf_free(&why);
    json_end(&j);
  }
  json_end(&j);
  cmd_explain_tiles_json(&e->problem, &e->instance, &j);
  json_integer(&j, "vector_registers", e->stats.vregs_peak);
  json_integer(&j, "vector_registers_limit", e->stats.vregs_limit);
  json_array(&j, "phases");
  for (int i = 0; i < e->stats.n_phases; i++) {
    const struct phase_stats *f = &e->stats.phase[i];
    json_object(&j, NULL);
    json_string(&j, "phase", f->name);
    json_integer(&j, "operations", f->ops);
    json_integer(&j, "multiply_adds", f->fmas);
    json_integer(&j, "tile_products", f->tile_products);
    json_integer(&j, "instructions", f->instructions);
    json_integer(&j, "bytes", f->bytes);
    json_number(&j, "slots", f->slots, 8);
    if (*f->registers) json_string(&j, "registers", f->registers);
    json_end(&j);
  }
  json_end(&j);
  json_integer(&j, "code_bytes", e->stats.code_bytes);
  json_integer(&j, "text_bytes", (int64_t)e->text_bytes);
  json_integer(&j, "scratch_bytes", e->stats.scratch_bytes);
  json_number(&j, "flops", e->flops, 12);
  if (by_tiles(e)) {
    json_number(&j, "floor_tile_products", e->tile_products, 12);
    json_number(&j, "floor_tile_cycles", TILE_CYCLES * e->tile_products, 12);
  } else {
    json_number(&j, "floor_slots", e->fma_slots, 12);
  }
  if (e->predicted > 0) json_number(&j, "predicted_percent", e->predicted, 4);
  if (e->predicted_d128 > 0) json_number(&j, "predicted_percent_d128", e->predicted_d128, 4);
  json_number(&j, "floor_bytes", e->least_bytes, 12);
  json_number(&j, "cache_bytes", e->cached_bytes, 12);
  if (e->moved_bytes > 0) json_number(&j, "modelled_bytes", e->moved_bytes, 12);
  json_number(&j, "unfused_elements", e->unfused_elements, 12);
  json_number(&j, "unfused_bytes", e->unfused_bytes, 12);
  if (e->instance.target->family == FAMILY_CUDA) cuda_explain_json(&e->instance, &e->problem, &j);
  json_end(&j);
}

static int run(const struct command *c, struct error *err) {
  const struct explain_options *o = c->options;
  struct explained e = {.tuned = false};
  struct buf out = {0};
  int status = explain(c->operands[0], o, &e, err);
  if (!status && o->json) print_json(&e, &out);
  if (!status && !o->json) print_text(&e, cmd_colour(), &out);
  if (!status) status = cmd_print(&out, err);
  buf_free(&e.name);
  buf_free(&e.problem_text);
  return status ? 2 : 0;
}

const struct verb verb_explain = {
    .name = "explain",
    .operands = "PROBLEM",
    .about = "show a kernel's tiles, registers, instructions, memory traffic and why its config is what it is",
    .details = "Sizes that PROBLEM leaves out: batch 1, 1 head, q_len 1024, kv_len = q_len.",
    .example =
        "  $ strobe explain d128:bf16:causal:b1h8q2048k2048 --target avx512bf16\n"
        "  tiles: 64 queries (one per lane, 16 to a register) x 128 keys; register tile 4 keys x 64 queries = 16 "
        "accumulators\n"
        "  ...\n"
        "  phase    operations  multiply-adds  instructions  bytes  slots  m.-adds / slot\n"
        "  qk              232            128           238   1781    144           0.889\n"
        "  ...",
    .rows = rows,
    .n_rows = sizeof rows / sizeof *rows,
    .options_size = sizeof(struct explain_options),
    .least_operands = 1,
    .most_operands = 1,
    .run = run,
};
