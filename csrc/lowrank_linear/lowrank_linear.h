// The bridge to the CPU kernel of lowrank_linear: plain pointers, sizes and strides. Meaning:
// kernels/lowrank_linear/reference.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "weft/dtype.h"

namespace weft {

// A stack of matrices; distances in elements. One of `row` and `column` is 1.
struct Matrices {
  const void* data = nullptr;
  int64_t batch = 0, row = 0, column = 1;
};

struct LowrankLinearParams {
  // inputs, of `dtype` but the gate; null where the argument is absent
  Matrices x;                  // [B, N, Cin]
  Matrices weight;             // [Cout, Cin]
  const void* bias = nullptr;  // [Cout], contiguous
  Matrices down;               // [R, Cin]
  Matrices up;                 // [Cout, R]
  Matrices gate;               // [B, N, K] fp32; strides of 0 share an entry
  Matrices residual, base;     // [B, N, Cout], the axis of stride 1 being that of `out`

  // output
  Matrices out;  // [B, N, Cout]; an image if `row` is 1 and `column` is not

  // sizes; R is the sum of `ranks`, which has an entry a concept
  int64_t B = 0, N = 0, Cin = 0, Cout = 0;
  std::vector<int64_t> ranks;

  Dtype dtype = Dtype::kFloat32;
  int num_threads = 1;
};

// Throws std::invalid_argument if the sizes, pointers or strides cannot be what the comments above say.
void check_lowrank_linear(const LowrankLinearParams& params);

// Computes `out`. `isa` names an instruction set of weft::instruction_sets(), or "auto" for the best. The result does
// not depend on `num_threads`. Throws as check_lowrank_linear, and for an unknown `isa`.
void lowrank_linear_fwd_cpu(const LowrankLinearParams& params, const std::string& isa = "auto");

}  // namespace weft
