// Four lanes in the compiler's own vectors: SSE2 on any x86-64, NEON on ARM, plain code elsewhere.
//
// -DWEFT_PORTABLE_LANES=16 makes sixteen of them, with the registers and the products of bf16 pairs that AVX-512 has:
// too slow to use, but what is written for wide vectors can be run, and tested, on a processor without them.
#pragma once

#include <cstring>

#include "weft/dtype.h"
#include "weft/exp2.h"

namespace weft {
namespace {

#if defined(WEFT_PORTABLE_LANES)
constexpr int kLanes = WEFT_PORTABLE_LANES;
#else
constexpr int kLanes = 4;
#endif
constexpr int kRegisters = kLanes == 16 ? 32 : 16;
typedef float Vec __attribute__((vector_size(4 * kLanes)));
typedef int32_t Mask __attribute__((vector_size(4 * kLanes)));

inline Vec splat(float x) { return x - Vec{}; }
inline Vec add(Vec a, Vec b) { return a + b; }
inline Vec sub(Vec a, Vec b) { return a - b; }
inline Vec mul(Vec a, Vec b) { return a * b; }
inline Vec fmadd(Vec a, Vec b, Vec c) { return a * b + c; }
inline Vec max(Vec a, Vec b) { return a > b ? a : b; }
inline Vec min(Vec a, Vec b) { return a < b ? a : b; }
inline float sum_of(float a, float b) { return a + b; }
inline float larger(float a, float b) { return a > b ? a : b; }
inline float smaller(float a, float b) { return a < b ? a : b; }
// The upper half joins the lower one until one lane is left.
template <float (*join)(float, float)>
inline float reduce(Vec x) {
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) x[i] = join(x[i], x[i + half]);
  }
  return x[0];
}
inline float reduce_add(Vec x) { return reduce<sum_of>(x); }
inline float reduce_max(Vec x) { return reduce<larger>(x); }
inline float reduce_min(Vec x) { return reduce<smaller>(x); }

inline Mask above(Vec a, Vec b) { return a > b; }
inline Mask first(int n) {
  Mask mask;
  for (int i = 0; i < kLanes; ++i) mask[i] = i < n ? -1 : 0;
  return mask;
}
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
  Vec x;
  for (int i = 0; i < kLanes; ++i) x[i] = to_float(p[i]);
  return x;
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

#if defined(WEFT_PORTABLE_LANES)
#define WEFT_HAS_PAIRS 1
struct Pairs {
  uint32_t lanes[kLanes];  // pairs of bf16
};

inline Pairs load_pairs(const uint32_t* p) {
  Pairs pairs;
  memcpy(&pairs, p, sizeof pairs);
  return pairs;
}
// By memcpy, since the pair was written as two values of 16 bits.
inline Pairs splat_pair(const uint32_t* p) {
  Pairs pairs;
  for (uint32_t& lane : pairs.lanes) memcpy(&lane, p, 4);
  return pairs;
}
// acc + a.low * b.low + a.high * b.high in every lane
inline Vec dot_pairs(Vec acc, const Pairs& a, const Pairs& b) {
  const auto half_of = [](uint32_t pair, int shift) { return to_float(Bfloat{static_cast<uint16_t>(pair >> shift)}); };
  for (int shift = 0; shift <= 16; shift += 16) {
    for (int i = 0; i < kLanes; ++i) acc[i] += half_of(a.lanes[i], shift) * half_of(b.lanes[i], shift);
  }
  return acc;
}
#endif

}  // namespace
}  // namespace weft
