// K, V and q copied into the layouts the products walk through.
//
// Packed K of a block is K^T, [depth, block]; packed V is [keys, width]. Both are zero where there is no key, where
// the key is padding and beyond D, so that nothing a caller left there can reach a product.
#pragma once

#include "attention/plan.h"
#include "weft/simd.h"

namespace weft {
namespace {

constexpr int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// One fp32 value a unit; storage of any type.
struct FloatUnits {
  using Unit = float;
  using Weight = float;
  static constexpr int kValues = 1;

  // Writes `count` values, then zeros up to a whole vector. `sign` is 1 or -1.
  template <class T>
  static void stage_row(const T* from, int64_t count, float* to, int64_t, float sign) {
    for (int64_t i = 0; i < count; i += kLanes) {
      store(to + i, mul(load_first(from + i, static_cast<int>(count - i)), splat(sign)));
    }
  }

  template <class T>
  static void pack_key(const T* key, int64_t count, float* column, int64_t stride) {
    float row[kMaxHeadWidth + kLanes];
    stage_row(key, count, row, 0, 1.0f);
    for (int64_t i = 0; i < count; ++i) column[i * stride] = row[i];
  }

  template <class T>
  static void pack_values(const T* const* values, int64_t count, float* row) {
    stage_row(values[0], count, row, 0, 1.0f);
  }
};

// Two bf16 a unit: neighbours along the axis that is summed, D for K and q, keys for V and the weights.
struct PairUnits {
  using Unit = uint32_t;
  using Weight = Bfloat;
  static constexpr int kValues = 2;

  static void stage_row(const Bfloat* from, int64_t count, uint32_t* to, int64_t units, float sign) {
    Bfloat* row = reinterpret_cast<Bfloat*>(to);
    const uint16_t flip = sign < 0 ? 0x8000 : 0;
    for (int64_t i = 0; i < count; ++i) row[i].bits = from[i].bits ^ flip;
    for (int64_t i = count; i < 2 * units; ++i) row[i].bits = 0;
  }

  static void pack_key(const Bfloat* key, int64_t count, uint32_t* column, int64_t stride) {
    for (int64_t i = 0; 2 * i < count; ++i) {
      const uint32_t low = key[2 * i].bits, high = 2 * i + 1 < count ? key[2 * i + 1].bits : 0;
      column[i * stride] = low | high << 16;
    }
  }

  static void pack_values(const Bfloat* const* values, int64_t count, uint32_t* row) {
    const Bfloat* even = values[0];
    const Bfloat* odd = values[1];
    for (int64_t i = 0; i < count; ++i) row[i] = even[i].bits | static_cast<uint32_t>(odd[i].bits) << 16;
  }
};

template <class T>
inline const T* row_of(const void* base, const HeadStrides& strides, int64_t sample, int64_t token, int64_t head) {
  return static_cast<const T*>(base) + sample * strides.batch + token * strides.token + head * strides.head;
}

template <class T>
inline bool all_finite(const T* row, int64_t count) {
  Vec sum = splat(0.0f);
  for (int64_t i = 0; i < count; i += kLanes) {
    sum = fmadd(load_first(row + i, static_cast<int>(count - i)), splat(0.0f), sum);
  }
  return reduce_add(sum) == 0.0f;
}

// Packs K and V of one entry, a (sample, key head).
template <class Units, class T>
void pack_head(const AttentionPlan& plan, int64_t entry) {
  using Unit = typename Units::Unit;
  const AttentionParams& p = plan.params;
  const TileShape& shape = plan.shape;
  const int64_t sample = entry / p.Hk, head = entry % p.Hk;
  const uint8_t* padding = p.key_padding ? p.key_padding + sample * p.key_padding_batch : nullptr;
  Unit* keys = reinterpret_cast<Unit*>(plan.packed_k + entry * plan.packed_k_bytes);
  Unit* values = reinterpret_cast<Unit*>(plan.packed_v + entry * plan.packed_v_bytes);

  memset(keys, 0, plan.packed_k_bytes);
  for (int64_t key = 0; key < p.Nk; ++key) {
    if (padding && padding[key]) continue;
    Unit* column = keys + key / shape.block * (shape.depth * shape.block) + key % shape.block;
    Units::pack_key(row_of<T>(p.k, p.k_stride, sample, key, head), p.D, column, shape.block);
  }

  memset(values, 0, plan.packed_v_bytes);
  const T nothing[kMaxHeadWidth] = {};
  bool finite = true;
  for (int64_t key = 0; key < p.Nk; key += Units::kValues) {
    const T* rows[Units::kValues];
    for (int i = 0; i < Units::kValues; ++i) {
      const bool absent = key + i >= p.Nk || (padding && padding[key + i]);
      rows[i] = absent ? nothing : row_of<T>(p.v, p.v_stride, sample, key + i, head);
      if (plan.v_not_finite) finite = finite && all_finite(rows[i], p.D);
    }
    Units::pack_values(rows, p.D, values + key / Units::kValues * shape.width);
  }
  if (plan.v_not_finite) plan.v_not_finite[entry] = !finite;
}

}  // namespace
}  // namespace weft
