// The vocabulary and its scalar meaning. The lane loop variable is `e`; .f and .u are a lane as f32 and as bits.
#include "vop.h"

const struct vop vop_table[] = {
    {"zero", "d", "$0.f = 0", false},
    {"load", "dm", "$0.u = $1.u", false},
    {"store", "mr", "stu($0p, $1.u)", false},
    {"bcast", "ds", "$0.u = $1.u", false},
    {"mov", "ds", "$0.u = $1.u", false},
    {"add", "drs", "$0.f = $1.f + $2.f", false},
    {"sub", "drs", "$0.f = $1.f - $2.f", false},
    {"mul", "drs", "$0.f = $1.f * $2.f", false},
    {"div", "drs", "$0.f = $1.f / $2.f", false},
    {"max", "drs", "$0.f = maxf($1.f, $2.f)", false}, // the second operand if either is NaN
    {"fma", "xrs", "$0.f += $1.f * $2.f", true},
    {"horner", "xrs", "$0.f = $0.f * $1.f + $2.f", true},
    {"scale_sub", "xrs", "$0.f = $0.f * $1.f - $2.f", true},
    {"and", "drs", "$0.u = $1.u & $2.u", false},
    {"round", "ds", "$0.f = round_to($1.f, 1.0f)", false},    // to the nearest integer, ties to even
    {"frac", "ds", "$0.f = frac_of($1.f, 1.0f)", false},      // x - round(x); 0 for +-inf
    {"frac16", "ds", "$0.f = frac_of($1.f, 0.0625f)", false}, // x - (x rounded to sixteenths); 0 for +-inf
    // 2^c = 2^a 2^b, for c <= 0: a = c to the nearest integer (of two either), in whatever form exp2_scale takes it,
    // b = c - a (0 for -inf). Below -126 any a down there will do.
    {"exp2_split", "dds", "$1.f = frac_of($2.f, 1.0f), $0.f = round_to($2.f, 1.0f)", false},
    // b 2^c, b in [1/2, 2), c of exp2_split; below -126 it may be 0.
    {"exp2_scale", "drr", "$0.f = scalef2($1.f, $2.f)", false},
    {"scalef", "drr", "$0.f = scalef2($1.f, $2.f)", false},    // a * 2^floor(b)
    {"lookup", "drc", "$0.u = $2[$1.u & 15]", false},          // entry number (low 4 bits of the lane)
    {"exponent", "ds", "$0.f = exponentf($1.f)", false},       // floor(log2 |x|); -inf for 0
    {"mantissa", "ds", "$0.f = mantissaf($1.f)", false},       // x / 2^exponent, in [1, 2)
    {"dot", "xrs", "$0.f += pair_dot($1.u, $2.u)", true},      // bf16 pairs: acc += lo lo + hi hi
    {"bf16_pair", "xsd", "$0.u = to_pair($1.f, $0.f)", false}, // f32 (hi in x, lo) -> bf16 pair in x; d is a temporary
    {"upper_pair", "xr", "$0.u = $0.u >> 16 | ($1.u & 0xffff0000u)", false}, // f32 cut off to a bf16 pair, a first
    {"zip1", "xx", "call:zip_within($0, $1, 1)", false}, // of every four lanes a0 b0 a1 b1; a2 b2 a3 b3
    {"zip2", "xx", "call:zip_within($0, $1, 2)", false}, // of every four lanes a0 a1 b0 b1; a2 a3 b2 b3
    {"deal4", "xx", "call:deal4($0, $1)", false},        // groups of four lanes: the even ones of both; the odd ones
    {"zip16", "xx", "call:zip16($0, $1)", false},        // 16-bit elements interleaved: low half; high half
    {"load_first", "dmi", "call:load_first($0, $1p, $2n)", false}, // lanes >= n are 0 and not read
    {"store_first", "mri", "call:store_first($0p, $1, $2n)", false},
    {"store_bf16", "mri", "call:store_bf16($0p, $1, $2n)", false}, // first n lanes, rounded to bf16
    {"store_f16", "mri", "call:store_f16($0p, $1, $2n)", false},   // first n lanes, rounded to f16
    {"load_bf16", "dm", "call:load_bf16($0, $1p)", false},         // one 16-bit element a lane, widened
    {"load_f16", "dm", "call:load_f16($0, $1p)", false},
    {"load_bf16_first", "dmi", "call:load_bf16_first($0, $1p, $2n)", false}, // lanes >= n are 0 and not read
    {"load_f16_first", "dmi", "call:load_f16_first($0, $1p, $2n)", false},
    {"from", "Ki", "$0 = e >= $1n", false},
    {"first", "Ki", "$0 = e < $1n", false},
    {"nonzero", "Kr", "$0 = !($1.f == 0)", false}, // true for NaN
    {"select", "dksr", "$0.u = $1 ? $2.u : $3.u", false},
    {"prefetch", "m", "", false},
    {"prefetch_l2", "m", "", false},                   // soon, but not that soon: into the second-level cache
    {"pin", "x", "", false},                           // for C compilers: computed here, and no load moves across
    {"load_if", "dkm", "$0.u = $1 ? $2.u : 0", false}, // 0 in the lanes outside the mask, which are not read
    // Horizontal sums: fold1 twice, fold8 of 16 lanes, and fold4 leave the sums of `lanes` vectors in a lane each.
    {"fold8", "drr", "call:fold($0, $1, $2, 8)", false}, // sums of the halves of b, then of c
    {"fold4", "drr", "call:fold($0, $1, $2, 4)", false}, // the same within groups of eight lanes, b's groups first
    {"fold1", "drr", "call:fold($0, $1, $2, 1)", false}, // neighbours; two of b, two of c
    {"swap8", "dr", "call:swap($0, $1, 8)", false},      // lane e = lane e ^ 8
    {"swap4", "dr", "call:swap($0, $1, 4)", false},
    {"swap2", "dr", "call:swap($0, $1, 2)", false},
    {"swap1", "dr", "call:swap($0, $1, 1)", false},
    // Elements interleaved within every four lanes, which costs one instruction and no table.
    {"zip16_low", "drr", "call:zip16_four($0, $1, $2, 0)", false}, // 16-bit elements 0-3 of b and c
    {"zip16_high", "drr", "call:zip16_four($0, $1, $2, 4)", false},
    {"zip4_low", "drr", "call:zip4($0, $1, $2, 0)", false}, // four lanes of b, four of c, from their low halves
    {"zip4_high", "drr", "call:zip4($0, $1, $2, 8)", false},
    // Tiles: up to 16 rows of up to 16 f32, or pairs of bf16. The last operand of loads and stores: bytes between rows.
    // Lane loops take a tile's shape from its declaration, the others from tile_config.
    {"tile_config", "c", "", false}, // before any other; afterwards all tiles are 0
    {"tile_release", "", "", false},
    {"tile_zero", "T", "call:tile_zero(&$0)", false},
    {"tile_load", "Tmi", "call:tile_load(&$0, $1p, $2n, $0s)", false},
    {"tile_store", "mti", "call:tile_store($0p, &$1, $2n, $1s)", false},
    {"tile_dot", "Xtt", "call:tile_dot(&$0, &$1, &$2, $1s, $2w)",
     false}, // c[i][j] += sum over pairs k of a[i][k] b[k][j]
};
const int vop_count = sizeof vop_table / sizeof vop_table[0];
