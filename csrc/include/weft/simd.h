// Vectors of fp32 lanes. Kernels are written once over this interface; the compiler's flags choose the width.
//
// Everything has internal linkage: the same header is compiled for several instruction sets into one library, and a
// shared inline function would let the linker keep the copy that this processor cannot execute.
#pragma once

#include <cstdint>
#include <cstring>

#include "weft/dtype.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#include "weft/simd_avx512.h"
#else
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "weft/simd_avx2.h"
#else
#include "weft/simd_portable.h"
#endif

// Narrow sets have no cheap masked access: the ends of rows go through a full-width buffer.
namespace weft {
namespace {

template <class T>
inline Vec load_first(const T* p, int n) {
  if (n >= kLanes) return load(p);
  T lanes[kLanes] = {};
  memcpy(lanes, p, n * sizeof(T));
  return load(lanes);
}

template <class T>
inline void store_first(T* p, Vec x, int n) {
  if (n >= kLanes) return store(p, x);
  T lanes[kLanes];
  store(lanes, x);
  memcpy(p, lanes, n * sizeof(T));
}

}  // namespace
}  // namespace weft
#endif

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace weft {
namespace {

// Vectors needed for `n` values.
constexpr int64_t vectors(int64_t n) { return (n + kLanes - 1) / kLanes; }

// Within its life, results too small for a normal number become zero. A softmax makes many of them, none of them
// matters, and on some processors each costs over a hundred cycles.
class FlushDenormals {
 public:
#if defined(__x86_64__)
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#else
  FlushDenormals() {}
#endif
};

}  // namespace
}  // namespace weft
