#include "tcc_host.h"

#if STROBE_TCC

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>

#define HIDDEN __attribute__((visibility("hidden")))
#define OUTPUT_FD 0x7ffffff0 // stands for TCC_HOST_OUTPUT; never reaches the kernel

struct tcc_host tcc_host = {.limit = (size_t)1 << 30};

// Every block is on a list, so that a compilation that is left by longjmp gives all of its memory back.
struct block {
  struct block *next, *prev;
  size_t size;
  size_t pad; // keeps the payload 16-byte aligned
};
static struct block blocks = {&blocks, &blocks, 0, 0};
static char *pristine_data;

// libtcc's writable sections, renamed by the build; the linker provides the bounds.
extern char __start_strobe_tcc_data[] HIDDEN, __stop_strobe_tcc_data[] HIDDEN;
extern char __start_strobe_tcc_bss[] HIDDEN, __stop_strobe_tcc_bss[] HIDDEN;

static void link_block(struct block *b) {
  b->next = blocks.next;
  b->prev = &blocks;
  b->next->prev = b->prev->next = b;
  tcc_host.used += b->size;
}

static void unlink_block(struct block *b) {
  b->next->prev = b->prev;
  b->prev->next = b->next;
  tcc_host.used -= b->size;
}

HIDDEN _Noreturn void strobe_tcc_exit(int code) {
  (void)code;
  tcc_host.broken = true;
  longjmp(tcc_host.leave, 1);
}

// libtcc's own handling of NULL is not complete, and everything it holds is taken back anyway: so leave at once.
static _Noreturn void starve(void) {
  tcc_host.starved = true;
  strobe_tcc_exit(1);
}

HIDDEN void *strobe_tcc_realloc(void *old, size_t size) {
  struct block *b = old ? (struct block *)old - 1 : NULL;
  size_t had = b ? b->size : 0;
  if (size > tcc_host.limit || tcc_host.used - had > tcc_host.limit - size) starve();
  if (b) unlink_block(b);
  struct block *grown = realloc(b, size + sizeof *b);
  if (!grown) {
    if (b) link_block(b);
    starve();
  }
  grown->size = size;
  link_block(grown);
  return grown + 1;
}

HIDDEN void *strobe_tcc_malloc(size_t size) { return strobe_tcc_realloc(NULL, size); }

HIDDEN void *strobe_tcc_calloc(size_t n, size_t size) {
  if (size && n > SIZE_MAX / size) starve();
  void *p = strobe_tcc_malloc(n * size);
  return memset(p, 0, n * size);
}

HIDDEN void strobe_tcc_free(void *p) {
  if (!p) return;
  unlink_block((struct block *)p - 1);
  free((struct block *)p - 1);
}

HIDDEN _Noreturn void strobe_tcc_assert_fail(const char *what, const char *file, unsigned line, const char *function) {
  (void)file, (void)line, (void)function;
  tcc_host_message(NULL, what);
  strobe_tcc_exit(1);
}

HIDDEN int strobe_tcc_open(const char *path, int flags, ...) {
  if ((flags & O_ACCMODE) == O_WRONLY && strcmp(path, TCC_HOST_OUTPUT) == 0) return OUTPUT_FD;
  errno = ENOENT; // no header, library or special file exists for a kernel
  return -1;
}

HIDDEN int strobe_tcc_unlink(const char *path) { return (void)path, 0; }

// The object is the one thing that libtcc writes, and it looks at no result; open_memstream does not tell when it runs
// out of memory. So the stream is ours: an address that stands for tcc_host.object, and leaves when that can't grow.
static char output_stream;

static bool is_output(const FILE *stream) { return (const void *)stream == &output_stream; }

static void append(const void *data, size_t len) {
  if (len <= tcc_host.limit - tcc_host.object.len)
    buf_add(&tcc_host.object, data, len);
  else
    tcc_host.object.failed = true;
  if (tcc_host.object.failed) starve();
}

HIDDEN FILE *strobe_tcc_fdopen(int fd, const char *mode) {
  return (void)fd, (void)mode, (FILE *)(void *)&output_stream;
}
HIDDEN int strobe_tcc_fclose(FILE *stream) { return (void)stream, 0; }
HIDDEN int strobe_tcc_fflush(FILE *stream) { return (void)stream, 0; }

