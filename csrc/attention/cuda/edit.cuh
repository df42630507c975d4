// The edit of logits by label tables, on fragments. Logits are in units of log2: S * log2(e).
//
// A key that is absent (padding, or beyond Nk) bears the label Lk, one more than the tables have, whose delta is -inf.
// A key is valid for a row if its delta is not -inf: one test for all the reasons there are.
#pragma once

#include "attention/cuda/call.cuh"
#include "attention/cuda/softmax.cuh"
#include "weft/memory.cuh"

namespace weft {

// A label in the device's memory may be anything; outside [0, limit) it counts as the nearest inside.
__device__ __forceinline__ int bounded_label(int label, int64_t limit) {
  return min(max(label, 0), static_cast<int>(limit) - 1);
}

// The padding of a sample from `key` on, or null.
__device__ __forceinline__ const uint8_t* padding_from(const AttentionParams& p, int sample, int64_t key) {
  return p.key_padding ? p.key_padding + sample * p.key_padding_batch + key : nullptr;
}

__device__ __forceinline__ int key_label(const AttentionParams& p, int sample, int key) {
  const int absent = static_cast<int>(p.Lk);
  if (key >= p.Nk) return absent;
  if (p.key_padding && load_constant(p.key_padding + sample * p.key_padding_batch + key)) return absent;
  if (!p.key_labels) return 0;
  return bounded_label(load_constant(p.key_labels + sample * p.key_labels_batch + key), p.Lk);
}

__device__ __forceinline__ int query_label(const AttentionParams& p, int sample, int query) {
  if (!p.query_labels || query >= p.Nq) return 0;
  return bounded_label(load_constant(p.query_labels + sample * p.query_labels_batch + query), p.Lq);
}

// The tables in shared memory: [Lq, Lk + 1] pairs (alpha, delta * log2(e)), then, where ranged, as many (beta, gamma).
struct Tables {
  float2* entries;
  int size, columns;

  __device__ __forceinline__ Tables(float2* shared, const AttentionParams& p)
      : entries(shared), size(static_cast<int>(p.Lq * (p.Lk + 1))), columns(static_cast<int>(p.Lk + 1)) {}

  // Fills this thread's share; valid after a barrier.
  __device__ __forceinline__ void fill(const AttentionParams& p, int sample, bool ranged, int thread) const {
    const auto value = [&](const float* table, int64_t batch, int at, float absent) {
      return table ? load_constant(table + sample * batch + at) : absent;
    };
#pragma unroll 1
    for (int i = thread; i < size; i += kThreads) {
      const int label = i % columns, at = i / columns * (columns - 1) + label;
      float2 affine{0.0f, -__builtin_inff()}, share{0.0f, 0.0f};
      if (label < columns - 1) {
        affine.x = value(p.alpha, p.alpha_batch, at, 1.0f);
        affine.y = value(p.delta, p.delta_batch, at, 0.0f) * kLog2E;
        share.x = value(p.beta, p.beta_batch, at, 0.0f);
        share.y = value(p.gamma, p.gamma_batch, at, 0.0f);
      }
      store_shared(entries + i, affine);
      if (ranged) store_shared(entries + size + i, share);
    }
  }

  __device__ __forceinline__ int row(int label) const { return label * columns; }
  __device__ __forceinline__ float2 alpha_delta(int row, int label) const {
    return load_shared(entries + row + label);
  }
  __device__ __forceinline__ float2 beta_gamma(int row, int label) const {
    return load_shared(entries + size + row + label);
  }
};

// Largest and smallest valid logit of a lane's two rows.
struct RowRange {
  float high[2] = {-__builtin_inff(), -__builtin_inff()};
  float low[2] = {__builtin_inff(), __builtin_inff()};

  // From what each lane saw to what its four lanes saw together. A row without a valid key gets zeros: its logits are
  // -inf and must stay so, and 0 * inf is NaN.
  __device__ __forceinline__ void close() {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      high[row] = quad_max(high[row]);
      low[row] = quad_min(low[row]);
      if (high[row] == -__builtin_inff()) high[row] = low[row] = 0.0f;
    }
  }
};

// s = alpha * s + delta, and -inf for keys that are not valid. With kRange the range is widened by s as it was.
// `rows`: table rows of the lane's two rows; `labels`: those of the fragments' keys, in shared memory.
template <bool kRange, int kKeyTiles>
__device__ __forceinline__ void apply_alpha_delta(float (&s)[kKeyTiles][4], RowRange& range, const Tables& tables,
                                                  const int (&rows)[2], const int* labels, int lane) {
#pragma unroll
  for (int n = 0; n < kKeyTiles; ++n) {
    const int2 pair = reload_shared(reinterpret_cast<const int2*>(labels + n * 8 + lane % 4 * 2));
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float2 entry = tables.alpha_delta(rows[e / 2], e % 2 ? pair.y : pair.x);
      const bool valid = entry.y != -__builtin_inff();
      if constexpr (kRange) {
        if (valid) range.high[e / 2] = fmaxf(range.high[e / 2], s[n][e]);
        if (valid) range.low[e / 2] = fminf(range.low[e / 2], s[n][e]);
      }
      s[n][e] = valid ? fmaf(entry.x, s[n][e], entry.y) : -__builtin_inff();
    }
  }
}

// s += beta * rowmax + gamma * rowmin, of a range that is closed.
template <int kKeyTiles>
__device__ __forceinline__ void add_range(float (&s)[kKeyTiles][4], const RowRange& range, const Tables& tables,
                                          const int (&rows)[2], const int* labels, int lane) {
#pragma unroll
  for (int n = 0; n < kKeyTiles; ++n) {
    const int2 pair = reload_shared(reinterpret_cast<const int2*>(labels + n * 8 + lane % 4 * 2));
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float2 entry = tables.beta_gamma(rows[e / 2], e % 2 ? pair.y : pair.x);
      s[n][e] += fmaf(entry.x, range.high[e / 2], entry.y * range.low[e / 2]);
    }
  }
}

// Without tables and padding only the keys beyond the last are not valid.
template <int kKeyTiles>
__device__ __forceinline__ void mask_tail(float (&s)[kKeyTiles][4], int keys, int lane) {
#pragma unroll
  for (int n = 0; n < kKeyTiles; ++n) {
    if (n * 8 + 8 <= keys) continue;  // the same for all lanes
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (n * 8 + lane % 4 * 2 + e % 2 >= keys) s[n][e] = -__builtin_inff();
    }
  }
}

}  // namespace weft
