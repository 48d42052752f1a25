// Conversions between f32 and the 16-bit floating-point types.
#include "reference.h"

#include <math.h>
#include <string.h>

static uint32_t bits_of(float x) {
  uint32_t u;
  memcpy(&u, &x, sizeof u);
  return u;
}

static float float_of(uint32_t u) {
  float x;
  memcpy(&x, &u, sizeof x);
  return x;
}

float bf16_to_f32(uint16_t x) { return float_of((uint32_t)x << 16); }

uint16_t f32_to_bf16(float x) {
  uint32_t u = bits_of(x);
  if (isnan(x)) return (uint16_t)(u >> 16 | 0x40); // rounding could carry a NaN into infinity
  return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

float f16_to_f32(uint16_t x) {
  uint32_t sign = (uint32_t)(x & 0x8000) << 16, exponent = x >> 10 & 31, fraction = x & 0x3ff;
  if (exponent == 31) return float_of(sign | 0x7f800000 | fraction << 13);
  if (exponent) return float_of(sign | (exponent + 112) << 23 | fraction << 13);
  float magnitude = (float)fraction * 0x1p-24f;
  return sign ? -magnitude : magnitude;
}

uint16_t f32_to_f16(float x) {
  uint32_t u = bits_of(x);
  uint16_t sign = (uint16_t)(u >> 16 & 0x8000);
  u &= 0x7fffffff;
  if (u > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (u >> 13 & 0x3ff));
  if (u >= 0x477ff000) return sign | 0x7c00; // 65520 and more
  if (u < 0x38800000) // below 2^-14: adding 1/2 puts the result's ulp, 2^-24, at the end of an f32
    return (uint16_t)(sign | (bits_of(float_of(u) + 0.5f) - bits_of(0.5f)));
  u -= 112u << 23;
  return (uint16_t)(sign | (u + 0xfff + (u >> 13 & 1)) >> 13);
}

double dtype_load(enum dtype t, const void *data, int64_t index) {
  if (t == DT_F32) return ((const float *)data)[index];
  uint16_t x = ((const uint16_t *)data)[index];
  return t == DT_BF16 ? bf16_to_f32(x) : f16_to_f32(x);
}

void dtype_store(enum dtype t, void *data, int64_t index, double value) {
  float x = (float)value;
  if (t == DT_F32)
    ((float *)data)[index] = x;
  else
    ((uint16_t *)data)[index] = t == DT_BF16 ? f32_to_bf16(x) : f32_to_f16(x);
}
