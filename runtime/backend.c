#include "backend.h"

#include "builtin.h"
#include "dump.h"
#include "gpu.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static double now_ms(void) { return (double)now_ns() * 1e-6; }

static int check_buf(const struct buf *b, struct error *err) {
  return b->failed ? fail(err, STROBE_NO_MEMORY, "no memory for the text of a kernel") : STROBE_OK;
}

// ---- code and scalar: rendered and compiled here ----

struct request {
  const struct instance *instance;
  enum printer printer;
  const char *symbol;
};

static int check_kernel(const struct strobe_kernel *k, const char *symbol, struct error *err) {
  if (!k) return fail(err, STROBE_INTERNAL, "the compiled object does not define %s", symbol);
  if (k->abi != STROBE_ABI)
    return fail(err, STROBE_INTERNAL, "kernel %s has abi %u: must be %u", symbol, k->abi, STROBE_ABI);
  if (k->n_steps < 1 || k->n_steps > sizeof k->step / sizeof *k->step)
    return fail(err, STROBE_INTERNAL, "kernel %s has %u steps: must be 1 to %zu", symbol, k->n_steps,
                sizeof k->step / sizeof *k->step);
  return STROBE_OK;
}

static int load(const struct request *r, const struct buf *object, struct compiled_kernel *out, struct error *err) {
  int status = jit_load(object->data, object->len, r->symbol, &out->module, err);
  if (status) return status;
  out->kernel = jit_symbol(out->module, r->symbol);
  return check_kernel(out->kernel, r->symbol, err);
}

static int compile(const struct request *r, struct buf *text, struct buf *object, struct compiled_kernel *out,
                   struct error *err) {
  const struct render_options options = {
      .printer = r->printer, .for_tcc = true, .symbol = r->symbol, .clock_ns = now_ns};
  struct kernel_stats stats = {0};
  const double t0 = now_ms();
  int status = kernel_render(r->instance, &options, text, &stats, err);
  if (!status) status = check_buf(text, err);
  const double t1 = now_ms();
  if (!status) status = jit_compile(text->data, object, err);
  if (!status) status = check_buf(object, err);
  const double t2 = now_ms();
  if (!status) status = load(r, object, out, err);
  out->encode_ms = (double)stats.encode_ns * 1e-6;
  out->render_ms = t1 - t0 - out->encode_ms;
  out->compile_ms = t2 - t1;
  out->load_ms = now_ms() - t2;
  return status;
}

static int make(void *arg, struct compiled_kernel *out, struct error *err) {
  const struct request *r = arg;
  struct buf text = {0}, object = {0};
  int status = compile(r, &text, &object, out, err);
  out->note = dump(r->symbol, printer_names[r->printer], &text, &object);
  buf_free(&object);
  if (status) {
    buf_free(&text);
    if (out->module) jit_unload(out->module);
    out->module = NULL;
  } else {
    out->source = text.data;
  }
  return status;
}

static int prepare_jit(struct strobe_plan *p, const struct backend *self, struct error *err) {
  struct buf symbol = {0}, key = {0};
  instance_symbol(&p->instance, &symbol);
  instance_key(&p->instance, &key);
  buf_str(&key, " printer=");
  buf_str(&key, printer_names[self->printer]);
  int status = check_buf(&symbol, err);
  if (!status) status = check_buf(&key, err);
  struct request r = {.instance = &p->instance, .printer = self->printer, .symbol = symbol.data};
  if (!status) status = kernel_table_get(&p->context->kernels, key.data, make, &r, &p->compiled, &p->fresh, err);
  if (!status) p->kernel = p->compiled->kernel;
  buf_free(&symbol);
  buf_free(&key);
  return status;
}

// ---- builtin: compiled into the library ----

static int prepare_builtin(struct strobe_plan *p, const struct backend *self, struct error *err) {
  (void)self;
  struct spec spec = p->problem.spec;
  // The two causal masks differ in the diagonal only, which the kernel is told at run time.
  if (spec.mask == MASK_CAUSAL_TOP_LEFT) spec.mask = MASK_CAUSAL;
  struct buf text = {0};
  spec_print(&spec, &text);
  int status = check_buf(&text, err);
  const struct builtin_kernel *b = builtin_kernels, *end = b + builtin_count;
  while (!status && b < end && strcmp(b->spec, text.data)) b++;
  if (!status && b == end)
    status = fail(err, STROBE_UNSUPPORTED, "no kernel for %s was compiled into this library", text.data);
  buf_free(&text);
  if (status) return status;
  struct config config;
  config_clear(&config);
  status = config_parse(b->config, &config, err);
  if (!status) status = check_kernel(b->kernel, b->spec, err);
  if (status) return status;
  p->instance = (struct instance){.spec = spec, .config = config, .target = target_find("c99")};
  p->kernel = b->kernel;
  return STROBE_OK;
}

// ---- reference ----

static int prepare_reference(struct strobe_plan *p, const struct backend *self, struct error *err) {
  (void)self, (void)err;
  p->instance = (struct instance){.spec = p->problem.spec};
  config_clear(&p->instance.config);
  p->kernel = NULL;
  return STROBE_OK;
}

// ---- cuda: compiled through NVRTC, launched through the driver ----

static int prepare_cuda(struct strobe_plan *p, const struct backend *self, struct error *err) {
  (void)self;
  p->kernel = NULL;
  return gpu_kernel_open(&p->instance, &p->gpu, err);
}

const struct backend backend_table[] = {
    {"code", FAMILY_CPU, PRINTER_CODE, true, prepare_jit},
    {"scalar", FAMILY_CPU, PRINTER_SCALAR, true, prepare_jit},
    {"builtin", FAMILY_CPU, PRINTER_COUNT, false, prepare_builtin},
    {"reference", FAMILY_CPU, PRINTER_COUNT, false, prepare_reference},
    {"cuda", FAMILY_CUDA, PRINTER_COUNT, true, prepare_cuda},
};
const int backend_count = sizeof backend_table / sizeof *backend_table;
