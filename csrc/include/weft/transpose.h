// A square of 16 x 16 values of 32 bits, turned over; strides in bytes.
#pragma once

#include "weft/simd.h"

namespace weft {
namespace {

constexpr int64_t kTransposed = 16;

#if defined(__AVX512F__)
// Values change places within quarters of a vector, then quarters change places.
inline void transpose(const void* from, int64_t stride_from, void* to, int64_t stride_to) {
  const char* source = static_cast<const char*>(from);
  __m512 a[16], b[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_ps(source + i * stride_from);
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    a[i] = _mm512_shuffle_ps(b[i], b[i + 2], 0x44);
    a[i + 1] = _mm512_shuffle_ps(b[i], b[i + 2], 0xee);
    a[i + 2] = _mm512_shuffle_ps(b[i + 1], b[i + 3], 0x44);
    a[i + 3] = _mm512_shuffle_ps(b[i + 1], b[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512 low = _mm512_shuffle_f32x4(a[i], a[i + 4], 0x88), high = _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd);
    const __m512 low2 = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0x88);
    const __m512 high2 = _mm512_shuffle_f32x4(a[i + 8], a[i + 12], 0xdd);
    b[i] = _mm512_shuffle_f32x4(low, low2, 0x88);
    b[i + 4] = _mm512_shuffle_f32x4(high, high2, 0x88);
    b[i + 8] = _mm512_shuffle_f32x4(low, low2, 0xdd);
    b[i + 12] = _mm512_shuffle_f32x4(high, high2, 0xdd);
  }
  char* target = static_cast<char*>(to);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) _mm512_storeu_ps(target + i * stride_to, b[i]);
}
#else
inline void transpose(const void* from, int64_t stride_from, void* to, int64_t stride_to) {
  const char* source = static_cast<const char*>(from);
  char* target = static_cast<char*>(to);
  for (int64_t i = 0; i < kTransposed; ++i) {
    for (int64_t j = 0; j < kTransposed; ++j) {
      memcpy(target + j * stride_to + 4 * i, source + i * stride_from + 4 * j, 4);
    }
  }
}
#endif

}  // namespace
}  // namespace weft
