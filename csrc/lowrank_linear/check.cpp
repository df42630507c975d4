// What must hold before a kernel follows a pointer.
#include <stdexcept>
#include <string>

#include "lowrank_linear/lowrank_linear.h"

namespace weft {
namespace {

// No product of sizes and strides comes near what an int64 holds.
constexpr int64_t kLimit = int64_t{1} << 56;

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("lowrank_linear: " + what); }

std::string quoted(const char* name) { return "`" + std::string(name) + "`"; }
std::string number(int64_t x) { return std::to_string(x); }

void check_size(const char* name, int64_t size) {
  if (size < 0) refuse(quoted(name) + " must not be negative; got " + number(size));
}

// Strides of axes with one entry, and all of a matrix without any, are never walked and may be anything.
void check_extent(const char* name, const Matrices& matrix, int64_t batches, int64_t rows, int64_t columns) {
  const int64_t sizes[] = {batches, rows, columns}, strides[] = {matrix.batch, matrix.row, matrix.column};
  const bool empty = !batches || !rows || !columns;
  int64_t values = 1;
  for (int axis = 0; axis < 3; ++axis) {
    if (empty || sizes[axis] == 1) continue;
    if (strides[axis] < 0)
      refuse("strides of " + quoted(name) + " must not be negative; got " + number(strides[axis]));
    if (strides[axis] > kLimit / sizes[axis] || values > kLimit / sizes[axis]) {
      refuse(quoted(name) + " must have and span less than 2^56 elements");
    }
    values *= sizes[axis];
  }
}

void check_matrices(const char* name, const Matrices& matrix, int64_t batches, int64_t rows, int64_t columns) {
  check_extent(name, matrix, batches, rows, columns);
  const bool empty = !batches || !rows || !columns;
  if (!empty && matrix.row != 1 && matrix.column != 1) {
    refuse(quoted(name) + " must have unit stride along rows or columns; got " + number(matrix.row) + " and " +
           number(matrix.column));
  }
}

void check_given(const char* name, const void* data, bool needed) {
  if (!data && needed) refuse(quoted(name) + " must not be null");
}

// An addend is read in the order in which `out` is written.
void check_addend(const char* name, const Matrices& addend, const LowrankLinearParams& p) {
  if (!addend.data) return;
  check_matrices(name, addend, p.B, p.N, p.Cout);
  if (p.out.column == 1 ? addend.column != 1 : addend.row != 1) {
    refuse(quoted(name) + " must have unit stride along the axis that `out` has it");
  }
}

}  // namespace

void check_lowrank_linear(const LowrankLinearParams& p) {
  check_size("B", p.B), check_size("N", p.N), check_size("Cin", p.Cin), check_size("Cout", p.Cout);
  if (p.num_threads < 1) refuse("`num_threads` must be at least 1; got " + number(p.num_threads));
  if (p.dtype != Dtype::kFloat32 && p.dtype != Dtype::kFloat16 && p.dtype != Dtype::kBfloat16) {
    refuse("`dtype` must be float32, float16 or bfloat16; got code " + number(static_cast<int>(p.dtype)));
  }
  int64_t ranks = 0;
  for (int64_t rank : p.ranks) {
    if (rank < 1 || rank > kLimit - ranks) refuse("`ranks` must be 1 or more each; got " + number(rank));
    ranks += rank;
  }
  const bool empty = p.B == 0 || p.N == 0 || p.Cout == 0;

  check_given("x", p.x.data, !empty && p.Cin > 0);
  check_given("out", p.out.data, !empty);
  check_given("weight or base", p.weight.data ? p.weight.data : p.base.data, !empty && p.Cin > 0);
  check_given("down", p.down.data, ranks > 0 && p.Cin > 0);
  check_given("up", p.up.data, ranks > 0 && p.Cout > 0);
  if (p.gate.data && p.ranks.empty()) refuse("`gate` must be null without ranks");
  if (p.weight.data && p.base.data) refuse("`weight` and `base` must not both be given");

  check_matrices("x", p.x, p.B, p.N, p.Cin);
  check_matrices("out", p.out, p.B, p.N, p.Cout);
  if (p.weight.data) check_matrices("weight", p.weight, 1, p.Cout, p.Cin);
  if (ranks) check_matrices("down", p.down, 1, ranks, p.Cin), check_matrices("up", p.up, 1, p.Cout, ranks);
  check_extent("gate", p.gate, p.B, p.N, static_cast<int64_t>(p.ranks.size()));
  check_addend("residual", p.residual, p);
  check_addend("base", p.base, p);
}

}  // namespace weft
