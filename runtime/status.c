#include "status.h"

#include <string.h>

// The only state outside contexts, beside the count of forks: the message has to outlive the call that failed.
static _Thread_local char message[sizeof((struct error *)0)->text];

enum strobe_status status_report(const struct error *err) {
  if (err->status != STROBE_OK) memcpy(message, err->text, sizeof message);
  return err->status;
}

const char *strobe_error(void) { return message; }
const char *strobe_version(void) { return STROBE_VERSION; }

static int check_size(size_t size, size_t known, size_t least, const char *name, struct error *err) {
  if (size >= least) return STROBE_OK;
  return fail(err, STROBE_INVALID, "%s.size %zu: must be sizeof (struct strobe_%s), %zu", name, size, name, known);
}

int sized_read(void *to, size_t known, size_t least, const void *from, const char *name, struct error *err) {
  size_t size;
  memcpy(&size, from, sizeof size);
  int status = check_size(size, known, least, name, err);
  if (status) return status;
  // Stops at the first byte that is not zero, and a size this large is not a struct: the scan stays within what is
  // there.
  if (size > 16 * known)
    return fail(err, STROBE_INVALID, "%s.size %zu: must be sizeof (struct strobe_%s), %zu", name, size, name, known);
  for (size_t i = known; i < size; i++)
    if (((const unsigned char *)from)[i])
      return fail(err, STROBE_INVALID,
                  "%s.size %zu: byte %zu is set, but version %s knows only %zu bytes of this struct", name, size, i,
                  STROBE_VERSION, known);
  memset(to, 0, known);
  memcpy(to, from, size < known ? size : known);
  return STROBE_OK;
}

int sized_write(void *to, size_t known, size_t least, const void *from, const char *name, struct error *err) {
  size_t size;
  memcpy(&size, to, sizeof size);
  int status = check_size(size, known, least, name, err);
  if (status) return status;
  memcpy((char *)to + sizeof size, (const char *)from + sizeof size, (size < known ? size : known) - sizeof size);
  return STROBE_OK;
}
