// The softmax of one tile against one block of keys: raw logits in, weights out, statistics kept row by row.
//
// Raw logits come without |scale|, which is in the edit's tables, or in `factor` where there are none. log2(e) waits
// for the exponential: multiplied in at once it would round every logit where a scale of 1/8 rounds none.
#pragma once

#include "attention/plan.h"
#include "weft/simd.h"

namespace weft {
namespace {

constexpr float kInfinity = __builtin_inff();
constexpr float kLog2E = 1.44269504088896340736f;

// Arrays over the rows of a tile, padded to whole vectors.
struct RowStatistics {
  float* largest;    // of the edited logits so far, -inf before any
  float* sum;        // of the weights so far, relative to `largest`
  float* decay;      // what earlier blocks' weights shrink by, now that `largest` has grown
  float* block_max;  // of this block and all before
  float* block_sum;  // of this block's weights
  float* high;       // rowmax and rowmin of the raw logits over valid keys
  float* low;
};

// The edit of one row: planes alpha, delta, beta, gamma (edit_row.h).
struct EditRow {
  const float* planes;
  int64_t stride;
};

// Extends the range of the raw logits by the valid keys of one block.
inline void raw_range(const float* logits, int64_t count, EditRow edit, float* high, float* low) {
  Vec most = splat(-kInfinity), least = splat(kInfinity);
  for (int64_t i = 0; i < count; i += kLanes) {
    const Vec x = load(logits + i);
    const Mask valid = above(load(edit.planes + edit.stride + i), splat(-kInfinity));
    most = max(most, select(valid, x, splat(-kInfinity)));
    least = min(least, select(valid, x, splat(kInfinity)));
  }
  const float a = reduce_max(most), b = reduce_min(least);
  if (a > *high) *high = a;
  if (b < *low) *low = b;
}

// Replaces raw logits by edited ones, -inf where the key is not valid, and returns the largest.
template <EditMode kMode>
inline float edit_logits(float* logits, int64_t count, EditRow edit, float high, float low) {
  Vec most = splat(-kInfinity);
  for (int64_t i = 0; i < count; i += kLanes) {
    const Vec delta = load(edit.planes + edit.stride + i);
    Vec x = delta;
    if (kMode == EditMode::kRange) {
      x = fmadd(load(edit.planes + 2 * edit.stride + i), splat(high), x);
      x = fmadd(load(edit.planes + 3 * edit.stride + i), splat(low), x);
    }
    x = fmadd(load(edit.planes + i), load(logits + i), x);
    x = select(above(delta, splat(-kInfinity)), x, splat(-kInfinity));
    store(logits + i, x);
    most = max(most, x);
  }
  return reduce_max(most);
}

// The same without an edit: only columns from `count` on are absent. The product is rounded on its own, as an edit
// with alpha = 1 and the rest 0 would round it, so that both give the same bits.
inline float scale_logits(float* logits, int64_t count, float factor) {
  Vec most = splat(-kInfinity);
  for (int64_t i = 0; i < count; i += kLanes) {
    Vec x = mul(load(logits + i), splat(factor));
    x = select(first(static_cast<int>(count - i)), x, splat(-kInfinity));
    store(logits + i, x);
    most = max(most, x);
  }
  return reduce_max(most);
}

// Turns logits into weights relative to `largest` and returns their sum. `weights` may be `logits` itself.
template <class Weight>
inline float weigh(float* logits, int64_t count, float largest, Weight* weights, bool keep_fp32) {
  Vec sum = splat(0.0f);
  for (int64_t i = 0; i < count; i += kLanes) {
    const Vec w = exp2(mul(sub(load(logits + i), splat(largest)), splat(kLog2E)));
    sum = add(sum, w);
    store(weights + i, w);
    if (sizeof(Weight) != sizeof(float) && keep_fp32) store(logits + i, w);
  }
  return reduce_add(sum);
}

// Moves the running statistics of all rows past the block.
inline void advance(RowStatistics& rows, int64_t count) {
  for (int64_t r = 0; r < count; r += kLanes) {
    const Vec largest = load(rows.block_max + r);
    // a row without a valid key so far keeps weights of 0 rather than exp2(-inf + inf)
    const Vec base = select(above(largest, splat(-kInfinity)), largest, splat(0.0f));
    const Vec decay = exp2(mul(sub(load(rows.largest + r), base), splat(kLog2E)));
    store(rows.decay + r, decay);
    store(rows.sum + r, add(mul(load(rows.sum + r), decay), load(rows.block_sum + r)));
    store(rows.largest + r, largest);
  }
}

}  // namespace
}  // namespace weft
