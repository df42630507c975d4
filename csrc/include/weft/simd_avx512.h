// Sixteen lanes: AVX-512 F, BW, DQ and VL, and the bf16 instructions where the compiler may use them.
#pragma once

// gcc 12's own header reads an undefined vector on purpose and is warned about it
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include <cstring>

#include "weft/dtype.h"
#include "weft/exp2.h"

namespace weft {
namespace {

using Vec = __m512;
using Mask = __mmask16;
constexpr int kLanes = 16;
constexpr int kRegisters = 32;

inline Vec splat(float x) { return _mm512_set1_ps(x); }
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec fmadd(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline float reduce_add(Vec x) { return _mm512_reduce_add_ps(x); }
inline float reduce_max(Vec x) { return _mm512_reduce_max_ps(x); }
inline float reduce_min(Vec x) { return _mm512_reduce_min_ps(x); }

inline Mask above(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
inline Mask first(int n) { return static_cast<Mask>(n >= kLanes ? 0xffff : (1u << n) - 1); }
inline Vec select(Mask mask, Vec yes, Vec no) { return _mm512_mask_blend_ps(mask, no, yes); }

inline Vec from_bfloat(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline Vec load(const Half* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
inline Vec load(const Bfloat* p) { return from_bfloat(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
// Lanes from `n` on are zero, and their memory is not touched.
inline Vec load_first(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
inline Vec load_first(const Half* p, int n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p)); }
inline Vec load_first(const Bfloat* p, int n) { return from_bfloat(_mm256_maskz_loadu_epi16(first(n), p)); }

inline __m256i to_half(Vec x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline __m256i to_bfloat(Vec x) {
#if defined(__AVX512BF16__)
  return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
#else
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  // rounding up the bits of a NaN could make an infinity of it
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const Mask is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_blend_epi32(is_nan, rounded, quiet), 16));
#endif
}
inline void store(float* p, Vec x) { _mm512_storeu_ps(p, x); }
inline void store(Half* p, Vec x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_half(x)); }
inline void store(Bfloat* p, Vec x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bfloat(x)); }
inline void store_first(float* p, Vec x, int n) { _mm512_mask_storeu_ps(p, first(n), x); }
inline void store_first(Half* p, Vec x, int n) { _mm256_mask_storeu_epi16(p, first(n), to_half(x)); }
inline void store_first(Bfloat* p, Vec x, int n) { _mm256_mask_storeu_epi16(p, first(n), to_bfloat(x)); }

// 2^x for x <= 0; exactly 1 at 0 and exactly 0 at -inf.
inline Vec exp2(Vec x) {
  const Vec f = _mm512_reduce_ps(x, 0x09);  // x - floor(x)
  Vec p = splat(kExp2[5]);
  for (int i = 4; i >= 0; --i) p = fmadd(p, f, splat(kExp2[i]));
  p = fmadd(p, f, splat(1.0f));
  return _mm512_scalef_ps(p, x);  // scales by 2^floor(x)
}

#if defined(__AVX512BF16__)
#define WEFT_HAS_PAIRS 1
using Pairs = __m512i;  // sixteen pairs of bf16

inline Pairs load_pairs(const uint32_t* p) { return _mm512_loadu_si512(p); }
// By memcpy, since the pair was written as two values of 16 bits.
inline Pairs splat_pair(const uint32_t* p) {
  int pair;
  memcpy(&pair, p, 4);
  return _mm512_set1_epi32(pair);
}
// acc + a.low * b.low + a.high * b.high in every lane
inline Vec dot_pairs(Vec acc, Pairs a, Pairs b) {
  return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}
#endif

}  // namespace
}  // namespace weft
