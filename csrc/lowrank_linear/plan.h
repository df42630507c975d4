// One call, laid out: what dispatch.cpp decides, what the kernels read. Plain data, as in attention/plan.h.
#pragma once

#include <cstdint>

#include "lowrank_linear/lowrank_linear.h"
#include "weft/workspace.h"

namespace weft {

// Columns of a packed strip; what is left over of a matrix is zero up to here.
constexpr int64_t kStrip = 64;
// Matrices are copied by squares of this side, and ranks are skipped by it.
constexpr int64_t kSquare = 16;
// Rows of a tile: x and h of so many stay in the second-level cache while W goes by. W from memory wants more.
constexpr int64_t kRows = 96, kRowsBesideLargeWeight = 192;
// Whatever is packed has units of so many bytes: an fp32 value, or a pair of bf16.
constexpr int64_t kUnitBytes = 4;

struct LowrankLinearPlan {
  LowrankLinearParams params;

  int64_t unit_values;  // 1: units are fp32 values; 2: pairs of bf16
  int64_t R;            // sum of the ranks
  int64_t depth;        // Cin in units, whole squares
  int64_t ranks;        // R in whole squares
  int64_t rank_units;   // the same in units
  int64_t strips;       // of Cout
  int64_t rank_strips;  // of R

  int64_t rows, tiles;  // of a tile; tiles a sample
  // Whether a strip of W is packed where it is used and serves all tiles at once, which then are all there; else W is
  // packed as a whole and a tile meets all strips.
  bool by_strip;

  // packed by strips: [strips, depth, kStrip], empty if `by_strip`; [rank_strips, depth, kStrip];
  // [strips, rank_units, kStrip]
  Span<char> packed_weight, packed_down, packed_up;
  const int32_t* concept_of_rank;  // [ranks], -1 beyond R
};

// The kernels of one instruction set. A tile is counted over samples and rows.
struct LowrankLinearKernels {
  int64_t (*unit_values)(Dtype);
  // bytes of a tile's memory and of a worker's
  int64_t (*tile_bytes)(const LowrankLinearPlan&);
  int64_t (*work_bytes)(const LowrankLinearPlan&);
  void (*pack_weight)(const LowrankLinearPlan&, int64_t strip, Span<char> to);
  void (*pack_down)(const LowrankLinearPlan&, int64_t strip);
  void (*pack_up)(const LowrankLinearPlan&, int64_t strip);
  // stages x and x A^T of a tile in its own memory
  void (*prepare)(const LowrankLinearPlan&, int64_t tile, Span<char> memory, Span<char> work);
  // writes strips [begin, end) of a tile that was prepared there; `weight` is W packed from `begin` on
  void (*project)(const LowrankLinearPlan&, int64_t tile, Span<char> memory, Span<char> work, Span<char> weight,
                  int64_t begin, int64_t end);
};

}  // namespace weft
