#include "gpu_nvrtc.h"

#include "gpu_sass.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NVRTC_FUNCTIONS(F)                                                                                             \
  F(version, "nvrtcVersion", (int *major, int *minor))                                                                 \
  F(create, "nvrtcCreateProgram",                                                                                      \
    (void **program, const char *source, const char *name, int n, const char *const *headers,                          \
     const char *const *names))                                                                                        \
  F(destroy, "nvrtcDestroyProgram", (void **program))                                                                  \
  F(compile, "nvrtcCompileProgram", (void *program, int n, const char *const *options))                                \
  F(log_size, "nvrtcGetProgramLogSize", (void *program, size_t *size))                                                 \
  F(log, "nvrtcGetProgramLog", (void *program, char *log))                                                             \
  F(cubin_size, "nvrtcGetCUBINSize", (void *program, size_t *size))                                                    \
  F(cubin, "nvrtcGetCUBIN", (void *program, char *cubin))

static struct {
  pthread_once_t once;
  struct {
#define NVRTC_MEMBER(member, name, arguments) int(*member) arguments;
    NVRTC_FUNCTIONS(NVRTC_MEMBER)
#undef NVRTC_MEMBER
  } call;
  char path[1024];
  struct error error;
} nvrtc = {.once = PTHREAD_ONCE_INIT};

// One list, as the compiler wants it and as one text.
#define NVRTC_OPTIONS(O) O("--gpu-architecture=sm_90a") O("--std=c++17") O("--ptxas-options=-v")
#define NVRTC_JOIN(option) option " "
#define NVRTC_ITEM(option) option,
const char nvrtc_options[] = NVRTC_OPTIONS(NVRTC_JOIN);

static void *open_library(void) {
  static const char *const names[] = {"libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12",
                                      "/usr/local/cuda/lib64/libnvrtc.so"};
  const char *chosen = secure_getenv("STROBE_NVRTC");
  if (chosen && *chosen) {
    void *library = dlopen(chosen, RTLD_NOW | RTLD_LOCAL);
    if (!library)
      fail(&nvrtc.error, STROBE_UNSUPPORTED, "STROBE_NVRTC \"%.300s\" could not be opened as a library", chosen);
    return library;
  }
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    void *library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (library) return library;
  }
  fail(&nvrtc.error, STROBE_UNSUPPORTED,
       "NVRTC was not found on the loader's path or in /usr/local/cuda: set STROBE_NVRTC to libnvrtc.so");
  return NULL;
}

static int find(void *library, const char *name, void *slot) {
  void *symbol = dlsym(library, name);
  if (!symbol) return fail(&nvrtc.error, STROBE_UNSUPPORTED, "NVRTC has no %s: CUDA 12 or newer works", name);
  memcpy(slot, &symbol, sizeof symbol);
  return 0;
}

static void open_nvrtc(void) {
  void *library = open_library();
  if (!library) return;
#define NVRTC_FIND(member, name, arguments) find(library, name, &nvrtc.call.member) ||
  if (NVRTC_FUNCTIONS(NVRTC_FIND) 0) {
    dlclose(library);
    return;
  }
#undef NVRTC_FIND
  Dl_info info;
  void *symbol;
  memcpy(&symbol, &nvrtc.call.version, sizeof symbol);
  if (dladdr(symbol, &info) && info.dli_fname && strlen(info.dli_fname) < sizeof nvrtc.path)
    strcpy(nvrtc.path, info.dli_fname);
}

static int ready(struct error *err) {
  pthread_once(&nvrtc.once, open_nvrtc);
  return nvrtc.error.status ? fail(err, nvrtc.error.status, "%s", nvrtc.error.text) : 0;
}

const char *nvrtc_library(void) { return ready(NULL) || !*nvrtc.path ? NULL : nvrtc.path; }

int nvrtc_version(int *major, int *minor, struct error *err) {
  int status = ready(err);
  if (!status && nvrtc.call.version(major, minor)) status = fail(err, STROBE_UNSUPPORTED, "nvrtcVersion failed");
  return status;
}

