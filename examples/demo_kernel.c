#include "demo.h"

#include "../gen/emit.h"
#include "../runtime/cpu.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- emit, cc, dlopen ----

// Runs a command line; its standard output is appended to *out. Anything but exit 0 is an error.
static int shell(const struct buf *command, struct buf *out, struct error *err) {
  if (command->failed) return fail(err, STROBE_NO_MEMORY, "no memory for a command line");
  FILE *f = popen(command->data, "r");
  if (!f) return fail(err, STROBE_IO, "cannot run \"%.300s\": %s", command->data, strerror(errno));
  char part[512];
  for (size_t n; (n = fread(part, 1, sizeof part, f)) > 0;) buf_add(out, part, n);
  if (pclose(f)) return fail(err, STROBE_IO, "this command failed: %.400s", command->data);
  return out->failed ? fail(err, STROBE_NO_MEMORY, "no memory for what a command printed") : 0;
}

// The value of a member "name": "value" of what `strobe emit --json` printed, which escapes nothing in such names.
static int json_member(const struct buf *json, const char *name, struct buf *out, struct error *err) {
  struct buf key = {0};
  buf_printf(&key, "\"%s\": \"", name);
  const char *start = key.failed || !json->data ? NULL : strstr(json->data, key.data);
  if (start) start += key.len;
  buf_free(&key);
  const char *end = start ? strchr(start, '"') : NULL;
  if (!end) return fail(err, STROBE_INTERNAL, "strobe emit --json printed no \"%s\"", name);
  buf_add(out, start, (size_t)(end - start));
  return out->failed ? fail(err, STROBE_NO_MEMORY, "no memory for a name") : 0;
}

static int emit(const struct demo_tools *tools, const struct problem *p, const struct target *t, struct buf *source,
                struct buf *symbol, struct error *err) {
  struct buf command = {0}, json = {0};
  shell_word(tools->strobe, &command);
  buf_str(&command, " emit ");
  problem_print(p, &command);
  buf_printf(&command, " --json --target %s -o ", t->name);
  shell_word(tools->dir, &command);
  int status = shell(&command, &json, err);
  if (!status) status = json_member(&json, "source", source, err);
  if (!status) status = json_member(&json, "symbol", symbol, err);
  buf_free(&command);
  buf_free(&json);
  return status;
}

static int compile(const struct demo_tools *tools, const struct buf *source, const struct buf *library,
                   struct error *err) {
  struct buf command = {0}, nothing = {0};
  remove(library->data); // one of an earlier run must not stand in for this one
  buf_printf(&command, "%s -O2 -shared -fPIC ", tools->cc);
  shell_word(source->data, &command);
  buf_str(&command, " -o ");
  shell_word(library->data, &command);
  int status = shell(&command, &nothing, err);
  buf_free(&command);
  buf_free(&nothing);
  return status;
}

static void *symbol_of(const struct demo_kernel *k, const struct buf *symbol, const char *suffix, struct error *err) {
  struct buf name = {0};
  buf_printf(&name, "%s%s", symbol->data, suffix);
  void *address = name.failed ? NULL : dlsym(k->library, name.data);
  if (!address) fail(err, STROBE_INTERNAL, "the compiled file has no %s%s", symbol->data, suffix);
  buf_free(&name);
  return address;
}

static int load(struct demo_kernel *k, const struct buf *library, const struct buf *symbol,
                const struct strobe_args *args, struct error *err) {
  k->library = dlopen(library->data, RTLD_NOW | RTLD_LOCAL);
  if (!k->library) return fail(err, STROBE_IO, "dlopen: %.400s", dlerror());
  strobe_i64 (*bytes)(const struct strobe_args *);
  *(void **)&bytes = symbol_of(k, symbol, "_bytes", err); // the cast that POSIX gives for functions
  *(void **)&k->forward = symbol_of(k, symbol, "_forward", err);
  if (!bytes || !k->forward) return STROBE_INTERNAL;
  k->bytes = (bytes(args) + 63) / 64 * 64;
  k->memory = aligned_alloc(64, (size_t)k->bytes);
  return k->memory ? 0 : fail(err, STROBE_NO_MEMORY, "no memory for %lld bytes of workspace", k->bytes);
}

