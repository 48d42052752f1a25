#include "spec.h"

#include <string.h>

// Vector registers, lanes and caches as the kernels see them. c99 stands for gcc and clang of any CPU: arrays of 16
// floats take the place of registers, so nothing limits their number, and the dot product of bf16 pairs is spelled out.
const struct target target_table[] = {
    {.name = "c99",
     .family = FAMILY_CPU,
     .isa = "c99",
     .lanes = 16,
     .vregs = 0,
     .l1i_bytes = 32768,
     .bf16_dot = true,
     .lookup = true,
     .about = "plain C99 loops over 16 lanes, for any CPU by gcc or clang"},
    {.name = "avx2",
     .family = FAMILY_CPU,
     .isa = "avx2",
     .lanes = 8,
     .vregs = 16,
     .l1i_bytes = 32768,
     .bf16_dot = false,
     .lookup = false,
     .bcast_temps = 1,
     .about = "x86-64 with AVX2, FMA and F16C"},
    {.name = "avx512",
     .family = FAMILY_CPU,
     .isa = "avx512",
     .lanes = 16,
     .vregs = 32,
     .l1i_bytes = 32768,
     .bf16_dot = false,
     .lookup = true,
     .about = "x86-64 with AVX-512 F, BW, DQ and VL"},
    {.name = "avx512bf16",
     .family = FAMILY_CPU,
     .isa = "avx512bf16",
     .lanes = 16,
     .vregs = 32,
     .l1i_bytes = 32768,
     .bf16_dot = true,
     .lookup = true,
     .about = "x86-64 with AVX-512 and AVX512_BF16 (vdpbf16ps)"},
    {.name = "amxbf16",
     .family = FAMILY_CPU,
     .isa = "amxbf16",
     .lanes = 16,
     .vregs = 32,
     .l1i_bytes = 32768,
     .bf16_dot = true,
     .tiles = true,
     .lookup = true,
     .about = "x86-64 with AVX-512, AVX512_BF16 and AMX_BF16 (tdpbf16ps)"},
    {.name = "sm90a",
     .family = FAMILY_CUDA,
     .isa = NULL,
     .lanes = 0,
     .vregs = 0,
     .l1i_bytes = 0,
     .bf16_dot = true,
     .about = "NVIDIA Hopper (H100, H200): wgmma, TMA, setmaxnreg"},
};
const int target_count = sizeof target_table / sizeof *target_table;

const struct target *target_find(const char *name) {
  for (int i = 0; name && i < target_count; i++)
    if (strcmp(target_table[i].name, name) == 0) return &target_table[i];
  return NULL;
}
