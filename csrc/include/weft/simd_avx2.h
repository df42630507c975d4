// Eight lanes: AVX2 with FMA and F16C.
#pragma once

#include <immintrin.h>

#include "weft/dtype.h"
#include "weft/exp2.h"

namespace weft {
namespace {

using Vec = __m256;
using Mask = __m256;
constexpr int kLanes = 8;
constexpr int kRegisters = 16;

inline Vec splat(float x) { return _mm256_set1_ps(x); }
inline Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec fmadd(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }

inline __m128 upper(Vec x) { return _mm256_extractf128_ps(x, 1); }
inline __m128 lower(Vec x) { return _mm256_castps256_ps128(x); }
inline float reduce_add(Vec x) {
  __m128 s = _mm_add_ps(lower(x), upper(x));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline float reduce_max(Vec x) {
  __m128 s = _mm_max_ps(lower(x), upper(x));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
inline float reduce_min(Vec x) {
  __m128 s = _mm_min_ps(lower(x), upper(x));
  s = _mm_min_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_min_ss(s, _mm_movehdup_ps(s)));
}

inline Mask above(Vec a, Vec b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
inline Mask first(int n) { return above(splat(static_cast<float>(n)), _mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7)); }
inline Vec select(Mask mask, Vec yes, Vec no) { return _mm256_blendv_ps(no, yes, mask); }

inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline Vec load(const Half* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
inline Vec load(const Bfloat* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline void store(float* p, Vec x) { _mm256_storeu_ps(p, x); }
inline void store(Half* p, Vec x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline void store(Bfloat* p, Vec x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  // rounding up the bits of a NaN could make an infinity of it
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i wide = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, is_nan), 16);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1)));
}

// 2^x for x <= 0; exactly 1 at 0 and exactly 0 from -127 down.
inline Vec exp2(Vec x) {
  x = max(splat(-127.0f), x);  // the order keeps a NaN
  const Vec n = _mm256_floor_ps(x);
  const Vec f = sub(x, n);
  Vec p = splat(kExp2[5]);
  for (int i = 4; i >= 0; --i) p = fmadd(p, f, splat(kExp2[i]));
  p = fmadd(p, f, splat(1.0f));
  // an exponent field of 0, reached at -127, is the number 0
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return mul(p, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}

}  // namespace
}  // namespace weft