void gpu_report_parse(const char *log, struct gpu_report *report) {
  *report = (struct gpu_report){0};
  const char *at = strstr(log, "bytes stack frame");
  while (at && at > log && strchr(" 0123456789", at[-1])) at--; // NVRTC puts "ptxas   ." before it
  if (at)
    sscanf(at, " %d bytes stack frame, %d bytes spill stores, %d bytes spill loads", &report->stack_bytes,
           &report->spill_stores, &report->spill_loads);
  at = strstr(log, "Used ");
  if (at) sscanf(at, "Used %d registers", &report->registers);
  at = strstr(log, "C75");
  if (at) snprintf(report->serialized, sizeof report->serialized, "%.*s", (int)strcspn(at, "\n"), at);
}

// NVRTC's own results: 1 is out of memory; the others mean that it was called wrongly, or is broken.
static int check(int error, const char *call, struct error *err) {
  enum { OUT_OF_MEMORY = 1 };
  if (!error) return 0;
  return fail(err, error == OUT_OF_MEMORY ? STROBE_NO_MEMORY : STROBE_DEVICE, "%s failed with NVRTC error %d", call,
              error);
}

static int read_log(void *program, char **log, struct error *err) {
  size_t size = 0;
  int status = check(nvrtc.call.log_size(program, &size), "nvrtcGetProgramLogSize", err);
  if (status) return status;
  *log = calloc(size + 1, 1);
  if (!*log) return fail(err, STROBE_NO_MEMORY, "no memory for the compiler's log");
  return check(nvrtc.call.log(program, *log), "nvrtcGetProgramLog", err);
}

// What compilation said: its error, wgmma that is serialised.
static int judge(int error, const char *log, const struct gpu_report *report, struct error *err) {
  enum { COMPILATION = 6 };
  if (error == COMPILATION) {
    const char *first = strstr(log, "error");
    return fail(err, STROBE_INTERNAL, "NVRTC refuses the kernel: %.300s", first ? first : log);
  }
  int status = check(error, "nvrtcCompileProgram", err);
  if (!status && *report->serialized)
    status = fail(err, STROBE_INTERNAL, "ptxas serialises the wgmma of this kernel: %s", report->serialized);
  return status;
}

static int read_cubin(void *program, struct buf *cubin, struct error *err) {
  size_t size = 0;
  int status = check(nvrtc.call.cubin_size(program, &size), "nvrtcGetCUBINSize", err);
  if (status) return status;
  char *image = malloc(size + 1);
  if (!image) return fail(err, STROBE_NO_MEMORY, "no memory for a cubin");
  status = check(nvrtc.call.cubin(program, image), "nvrtcGetCUBIN", err);
  if (!status) buf_add(cubin, image, size);
  free(image);
  return !status && cubin->failed ? fail(err, STROBE_NO_MEMORY, "no memory for a cubin") : status;
}

static int check_loops(const struct buf *cubin, size_t at, struct gpu_report *report, struct error *err) {
  struct sass_report loops;
  sass_scan(cubin->data + at, cubin->len - at, &loops);
  report->main_loops = loops.loops, report->local_in_loop = loops.local;
  if (!loops.local) return 0;
  return fail(err, STROBE_INTERNAL,
              "ptxas spills registers in the main loop of this kernel: %d loads and stores of local memory in every "
              "iteration, the first at 0x%x; a smaller block_n, or q_regs=0 with o_tma=0, needs fewer registers",
              loops.local, (unsigned)loops.first);
}

static int run(void *program, struct buf *cubin, struct gpu_report *report, struct error *err) {
  static const char *const options[] = {NVRTC_OPTIONS(NVRTC_ITEM)};
  char *log = NULL;
  const int error = nvrtc.call.compile(program, sizeof options / sizeof *options, options);
  int status = read_log(program, &log, err);
  if (!status) {
    gpu_report_parse(log, report);
    status = judge(error, log, report, err);
  }
  free(log);
  const size_t at = cubin->len;
  if (!status) status = read_cubin(program, cubin, err);
  return status ? status : check_loops(cubin, at, report, err);
}

int nvrtc_compile(const char *source, struct buf *cubin, struct gpu_report *report, struct error *err) {
  int status = ready(err);
  void *program = NULL;
  if (!status)
    status = check(nvrtc.call.create(&program, source, "strobe.cu", 0, NULL, NULL), "nvrtcCreateProgram", err);
  if (status) return status;
  status = run(program, cubin, report, err);
  nvrtc.call.destroy(&program);
  return status;
}
