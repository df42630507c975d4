// One call, laid out: what dispatch.cpp decides, what the kernels read. Plain data, as in attention/plan.h.
#pragma once

#include <cstdint>

#include "lowrank_linear/lowrank_linear.h"

namespace weft {

// Columns of a packed strip; what is left over of a matrix is zero up to here.
constexpr int64_t kStrip = 64;
// Matrices are copied by squares of this side, and ranks are skipped by it.
constexpr int64_t kSquare = 16;

struct LowrankLinearPlan {
  LowrankLinearParams params;

  int64_t unit_values;  // 1: units are fp32 values; 2: pairs of bf16
  int64_t R;            // sum of the ranks
  int64_t depth;        // Cin in units, whole squares
  int64_t ranks;        // R in whole squares
  int64_t rank_units;   // the same in units
  int64_t strips;       // of Cout
  int64_t rank_strips;  // of R

  // tasks: (sample, tile of rows, group of strips), groups fastest
  int64_t rows, tiles, groups, strips_per_group;

  // packed by strips: [strips, depth, kStrip], [rank_strips, depth, kStrip], [strips, rank_units, kStrip]
  char *packed_weight, *packed_down, *packed_up;
  const int32_t* concept_of_rank;  // [ranks], -1 beyond R
  int64_t scratch_bytes;           // a worker's
};

// The kernels of one instruction set.
struct LowrankLinearKernels {
  int64_t (*unit_values)(Dtype);
  int64_t (*scratch_bytes)(const LowrankLinearPlan&);
  // one strip of W, then of A, then of B
  void (*pack)(const LowrankLinearPlan&, int64_t task);
  void (*project)(const LowrankLinearPlan&, int64_t task, char* scratch);
};

}  // namespace weft
