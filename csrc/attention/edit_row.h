// Looks the four label tables up for one query label over a range of keys.
#pragma once

#include "attention/plan.h"

namespace weft {
namespace {

inline float entry(const float* table, int64_t at, float absent) { return table ? table[at] : absent; }

// Writes what `label` makes of keys [begin, begin + count) of `sample`:
// row = [planes][plane_stride] holds alpha, delta and, for kRange, beta and gamma. Absent keys, padding and the
// columns beyond Nk, get delta = -inf and zeros. alpha, beta and gamma carry |scale|; its sign is in the packed q.
inline void expand_edit_row(const AttentionPlan& plan, int64_t sample, int64_t label, int64_t begin, int64_t count,
                            float* row, int64_t plane_stride) {
  const AttentionParams& p = plan.params;
  const bool range = plan.mode == EditMode::kRange;
  const float factor = p.scale < 0 ? -p.scale : p.scale;
  const int32_t* key_labels = p.key_labels ? p.key_labels + sample * p.key_labels_batch : nullptr;
  const uint8_t* padding = p.key_padding ? p.key_padding + sample * p.key_padding_batch : nullptr;
  const float* alpha = p.alpha ? p.alpha + sample * p.alpha_batch + label * p.Lk : nullptr;
  const float* beta = p.beta ? p.beta + sample * p.beta_batch + label * p.Lk : nullptr;
  const float* gamma = p.gamma ? p.gamma + sample * p.gamma_batch + label * p.Lk : nullptr;
  const float* delta = p.delta ? p.delta + sample * p.delta_batch + label * p.Lk : nullptr;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t key = begin + i;
    const bool absent = key >= p.Nk || (padding && padding[key]);
    const int64_t column = absent || !key_labels ? 0 : key_labels[key];
    row[i] = absent ? 0.0f : entry(alpha, column, 1.0f) * factor;
    row[plane_stride + i] = absent ? -__builtin_inff() : entry(delta, column, 0.0f);
    if (range) {
      row[2 * plane_stride + i] = absent ? 0.0f : entry(beta, column, 0.0f) * factor;
      row[3 * plane_stride + i] = absent ? 0.0f : entry(gamma, column, 0.0f) * factor;
    }
  }
}

}  // namespace
}  // namespace weft
