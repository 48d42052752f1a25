// The parts of the demo: tensors with what they should give (demo_case.c), and two ways from a spec to a function
// (demo_kernel.c). demo.c runs one against the other and prints the table.
#ifndef STROBE_DEMO_H
#define STROBE_DEMO_H

#include "../runtime/inputs.h"
#include "../runtime/npy.h"
#include "../runtime/reference.h"

// One problem with its inputs, and the oracle's results for the query rows that are compared.
struct demo_case {
  const char *name; // of the tensors
  struct problem problem;
  struct tensors tensors;
  int64_t n_rows, *rows;
  struct reference_out want; // (batch, heads, n_rows, ...); of the inputs as rounded to the problem's dtype
  struct npy o, lse;         // stored float64 outputs: (b, n, h, d) and (b, h, n); no data for random tensors
  double oracle_gap;         // f32: the largest distance of the oracle from the stored outputs, o and lse
};

// Tensors NAME-q, -k and -v of directory dir, rounded to the problem's dtypes; outputs NAME-o and -lse, or with
// -causal- in front of those. f32 problems are held against the stored outputs themselves.
int demo_case_read(const char *dir, const char *name, const char *problem, struct demo_case *c, struct error *err);
// Normally distributed tensors; the oracle computes a sample of the rows.
int demo_case_random(const char *problem, struct demo_case *c, struct error *err);
void demo_case_free(struct demo_case *c);

struct demo_errors {
  double o, o_bound;     // the largest error of o and the bound of that element
  double o_ratio;        // the largest error / bound of all elements of o
  double lse, lse_ratio; // likewise
  double stored;         // largest distance of o from the stored float64 outputs; NaN: there are none
  bool ok;               // every element is finite and within its bound
};
struct demo_errors demo_compare(const struct demo_case *c, const struct instance *kernel);

// A function that computes a case, however it came about. One thread.
struct demo_kernel {
  struct instance instance;
  char backend[24]; // "cc", or which of the library's serves
  char why[640];    // why not its first choice; "" if it is
  struct strobe_context *context;
  struct strobe_plan *plan;
  void *library; // of dlopen
  int (*forward)(const struct strobe_args *args, void *memory, strobe_i64 bytes);
  void *memory;
  strobe_i64 bytes;
};

struct demo_tools {
  const char *strobe; // the command-line program
  const char *cc;
  const char *dir; // where emitted files go
};

int demo_kernel_emit(const struct demo_tools *tools, const struct demo_case *c, struct demo_kernel *k,
                     struct error *err);
int demo_kernel_jit(const struct demo_tools *tools, const struct demo_case *c, struct demo_kernel *k,
                    struct error *err);
int demo_kernel_run(const struct demo_kernel *k, const struct demo_case *c, struct error *err);
void demo_kernel_free(struct demo_kernel *k);

#endif
