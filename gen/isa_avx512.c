// AVX-512 (F, BW, DQ, VL) and AVX512_BF16, one row per operation.
#include "vop.h"

#include <string.h>

static const struct isa_row avx512_rows[] = {
    {"zero", "$0 = _mm512_setzero_ps()", "vpxord $0,$0,$0", 0, 0},
    {"load", "$0 = _mm512_loadu_ps($1p)", "vmovups $0,$1", 0, 0},
    {"store", "_mm512_storeu_ps($0p, $1)", "vmovups $0,$1", 0, 0},
    {"bcast", "$0 = $1", "vmovups $0,$1", 0, 0},
    {"mov", "$0 = $1", "vmovups $0,$1", 0, 0},
    {"add", "$0 = _mm512_add_ps($1, $2)", "vaddps $0,$1,$2", 0, 0},
    {"sub", "$0 = _mm512_sub_ps($1, $2)", "vsubps $0,$1,$2", 0, 0},
    {"mul", "$0 = _mm512_mul_ps($1, $2)", "vmulps $0,$1,$2", 0, 1},
    {"div", "$0 = _mm512_div_ps($1, $2)", "vdivps $0,$1,$2", 0, 8},
    {"max", "$0 = _mm512_max_ps($1, $2)", "vmaxps $0,$1,$2", 0, 0},
    {"fma", "$0 = _mm512_fmadd_ps($1, $2, $0)", "vfmadd231ps $0,$1,$2", 0, 1},
    {"horner", "$0 = _mm512_fmadd_ps($0, $1, $2)", "vfmadd213ps $0,$1,$2", 0, 1},
    {"and", "$0 = _mm512_castsi512_ps(_mm512_and_si512($1i, $2i))", "vpandd $0,$1,$2", 0, 0},
    {"round", "$0 = _mm512_roundscale_ps($1, 8)", "vrndscaleps $0,$1,8", 0, 0},
    {"frac", "$0 = _mm512_reduce_ps($1, 8)", "vreduceps $0,$1,8", 0, 0},
    {"frac16", "$0 = _mm512_reduce_ps($1, 4 << 4 | 8)", "vreduceps $0,$1,72", 0, 0},
    {"scalef", "$0 = _mm512_scalef_ps($1, $2)", "vscalefps $0,$1,$2", 0, 0},
    {"lookup", "$0 = _mm512_permutexvar_ps($1i, $2)", "vpermps $0,$1,$2", 0, 0.3},
    {"exponent", "$0 = _mm512_getexp_ps($1)", "vgetexpps $0,$1", 0, 0},
    {"mantissa", "$0 = _mm512_getmant_ps($1, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src)", "vgetmantps $0,$1,0", 0, 0},
    {"zip",
     "{ __m512 zip_ = $0; $0 = _mm512_permutex2var_ps(zip_, _mm512_loadu_si512(zip_lo), $1); "
     "$1 = _mm512_permutex2var_ps(zip_, _mm512_loadu_si512(zip_hi), $1); }",
     "vmovups t0,#zip_lo; vmovups t1,#zip_hi; vpermi2ps t0,$0,$1; vpermi2ps t1,$0,$1; vmovups $0,t0; vmovups $1,t1", 2,
     0.6},
    {"zip16",
     "{ __m512i zip_ = $0i; $0 = _mm512_castsi512_ps(_mm512_permutex2var_epi16(zip_, _mm512_loadu_si512(zip16_lo), "
     "$1i)); "
     "$1 = _mm512_castsi512_ps(_mm512_permutex2var_epi16(zip_, _mm512_loadu_si512(zip16_hi), $1i)); }",
     "vmovups t0,#zip16_lo; vmovups t1,#zip16_hi; vpermi2w t0,$0,$1; vpermi2w t1,$0,$1; vmovups $0,t0; vmovups $1,t1",
     2, 0.6},
    {"load_first", "$0 = _mm512_maskz_loadu_ps(first_lanes($2n), $1p)",
     "eax $2; vpbroadcastd t0,eax; vpcmpd kt,t0,#iota,6; vmovups $0{kt}{z},$1", 1, 0.3},
    {"store_first", "_mm512_mask_storeu_ps($0p, first_lanes($2n), $1)",
     "eax $2; vpbroadcastd t0,eax; vpcmpd kt,t0,#iota,6; vmovups $0{kt},$1", 1, 0.3},
    {"load_bf16", "$0 = bf16_to_f32(_mm256_loadu_si256((const __m256i *)(const void *)($1p)))",
     "vpmovzxwd $0,$1; vpslld $0,$0,16", 0, 0},
    {"load_f16", "$0 = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)($1p)))", "vcvtph2ps $0,$1", 0,
     0},
    {"load_bf16_first", "$0 = bf16_to_f32(_mm256_maskz_loadu_epi16(first_lanes($2n), $1p))",
     "eax $2; vpbroadcastd t0,eax; vpcmpd kt,t0,#iota,6; vmovdqu16 yt0{kt}{z},$1; vpmovzxwd $0,yt0; vpslld $0,$0,16", 1,
     0.3},
    {"load_f16_first", "$0 = _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes($2n), $1p))",
     "eax $2; vpbroadcastd t0,eax; vpcmpd kt,t0,#iota,6; vmovdqu16 yt0{kt}{z},$1; vcvtph2ps $0,yt0", 1, 0.3},
    {"store_bf16", "_mm256_mask_storeu_epi16($0p, first_lanes($2n), f32_to_bf16($1))",
     "vpsrld t0,$1,16; vpandd t1,t0,#0x1; vpaddd t1,t1,$1; vpaddd t1,t1,#0x7fff; vpsrld t1,t1,16; vcmpps kt,$1,$1,3; "
     "vpord t1{kt},t0,#0x40; vpmovdw yt1,t1; eax $2; vpbroadcastd t0,eax; vpcmpd kt,t0,#iota,6; vmovdqu16 $0{kt},yt1",
     2, 0.6},
    {"store_f16", "_mm256_mask_storeu_epi16($0p, first_lanes($2n), _mm512_cvtps_ph($1, _MM_FROUND_TO_NEAREST_INT))",
     "eax $2; vpbroadcastd t0,eax; vpcmpd kt,t0,#iota,6; vcvtps2ph yt0,$1,0; vmovdqu16 $0{kt},yt0", 1, 0.6},
    {"from", "$0 = (__mmask16)~first_lanes($1n)", "eax $1; vpbroadcastd t0,eax; vpcmpd $0,t0,#iota,2", 1, 0.3},
    {"first", "$0 = first_lanes($1n)", "eax $1; vpbroadcastd t0,eax; vpcmpd $0,t0,#iota,6", 1, 0.3},
    {"only", "$0 = _mm512_cmpeq_epi32_mask(_mm512_set1_epi32((int)($1n)), _mm512_loadu_si512(iota))",
     "eax $1; vpbroadcastd t0,eax; vpcmpd $0,t0,#iota,0", 1, 0.3},
    {"nonzero", "$0 = _mm512_cmp_ps_mask($1, _mm512_setzero_ps(), _CMP_NEQ_UQ)", "vpxord t0,t0,t0; vcmpps $0,$1,t0,4",
     1, 0.3},
    {"select", "$0 = _mm512_mask_blend_ps($1, $3, $2)", "vblendmps $0{$1},$3,$2", 0, 0},
    {"fma_if", "$0 = _mm512_mask3_fmadd_ps($2, $3, $0, $1)", "vfmadd231ps $0{$1},$2,$3", 0, 1},
    {"prefetch", "_mm_prefetch((const char *)($0p), _MM_HINT_T0)", "prefetcht0 $0", 0, 0},
    {"prefetch_l2", "_mm_prefetch((const char *)($0p), _MM_HINT_T1)", "prefetcht1 $0", 0, 0},
    {"load_if", "$0 = _mm512_maskz_loadu_ps($1, $2p)", "vmovups $0{$1}{z},$2", 0, 0},
    {"fold8", "$0 = _mm512_add_ps(_mm512_shuffle_f32x4($1, $2, 68), _mm512_shuffle_f32x4($1, $2, 238))",
     "vshuff32x4 t0,$1,$2,68; vshuff32x4 $0,$1,$2,238; vaddps $0,t0,$0", 1, 0.3},
    {"fold4", "$0 = _mm512_add_ps(_mm512_shuffle_f32x4($1, $2, 136), _mm512_shuffle_f32x4($1, $2, 221))",
     "vshuff32x4 t0,$1,$2,136; vshuff32x4 $0,$1,$2,221; vaddps $0,t0,$0", 1, 0.3},
    {"fold2", "$0 = _mm512_add_ps(_mm512_shuffle_ps($1, $2, 68), _mm512_shuffle_ps($1, $2, 238))",
     "vshufps t0,$1,$2,68; vshufps $0,$1,$2,238; vaddps $0,t0,$0", 1, 0.3},
    {"fold1", "$0 = _mm512_add_ps(_mm512_shuffle_ps($1, $2, 136), _mm512_shuffle_ps($1, $2, 221))",
     "vshufps t0,$1,$2,136; vshufps $0,$1,$2,221; vaddps $0,t0,$0", 1, 0.3},
    {"swap8", "$0 = _mm512_shuffle_f32x4($1, $1, 78)", "vshuff32x4 $0,$1,$1,78", 0, 0},
    {"swap4", "$0 = _mm512_shuffle_f32x4($1, $1, 177)", "vshuff32x4 $0,$1,$1,177", 0, 0},
    {"swap2", "$0 = _mm512_shuffle_ps($1, $1, 78)", "vshufps $0,$1,$1,78", 0, 0},
    {"swap1", "$0 = _mm512_shuffle_ps($1, $1, 177)", "vshufps $0,$1,$1,177", 0, 0},
    {"zip16_low", "$0 = _mm512_castsi512_ps(_mm512_unpacklo_epi16($1i, $2i))", "vpunpcklwd $0,$1,$2", 0, 0},
    {"zip16_high", "$0 = _mm512_castsi512_ps(_mm512_unpackhi_epi16($1i, $2i))", "vpunpckhwd $0,$1,$2", 0, 0},
    {"zip4_low", "{ __m512 zip_ = _mm512_shuffle_f32x4($1, $2, 68); $0 = _mm512_shuffle_f32x4(zip_, zip_, 216); }",
     "vshuff32x4 t0,$1,$2,68; vshuff32x4 $0,t0,t0,216", 1, 0},
    {"zip4_high", "{ __m512 zip_ = _mm512_shuffle_f32x4($1, $2, 238); $0 = _mm512_shuffle_f32x4(zip_, zip_, 216); }",
     "vshuff32x4 t0,$1,$2,238; vshuff32x4 $0,t0,t0,216", 1, 0},
};

