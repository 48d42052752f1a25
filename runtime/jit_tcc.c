// C text to an ELF object through libtcc: one compilation at a time, no files, no exit, no output.
#include "jit.h"

#if STROBE_TCC

// The build gives libtcc's entry points names of ours, so that a host program can link a libtcc of its own.
#define tcc_new strobe_tcc_new
#define tcc_delete strobe_tcc_delete
#define tcc_set_error_func strobe_tcc_set_error_func
#define tcc_set_options strobe_tcc_set_options
#define tcc_set_output_type strobe_tcc_set_output_type
#define tcc_compile_string strobe_tcc_compile_string
#define tcc_output_file strobe_tcc_output_file
#define LIBTCCAPI __attribute__((visibility("hidden")))
#include <libtcc.h>

#include "tcc_host.h"

#include <locale.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SOURCE = 64 << 20 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool fork_safe;
static locale_t c_locale;

static void take_lock(void) { pthread_mutex_lock(&lock); }
static void drop_lock(void) { pthread_mutex_unlock(&lock); }

// Under the lock; what fails is tried again by the next compilation. A fork waits for the compilation in flight: the
// child finds the lock free and libtcc's globals whole.
static bool set_up(void) {
  if (!fork_safe) fork_safe = !pthread_atfork(take_lock, drop_lock, drop_lock);
  if (!c_locale) c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
  return fork_safe && c_locale && tcc_host_begin();
}

// Leaves through tcc_host.leave when libtcc calls exit. True: tcc_host.object holds the object.
static bool run_tcc(const char *source) {
  TCCState *s = tcc_new();
  if (!s) return false;
  tcc_set_error_func(s, NULL, tcc_host_message);
  tcc_set_options(s, "-nostdlib -nostdinc");
  bool ok = tcc_set_output_type(s, TCC_OUTPUT_OBJ) == 0 && tcc_compile_string(s, source) == 0 &&
            tcc_output_file(s, TCC_HOST_OUTPUT) == 0;
  tcc_delete(s);
  return ok;
}

static bool run_guarded(const char *source) { return setjmp(tcc_host.leave) == 0 && run_tcc(source); }

static int compile_locked(const char *source, struct buf *object, struct error *err) {
  const bool whole = run_guarded(source) && !tcc_host.broken;
  const size_t len = tcc_host.object.len;
  if (whole) buf_add(object, tcc_host.object.data, len);
  tcc_host_end();
  if (whole && object->failed) return fail(err, STROBE_NO_MEMORY, "no memory for an object of %zu bytes", len);
  if (whole) return STROBE_OK;
  if (tcc_host.starved) return fail(err, STROBE_NO_MEMORY, "libtcc ran out of memory");
  return fail(err, STROBE_INTERNAL, "libtcc rejected the kernel: %s",
              tcc_host.message[0] ? tcc_host.message : "it gave no reason");
}

int jit_compile(const char *source, struct buf *object, struct error *err) {
  if (strnlen(source, (size_t)MAX_SOURCE + 1) > MAX_SOURCE)
    return fail(err, STROBE_UNSUPPORTED, "the kernel's source is larger than %d MiB; unroll less", MAX_SOURCE >> 20);
  take_lock();
  if (!set_up()) {
    drop_lock();
    return fail(err, STROBE_NO_MEMORY, "no memory to start libtcc");
  }
  // libtcc reads numbers with strtod: in a locale with a decimal comma it would read 1.5f as 1.
  locale_t callers = uselocale(c_locale);
  int status = compile_locked(source, object, err);
  uselocale(callers);
  drop_lock();
  return status;
}

#else

int jit_compile(const char *source, struct buf *object, struct error *err) {
  (void)source, (void)object;
  return fail(err, STROBE_UNSUPPORTED, "Strobe was built without libtcc");
}

#endif
