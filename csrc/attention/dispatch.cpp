// Chooses the instruction set and runs the three phases: pack K and V, attend, join the heads' maps.
#include <cstring>

#include "attention/plan.h"
#include "weft/build_config.h"
#include "weft/cpu_features.h"
#include "weft/parallel.h"

namespace weft {

#define WEFT_DECLARE(name, needs) extern const AttentionKernels attention_kernels_##name;
WEFT_FOR_EACH_ISA(WEFT_DECLARE)
#undef WEFT_DECLARE

namespace {

const AttentionKernels& choose_kernels(const std::string& isa) {
#define WEFT_ADDRESS(name, needs) &attention_kernels_##name,
  static const AttentionKernels* const kernels[] = {WEFT_FOR_EACH_ISA(WEFT_ADDRESS)};
#undef WEFT_ADDRESS
  return *kernels[isa == "auto" ? best_instruction_set() : find_instruction_set(isa)];
}

struct Call {
  const AttentionKernels& kernels;
  const PreparedAttention& prepared;
};

void pack(void* context, int64_t task, int) {
  const Call& call = *static_cast<Call*>(context);
  call.kernels.pack(call.prepared.plan(), task);
}

void attend(void* context, int64_t task, int worker) {
  const Call& call = *static_cast<Call*>(context);
  call.kernels.attend(call.prepared.plan(), task, call.prepared.scratch(worker));
}

// Mean over heads, added in the order in which a single task would add them. One head at a time, so that the loop is
// vectorised; value by value it took as long as a tenth of the attention.
void join_heads(const AttentionPlan& plan) {
  const AttentionParams& p = plan.params;
  const int64_t size = p.Nq * p.M;
  const float share = 1.0f / static_cast<float>(p.H);
  for (int64_t sample = 0; sample < p.B; ++sample) {
    float* maps = p.maps + sample * size;
    std::memset(maps, 0, size * sizeof(float));
    for (int64_t head = 0; head < p.H; ++head) {
      const float* from = plan.head_maps + (sample * p.H + head) * size;
      for (int64_t i = 0; i < size; ++i) maps[i] += from[i];
    }
    for (int64_t i = 0; i < size; ++i) maps[i] *= share;
  }
}

void fill_zero(const AttentionParams& p) {
  for (int64_t sample = 0; sample < p.B; ++sample) {
    for (int64_t token = 0; token < p.Nq; ++token) {
      for (int64_t head = 0; head < p.H; ++head) {
        const int64_t at = sample * p.out_stride.batch + token * p.out_stride.token + head * p.out_stride.head;
        std::memset(static_cast<char*>(p.out) + at * size_of(p.dtype), 0, p.D * size_of(p.dtype));
      }
    }
  }
  if (p.M) std::memset(p.maps, 0, p.B * p.Nq * p.M * 4);
}

}  // namespace

void attention_fwd_cpu(const AttentionParams& params, const std::string& isa) {
  const AttentionKernels& kernels = choose_kernels(isa);
  check_attention(params);
  if (params.B == 0 || params.Nq == 0) return;
  if (params.Nk == 0 || params.H == 0) return fill_zero(params);

  const PreparedAttention prepared(params, kernels);
  const AttentionPlan& plan = prepared.plan();
  Call call{kernels, prepared};
  parallel_for(params.B * params.Hk, prepared.workers(), &call, pack);
  parallel_for(params.B * plan.tiles * plan.groups, prepared.workers(), &call, attend);
  if (plan.head_maps) join_heads(plan);
}

int64_t attention_workspace_bytes(const AttentionParams& params, const std::string& isa) {
  const AttentionKernels& kernels = choose_kernels(isa);
  check_attention(params);
  if (params.B == 0 || params.Nq == 0 || params.Nk == 0 || params.H == 0) return 0;
  return PreparedAttention(params, kernels).bytes();
}

}  // namespace weft
