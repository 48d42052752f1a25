// `strobe list`: which instances there are, what the heuristic makes of each, and why a target has none.
#include "cmd.h"

#include "../runtime/cpu.h"
#include "../runtime/gpu.h"

#include <stdio.h>

struct list_options {
  const char *target, *set;
  bool json, csv;
};

#define ROW(kind, field, ...) OPTION(kind, struct list_options, field, __VA_ARGS__)
static const struct option_row rows[] = {
    ROW(OPT_TEXT, target, .name = "target", .letter = 't', .value = "T", .about = "only this one (default: all)"),
    ROW(OPT_TEXT, set, .name = "set", .value = "CONFIG",
        .about = "fields of the config, as in block_n=128,stages=2: is it feasible?"),
    ROW(OPT_FLAG, json, .name = "json", .about = "print an array of instances as JSON"),
    ROW(OPT_FLAG, csv, .name = "csv", .about = "print the table as CSV"),
};

// The grid that is listed when no SPEC is given: every combination of one from each row.
static const char *const dims[] = {"d32",  "d40",  "d64",  "d72",  "d80",      "d96",
                                   "d112", "d128", "d192", "d256", "d192v128", "d576v512"};
static const char *const dtypes[] = {"f32", "bf16", "f16", "q=f32,kv=f16"};
static const char *const masks[] = {"full", "causal"};
enum {
  N_DIMS = sizeof dims / sizeof *dims,
  N_DTYPES = sizeof dtypes / sizeof *dtypes,
  N_MASKS = sizeof masks / sizeof *masks,
  N_GRID = N_DIMS * N_DTYPES * N_MASKS
};

struct listing {
  const struct list_options *opt;
  struct table table;
  struct buf json_text;
  struct json json;
  int feasible, refused;
};

static bool runs_here(const struct target *t) {
  return t->family == FAMILY_CPU ? cpu_has_target(t) : !gpu_has_target(t, NULL);
}

// One line: the instance that spec, target and --set give, or why they give none.
static int add(struct listing *l, const struct problem *p, const struct target *t, bool here, struct error *err) {
  struct instance i;
  struct error why = {0};
  struct buf spec = {0}, name = {0}, config = {0};
  const bool bad = cmd_instance(p, t, l->opt->set, &i, &why);
  problem_print(p, &spec);
  buf_str(&name, "");
  buf_str(&config, "");
  if (!bad) instance_name(&i, &name), config_print(&i.config, t, &config);
  int status = spec.failed || name.failed || config.failed ? fail(err, STROBE_NO_MEMORY, "no memory for a list") : 0;
  if (!status) {
    table_cell(&l->table, CELL_PLAIN, "%s", t->name);
    table_cell(&l->table, CELL_PLAIN, "%s", spec.data);
    table_cell(&l->table, bad ? CELL_BAD : CELL_GOOD, bad ? "no" : "yes");
    table_cell(&l->table, CELL_PLAIN, here ? "yes" : "no");
    table_cell(&l->table, bad ? CELL_FAINT : CELL_PLAIN, "%s", bad ? why.text : config.data);
    struct json *j = &l->json;
    json_object(j, NULL);
    json_string(j, "target", t->name);
    json_string(j, "spec", spec.data);
    json_bool(j, "feasible", !bad);
    json_bool(j, "runs_here", here);
    json_string(j, "instance", bad ? NULL : name.data);
    json_string(j, "config", bad ? NULL : config.data);
    json_string(j, "reason", bad ? why.text : "");
    json_end(j);
    l->feasible += !bad, l->refused += bad;
  }
  buf_free(&spec), buf_free(&name), buf_free(&config);
  return status;
}

static int add_grid(struct listing *l, const struct target *t, bool here, struct error *err) {
  int status = 0;
  for (int i = 0; i < N_GRID && !status; i++) {
    char text[64];
    struct problem p;
    snprintf(text, sizeof text, "%s:%s:%s", dims[i / (N_DTYPES * N_MASKS)], dtypes[i / N_MASKS % N_DTYPES],
             masks[i % N_MASKS]);
    status = problem_parse(text, &p, err);
    if (!status) status = add(l, &p, t, here, err);
  }
  return status;
}

static int add_target(struct listing *l, const struct command *c, const struct target *t, struct error *err) {
  const bool here = runs_here(t);
  int status = 0;
  if (!c->n_operands) return add_grid(l, t, here, err);
  for (int i = 0; i < c->n_operands && !status; i++) {
    struct problem p;
    status = problem_parse(c->operands[i], &p, err);
    if (!status) status = add(l, &p, t, here, err);
  }
  return status;
}

static int print(struct listing *l, struct error *err) {
  struct buf out = {0};
  json_end(&l->json);
  if (l->opt->json)
    buf_add(&out, l->json_text.data ? l->json_text.data : "", l->json_text.len), out.failed |= l->json_text.failed;
  else if (l->opt->csv)
    table_print_csv(&l->table, &out);
  else
    table_print(&l->table, cmd_colour(), &out), buf_printf(&out, "%d feasible, %d not\n", l->feasible, l->refused);
  return cmd_print(&out, err);
}

static int run(const struct command *c, struct error *err) {
  static const char *const header[] = {"target", "spec", "feasible", "here", "config, or why not"};
  struct listing l = {.opt = c->options};
  const struct target *only = NULL;
  struct problem p;
  struct config config;
  config_clear(&config);
  int status =
      l.opt->json && l.opt->csv ? fail(err, STROBE_INVALID, "--json and --csv: only one of them is allowed") : 0;
  if (!status && l.opt->target) status = cmd_target(l.opt->target, &only, err);
  if (!status && l.opt->set) status = config_parse(l.opt->set, &config, err); // text that no target could take
  for (int i = 0; i < c->n_operands && !status; i++) status = problem_parse(c->operands[i], &p, err);
  table_begin(&l.table, "lllll", header);
  l.json = (struct json){.out = &l.json_text};
  json_array(&l.json, NULL);
  for (int t = 0; t < target_count && !status; t++)
    if (!only || only == &target_table[t]) status = add_target(&l, c, &target_table[t], err);
  if (!status) status = print(&l, err);
  table_free(&l.table);
  buf_free(&l.json_text);
  return status ? 2 : 0;
}

const struct verb verb_list = {
    .name = "list",
    .operands = "[SPEC]...",
    .about = "list instances: every target with the config it would get, or why it can't have one",
    .details =
        "Without SPEC: a grid of head dims, dtypes and masks. Sizes in a SPEC guide the choice of a config. `here` "
        "says whether\n"
        "this machine can run the target. A SPEC that no target can serve is an answer, not an error.",
    .example =
        "  $ strobe list d100:bf16 d128:bf16 --target sm90a\n"
        "  target  spec       feasible  here  config, or why not\n"
        "  sm90a   d100:bf16  no        no    head_dim 100 on sm90a: must be a multiple of 64, 64 to 256; 128 is the "
        "nearest\n"
        "  sm90a   d128:bf16  yes       no    block_m=128,block_n=128,stages=3,...\n"
        "  1 feasible, 1 not",
    .rows = rows,
    .n_rows = sizeof rows / sizeof *rows,
    .options_size = sizeof(struct list_options),
    .most_operands = -1,
    .run = run,
};
