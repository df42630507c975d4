// Rows of q, k, v and out between global and shared memory.
#pragma once

#include "weft/cp_async.cuh"
#include "weft/memory.cuh"

namespace weft {

// Values from one row in shared memory to the next: an odd number of 16-byte units, so that eight rows at one column
// lie in eight different groups of banks. No swizzle is needed, and the cost is at most 16 bytes a row.
template <int D>
constexpr int kRowStride = D / 8 % 2 ? D : D + 8;

__device__ __forceinline__ uint4 load_unaligned(const uint16_t* from) {
  uint32_t pairs[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    pairs[i] = load_constant(from + 2 * i) | static_cast<uint32_t>(load_constant(from + 2 * i + 1)) << 16;
  }
  return uint4{pairs[0], pairs[1], pairs[2], pairs[3]};
}

__device__ __forceinline__ void store_unaligned(uint16_t* to, uint4 values) {
  const uint32_t pairs[4] = {values.x, values.y, values.z, values.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    store_global(to + 2 * i, static_cast<uint16_t>(pairs[i]));
    store_global(to + 2 * i + 1, static_cast<uint16_t>(pairs[i] >> 16));
  }
}

// Copies the first `count` rows of D values and fills the other of kRows with zeros, spread over `threads` threads;
// also those that `padding`, if there is one, marks: what lies there must not meet a probability of 0 in a product.
// Aligned rows travel by cp.async, in the group that is open. Offsets inside a tile fit an int: the launch checks it.
template <int D, int kRows>
__device__ __forceinline__ void copy_rows(uint16_t* to, const uint16_t* from, int stride, int count, bool aligned,
                                          int thread, int threads, const uint8_t* padding = nullptr) {
  static_assert(D % 8 == 0, "rows are moved in units of 16 bytes");
  constexpr int kUnits = D / 8;
#pragma unroll 1
  for (int i = thread; i < kRows * kUnits; i += threads) {
    const int row = i / kUnits, column = i % kUnits * 8;
    const bool inside = row < count && !(padding && load_constant(padding + row));
    uint16_t* target = to + row * kRowStride<D> + column;
    const uint16_t* source = from + (inside ? row * stride + column : 0);
    if (aligned) {
      cp_async_16(target, source, inside);
    } else {
      store_shared(reinterpret_cast<uint4*>(target), inside ? load_unaligned(source) : uint4{0, 0, 0, 0});
    }
  }
}

// Writes the first `count` of 16 rows that the warp has in shared memory.
template <int D>
__device__ __forceinline__ void store_rows(uint16_t* to, int stride, const uint16_t* from, int count, bool aligned,
                                           int lane) {
  constexpr int kUnits = D / 8;
  for (int i = lane; i < 16 * kUnits; i += 32) {
    const int row = i / kUnits, column = i % kUnits * 8;
    if (row >= count) continue;
    const uint4 values = load_shared(reinterpret_cast<const uint4*>(from + row * kRowStride<D> + column));
    uint16_t* target = to + row * stride + column;
    if (aligned) {
      store_global(reinterpret_cast<uint4*>(target), values);
    } else {
      store_unaligned(target, values);
    }
  }
}

}  // namespace weft
