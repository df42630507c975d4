// Chooses the instruction set, lays a call out in memory, and runs its two phases: pack the matrices, project.
#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "lowrank_linear/plan.h"
#include "weft/build_config.h"
#include "weft/cpu_features.h"
#include "weft/parallel.h"

namespace weft {

#define WEFT_DECLARE(name, needs) extern const LowrankLinearKernels lowrank_linear_kernels_##name;
WEFT_FOR_EACH_ISA(WEFT_DECLARE)
#undef WEFT_DECLARE

namespace {

constexpr int64_t kAlignment = 64;
// Rows of a tile: x and h of so many stay in the second-level cache while W goes by. W from memory wants more.
constexpr int64_t kRows = 96, kRowsBesideLargeWeight = 192;
constexpr int64_t kLargeWeightBytes = int64_t{8} << 20;
// Tasks a thread should find, so that none waits long for the last.
constexpr int64_t kTasksPerThread = 3;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t step) { return ceil_div(a, step) * step; }

const LowrankLinearKernels& choose_kernels(const std::string& isa) {
#define WEFT_ADDRESS(name, needs) &lowrank_linear_kernels_##name,
  static const LowrankLinearKernels* const kernels[] = {WEFT_FOR_EACH_ISA(WEFT_ADDRESS)};
#undef WEFT_ADDRESS
  return *kernels[isa == "auto" ? best_instruction_set() : find_instruction_set(isa)];
}

LowrankLinearPlan make_plan(const LowrankLinearParams& p, const LowrankLinearKernels& kernels) {
  LowrankLinearPlan plan{};
  plan.params = p;
  plan.unit_values = kernels.unit_values(p.dtype);
  for (int64_t rank : p.ranks) plan.R += rank;
  plan.depth = round_up(ceil_div(p.Cin, plan.unit_values), kSquare);
  plan.ranks = round_up(plan.R, 2 * kSquare);
  plan.rank_units = plan.ranks / plan.unit_values;
  plan.strips = ceil_div(p.Cout, kStrip);
  plan.rank_strips = ceil_div(plan.R, kStrip);
  plan.rows = p.weight.data && p.Cin * p.Cout * size_of(p.dtype) > kLargeWeightBytes ? kRowsBesideLargeWeight : kRows;
  plan.tiles = ceil_div(p.N, plan.rows);
  // what rows there are is cut first: every group of columns makes x A^T again
  const int64_t wanted = ceil_div(p.num_threads > 1 ? kTasksPerThread * p.num_threads : 1, p.B * plan.tiles);
  plan.strips_per_group = ceil_div(plan.strips, std::clamp<int64_t>(wanted, 1, plan.strips));
  plan.groups = ceil_div(plan.strips, plan.strips_per_group);
  plan.scratch_bytes = kernels.scratch_bytes(plan);
  return plan;
}

struct Free {
  void operator()(char* memory) const { std::free(memory); }
};

struct Workspace {
  std::unique_ptr<char, Free> memory;
  int64_t bytes = 0;
};

// A thread keeps up to so much from call to call: new memory costs a page fault every 4 KiB, which together took a
// twentieth of the time of a layer of 1280 columns.
constexpr int64_t kMostKept = int64_t{16} << 20;
thread_local Workspace kept;

Workspace take_workspace(int64_t bytes) {
  Workspace mine = std::exchange(kept, {});
  if (mine.bytes < bytes) {
    mine = {};
    mine.memory.reset(static_cast<char*>(std::aligned_alloc(kAlignment, bytes)));
    if (!mine.memory) throw std::bad_alloc();
    mine.bytes = bytes;
  }
  return mine;
}

void give_back(Workspace workspace) {
  if (workspace.bytes <= kMostKept) kept = std::move(workspace);
}

struct Call {
  const LowrankLinearKernels& kernels;
  LowrankLinearPlan plan;
  std::vector<int32_t> concept_of_rank;
  Workspace workspace;
  char* scratch = nullptr;
  int workers = 1;

  Call(const LowrankLinearParams& p, const LowrankLinearKernels& kernels)
      : kernels(kernels), plan(make_plan(p, kernels)) {
    concept_of_rank.assign(plan.ranks, -1);
    int64_t rank = 0;
    for (size_t which = 0; which < p.ranks.size(); rank += p.ranks[which++]) {
      std::fill_n(concept_of_rank.begin() + rank, p.ranks[which], static_cast<int32_t>(which));
    }
    plan.concept_of_rank = concept_of_rank.data();

    workers = static_cast<int>(std::min<int64_t>(p.num_threads, std::max(tasks(), packings())));
    workspace = take_workspace(lay_out(nullptr));
    lay_out(workspace.memory.get());
  }

  ~Call() { give_back(std::move(workspace)); }

  int64_t tasks() const { return plan.params.B * plan.tiles * plan.groups; }
  int64_t packings() const {
    return (plan.params.weight.data ? plan.strips : 0) + plan.rank_strips + (plan.R ? plan.strips : 0);
  }

 private:
  // Called twice: from null to learn the size, which it returns, then to hand out the memory.
  int64_t lay_out(char* base) {
    int64_t at = 0;
    const auto take = [&at, base](int64_t bytes) {
      char* here = base ? base + at : nullptr;
      at += round_up(bytes, kAlignment);
      return here;
    };
    plan.packed_weight = take(plan.params.weight.data ? plan.strips * plan.depth * kStrip * 4 : 0);
    plan.packed_down = take(plan.rank_strips * plan.depth * kStrip * 4);
    plan.packed_up = take(plan.R ? plan.strips * plan.rank_units * kStrip * 4 : 0);
    scratch = take(workers * plan.scratch_bytes);
    return at;
  }
};

void pack(void* context, int64_t task, int) {
  const Call& call = *static_cast<Call*>(context);
  call.kernels.pack(call.plan, task);
}

void project(void* context, int64_t task, int worker) {
  const Call& call = *static_cast<Call*>(context);
  call.kernels.project(call.plan, task, call.scratch + worker * call.plan.scratch_bytes);
}

}  // namespace

void lowrank_linear_fwd_cpu(const LowrankLinearParams& params, const std::string& isa) {
  const LowrankLinearKernels& kernels = choose_kernels(isa);
  check_lowrank_linear(params);
  if (params.B == 0 || params.N == 0 || params.Cout == 0) return;
  Call call(params, kernels);
  parallel_for(call.packings(), call.workers, &call, pack);
  parallel_for(call.tasks(), call.workers, &call, project);
}

}  // namespace weft
