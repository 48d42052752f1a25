// AVX2, FMA and F16C, one row per operation: 8 lanes, 16 registers. A mask is a vector register. There is no {1to16}:
// the code printer loads a broadcast operand into a temporary, and keeps it there while the next operations want the
// same.
#include "vop.h"

// The first n lanes of t0, all bits set.
#define FIRST(N) "eax " N "; vmovd xt0,eax; vpbroadcastd t0,xt0; vpcmpgtd t0,t0,#iota; "

static const struct isa_row rows[] = {
    {"zero", "$0 = _mm256_setzero_ps()", "vxorps $0,$0,$0", 0, 0},
    {"load", "$0 = _mm256_loadu_ps($1f)", "vmovups $0,$1", 0, 0},
    {"store", "_mm256_storeu_ps($0p, $1)", "vmovups $0,$1", 0, 0},
    {"bcast", "$0 = $1", "vmovups $0,$1", 0, 0},
    {"mov", "$0 = $1", "vmovups $0,$1", 0, 0},
    {"add", "$0 = _mm256_add_ps($1, $2)", "vaddps $0,$1,$2", 0, 0},
    {"sub", "$0 = _mm256_sub_ps($1, $2)", "vsubps $0,$1,$2", 0, 0},
    {"mul", "$0 = _mm256_mul_ps($1, $2)", "vmulps $0,$1,$2", 0, 1},
    {"div", "$0 = _mm256_div_ps($1, $2)", "vdivps $0,$1,$2", 0, 5},
    {"max", "$0 = _mm256_max_ps($1, $2)", "vmaxps $0,$1,$2", 0, 0},
    {"fma", "$0 = _mm256_fmadd_ps($1, $2, $0)", "vfmadd231ps $0,$1,$2", 0, 1},
    {"scale_sub", "$0 = _mm256_fmsub_ps($0, $1, $2)", "vfmsub213ps $0,$1,$2", 0, 1},
    {"horner", "$0 = _mm256_fmadd_ps($0, $1, $2)", "vfmadd213ps $0,$1,$2", 0, 1},
    {"and", "$0 = _mm256_and_ps($1, $2)", "vandps $0,$1,$2", 0, 0},
    {"round", "$0 = _mm256_round_ps($1, 8)", "vroundps $0,$1,8", 0, 0},
    // Within +-2^23, beyond which every number is an integer; the second operand of min and max wins against NaN.
    {"frac", "$0 = frac_ps($1)",
     "vmovups t0,#0x4b000000; vminps t0,t0,$1; vmovups t1,#0xcb000000; vmaxps t0,t1,t0; vroundps t1,t0,8; "
     "vsubps $0,t0,t1",
     2, 0},
    // Not below -127, where 2^a is 0. a is more by 1.5 2^23 + 127: that addition rounds, on more ports than vroundps,
    // and leaves the exponent of 2^a in the low bits. b is not the register of a or c.
    {"exp2_split", "exp2_split_ps(&$0, &$1, $2)",
     "vmovups $1,#0xc2fe0000; vmaxps $1,$1,$2; vaddps $0,$1,#0x4b40007f; vsubps t0,$0,#0x4b40007f; vsubps $1,$1,t0", 1,
     0},
    // a is not the register of b.
    {"exp2_scale", "$0 = exp2_scale_ps($1, $2)", "vpslld $0,$2,23; vmulps $0,$1,$0", 0, 1},
    // A denormal is scaled by 2^23 first. Infinities and NaN pass; 0 gives -inf.
    {"exponent", "$0 = exponent_ps($1)",
     "vmovups t0,$1; vandps t0,t0,#0x7fffffff; vmulps t1,t0,#0x4b000000; vcmpps t2,t0,#0x00800000,17; vblendvps "
     "t1,t0,t1,t2; "
     "vpsrld t1,t1,23; vcvtdq2ps t1,t1; vsubps t1,t1,#0x42fe0000; vandps t2,t2,#0x41b80000; vsubps t1,t1,t2; "
     "vcmpps t2,t0,#0x7f800000,21; vblendvps t1,t1,t0,t2; vxorps t2,t2,t2; vcmpps t2,t0,t2,0; "
     "vblendvps $0,t1,#0xff800000,t2",
     3, 1},
    {"mantissa", "$0 = mantissa_ps($1)",
     "vmovups t0,$1; vandps t1,t0,#0x7fffffff; vcmpps t1,t1,#0x00800000,17; vmulps t2,t0,#0x4b000000; "
     "vblendvps t1,t0,t2,t1; vandps t1,t1,#0x807fffff; vorps t1,t1,#0x3f800000; vcmpps t2,t0,t0,3; "
     "vblendvps $0,t1,t0,t2",
     3, 1},
    {"zip1", "{ __m256 low_ = _mm256_unpacklo_ps($0, $1); $1 = _mm256_unpackhi_ps($0, $1); $0 = low_; }",
     "vunpcklps t0,$0,$1; vunpckhps $1,$0,$1; vmovups $0,t0", 1, 0},
    {"zip2",
     "{ __m256d a_ = _mm256_castps_pd($0), b_ = _mm256_castps_pd($1); "
     "$0 = _mm256_castpd_ps(_mm256_unpacklo_pd(a_, b_)); $1 = _mm256_castpd_ps(_mm256_unpackhi_pd(a_, b_)); }",
     "vunpcklpd t0,$0,$1; vunpckhpd $1,$0,$1; vmovups $0,t0", 1, 0},
    {"deal4",
     "{ __m256 even_ = _mm256_permute2f128_ps($0, $1, 32); $1 = _mm256_permute2f128_ps($0, $1, 49); $0 = even_; }",
     "vperm2f128 t0,$0,$1,32; vperm2f128 $1,$0,$1,49; vmovups $0,t0", 1, 0},
    {"zip16",
     "{ __m256 low_ = _mm256_castsi256_ps(_mm256_unpacklo_epi16($0i, $1i)), "
     "high_ = _mm256_castsi256_ps(_mm256_unpackhi_epi16($0i, $1i)); "
     "$0 = _mm256_permute2f128_ps(low_, high_, 32); $1 = _mm256_permute2f128_ps(low_, high_, 49); }",
     "vpunpcklwd t0,$0,$1; vpunpckhwd t1,$0,$1; vperm2f128 $0,t0,t1,32; vperm2f128 $1,t0,t1,49", 2, 0},
    {"load_first", "$0 = _mm256_maskload_ps($1p, _mm256_castps_si256(first_lanes($2n)))",
     FIRST("$2") "vmaskmovps $0,t0,$1", 1, 0},
    {"store_first", "_mm256_maskstore_ps($0p, _mm256_castps_si256(first_lanes($2n)), $1)",
     FIRST("$2") "vmaskmovps $0,t0,$1", 1, 0},
    {"load_if", "$0 = _mm256_maskload_ps($2p, _mm256_castps_si256($1))", "vmaskmovps $0,$1,$2", 0, 0},
    {"load_bf16", "$0 = bf16_to_f32(_mm_loadu_si128((const __m128i *)(const void *)($1p)))",
     "vpmovzxwd $0,$1; vpslld $0,$0,16", 0, 0},
    {"load_f16", "$0 = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)($1p)))", "vcvtph2ps $0,$1", 0,
     0},
    {"load_bf16_first", "$0 = bf16_to_f32(load_halves($1p, $2n))",
     "eax $2; vxorps t0,t0,t0; each vpinsrw xt0,xt0,$1,0; vpmovzxwd $0,xt0; vpslld $0,$0,16", 1, 0},
    {"load_f16_first", "$0 = _mm256_cvtph_ps(load_halves($1p, $2n))",
     "eax $2; vxorps t0,t0,t0; each vpinsrw xt0,xt0,$1,0; vcvtph2ps $0,xt0", 1, 0},
    // Round to nearest even by integers; NaN is kept and made quiet.
    {"store_bf16", "store_halves($0p, f32_to_bf16($1), $2n)",
     "eax $2; vpsrld t0,$1,16; vandps t1,t0,#0x1; vpaddd t1,t1,$1; vpaddd t1,t1,#0x7fff; vpsrld t1,t1,16; "
     "vorps t0,t0,#0x40; vcmpps t2,$1,$1,3; vblendvps t1,t1,t0,t2; vpackusdw t1,t1,t1; vpermq t1,t1,8; "
     "full vmovups $0,xt1; each vpextrw $0,xt1,0",
     3, 0},
    {"store_f16", "store_halves($0p, _mm256_cvtps_ph($1, _MM_FROUND_TO_NEAREST_INT), $2n)",
     "eax $2; vcvtps2ph xt0,$1,0; full vmovups $0,xt0; each vpextrw $0,xt0,0", 1, 0},
    {"from", "$0 = from_lanes($1n)", "eax $1; vmovd xt0,eax; vpbroadcastd t0,xt0; vmovups $0,#iota1; vpcmpgtd $0,$0,t0",
     1, 0},
    {"first", "$0 = first_lanes($1n)", "eax $1; vmovd xt0,eax; vpbroadcastd t0,xt0; vpcmpgtd $0,t0,#iota", 1, 0},
    {"nonzero", "$0 = _mm256_cmp_ps($1, _mm256_setzero_ps(), _CMP_NEQ_UQ)", "vxorps t0,t0,t0; vcmpps $0,$1,t0,4", 1, 0},
    {"select", "$0 = _mm256_blendv_ps($3, $2, $1)", "vblendvps $0,$3,$2,$1", 0, 0},
    {"prefetch", "_mm_prefetch((const char *)($0p), _MM_HINT_T0)", "prefetcht0 $0", 0, 0},
    {"prefetch_l2", "_mm_prefetch((const char *)($0p), _MM_HINT_T1)", "prefetcht1 $0", 0, 0},
    {"pin", "PIN($0)", "", 0, 0},
    {"fold4", "$0 = _mm256_add_ps(_mm256_permute2f128_ps($1, $2, 32), _mm256_permute2f128_ps($1, $2, 49))",
     "vperm2f128 t0,$1,$2,32; vperm2f128 $0,$1,$2,49; vaddps $0,t0,$0", 1, 0},
    {"fold1", "$0 = _mm256_add_ps(_mm256_shuffle_ps($1, $2, 136), _mm256_shuffle_ps($1, $2, 221))",
     "vshufps t0,$1,$2,136; vshufps $0,$1,$2,221; vaddps $0,t0,$0", 1, 0},
    {"swap4", "$0 = _mm256_permute2f128_ps($1, $1, 1)", "vperm2f128 $0,$1,$1,1", 0, 0},
    {"swap2", "$0 = _mm256_shuffle_ps($1, $1, 78)", "vshufps $0,$1,$1,78", 0, 0},
    {"swap1", "$0 = _mm256_shuffle_ps($1, $1, 177)", "vshufps $0,$1,$1,177", 0, 0},
};

const struct isa isa_avx2 = {.name = "avx2",
                             .rows = rows,
                             .n_rows = sizeof rows / sizeof rows[0],
                             .vector_type = "__m256",
                             .mask_type = "__m256",
                             .attribute = "avx2,fma,f16c",
                             .vex = true};
