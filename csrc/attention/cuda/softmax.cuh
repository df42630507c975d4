// Softmax over the keys of a fragment's rows. Four lanes share a row.
#pragma once

#include "weft/arithmetic.cuh"

namespace weft {

constexpr uint32_t kAllLanes = 0xffffffffu;

__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}

__device__ __forceinline__ float quad_min(float x) {
  x = fminf(x, __shfl_xor_sync(kAllLanes, x, 1));
  return fminf(x, __shfl_xor_sync(kAllLanes, x, 2));
}

__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(kAllLanes, x, 1);
  return x + __shfl_xor_sync(kAllLanes, x, 2);
}

template <int kKeyTiles>
__device__ __forceinline__ void multiply(float (&s)[kKeyTiles][4], float factor) {
#pragma unroll
  for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
    for (int e = 0; e < 4; ++e) s[n][e] *= factor;
  }
}

// Two rows' running maximum, and this lane's share of their sums.
struct Softmax {
  float maximum[2] = {-__builtin_inff(), -__builtin_inff()};
  float sum[2] = {0.0f, 0.0f};

  // A row without a valid key so far has no maximum to subtract; its terms are all zero.
  __device__ __forceinline__ float base(int row) const {
    return maximum[row] == -__builtin_inff() ? 0.0f : maximum[row];
  }

  // s becomes 2^(s - maximum) under the maximum that includes s; returns what earlier terms must be multiplied by.
  template <int kKeyTiles>
  __device__ __forceinline__ float2 update(float (&s)[kKeyTiles][4]) {
    const float before[2] = {maximum[0], maximum[1]};
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) maximum[e / 2] = fmaxf(maximum[e / 2], s[n][e]);
    }
    float correction[2];
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      maximum[row] = quad_max(maximum[row]);
      correction[row] = exp2_fast(before[row] - base(row));
      sum[row] *= correction[row];
    }
    exponentiate(s);
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[e / 2] += s[n][e];
    }
    return float2{correction[0], correction[1]};
  }

  template <int kKeyTiles>
  __device__ __forceinline__ void exponentiate(float (&s)[kKeyTiles][4]) const {
    const float bases[2] = {base(0), base(1)};
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) s[n][e] = exp2_fast(s[n][e] - bases[e / 2]);
    }
  }

  // 1 / sum for both rows, 0 where no key is valid. All lanes of the warp take part.
  __device__ __forceinline__ void finish(float (&inverse)[2]) const {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const float total = quad_sum(sum[row]);
      inverse[row] = total == 0.0f ? 0.0f : 1.0f / total;
    }
  }
};

}  // namespace weft
