#include "cmd.h"
#include "x86.h"

#include "../runtime/cpu.h"
#include "../runtime/gpu.h"
#include "../runtime/pool.h"
#include "../runtime/tune_db.h"
#include "../runtime/verify.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct doctor_options {
  bool json;
};

#define ROW(kind, field, ...) OPTION(kind, struct doctor_options, field, __VA_ARGS__)
static const struct option_row rows[] = {
    ROW(OPT_FLAG, json, .name = "json", .about = "print the findings as JSON"),
};

enum verdict { FINE, BROKEN, MISSING, FACT };
static const char *const verdicts[] = {"ok", "FAILED", "missing", ""};

struct doctor {
  const struct doctor_options *opt;
  struct table table;
  struct buf out;
  struct json json;
  bool jit_works;
  char reason[640]; // why the JIT does not work
};

static void finding(struct doctor *d, enum verdict v, const char *name, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static void finding(struct doctor *d, enum verdict v, const char *name, const char *format, ...) {
  static const enum cell_style styles[] = {CELL_GOOD, CELL_BAD, CELL_FAINT, CELL_PLAIN};
  char text[700];
  va_list ap;
  va_start(ap, format);
  vsnprintf(text, sizeof text, format, ap);
  va_end(ap);
  table_cell(&d->table, CELL_PLAIN, "%s", name);
  table_cell(&d->table, styles[v], "%s", verdicts[v]);
  table_cell(&d->table, CELL_PLAIN, "%s", text);
  json_object(&d->json, NULL);
  json_string(&d->json, "check", name);
  json_string(&d->json, "verdict", v == FACT ? "fact" : v == BROKEN ? "failed" : verdicts[v]);
  json_string(&d->json, "detail", text);
  json_end(&d->json);
}

// ---- the machine ----

static void check_machine(struct doctor *d) {
  char name[64];
  cpu_name(name, sizeof name);
  finding(d, FACT, "CPU", "%s", name);
  for (int i = 0; i < target_count; i++)
    if (target_table[i].family == FAMILY_CPU)
      finding(d, cpu_has_target(&target_table[i]) ? FINE : MISSING, "target", "%s: %s", target_table[i].name,
              target_table[i].about);
  const char *most = getenv("STROBE_MAX_TARGET");
  if (most) finding(d, FACT, "cap", "STROBE_MAX_TARGET=%.40s: targets beyond it are not used", most);
  finding(d, FACT, "threads", "%d by default", pool_default_workers());
  finding(d, FACT, "version", "strobe %s, templates %016" PRIx64, strobe_version(), templates_hash());
}

static void check_tunings(struct doctor *d) {
  struct buf path = {0};
  struct tune_db db = {0};
  struct error err = {0};
  tune_db_path(NULL, &path);
  if (path.failed || !path.data || !*path.data)
    finding(d, MISSING, "tunings", "no HOME and no STROBE_DB: nothing is remembered");
  else if (tune_db_read(path.data, &db, &err))
    finding(d, MISSING, "tunings", "%s", err.text);
  else
    finding(d, FINE, "tunings", "%s: %d records, %d malformed lines", path.data, db.n, db.malformed);
  tune_db_free(&db);
  buf_free(&path);
}

static void check_gpu(struct doctor *d) {
  int major = 0, minor = 0;
  for (int i = 0; i < target_count; i++) {
    struct error err = {0};
    if (target_table[i].family != FAMILY_CUDA) continue;
    const bool bad = gpu_has_target(&target_table[i], &err);
    finding(d, bad ? MISSING : FINE, "GPU", "%s: %s", target_table[i].name, bad ? err.text : target_table[i].about);
  }
  struct error err = {0};
  if (nvrtc_version(&major, &minor, &err))
    finding(d, MISSING, "NVRTC", "%s", err.text);
  else
    finding(d, FINE, "NVRTC", "%d.%d compiles CUDA kernels in this process", major, minor);
}

static void check_build(struct doctor *d) {
  finding(d, STROBE_TCC ? FINE : MISSING, "libtcc", "%s", STROBE_TCC ? "compiles in this process" : "built with TCC=0");
  finding(d, x86_available() ? FINE : MISSING, "Zydis", "%s",
          x86_available() ? "encodes vector instructions" : "built with TCC=0, or not for x86-64");
  const int fd = memfd_create("strobe-doctor", MFD_CLOEXEC);
  if (fd >= 0)
    finding(d, FINE, "memfd", "code memory is one file mapped twice");
  else
    finding(d, MISSING, "memfd", "%s; code memory is an anonymous mapping instead", strerror(errno));
  if (fd >= 0) close(fd);
}

static void check_compiler(struct doctor *d, const char *name) {
  const char *path = getenv("PATH");
  for (const char *dir = path ? path : ""; *dir; dir += *dir == ':') {
    char full[1024];
    const int len = (int)strcspn(dir, ":");
    snprintf(full, sizeof full, "%.*s/%s", len, dir, name);
    if (len && !access(full, X_OK)) {
      finding(d, FINE, name, "%s (not required)", full);
      return;
    }
    dir += len;
  }
  finding(d, MISSING, name, "not in PATH; not required, it would compile emitted files");
}

// ---- the JIT ----

// A page of this process that is writable and executable, or NULL; true of the whole process, with kernels loaded.
static const char *writable_and_executable(char *line, size_t size) {
  FILE *maps = fopen("/proc/self/maps", "r");
  const char *found = NULL;
  while (maps && !found && fgets(line, (int)size, maps)) {
    char mode[5] = "";
    if (sscanf(line, "%*s %4s", mode) == 1 && mode[1] == 'w' && mode[2] == 'x') found = line;
  }
  if (maps) fclose(maps);
  line[strcspn(line, "\n")] = 0;
  return found;
}

static int run_plan(const struct problem *p, const strobe_plan *plan, const struct strobe_plan_info *info,
                    struct verify_result *r, struct error *err) {
  struct verify_case c = {.problem = *p, .kind = input_kind_find("normal"), .seed = 1, .layout = LAYOUT_BNHD};
  struct instance kernel;
  struct tensors t;
  int status = cmd_plan_instance(p, info, &kernel, err);
  c.scale = default_scale(&c.problem.spec);
  if (status || (status = verify_create(&c, NULL, &t, err))) return status;
  const struct strobe_io io = cmd_io(&t.args, NULL);
  status = cmd_api_error(strobe_execute(plan, &io), err);
  if (!status) status = verify_tensors(&c, &kernel, &t, VERIFY_ALL_ROWS, r, err);
  tensors_free(&t);
  return status;
}

// Compiles and runs one small kernel; the sentence about what went wrong, if anything, is in err.
static int try_kernel(struct doctor *d, strobe_context *ctx, const struct target *t, struct error *err) {
  struct problem p;
  strobe_plan *plan = NULL;
  struct strobe_plan_info info;
  struct verify_result r;
  char name[64];
  snprintf(name, sizeof name, "JIT %s", t->name);
  const bool cuda = t->family == FAMILY_CUDA;
  const char *const backend = cuda ? "cuda" : t->vregs ? "code" : "scalar";
  int status = problem_parse(cuda ? "d64:bf16:b1h1q17k33" : "d32:f32:b1h1q17k33", &p, err);
  if (!status) status = problem_complete(&p, err);
  if (!status)
    status = cmd_plan(ctx, &(struct cmd_plan){.problem = &p, .target = t->name, .backend = backend}, &plan, &info, err);
  if (!status) status = run_plan(&p, plan, &info, &r, err);
  if (!status && !r.ok)
    status = fail(err, STROBE_INTERNAL, "the kernel ran, but its output is wrong: error %.3g, bound %.3g", r.o.err,
                  r.o.bound);
  if (!status)
    finding(d, FINE, name, "%s: render %.2f ms, encode %.2f ms, %s %.2f ms, load %.2f ms; output right", backend,
            info.render_ms, info.encode_ms, cuda ? "NVRTC" : "libtcc", info.compile_ms, info.load_ms);
  else
    finding(d, BROKEN, name, "%s: %s", backend, err->text);
  strobe_plan_destroy(plan);
  return status;
}

static void check_jit(struct doctor *d) {
  strobe_context *ctx = NULL;
  struct error why = {0};
  int status = cmd_api_error(strobe_context_create(NULL, &ctx), &why), tried = 0;
  for (int i = 0; i < target_count && !why.status; i++) {
    const struct target *t = &target_table[i];
    if (!cpu_has_target(t)) continue;
    tried++;
    try_kernel(d, ctx, t, &why);
  }
  d->jit_works = !status && !why.status && tried;
  char line[512];
  const char *page = writable_and_executable(line, sizeof line);
  if (page)
    finding(d, BROKEN, "W^X", "a page of this process is writable and executable: %s", page);
  else
    finding(d, FINE, "W^X", "no page of this process is writable and executable");
  if (page && d->jit_works) {
    d->jit_works = false;
    fail(&why, STROBE_INTERNAL, "a page is writable and executable");
  }
  snprintf(d->reason, sizeof d->reason, "%s", why.text);
  strobe_context_destroy(ctx);
}

// ---- the verb ----

static int run(const struct command *c, struct error *err) {
  static const char *const compilers[] = {"cc", "clang", "nvcc"};
  struct doctor d = {.opt = c->options};
  struct buf json_text = {0};
  table_begin(&d.table, "lll", NULL);
  d.json = (struct json){.out = &json_text};
  json_object(&d.json, NULL);
  json_array(&d.json, "checks");
  check_machine(&d);
  check_tunings(&d);
  check_gpu(&d);
  check_build(&d);
  check_jit(&d);
  for (size_t i = 0; i < sizeof compilers / sizeof *compilers; i++) check_compiler(&d, compilers[i]);
  json_end(&d.json);
  json_bool(&d.json, "jit", d.jit_works);
  json_string(&d.json, "reason", d.reason);
  json_end(&d.json);
  if (d.opt->json)
    buf_add(&d.out, json_text.data ? json_text.data : "", json_text.len), d.out.failed |= json_text.failed;
  else if (d.jit_works)
    table_print(&d.table, cmd_colour(), &d.out), buf_str(&d.out, "\nthe JIT works here\n");
  else
    table_print(&d.table, cmd_colour(), &d.out),
        buf_printf(&d.out, "\nthe JIT does not work here: %s\nplans fall back to kernels that were compiled in\n",
                   d.reason);
  table_free(&d.table);
  buf_free(&json_text);
  return cmd_print(&d.out, err) ? 2 : !d.jit_works;
}

const struct verb verb_doctor = {
    .name = "doctor",
    .operands = "",
    .about = "say what this machine and this build can do, and whether the JIT works",
    .details =
        "Exit status 0: the JIT works, on every target this CPU has. Compilers are looked for, but none is required.",
    .example =
        "  $ strobe doctor\n"
        "  CPU                     AMD EPYC 9575F (family 26 model 2)\n"
        "  target          ok      avx512: x86-64 with AVX-512 F, BW, DQ and VL\n"
        "  JIT avx512      ok      code: render 0.61 ms, encode 0.32 ms, libtcc 0.80 ms, load 0.05 ms; output right\n"
        "  W^X             ok      no page of this process is writable and executable\n"
        "  ...\n"
        "  the JIT works here",
    .rows = rows,
    .n_rows = sizeof rows / sizeof *rows,
    .options_size = sizeof(struct doctor_options),
    .most_operands = 0,
    .run = run,
};
