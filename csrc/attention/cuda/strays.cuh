// Values and rows of the read-out that are not finite, "strays": a row of queries that does not see their key must not
// meet them, and a product would give it 0 * NaN. They are taken out, their key is marked, and a row that has a share
// in a marked key turns NaN by its factor. Where there are none this costs a test of a word a tile.
#pragma once

#include "attention/cuda/call.cuh"
#include "attention/cuda/rows.cuh"
#include "attention/cuda/softmax.cuh"
#include "weft/dtype.h"

namespace weft {

__device__ __forceinline__ bool is_finite(float x) { return fabsf(x) < __builtin_inff(); }

__device__ __forceinline__ void mark(uint32_t* marks, int key) { atomic_or_shared(marks + key / 32, 1u << key % 32); }

// Whether any of 128 keys is marked.
__device__ __forceinline__ bool any_mark(const uint32_t* marks) {
  const uint4 words = load_shared(reinterpret_cast<const uint4*>(marks));
  return (words.x | words.y | words.z | words.w) != 0;
}

template <class T>
constexpr uint32_t kExponent = 0x7f80;
template <>
constexpr uint32_t kExponent<Half> = 0x7c00;

// The halves of a pair of T that are not finite, all bits of each.
template <class T>
__device__ __forceinline__ uint32_t strays(uint32_t pair) {
  constexpr uint32_t low = kExponent<T>, high = low << 16;
  return ((pair & low) == low ? 0xffffu : 0u) | ((pair & high) == high ? 0xffff0000u : 0u);
}

// Zeros in place of what is not finite in kRows rows in shared memory, and their marks; this thread's share.
template <class T, int D, int kRows>
__device__ __forceinline__ void clean_rows(uint16_t* rows, uint32_t* marks, int thread) {
#pragma unroll 1
  for (int i = thread; i < kRows * D / 8; i += kThreads) {
    const int row = i / (D / 8);
    uint4* at = reinterpret_cast<uint4*>(rows + row * kRowStride<D> + i % (D / 8) * 8);
    const uint4 x = load_shared(at);
    const uint4 bad{strays<T>(x.x), strays<T>(x.y), strays<T>(x.z), strays<T>(x.w)};
    if ((bad.x | bad.y | bad.z | bad.w) == 0) continue;
    store_shared(at, uint4{x.x & ~bad.x, x.y & ~bad.y, x.z & ~bad.z, x.w & ~bad.w});
    mark(marks, row);
  }
}

// Makes NaN of the factors of a lane's two rows whose share `seen` in marked keys is not zero. All lanes take part.
__device__ __forceinline__ void spoil(float (&factor)[2], const float (&seen)[2]) {
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    if (quad_max(seen[row]) > 0.0f) factor[row] = __uint_as_float(0x7fffffffu);
  }
}

// The same from the shares themselves and the marks in shared memory.
template <int kKeyTiles>
__device__ __forceinline__ void spoil(float (&factor)[2], const float (&p)[kKeyTiles][4], const uint32_t* marks,
                                      int lane) {
  float seen[2] = {0.0f, 0.0f};
#pragma unroll
  for (int n = 0; n < kKeyTiles; ++n) {
    const uint32_t pair = load_shared(marks + n / 4) >> (n % 4 * 8 + lane % 4 * 2);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (pair >> e % 2 & 1) seen[e / 2] = fmaxf(seen[e / 2], p[n][e]);
    }
  }
  spoil(factor, seen);
}

// The same where W is the caller's, [keys, columns]: `blocks` says in which blocks of 8 keys a row is not finite.
template <int kKeyTiles>
__device__ __forceinline__ void spoil_by_readout(float (&factor)[2], const float (&p)[kKeyTiles][4], uint32_t blocks,
                                                 const float* w, int keys, int columns, int lane) {
  float seen[2] = {0.0f, 0.0f};
#pragma unroll
  for (int n = 0; n < kKeyTiles; ++n) {
    if ((blocks >> n & 1) == 0) continue;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int key = n * 8 + lane % 4 * 2 + j;
      bool finite = true;
#pragma unroll 1
      for (int column = 0; key < keys && column < columns; ++column) {
        finite = finite && is_finite(load_constant(w + key * columns + column));
      }
      if (finite) continue;
      seen[0] = fmaxf(seen[0], p[n][j]);
      seen[1] = fmaxf(seen[1], p[n][2 + j]);
    }
  }
  spoil(factor, seen);
}

}  // namespace weft
