// The tile products on AMX: C = A B, or C = diag(decay) C + A B, bf16 pairs in, fp32 out.
#pragma once

#include "weft/amx.h"
#include "weft/simd.h"

namespace weft {
namespace {

// One or two tiles of rows by one or two of columns: C in tiles 0-3, A in 4-5, B in 6-7.
template <int kRows, int kColumns>
inline void amx_step(const uint32_t* a, int64_t stride_a, const uint32_t* b, int64_t stride_b, int64_t depth, float* c,
                     int64_t stride_c, bool from_zero) {
  float* const c1 = c + kTileRows * stride_c;
  if (from_zero) {
    WEFT_TILE_ZERO(0);
    if (kColumns > 1) WEFT_TILE_ZERO(1);
    if (kRows > 1) WEFT_TILE_ZERO(2);
    if (kRows > 1 && kColumns > 1) WEFT_TILE_ZERO(3);
  } else {
    WEFT_TILE_LOAD(0, c, 4 * stride_c);
    if (kColumns > 1) WEFT_TILE_LOAD(1, c + kTilePairs, 4 * stride_c);
    if (kRows > 1) WEFT_TILE_LOAD(2, c1, 4 * stride_c);
    if (kRows > 1 && kColumns > 1) WEFT_TILE_LOAD(3, c1 + kTilePairs, 4 * stride_c);
  }
  for (int64_t i = 0; i < depth; i += kTilePairs) {
    WEFT_TILE_LOAD(4, a + i, 4 * stride_a);
    if (kRows > 1) WEFT_TILE_LOAD(5, a + kTileRows * stride_a + i, 4 * stride_a);
    WEFT_TILE_LOAD(6, b + i * stride_b, 4 * stride_b);
    if (kColumns > 1) WEFT_TILE_LOAD(7, b + i * stride_b + kTilePairs, 4 * stride_b);
    WEFT_TILE_DOT(0, 4, 6);
    if (kColumns > 1) WEFT_TILE_DOT(1, 4, 7);
    if (kRows > 1) WEFT_TILE_DOT(2, 5, 6);
    if (kRows > 1 && kColumns > 1) WEFT_TILE_DOT(3, 5, 7);
  }
  WEFT_TILE_STORE(0, c, 4 * stride_c);
  if (kColumns > 1) WEFT_TILE_STORE(1, c + kTilePairs, 4 * stride_c);
  if (kRows > 1) WEFT_TILE_STORE(2, c1, 4 * stride_c);
  if (kRows > 1 && kColumns > 1) WEFT_TILE_STORE(3, c1 + kTilePairs, 4 * stride_c);
}

// `depth` is in pairs, a multiple of 16; `width` in columns, rounded up to 16 as `rows` are.
inline void gemm_amx(int64_t rows, int64_t width, const uint32_t* a, int64_t stride_a, const uint32_t* b,
                     int64_t stride_b, int64_t depth, float* c, int64_t stride_c, const float* decay) {
  if (decay) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t j = 0; j < width; j += kLanes) {
        store(c + r * stride_c + j, mul(load(c + r * stride_c + j), splat(decay[r])));
      }
    }
  }
  for (int64_t r = 0; r < rows; r += 2 * kTileRows) {
    const bool two_rows = r + kTileRows < rows;
    for (int64_t j = 0; j < width; j += 2 * kTilePairs) {
      const bool two_columns = j + kTilePairs < width;
      const auto step =
          two_rows ? (two_columns ? amx_step<2, 2> : amx_step<2, 1>) : (two_columns ? amx_step<1, 2> : amx_step<1, 1>);
      step(a + r * stride_a, stride_a, b + j, stride_b, depth, c + r * stride_c + j, stride_c, !decay);
    }
  }
}

}  // namespace
}  // namespace weft
