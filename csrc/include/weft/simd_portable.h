// Four lanes in the compiler's own vectors: SSE2 on any x86-64, NEON on ARM, plain code elsewhere.
#pragma once

#include <cstring>

#include "weft/dtype.h"
#include "weft/exp2.h"

namespace weft {
namespace {

typedef float Vec __attribute__((vector_size(16)));
typedef int32_t Mask __attribute__((vector_size(16)));
constexpr int kLanes = 4;
constexpr int kRegisters = 16;

inline Vec splat(float x) { return Vec{x, x, x, x}; }
inline Vec add(Vec a, Vec b) { return a + b; }
inline Vec sub(Vec a, Vec b) { return a - b; }
inline Vec mul(Vec a, Vec b) { return a * b; }
inline Vec fmadd(Vec a, Vec b, Vec c) { return a * b + c; }
inline Vec max(Vec a, Vec b) { return a > b ? a : b; }
inline Vec min(Vec a, Vec b) { return a < b ? a : b; }
inline float reduce_add(Vec x) { return (x[0] + x[2]) + (x[1] + x[3]); }
inline float larger(float a, float b) { return a > b ? a : b; }
inline float smaller(float a, float b) { return a < b ? a : b; }
inline float reduce_max(Vec x) { return larger(larger(x[0], x[2]), larger(x[1], x[3])); }
inline float reduce_min(Vec x) { return smaller(smaller(x[0], x[2]), smaller(x[1], x[3])); }

inline Mask above(Vec a, Vec b) { return a > b; }
inline Mask first(int n) { return Mask{0, 1, 2, 3} < Mask{n, n, n, n}; }
inline Vec select(Mask mask, Vec yes, Vec no) { return mask ? yes : no; }

inline float to_float(float x) { return x; }
inline float to_float(Bfloat x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
inline float to_float(Half x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000) << 16;
  const uint32_t magnitude = x.bits & 0x7fff;
  // exponent and fraction moved into place are the value times 2^-112, also where it is denormal; infinity and NaN
  // keep the largest exponent
  uint32_t bits = magnitude << 13;
  float value;
  if (magnitude >= 0x7c00) {
    bits |= 0x7f800000;
    memcpy(&value, &bits, 4);
  } else if (magnitude >= 0x0400) {
    bits += 112u << 23;
    memcpy(&value, &bits, 4);
  } else {
    value = static_cast<float>(magnitude) * 5.9604644775390625e-8f;  // 2^-24
  }
  return sign ? -value : value;
}

inline void from_float(float x, float* p) { *p = x; }
inline void from_float(float x, Bfloat* p) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  // rounding up the bits of a NaN could make an infinity of it
  const uint32_t rounded = x == x ? bits + 0x7fff + ((bits >> 16) & 1) : bits | 0x400000;
  p->bits = static_cast<uint16_t>(rounded >> 16);
}
inline void from_float(float x, Half* p) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  const uint32_t sign = (bits >> 16) & 0x8000;
  uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) {
    magnitude = 0x7e00;  // NaN
  } else if (magnitude >= 0x477ff000) {
    magnitude = 0x7c00;  // 65520 and above round to infinity
  } else if (magnitude >= 0x38800000) {
    magnitude = (magnitude + 0xfff + ((magnitude >> 13) & 1) - (112u << 23)) >> 13;
  } else {
    // below 2^-14: added to 1/2, the unit of a half's denormals, 2^-24, is the last bit, and the addition rounds
    float value;
    memcpy(&value, &magnitude, 4);
    value += 0.5f;
    memcpy(&bits, &value, 4);
    magnitude = bits - 0x3f000000;
  }
  p->bits = static_cast<uint16_t>(sign | magnitude);
}

template <class T>
inline Vec load(const T* p) {
  return Vec{to_float(p[0]), to_float(p[1]), to_float(p[2]), to_float(p[3])};
}
inline Vec load(const float* p) {
  Vec x;
  memcpy(&x, p, sizeof x);
  return x;
}
template <class T>
inline void store(T* p, Vec x) {
  for (int i = 0; i < kLanes; ++i) from_float(x[i], p + i);
}
inline void store(float* p, Vec x) { memcpy(p, &x, sizeof x); }

// 2^x for x <= 0; exactly 1 at 0 and exactly 0 from -127 down.
inline Vec exp2(Vec x) {
  x = x < splat(-127.0f) ? splat(-127.0f) : x;  // the order keeps a NaN
  Mask n = __builtin_convertvector(x, Mask);    // towards zero; one too many for a negative fraction
  n += __builtin_convertvector(n, Vec) > x;
  const Vec f = x - __builtin_convertvector(n, Vec);
  Vec p = splat(kExp2[5]);
  for (int i = 4; i >= 0; --i) p = fmadd(p, f, splat(kExp2[i]));
  p = fmadd(p, f, splat(1.0f));
  // an exponent field of 0, reached at -127, is the number 0
  const Mask exponent = (n + 127) << 23;
  Vec power;
  memcpy(&power, &exponent, sizeof power);
  return p * power;
}

}  // namespace
}  // namespace weft
