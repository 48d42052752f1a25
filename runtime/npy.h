// NumPy's .npy files: little-endian, C order, rank at most 8. Format: numpy.lib.format, versions 1.0, 2.0 and 3.0.
#ifndef STROBE_NPY_H
#define STROBE_NPY_H

#include "../gen/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum npy_type { NPY_F4, NPY_F8, NPY_F2, NPY_U1, NPY_U2, NPY_I4, NPY_I8, NPY_TYPE_COUNT };
enum { NPY_MAX_RANK = 8 };

struct npy_type_info {
  const char *descr; // "<f4"
  const char *name;  // "float32"
  int bytes;
};
extern const struct npy_type_info npy_types[NPY_TYPE_COUNT];

struct npy {
  enum npy_type type;
  int rank; // 0: a scalar, one element
  int64_t shape[NPY_MAX_RANK];
  int64_t elements; // product of shape
  size_t bytes;     // of the data
  void *data;       // 64-byte aligned, the reader's own; NULL after npy_parse
};

// Reads the header in front of `len` bytes and checks that exactly a->bytes of data follow, which start at *offset. Any
// bytes give success or an error. `name` is what an error calls the file. STROBE_INVALID.
int npy_parse(const void *bytes, size_t len, const char *name, struct npy *a, size_t *offset, struct error *err);

// Reads a file into memory of its own. On failure *a is all zero. STROBE_IO, STROBE_INVALID, STROBE_NO_MEMORY.
int npy_read(const char *path, struct npy *a, struct error *err);
void npy_free(struct npy *a); // back to {0}

// Checks what was read: its type is one of the bits 1 << NPY_..., its rank is `rank`, and each shape[i] that is not -1
// equals the file's. The sentence names the file, what it holds and what is allowed. STROBE_INVALID.
int npy_expect(const struct npy *a, const char *name, unsigned types, int rank, const int64_t *shape,
               struct error *err);

// Writes version 1.0, whole or not at all: a temporary file in the same directory, fsync, rename. On failure nothing is
// left behind and an existing file is as it was. STROBE_INVALID (rank, shape), STROBE_IO, STROBE_NO_MEMORY.
int npy_write(const char *path, enum npy_type type, int rank, const int64_t *shape, const void *data,
              struct error *err);

// The same for up to NPY_MAX_OUTPUTS files: if one cannot be written, none is.
struct npy_output {
  const char *path;
  enum npy_type type;
  int rank;
  const int64_t *shape;
  const void *data;
};
enum { NPY_MAX_OUTPUTS = 4 };
int npy_write_all(const struct npy_output *outputs, int n, struct error *err);

#endif