int demo_kernel_emit(const struct demo_tools *tools, const struct demo_case *c, struct demo_kernel *k,
                     struct error *err) {
  struct buf source = {0}, symbol = {0}, library = {0};
  const struct spec *s = &c->problem.spec;
  *k = (struct demo_kernel){.instance = {.spec = *s, .target = cpu_best_target(s)}, .backend = "cc"};
  struct instance *const i = &k->instance;
  config_clear(&i->config);
  int status = i->target ? 0 : spec_supported(s, target_find("c99"), err);
  if (!status) status = config_resolve(s, i->target, &c->problem, &i->config, err); // as emit does
  if (!status) status = emit(tools, &c->problem, i->target, &source, &symbol, err);
  if (!status) buf_printf(&library, "%s.so", source.data);
  if (!status && library.failed) status = fail(err, STROBE_NO_MEMORY, "no memory for the name of a file");
  if (!status) status = compile(tools, &source, &library, err);
  if (!status) status = load(k, &library, &symbol, &c->tensors.args, err);
  buf_free(&source);
  buf_free(&symbol);
  buf_free(&library);
  return status;
}

// ---- in process ----

static int api_error(enum strobe_status status, struct error *err) {
  return status ? fail(err, status, "%s", strobe_error()) : 0;
}

static int describe(struct demo_kernel *k, const struct spec *s, struct error *err) {
  struct strobe_plan_info info = {.size = sizeof info};
  int status = api_error(strobe_plan_describe(k->plan, &info), err);
  if (status) return status;
  k->instance = (struct instance){.spec = *s, .target = target_find(info.target)};
  snprintf(k->backend, sizeof k->backend, "%s", info.backend);
  snprintf(k->why, sizeof k->why, "%s", info.why);
  config_clear(&k->instance.config);
  return *info.config ? config_parse(info.config, &k->instance.config, err) : 0;
}

int demo_kernel_jit(const struct demo_tools *tools, const struct demo_case *c, struct demo_kernel *k,
                    struct error *err) {
  (void)tools;
  *k = (struct demo_kernel){.library = NULL};
  const struct strobe_context_options one = {.size = sizeof one, .n_workers = 1};
  struct buf problem = {0};
  problem_print(&c->problem, &problem);
  int status = problem.failed ? fail(err, STROBE_NO_MEMORY, "no memory for a problem string") : 0;
  if (!status) status = api_error(strobe_context_create(&one, &k->context), err); // of its own: nothing is cached
  if (!status) status = api_error(strobe_plan_create(k->context, problem.data, NULL, &k->plan), err);
  if (!status) status = describe(k, &c->problem.spec, err);
  buf_free(&problem);
  if (status) return status;
  k->memory = aligned_alloc(64, (strobe_workspace_bytes(k->plan) + 64) / 64 * 64);
  return k->memory ? 0 : fail(err, STROBE_NO_MEMORY, "no memory for the workspace");
}

// ---- both ----

int demo_kernel_run(const struct demo_kernel *k, const struct demo_case *c, struct error *err) {
  const struct strobe_args *a = &c->tensors.args;
  if (!k->plan)
    return k->forward(a, k->memory, k->bytes) ? fail(err, STROBE_INTERNAL, "the emitted kernel refused its arguments")
                                              : 0;
  const struct strobe_io io = {.size = sizeof io, // tensors are packed: no strides
                               .q = {.data = a->q.data},
                               .k = {.data = a->k.data},
                               .v = {.data = a->v.data},
                               .o = {.data = a->o.data},
                               .lse = a->lse,
                               .workspace = k->memory};
  return api_error(strobe_execute(k->plan, &io), err);
}

void demo_kernel_free(struct demo_kernel *k) {
  strobe_plan_destroy(k->plan);
  strobe_context_destroy(k->context);
  if (k->library) dlclose(k->library);
  free(k->memory);
  *k = (struct demo_kernel){.library = NULL};
}
