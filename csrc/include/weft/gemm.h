// C = A B, or C = diag(decay) C + A B, for one tile: A is broadcast value by value, B comes as packed panels.
#pragma once

#include "weft/simd.h"

namespace weft {
namespace {

// What a product is made of: one fp32 value a unit, or two bf16 that are summed together.
struct FloatDot {
  using Unit = float;
  using Wide = Vec;
  static constexpr int kValues = 1;

  static Wide load(const float* p) { return weft::load(p); }
  static Wide spread(const float* p) { return splat(*p); }
  static Vec dot(Vec acc, Wide a, Wide b) { return fmadd(a, b, acc); }
};

#if defined(WEFT_HAS_PAIRS)
struct PairDot {
  using Unit = uint32_t;
  using Wide = Pairs;
  static constexpr int kValues = 2;

  static Wide load(const uint32_t* p) { return load_pairs(p); }
  static Wide spread(const uint32_t* p) { return splat_pair(p); }
  static Vec dot(Vec acc, Wide a, Wide b) { return dot_pairs(acc, a, b); }
};
#endif

// Widest strip of C, in vectors, that stays in registers, and the rows that go with it: rows * vecs accumulators,
// vecs of B and one of A must fit.
constexpr int kMaxVecs = kRegisters == 32 ? 6 : 3;
constexpr int rows_for(int vecs) {
  constexpr int kWide[] = {0, 12, 12, 8, 6, 5, 4}, kNarrow[] = {0, 8, 6, 4};
  return kRegisters == 32 ? kWide[vecs] : kNarrow[vecs % 4];
}

// Strips are as even as they can be: 8 vectors become 4 + 4, not 6 + 2.
constexpr int next_strip(int vecs_left) {
  const int strips = (vecs_left + kMaxVecs - 1) / kMaxVecs;
  return (vecs_left + strips - 1) / strips;
}

// Vector multiply-adds that a tile of `rows` costs per unit of depth, rows padded to whole steps.
constexpr int64_t gemm_cost(int64_t rows, int64_t vecs) {
  int64_t cost = 0;
  while (vecs > 0) {
    const int strip = next_strip(static_cast<int>(vecs)), step = rows_for(strip);
    cost += strip * ((rows + step - 1) / step * step);
    vecs -= strip;
  }
  return cost;
}

// Rows a tile may touch beyond its own.
constexpr int kRowSlack = 16;

template <class Dot, int kRows, int kVecs>
inline void gemm_step(const typename Dot::Unit* a, int64_t stride_a, const typename Dot::Unit* b, int64_t stride_b,
                      int64_t depth, float* c, int64_t stride_c, const float* decay) {
  Vec acc[kRows][kVecs];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int j = 0; j < kVecs; ++j) acc[r][j] = splat(0.0f);
  }
  for (int64_t i = 0; i < depth; ++i) {
    typename Dot::Wide line[kVecs];
#pragma GCC unroll 16
    for (int j = 0; j < kVecs; ++j) line[j] = Dot::load(b + i * stride_b + j * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const typename Dot::Wide one = Dot::spread(a + r * stride_a + i);
#pragma GCC unroll 16
      for (int j = 0; j < kVecs; ++j) acc[r][j] = Dot::dot(acc[r][j], one, line[j]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int j = 0; j < kVecs; ++j) {
      float* to = c + r * stride_c + j * kLanes;
      // added at the end: a sum of sums loses less than one long chain
      store(to, decay ? fmadd(load(to), splat(decay[r]), acc[r][j]) : acc[r][j]);
    }
  }
}

template <class Dot, int kVecs>
inline void gemm_strip(int64_t rows, const typename Dot::Unit* a, int64_t stride_a, const typename Dot::Unit* b,
                       int64_t stride_b, int64_t depth, float* c, int64_t stride_c, const float* decay) {
  constexpr int kRows = rows_for(kVecs);
  for (int64_t r = 0; r < rows; r += kRows) {
    gemm_step<Dot, kRows, kVecs>(a + r * stride_a, stride_a, b, stride_b, depth, c + r * stride_c, stride_c,
                                 decay ? decay + r : nullptr);
  }
}

// Computes whole steps of rows: up to kRowSlack rows beyond `rows` are read in A and written in C. A null `decay`
// means C starts from zero.
template <class Dot>
void gemm(int64_t rows, int64_t vecs, const typename Dot::Unit* a, int64_t stride_a, const typename Dot::Unit* b,
          int64_t stride_b, int64_t depth, float* c, int64_t stride_c, const float* decay) {
  while (vecs > 0) {
    const int strip = next_strip(static_cast<int>(vecs));
    switch (strip) {
#define WEFT_STRIP(n)                                                                \
  case n:                                                                            \
    if constexpr (n <= kMaxVecs) {                                                   \
      gemm_strip<Dot, n>(rows, a, stride_a, b, stride_b, depth, c, stride_c, decay); \
    }                                                                                \
    break;
      WEFT_STRIP(1)
      WEFT_STRIP(2)
      WEFT_STRIP(3)
      WEFT_STRIP(4)
      WEFT_STRIP(5)
      WEFT_STRIP(6)
#undef WEFT_STRIP
    }
    vecs -= strip;
    b += strip * kLanes;
    c += strip * kLanes;
  }
}

}  // namespace
}  // namespace weft