static const struct isa_row bf16_rows[] = {
    {"dot", "$0 = _mm512_dpbf16_ps($0, $1h, $2h)", "vdpbf16ps $0,$1,$2", 0, 1},
    {"dot_if", "$0 = _mm512_mask_dpbf16_ps($0, $1, $2h, $3h)", "vdpbf16ps $0{$1},$2,$3", 0, 1},
    {"bf16_pair",
     "$0 = _mm512_castsi512_ps(_mm512_permutexvar_epi16(_mm512_loadu_si512(pair16), (__m512i)_mm512_cvtne2ps_pbh($0, "
     "$1)))",
     "vcvtne2ps2bf16 $0,$0,$1; vmovups $2,#pair16; vpermw $0,$2,$0", 0, 0.55},
    {"store_bf16", "_mm256_mask_storeu_epi16($0p, first_lanes($2n), (__m256i)_mm512_cvtneps_pbh($1))",
     "eax $2; vpbroadcastd t0,eax; vpcmpd kt,t0,#iota,6; vcvtneps2bf16 yt0,$1; vmovdqu16 $0{kt},yt0", 1, 0.6},
};

static const struct isa avx512 = {"avx512",
                                  NULL,
                                  avx512_rows,
                                  sizeof avx512_rows / sizeof avx512_rows[0],
                                  "__m512",
                                  "__mmask16",
                                  "avx512f,avx512bw,avx512dq,avx512vl"};
static const struct isa avx512bf16 = {"avx512bf16",
                                      &avx512,
                                      bf16_rows,
                                      sizeof bf16_rows / sizeof bf16_rows[0],
                                      "__m512",
                                      "__mmask16",
                                      "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"};

static const struct isa *const isas[] = {&avx512, &avx512bf16};

const struct isa *isa_find(const char *name) {
  for (size_t i = 0; name && i < sizeof isas / sizeof isas[0]; i++)
    if (strcmp(isas[i]->name, name) == 0) return isas[i];
  return NULL;
}

const struct isa_row *isa_row(const struct isa *isa, const char *op) {
  for (; isa; isa = isa->base)
    for (int i = 0; i < isa->n_rows; i++)
      if (strcmp(isa->rows[i].op, op) == 0) return &isa->rows[i];
  return NULL;
}
