// Matrices copied into what the products walk through: rows of units for the left side, strips for the right.
//
// Whatever layout a caller has, it is read along the axis of stride 1, a square at a time, and turned over where the
// product wants the other one. Units beyond the matrix are zero.
#pragma once

#include "lowrank_linear/plan.h"
#include "weft/gemm.h"
#include "weft/transpose.h"

namespace weft {
namespace {

constexpr int64_t smaller_of(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr int64_t larger_of(int64_t a, int64_t b) { return a > b ? a : b; }

// `count` values of a line as units, then zeros up to `units`.
template <class T>
inline void copy_line(const T* from, int64_t count, float* to, int64_t units) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(to + i, load(from + i));
  if (i < count) store(to + i, load_first(from + i, static_cast<int>(count - i))), i += kLanes;
  for (; i < units; i += kLanes) store(to + i, splat(0.0f));
}

inline void copy_line(const Bfloat* from, int64_t count, uint32_t* to, int64_t units) {
  // a matrix without values may be null, which memcpy must not be given
  if (count) memcpy(to, from, count * 2);
  memset(reinterpret_cast<Bfloat*>(to) + count, 0, units * 4 - count * 2);
}

// Lines of the summed axis, `kValues` of them, joined into one line of units: [unit of that axis][the other one].
template <class T>
inline void join_lines(const T* from, int64_t, int64_t lines, int64_t count, float* to) {
  copy_line(from, lines ? count : 0, to, kSquare);
}

inline void join_lines(const Bfloat* from, int64_t stride, int64_t lines, int64_t count, uint32_t* to) {
  for (int64_t i = 0; i < kSquare; ++i) {
    const uint32_t low = lines > 0 && i < count ? from[i].bits : 0;
    const uint32_t high = lines > 1 && i < count ? from[stride + i].bits : 0;
    to[i] = low | high << 16;
  }
}

template <class Dot, class T>
struct Packer {
  using Unit = typename Dot::Unit;
  static constexpr int64_t kValues = Dot::kValues;

  const T* data;           // [lines, Cin or R], the second axis being summed
  int64_t stride, summed;  // distances along either
  int64_t lines, values;

  Packer(const Matrices& matrix, int64_t sample, int64_t first, int64_t lines, int64_t values)
      : data(static_cast<const T*>(matrix.data) + sample * matrix.batch + first * matrix.row),
        stride(matrix.row),
        summed(matrix.column),
        lines(lines),
        values(values) {}

  // [line][unit], a line every `units`: the left side of a product.
  void stage(Span<Unit> memory, int64_t units) const {
    // whole squares of lines, as `transpose` writes them
    Unit* const to = part(memory, 0, (lines + kSquare - 1) / kSquare * kSquare * units).data;
    if (summed == 1) {
      for (int64_t line = 0; line < lines; ++line) copy_line(data + line * stride, values, to + line * units, units);
      return;
    }
    for (int64_t line = 0; line < lines; line += kSquare) {
      for (int64_t unit = 0; unit < units; unit += kSquare) {
        alignas(64) Unit square[kSquare * kSquare];
        read_across(line, unit, square, kSquare);
        transpose(square, 4 * kSquare, to + line * units + unit, 4 * units);
      }
    }
  }

  // [unit][line], a unit every kStrip: the right side.
  void pack(Span<Unit> memory, int64_t units) const {
    Unit* const to = part(memory, 0, units * kStrip).data;
    // along the lines, sixteen at a time: more streams than that no prefetcher follows
    for (int64_t line = 0; line < kStrip; line += kSquare) {
      for (int64_t unit = 0; unit < units; unit += kSquare) {
        Unit* corner = to + unit * kStrip + line;
        if (summed != 1) {
          read_across(line, unit, corner, kStrip);
          continue;
        }
        const int64_t count = smaller_of(kSquare * kValues, values - unit * kValues);
        // as nearly all squares are: whole, and of 32 bits a unit already
        if (sizeof(T) * kValues == 4 && count == kSquare * kValues && line + kSquare <= lines) {
          transpose(data + line * stride + unit * kValues, sizeof(T) * stride, corner, 4 * kStrip);
          continue;
        }
        alignas(64) Unit square[kSquare * kSquare];
        for (int64_t i = 0; i < kSquare; ++i) {
          const bool there = line + i < lines && count > 0;
          copy_line(there ? data + (line + i) * stride + unit * kValues : data, there ? count : 0,
                    square + i * kSquare, kSquare);
        }
        transpose(square, 4 * kSquare, corner, 4 * kStrip);
      }
    }
  }

 private:
  // A square as [unit][line].
  void read_across(int64_t line, int64_t unit, Unit* to, int64_t stride_to) const {
    const int64_t count = line < lines ? smaller_of(kSquare, lines - line) : 0;
    for (int64_t i = 0; i < kSquare; ++i) {
      const int64_t value = (unit + i) * kValues;
      const int64_t left = value < values && count ? smaller_of(kValues, values - value) : 0;
      join_lines(left ? data + line * stride + value * summed : data, summed, left, count, to + i * stride_to);
    }
  }
};

}  // namespace
}  // namespace weft
