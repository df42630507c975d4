// The emulation's half of csrc/include/weft/arithmetic.cuh.
#pragma once

#include <cuda_runtime.h>

#include "weft/dtype.h"

namespace weft {

inline float exp2_fast(float x) { return std::exp2(x); }

inline uint32_t round_to(Half, float x) {
  const _Float16 rounded = static_cast<_Float16>(x);
  uint16_t bits;
  std::memcpy(&bits, &rounded, sizeof bits);
  return bits;
}

inline uint32_t round_to(Bfloat, float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (x != x) return 0x7fff;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

template <class T>
uint32_t pack(float low, float high) {
  return round_to(T{}, low) | round_to(T{}, high) << 16;
}

}  // namespace weft
