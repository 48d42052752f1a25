// What kernels that multiply whole KV blocks (the CUDA ones) may give where the inputs are not finite.
#ifndef STROBE_VERIFY_BLOCKS_H
#define STROBE_VERIFY_BLOCKS_H

#include "../gen/spec.h"
#include "kernel_abi.h"

// One element of O (column >= 0) or lse (column -1) that differs from the oracle in being finite.
struct verify_place {
  const struct spec *spec;
  const struct instance *kernel;
  const struct strobe_args *args;
  int64_t batch, head, row, column;
};

// The second GEMM of a tensor core multiplies P by all of V's block, also by keys that a row does not see, whose P is
// 0; and 0 times NaN or Inf is NaN. So an element of O may be NaN if its column of V is not finite at a key that this
// row does not see, of a block that its 64 rows visit. And the mask is a score of -Inf: a row that sees none but scores
// of -Inf may count as one that sees no key, O = 0, where the textbook has NaN; else its lse may be NaN like O. Nothing
// else is excused.
bool verify_excuses(const struct verify_place *at, double got, double want);

#endif
