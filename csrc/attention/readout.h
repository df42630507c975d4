// The read-out: a few more value columns, fp32, of the keys whose row of W is not zero.
#pragma once

#include "attention/plan.h"
#include "weft/simd.h"

namespace weft {
namespace {

// With kSeenOnly a weight of 0 keeps its key out whatever its row of W is.
template <int kRows, bool kSeenOnly = false>
inline void read_rows(const float* weights, int64_t stride, const int32_t* keys, const float* rows, int64_t count,
                      int64_t width, float* maps, const float* decay) {
  for (int64_t j = 0; j < width; j += kLanes) {
    Vec acc[kRows];
    for (int r = 0; r < kRows; ++r) {
      acc[r] = decay ? mul(load(maps + r * width + j), splat(decay[r])) : splat(0.0f);
    }
    for (int64_t i = 0; i < count; ++i) {
      if (kSeenOnly && weights[keys[i]] == 0.0f) continue;
      const Vec row = load(rows + i * width + j);
      for (int r = 0; r < kRows; ++r) acc[r] = fmadd(splat(weights[r * stride + keys[i]]), row, acc[r]);
    }
    for (int r = 0; r < kRows; ++r) store(maps + r * width + j, acc[r]);
  }
}

// maps [count, width] = diag(decay) maps + weights W over one block of keys; a null `decay` starts from zero.
inline void read_block(const AttentionPlan& plan, int64_t sample, int64_t block, const float* weights, int64_t count,
                       float* maps, const float* decay) {
  const int64_t reader = sample * plan.read_batch, width = plan.shape.map_width;
  const int32_t* starts = plan.read_starts + reader * (plan.shape.key_blocks + 1) + block;
  const int64_t begin = starts[0], keys = starts[1] - starts[0];
  const int32_t* positions = plan.read_keys + reader * plan.params.Nk + begin;
  const float* rows = plan.read_rows + (reader * plan.params.Nk + begin) * width;
  if (plan.read_not_finite) {
    for (int64_t r = 0; r < count; ++r) {
      read_rows<1, true>(weights + r * plan.shape.block, plan.shape.block, positions, rows, keys, width,
                         maps + r * width, decay ? decay + r : nullptr);
    }
    return;
  }
  constexpr int kStep = 8;
  int64_t r = 0;
  for (; r + kStep <= count; r += kStep) {
    read_rows<kStep>(weights + r * plan.shape.block, plan.shape.block, positions, rows, keys, width, maps + r * width,
                     decay ? decay + r : nullptr);
  }
  for (; r < count; ++r) {
    read_rows<1>(weights + r * plan.shape.block, plan.shape.block, positions, rows, keys, width, maps + r * width,
                 decay ? decay + r : nullptr);
  }
}

}  // namespace
}  // namespace weft
