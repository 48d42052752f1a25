// From an instance to the text of its kernel: templates, vector-operation printers, and what was counted on the way.
#ifndef STROBE_GEN_KERNEL_H
#define STROBE_GEN_KERNEL_H

#include "buf.h"
#include "error.h"
#include "spec.h"

enum printer { PRINTER_SCALAR, PRINTER_INTRIN, PRINTER_CODE, PRINTER_COUNT };
extern const char *const printer_names[PRINTER_COUNT]; // "scalar", "intrin", "code"

// Where template text comes from: the set embedded in the binary, or a directory that overrides it file by file.
struct templates {
  const char *dir; // NULL: embedded only
};
uint64_t templates_hash(void); // of the embedded set

// Counts of one labelled phase ("qk", "softmax", "pv", ...), for `explain`. Static: per rendered statement, not per
// run.
struct phase_stats {
  char name[24];
  int ops;             // vector operations
  int instructions;    // machine instructions (code printer)
  int bytes;           // their encoded size (code printer)
  double slots;        // FMA-pipe slots
  int fmas;            // fma and dot operations among ops
  int tile_products;   // likewise, of matrix tiles
  char registers[200]; // live registers, "top v0-3, s v4-19, q v20-23", of the statement with the most
};

struct kernel_stats {
  struct phase_stats phase[24];
  int n_phases;
  int vregs_peak;        // most vector registers live at once
  int vregs_limit;       // what the target has; 0 = no limit
  int gprs_peak;         // most general registers in a block (code printer)
  int code_bytes;        // sum over phases
  int64_t scratch_bytes; // per worker
  int64_t encode_ns;     // spent in the instruction encoder (code printer), if options give a clock
};

struct render_options {
  enum printer printer;
  struct templates templates;
  bool comments;             // keep comments and mnemonics (emit); false for the JIT: less text to compile
  bool for_tcc;              // prologue without headers (libtcc ships none)
  const char *symbol;        // NULL: instance_symbol
  int64_t (*clock_ns)(void); // NULL, or what encode_ns is measured with: the generator has no clock of its own
};

// Appends the kernel's C text. STROBE_UNSUPPORTED if the printer has no rows for the target.
int kernel_render(const struct instance *i, const struct render_options *o, struct buf *out, struct kernel_stats *stats,
                  struct error *err);

// Appends another of the templates, with the names in b bound.
struct tpl_binding;
int kernel_template(const char *name, const struct tpl_binding *b, size_t n, const struct templates *t, struct buf *out,
                    struct error *err);

#endif
