// Decides how a call is cut into tasks, and prepares what all tasks share: edit rows by label, read-out rows by key.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "attention/edit_row.h"
#include "attention/plan.h"

namespace weft {
namespace {

constexpr int64_t kAlignment = 64;

// Below this many values a table is expanded once to [Lq, Nk] for each label; above it tiles look their rows up.
// 2^18 keeps a table within 1 MiB, and a self-attention over 4096 keys may have 64 labels.
constexpr int64_t kExpandedEditValues = int64_t{1} << 18;

// With fewer tasks than this the heads of a tile are spread over tasks. It does not depend on the thread count, since
// neither may the result; the partial maps it costs are small exactly because the problem is.
constexpr int64_t kEnoughTasks = 128;

int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

EditMode choose_mode(const AttentionParams& p) {
  if (p.beta || p.gamma) return EditMode::kRange;
  if (p.alpha || p.delta || p.key_padding) return EditMode::kAffine;
  return EditMode::kPlain;
}

// Samples that need their own edit rows: 1 when nothing that enters them differs.
int64_t edit_samples(const AttentionParams& p) {
  const bool differ = (p.alpha && p.alpha_batch) || (p.beta && p.beta_batch) || (p.gamma && p.gamma_batch) ||
                      (p.delta && p.delta_batch) || (p.key_labels && p.key_labels_batch) ||
                      (p.key_padding && p.key_padding_batch);
  return differ ? p.B : 1;
}

int64_t edit_labels(const AttentionParams& p) { return p.alpha || p.beta || p.gamma || p.delta ? p.Lq : 1; }

}  // namespace

PreparedAttention::PreparedAttention(const AttentionParams& params, const AttentionKernels& kernels) {
  plan_.params = params;
  plan_.mode = choose_mode(params);
  plan_.shape = kernels.shape(params, plan_.mode);
  plan_.keys_padded = plan_.shape.key_blocks * plan_.shape.block;
  plan_.tiles = ceil_div(params.Nq, plan_.shape.rows);
  plan_.heads_per_task = std::clamp<int64_t>(params.H * params.B * plan_.tiles / kEnoughTasks, 1, params.H);
  plan_.groups = ceil_div(params.H, plan_.heads_per_task);
  const int64_t tasks = std::max(params.B * plan_.tiles * plan_.groups, params.B * params.H);
  workers_ = static_cast<int>(std::clamp<int64_t>(tasks, 1, params.num_threads));

  lay_out(nullptr);
  memory_ = static_cast<char*>(std::aligned_alloc(kAlignment, std::max(bytes_, kAlignment)));
  if (!memory_) throw std::bad_alloc();
  lay_out(memory_);
  if (plan_.edit) expand_edit();
  if (params.M) compress_readout();
}

PreparedAttention::~PreparedAttention() { std::free(memory_); }

// Called twice: from null to learn the size, then to hand out the memory.
void PreparedAttention::lay_out(char* base) {
  const AttentionParams& p = plan_.params;
  const TileShape& s = plan_.shape;
  int64_t at = 0;
  const auto take = [&at, base](int64_t bytes) {
    char* here = base ? base + at : nullptr;
    at += aligned(bytes);
    return here;
  };

  plan_.packed_k_bytes = aligned(plan_.keys_padded * s.depth * s.unit_bytes);
  plan_.packed_v_bytes = aligned(ceil_div(plan_.keys_padded, s.values_per_unit) * s.width * s.unit_bytes);
  plan_.packed_k = take(p.B * p.H * plan_.packed_k_bytes);
  plan_.packed_v = take(p.B * p.H * plan_.packed_v_bytes);

  const int64_t planes = edit_planes(plan_.mode), labels = edit_labels(p);
  const int64_t samples = edit_samples(p);
  plan_.edit_label = planes * plan_.keys_padded;
  plan_.edit_batch = samples > 1 ? labels * plan_.edit_label : 0;
  const bool expanded = planes && labels <= kExpandedEditValues / std::max<int64_t>(plan_.keys_padded, 1);
  plan_.edit = expanded ? reinterpret_cast<float*>(take(samples * labels * plan_.edit_label * 4)) : nullptr;

  const int64_t readers = p.M && p.readout_batch ? p.B : 1;
  plan_.read_batch = readers > 1 ? 1 : 0;
  plan_.read_keys = reinterpret_cast<int32_t*>(take(p.M ? readers * p.Nk * 4 : 0));
  plan_.read_rows = reinterpret_cast<float*>(take(p.M ? readers * p.Nk * s.map_width * 4 : 0));
  plan_.read_starts = reinterpret_cast<int32_t*>(take(p.M ? readers * (s.key_blocks + 1) * 4 : 0));
  const bool split = p.M && plan_.groups > 1;
  char* head_maps = take(split ? p.B * p.H * p.Nq * p.M * 4 : 0);
  plan_.head_maps = split ? reinterpret_cast<float*>(head_maps) : nullptr;

  scratch_ = take(workers_ * s.scratch_bytes);
  bytes_ = at;
}

void PreparedAttention::expand_edit() {
  const AttentionParams& p = plan_.params;
  for (int64_t sample = 0; sample < edit_samples(p); ++sample) {
    for (int64_t label = 0; label < edit_labels(p); ++label) {
      float* row = const_cast<float*>(plan_.edit) + sample * plan_.edit_batch + label * plan_.edit_label;
      expand_edit_row(plan_, sample, label, 0, plan_.keys_padded, row, plan_.keys_padded);
    }
  }
}

// A read-out that picks a few tokens then costs a few rows, not Nk.
void PreparedAttention::compress_readout() {
  const AttentionParams& p = plan_.params;
  const TileShape& s = plan_.shape;
  for (int64_t sample = 0; sample <= plan_.read_batch * (p.B - 1); ++sample) {
    int32_t* keys = const_cast<int32_t*>(plan_.read_keys) + sample * p.Nk;
    float* rows = const_cast<float*>(plan_.read_rows) + sample * p.Nk * s.map_width;
    int32_t* starts = const_cast<int32_t*>(plan_.read_starts) + sample * (s.key_blocks + 1);
    int32_t count = 0;
    for (int64_t key = 0; key < p.Nk; ++key) {
      if (key % s.block == 0) starts[key / s.block] = count;
      const float* row = p.readout + sample * p.readout_batch + key * p.M;
      if (std::all_of(row, row + p.M, [](float w) { return w == 0.0f; })) continue;
      keys[count] = static_cast<int32_t>(key % s.block);
      std::memcpy(rows + count * s.map_width, row, p.M * 4);
      std::memset(rows + count * s.map_width + p.M, 0, (s.map_width - p.M) * 4);
      ++count;
    }
    for (int64_t block = (p.Nk + s.block - 1) / s.block; block <= s.key_blocks; ++block) starts[block] = count;
  }
}

}  // namespace weft
