// Storage types of tensors. Arithmetic is fp32 throughout; these only say how values lie in memory.
#pragma once

#include <cstdint>

namespace weft {

enum class Dtype : int { kFloat32 = 0, kFloat16 = 1, kBfloat16 = 2 };

// Bits alone: the two 16-bit formats must not convert into each other by accident.
struct Half {
  uint16_t bits;
};
struct Bfloat {
  uint16_t bits;
};

constexpr int64_t size_of(Dtype dtype) { return dtype == Dtype::kFloat32 ? 4 : 2; }

}  // namespace weft
