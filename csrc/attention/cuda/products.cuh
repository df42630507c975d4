// The two products of a warp's rows: S = Q K^T and O += P V. Fragments are laid out as weft/mma.cuh says.
#pragma once

#include "attention/cuda/rows.cuh"
#include "weft/arithmetic.cuh"
#include "weft/mma.cuh"

namespace weft {

// Fragments of kRows blocks of 16 rows by kColumns blocks of 8 columns.
template <int kRows, int kColumns>
using Fragments = float[kRows][kColumns][4];

template <int kRows, int kColumns>
__device__ __forceinline__ void clear(Fragments<kRows, kColumns>& x) {
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) x[i][n][e] = 0.0f;
    }
  }
}

// s = q k^T for the warp's rows of q and all of kKeyTiles * 8 keys, both in shared memory.
template <class T, int D, int kRowTiles, int kKeyTiles>
__device__ __forceinline__ void multiply_queries_keys(Fragments<kRowTiles, kKeyTiles>& s, const uint16_t* q,
                                                      const uint16_t* k, int lane) {
  static_assert(kKeyTiles % 2 == 0 && (D % 16 == 0 || D % 16 == 8));
  constexpr int kStride = kRowStride<D>;
  clear(s);
  const uint16_t* q_row = q + lane % 16 * kStride + lane / 16 * 8;
  const uint16_t* k_row = k + (lane % 8 + lane / 16 * 8) * kStride + lane / 8 % 2 * 8;
#pragma unroll
  for (int d = 0; d + 16 <= D; d += 16) {
    uint32_t a[kRowTiles][4];
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) load_matrices(a[i], q_row + i * 16 * kStride + d);
#pragma unroll
    for (int n = 0; n < kKeyTiles; n += 2) {
      uint32_t b[4];
      load_matrices(b, k_row + n * 8 * kStride + d);
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        mma_k16<T>(s[i][n], a[i], b[0], b[1]);
        mma_k16<T>(s[i][n + 1], a[i], b[2], b[3]);
      }
    }
  }
  // D = 40 ends in half a step: eight columns more, not sixteen
  if constexpr (D % 16 == 8) {
    uint32_t a[kRowTiles][2];
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) load_matrices(a[i], q + (i * 16 + lane % 16) * kStride + D - 8);
#pragma unroll
    for (int n = 0; n < kKeyTiles; n += 2) {
      uint32_t b[2];
      load_matrices(b, k + (n * 8 + lane % 16) * kStride + D - 8);
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        mma_k8<T>(s[i][n], a[i][0], a[i][1], b[0]);
        mma_k8<T>(s[i][n + 1], a[i][0], a[i][1], b[1]);
      }
    }
  }
}

// o += p v, with p rounded to T on the way: its C fragments are the A fragments of this product.
template <class T, int D, int kRowTiles, int kKeyTiles>
__device__ __forceinline__ void multiply_probabilities_values(Fragments<kRowTiles, D / 8>& o,
                                                              const Fragments<kRowTiles, kKeyTiles>& p,
                                                              const uint16_t* v, int lane) {
  constexpr int kStride = kRowStride<D>;
  const uint16_t* v_row = v + lane % 16 * kStride;
#pragma unroll
  for (int n = 0; n < kKeyTiles; n += 2) {
    uint32_t a[kRowTiles][4];
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      a[i][0] = pack<T>(p[i][n][0], p[i][n][1]);
      a[i][1] = pack<T>(p[i][n][2], p[i][n][3]);
      a[i][2] = pack<T>(p[i][n + 1][0], p[i][n + 1][1]);
      a[i][3] = pack<T>(p[i][n + 1][2], p[i][n + 1][3]);
    }
#pragma unroll
    for (int d = 0; d + 16 <= D; d += 16) {
      uint32_t b[4];
      load_matrices_transposed(b, v_row + n * 8 * kStride + d + lane / 16 * 8);
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        mma_k16<T>(o[i][d / 8], a[i], b[0], b[1]);
        mma_k16<T>(o[i][d / 8 + 1], a[i], b[2], b[3]);
      }
    }
    if constexpr (D % 16 == 8) {
      uint32_t b[2];
      load_matrices_transposed(b, v_row + n * 8 * kStride + D - 8);
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) mma_k16<T>(o[i][D / 8 - 1], a[i], b[0], b[1]);
    }
  }
}

// Scales a lane's two rows, rounds them to T, and writes the first `count` of the 16 rows. `stage` has space for 16
// rows and is the warp's own; what other lanes still read there is waited for.
template <class T, int D>
__device__ __forceinline__ void store_output(uint16_t* out, int stride, const float (&o)[D / 8][4],
                                             const float (&factor)[2], uint16_t* stage, int count, bool aligned,
                                             int lane) {
  uint16_t* corner = stage + lane / 4 * kRowStride<D> + lane % 4 * 2;
  __syncwarp();
#pragma unroll
  for (int n = 0; n < D / 8; ++n) {
    store_shared(reinterpret_cast<uint32_t*>(corner + n * 8), pack<T>(o[n][0] * factor[0], o[n][1] * factor[0]));
    store_shared(reinterpret_cast<uint32_t*>(corner + n * 8 + 8 * kRowStride<D>),
                 pack<T>(o[n][2] * factor[1], o[n][3] * factor[1]));
  }
  __syncwarp();
  store_rows<D>(out, stride, stage, count, aligned, lane);
  __syncwarp();
}

}  // namespace weft
