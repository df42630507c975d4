// How the two products are formed: in which units K, V, q and the weights lie, and which instructions multiply them.
#pragma once

#include "attention/pack.h"
#include "weft/gemm.h"
#if defined(__AMX_BF16__) || defined(WEFT_EMULATE_AMX)
#include "attention/gemm_amx.h"
#endif

namespace weft {
namespace {

// Longer sums are made in two halves: at D = 256 one chain doubles the error against a BLAS.
constexpr int64_t kLongestChain = 128;
constexpr int64_t kMostRows = 64;  // of a tile, slack included
struct Ones {
  float values[kMostRows];
  constexpr Ones() : values() {
    for (float& value : values) value = 1.0f;
  }
};
constexpr Ones kOnes;
constexpr const float* kNoDecay = kOnes.values;

// fp32 multiply-add; 16-bit inputs are widened when packed.
struct FloatProducts : FloatUnits {
  static constexpr int kRowStep = 1, kDepthStep = 1, kKeyStep = kLanes, kWidthStep = kLanes;
  struct Scope {};

  static void product(int64_t rows, int64_t width, const float* a, int64_t stride_a, const float* b, int64_t stride_b,
                      int64_t depth, float* c, int64_t stride_c, const float* decay) {
    const int64_t chain = depth > kLongestChain ? (depth + 1) / 2 : depth;
    gemm<FloatDot>(rows, vectors(width), a, stride_a, b, stride_b, chain, c, stride_c, decay);
    if (chain < depth) {
      gemm<FloatDot>(rows, vectors(width), a + chain, stride_a, b + chain * stride_b, stride_b, depth - chain, c,
                     stride_c, kNoDecay);
    }
  }
};

#if defined(WEFT_HAS_PAIRS)
// bf16 pairs, accumulated in fp32.
struct PairProducts : PairUnits {
  static constexpr int kRowStep = 1, kDepthStep = 1, kKeyStep = kLanes, kWidthStep = kLanes;
  struct Scope {};

  static void product(int64_t rows, int64_t width, const uint32_t* a, int64_t stride_a, const uint32_t* b,
                      int64_t stride_b, int64_t depth, float* c, int64_t stride_c, const float* decay) {
    gemm<PairDot>(rows, vectors(width), a, stride_a, b, stride_b, depth, c, stride_c, decay);
  }
};
#endif

#if defined(__AMX_BF16__) || defined(WEFT_EMULATE_AMX)
// bf16 pairs in tiles of 16 x 16; depth comes in whole tiles, padded with zeros.
struct TileProducts : PairUnits {
  static constexpr int kRowStep = kTileRows, kDepthStep = kTilePairs, kKeyStep = 2 * kTilePairs,
                       kWidthStep = kTilePairs;
  using Scope = TileScope;

  static void product(int64_t rows, int64_t width, const uint32_t* a, int64_t stride_a, const uint32_t* b,
                      int64_t stride_b, int64_t depth, float* c, int64_t stride_c, const float* decay) {
    gemm_amx(rows, width, a, stride_a, b, stride_b, depth, c, stride_c, decay);
  }
};
using BfloatProducts = TileProducts;
#elif defined(WEFT_HAS_PAIRS)
using BfloatProducts = PairProducts;
#else
using BfloatProducts = FloatProducts;
#endif

}  // namespace
}  // namespace weft
