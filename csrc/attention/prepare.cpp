// Decides how a call is cut into tasks, and prepares what all tasks share: edit rows by label, read-out rows by key.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "attention/edit_row.h"
#include "attention/plan.h"

namespace weft {
namespace {

// Below this many values a table is expanded once to [Lq, Nk] for each label; above it tiles look their rows up.
// 2^18 keeps a table within 1 MiB, and a self-attention over 4096 keys may have 64 labels.
constexpr int64_t kExpandedEditValues = int64_t{1} << 18;

// With fewer tasks than this the heads of a tile are spread over tasks. It does not depend on the thread count, since
// neither may the result; the partial maps it costs are small exactly because the problem is.
constexpr int64_t kEnoughTasks = 128;

constexpr int64_t kCacheLine = 64;

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
  plan_.heads_per_key_head = params.H / params.Hk;
  const int64_t tasks = std::max(params.B * plan_.tiles * plan_.groups, params.B * params.Hk);
  workers_ = static_cast<int>(std::clamp<int64_t>(tasks, 1, params.num_threads));

  const int64_t bytes = lay_out(Carver());
  memory_ = AlignedMemory(bytes);
  lay_out(Carver(memory_.span(bytes)));
  if (plan_.edit) expand_edit();
  if (params.M) compress_readout();
}

// Called twice: to learn the size, which it gives, and to hand out the memory.
int64_t PreparedAttention::lay_out(Carver carver) {
  const AttentionParams& p = plan_.params;
  const TileShape& s = plan_.shape;
  const int64_t entries = multiply_sizes(p.B, p.Hk);

  // an entry begins where a cache line does
  const auto lines = [&s](int64_t rows, int64_t columns) {
    return multiply_sizes(ceil_div(multiply_sizes(multiply_sizes(rows, columns), s.unit_bytes), kCacheLine),
                          kCacheLine);
  };
  plan_.packed_k_bytes = lines(plan_.keys_padded, s.depth);
  plan_.packed_v_bytes = lines(ceil_div(plan_.keys_padded, s.values_per_unit), s.width);
  plan_.packed_k = carver.take<char>(entries, plan_.packed_k_bytes).data;
  plan_.packed_v = carver.take<char>(entries, plan_.packed_v_bytes).data;
  const Span<uint8_t> not_finite = carver.take<uint8_t>(p.delta ? entries : 0, 1);
  plan_.v_not_finite = p.delta ? not_finite.data : nullptr;

  const int64_t planes = edit_planes(plan_.mode), labels = edit_labels(p);
  const int64_t samples = edit_samples(p);
  plan_.edit_label = planes * plan_.keys_padded;
  plan_.edit_batch = samples > 1 ? labels * plan_.edit_label : 0;
  const bool expanded = planes && labels <= kExpandedEditValues / std::max<int64_t>(plan_.keys_padded, 1);
  edit_ = carver.take<float>(expanded ? multiply_sizes(samples, labels) : 0, plan_.edit_label);
  plan_.edit = expanded ? edit_.data : nullptr;

  const int64_t readers = p.M ? (p.readout_batch ? p.B : 1) : 0;
  plan_.read_batch = readers > 1 ? 1 : 0;
  read_keys_ = carver.take<int32_t>(readers, p.Nk);
  read_rows_ = carver.take<float>(multiply_sizes(readers, p.Nk), s.map_width);
  read_starts_ = carver.take<int32_t>(readers, s.key_blocks + 1);
  plan_.read_keys = read_keys_.data, plan_.read_rows = read_rows_.data, plan_.read_starts = read_starts_.data;
  const bool split = p.M && plan_.groups > 1;
  const Span<float> head_maps = carver.take<float>(split ? multiply_sizes(multiply_sizes(p.B, p.H), p.Nq) : 0, p.M);
  plan_.head_maps = split ? head_maps.data : nullptr;

  scratch_ = carver.take<char>(workers_, s.scratch_bytes);
  return carver.bytes();
}

void PreparedAttention::expand_edit() {
  const AttentionParams& p = plan_.params;
  for (int64_t sample = 0; sample < edit_samples(p); ++sample) {
    for (int64_t label = 0; label < edit_labels(p); ++label) {
      const int64_t first = sample * plan_.edit_batch + label * plan_.edit_label;
      expand_edit_row(plan_, sample, label, 0, plan_.keys_padded, part(edit_, first, plan_.edit_label).data,
                      plan_.keys_padded);
    }
  }
}

// A read-out that picks a few tokens then costs a few rows, not Nk.
void PreparedAttention::compress_readout() {
  const AttentionParams& p = plan_.params;
  const TileShape& s = plan_.shape;
  for (int64_t sample = 0; sample <= plan_.read_batch * (p.B - 1); ++sample) {
    const Span<int32_t> keys = part(read_keys_, sample * p.Nk, p.Nk);
    const Span<float> rows = part(read_rows_, sample * p.Nk * s.map_width, p.Nk * s.map_width);
    const Span<int32_t> starts = part(read_starts_, sample * (s.key_blocks + 1), s.key_blocks + 1);
    int32_t count = 0;
    for (int64_t key = 0; key < p.Nk; ++key) {
      if (key % s.block == 0) at(starts, key / s.block) = count;
      const float* row = p.readout + sample * p.readout_batch + key * p.M;
      if (std::all_of(row, row + p.M, [](float w) { return w == 0.0f; })) continue;
      if (!std::all_of(row, row + p.M, [](float w) { return std::isfinite(w); })) plan_.read_not_finite = true;
      at(keys, count) = static_cast<int32_t>(key % s.block);
      float* const kept = part(rows, count * s.map_width, s.map_width).data;
      std::memcpy(kept, row, p.M * 4);
      std::memset(kept + p.M, 0, (s.map_width - p.M) * 4);
      ++count;
    }
    for (int64_t block = (p.Nk + s.block - 1) / s.block; block <= s.key_blocks; ++block) {
      at(starts, block) = count;
    }
  }
}

}  // namespace weft