// What libtcc would say to stdout and stderr (nothing, as we call it) goes nowhere, but for what it says to stderr
// before it knows its error callback: out of memory in tcc_new.
HIDDEN size_t strobe_tcc_fwrite(const void *p, size_t size, size_t n, FILE *stream) {
  if (is_output(stream)) append(p, size * n);
  return n;
}
HIDDEN int strobe_tcc_fputs(const char *s, FILE *stream) { return (int)strobe_tcc_fwrite(s, 1, strlen(s), stream); }
HIDDEN int strobe_tcc_fputc(int c, FILE *stream) {
  const char byte = (char)c;
  return strobe_tcc_fwrite(&byte, 1, 1, stream), c;
}

HIDDEN int strobe_tcc_vfprintf(FILE *stream, int flag, const char *format, va_list ap) {
  char text[sizeof tcc_host.message];
  (void)flag;
  int n = vsnprintf(text, sizeof text, format, ap);
  tcc_host_message(NULL, text);
  if (is_output(stream)) strobe_tcc_exit(1); // objects hold no formatted text
  return n;
}

HIDDEN int strobe_tcc_fprintf(FILE *stream, int flag, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  int n = strobe_tcc_vfprintf(stream, flag, format, ap);
  va_end(ap);
  return n;
}

HIDDEN int strobe_tcc_printf(int flag, const char *format, ...) { return (void)flag, (void)format, 0; }
HIDDEN int strobe_tcc_puts(const char *s) { return (void)s, 0; }
HIDDEN int strobe_tcc_putchar(int c) { return c; }

// ---- what an object needs nothing of: descriptors, the clock, signals, code that runs in place, shared objects
// --------------

HIDDEN int strobe_tcc_close(int fd) { return (void)fd, 0; }
HIDDEN ssize_t strobe_tcc_read(int fd, void *to, size_t n) { return (void)fd, (void)to, (void)n, -1; }
HIDDEN off_t strobe_tcc_lseek(int fd, off_t at, int from) { return (void)fd, (void)at, (void)from, -1; }
HIDDEN char *strobe_tcc_getenv(const char *name) { return (void)name, NULL; }
HIDDEN char *strobe_tcc_getcwd(char *to, size_t size) { return size ? (*to = 0, to) : NULL; }
HIDDEN time_t strobe_tcc_time(time_t *t) { return t ? *t = 0 : 0; } // __DATE__: the same text gives the same object
HIDDEN struct tm *strobe_tcc_localtime(const time_t *t) {
  static struct tm epoch;
  epoch = (struct tm){.tm_mday = 1, .tm_year = 70};
  return (void)t, &epoch;
}
HIDDEN int strobe_tcc_mprotect(void *p, size_t size, int how) { return (void)p, (void)size, (void)how, -1; }
HIDDEN int strobe_tcc_sigaction(int n, const void *a, void *b) { return (void)n, (void)a, (void)b, -1; }
HIDDEN int strobe_tcc_sigemptyset(void *set) { return (void)set, -1; }
HIDDEN void *strobe_tcc_dlopen(const char *name, int flags) { return (void)name, (void)flags, NULL; }
HIDDEN void *strobe_tcc_dlsym(void *handle, const char *name) { return (void)handle, (void)name, NULL; }
HIDDEN int strobe_tcc_dlclose(void *handle) { return (void)handle, -1; }

HIDDEN FILE *strobe_tcc_stdout, *strobe_tcc_stderr;
HIDDEN char **strobe_tcc_environ;

void tcc_host_message(void *opaque, const char *message) {
  (void)opaque;
  size_t len = strlen(message);
  while (len && message[len - 1] == '\n') len--;
  const char *last = message + len; // the line before it says only "In file included from"
  while (last > message && last[-1] != '\n') last--;
  if (tcc_host.message[0] || strstr(last, "warning: ")) return;
  snprintf(tcc_host.message, sizeof tcc_host.message, "%.*s", (int)(message + len - last), last);
}

bool tcc_host_begin(void) {
  size_t n = (size_t)(__stop_strobe_tcc_data - __start_strobe_tcc_data);
  if (!pristine_data) {
    pristine_data = malloc(n + 1);
    if (!pristine_data) return false;
    memcpy(pristine_data, __start_strobe_tcc_data, n);
  }
  tcc_host.starved = tcc_host.broken = false;
  tcc_host.message[0] = 0;
  return true;
}

void tcc_host_end(void) {
  bool dirty = tcc_host.broken || blocks.next != &blocks;
  buf_free(&tcc_host.object);
  while (blocks.next != &blocks) strobe_tcc_free(blocks.next + 1);
  if (!dirty) return;
  memcpy(__start_strobe_tcc_data, pristine_data, (size_t)(__stop_strobe_tcc_data - __start_strobe_tcc_data));
  memset(__start_strobe_tcc_bss, 0, (size_t)(__stop_strobe_tcc_bss - __start_strobe_tcc_bss));
}

#endif
