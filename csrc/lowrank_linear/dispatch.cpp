// Chooses the instruction set, lays a call out in memory, and runs its phases: pack, prepare, project.
#include <algorithm>
#include <utility>
#include <vector>

#include "lowrank_linear/plan.h"
#include "weft/aligned_memory.h"
#include "weft/build_config.h"
#include "weft/cpu_features.h"
#include "weft/parallel.h"

namespace weft {

#define WEFT_DECLARE(name, needs) extern const LowrankLinearKernels lowrank_linear_kernels_##name;
WEFT_FOR_EACH_ISA(WEFT_DECLARE)
#undef WEFT_DECLARE

namespace {

constexpr int64_t kLargeWeightBytes = int64_t{8} << 20;
// Up to so many tiles W goes by once, a strip at a time, never packed as a whole: writing it and reading it again took
// a tenth of the time of 512 rows by 1280 columns.
constexpr int64_t kFewTiles = 16;

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
  plan.by_strip = p.B * plan.tiles <= kFewTiles;
  return plan;
}

// A thread keeps up to so much from call to call: new memory costs a page fault every 4 KiB, which together took a
// twentieth of the time of a layer of 1280 columns.
constexpr int64_t kMostKept = int64_t{16} << 20;
thread_local AlignedMemory kept;

AlignedMemory take_memory(int64_t bytes) {
  AlignedMemory reused = std::exchange(kept, {});
  return reused.bytes() < bytes ? AlignedMemory(bytes) : std::move(reused);
}

void give_back(AlignedMemory memory) {
  if (memory.bytes() <= kMostKept) kept = std::move(memory);
}

struct Call {
  const LowrankLinearKernels& kernels;
  LowrankLinearPlan plan;
  std::vector<int32_t> concept_of_rank;
  int64_t tiles, tile_bytes, work_bytes, strip_bytes;
  int workers;
  AlignedMemory memory;
  // an entry a tile where `by_strip`, else a worker; an entry a worker in the other two
  Span<char> tile_memory, work_memory, strip_memory;

  Call(const LowrankLinearParams& p, const LowrankLinearKernels& kernels)
      : kernels(kernels), plan(make_plan(p, kernels)) {
    concept_of_rank.assign(plan.ranks, -1);
    int64_t rank = 0;
    for (size_t which = 0; which < p.ranks.size(); rank += p.ranks[which++]) {
      std::fill_n(concept_of_rank.begin() + rank, p.ranks[which], static_cast<int32_t>(which));
    }
    plan.concept_of_rank = concept_of_rank.data();

    tiles = p.B * plan.tiles;
    tile_bytes = kernels.tile_bytes(plan);
    work_bytes = kernels.work_bytes(plan);
    strip_bytes = p.weight.data ? packed_bytes(plan.depth) : 0;
    workers = static_cast<int>(std::min<int64_t>(p.num_threads, std::max(tiles, plan.strips + plan.rank_strips)));
    const int64_t bytes = lay_out(Carver());
    memory = take_memory(bytes);
    lay_out(Carver(memory.span(bytes)));
  }

  ~Call() { give_back(std::move(memory)); }

  Span<char> memory_of(int64_t tile, int worker) const {
    return part(tile_memory, (plan.by_strip ? tile : worker) * tile_bytes, tile_bytes);
  }
  Span<char> work_of(int worker) const { return part(work_memory, worker * work_bytes, work_bytes); }
  Span<char> strip_of(int worker) const { return part(strip_memory, worker * strip_bytes, strip_bytes); }
  void run(int64_t tasks, Task task) { parallel_for(tasks, workers, this, task); }

 private:
  // Of a strip of so many units.
  static int64_t packed_bytes(int64_t units) { return multiply_sizes(units, kStrip * kUnitBytes); }

  // Called twice: to learn the size, which it gives, and to hand out the memory.
  int64_t lay_out(Carver carver) {
    plan.packed_weight = carver.take<char>(plan.by_strip ? 0 : plan.strips, strip_bytes);
    plan.packed_down = carver.take<char>(plan.rank_strips, packed_bytes(plan.depth));
    plan.packed_up = carver.take<char>(plan.R ? plan.strips : 0, packed_bytes(plan.rank_units));
    tile_memory = carver.take<char>(plan.by_strip ? tiles : workers, tile_bytes);
    work_memory = carver.take<char>(workers, work_bytes);
    strip_memory = carver.take<char>(plan.by_strip ? workers : 0, strip_bytes);
    return carver.bytes();
  }
};

Call& call_of(void* context) { return *static_cast<Call*>(context); }

void pack_weight(void* context, int64_t strip, int) {
  const Call& call = call_of(context);
  call.kernels.pack_weight(call.plan, strip,
                           part(call.plan.packed_weight, strip * call.strip_bytes, call.strip_bytes));
}

// The strips of A, then those of B.
void pack_factors(void* context, int64_t task, int) {
  const Call& call = call_of(context);
  if (task < call.plan.rank_strips) return call.kernels.pack_down(call.plan, task);
  call.kernels.pack_up(call.plan, task - call.plan.rank_strips);
}

void prepare_tile(void* context, int64_t tile, int worker) {
  const Call& call = call_of(context);
  call.kernels.prepare(call.plan, tile, call.memory_of(tile, worker), call.work_of(worker));
}

void project_tile(void* context, int64_t tile, int worker) {
  prepare_tile(context, tile, worker);
  const Call& call = call_of(context);
  call.kernels.project(call.plan, tile, call.memory_of(tile, worker), call.work_of(worker), call.plan.packed_weight, 0,
                       call.plan.strips);
}

void project_strip(void* context, int64_t strip, int worker) {
  const Call& call = call_of(context);
  const Span<char> weight = call.strip_of(worker);
  if (call.strip_bytes) call.kernels.pack_weight(call.plan, strip, weight);
  for (int64_t tile = 0; tile < call.tiles; ++tile) {
    call.kernels.project(call.plan, tile, call.memory_of(tile, worker), call.work_of(worker), weight, strip,
                         strip + 1);
  }
}

}  // namespace

void lowrank_linear_fwd_cpu(const LowrankLinearParams& params, const std::string& isa) {
  const LowrankLinearKernels& kernels = choose_kernels(isa);
  check_lowrank_linear(params);
  if (params.B == 0 || params.N == 0 || params.Cout == 0) return;
  Call call(params, kernels);
  if (call.plan.R) call.run(call.plan.rank_strips + call.plan.strips, pack_factors);
  if (call.plan.by_strip) {
    call.run(call.tiles, prepare_tile);
    call.run(call.plan.strips, project_strip);
  } else {
    if (call.strip_bytes) call.run(call.plan.strips, pack_weight);
    call.run(call.tiles, project_tile);
  }
}

}  // namespace weft
