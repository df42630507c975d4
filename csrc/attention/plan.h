// One call, laid out: what prepare.cpp decides, what the kernels read. Plain data; the kernels' translation units
// are compiled for wider instruction sets and must not share an inline function with the rest of the library.
#pragma once

#include <cstdint>

#include "attention/attention.h"
#include "weft/aligned_memory.h"
#include "weft/workspace.h"

namespace weft {

// How logits are edited, from cheapest to most expensive.
enum class EditMode : int {
  kPlain,   // no table, no padding
  kAffine,  // alpha * S + delta, or padding alone
  kRange,   // also beta * rowmax(S) + gamma * rowmin(S)
};

// Rows of an expanded edit: alpha, delta, and for kRange also beta and gamma.
constexpr int edit_planes(EditMode mode) { return mode == EditMode::kPlain ? 0 : mode == EditMode::kAffine ? 2 : 4; }

// What an instruction set makes of a problem.
struct TileShape {
  int64_t rows;         // queries a tile
  int64_t block;        // keys a block, a multiple of the lanes
  int64_t key_blocks;   // blocks that hold all keys
  int64_t depth;        // D as the first product walks it, in units
  int64_t width;        // D as the second product writes it, in fp32 values
  int64_t map_width;    // M in whole vectors, in fp32 values
  int64_t unit_bytes;   // 4: an fp32 value or a pair of bf16
  int64_t value_units;  // units a key's row of packed V
  int64_t values_per_unit;
  int64_t scratch_bytes;  // a worker's
};

struct AttentionPlan {
  AttentionParams params;
  TileShape shape;
  EditMode mode;

  // tasks: (sample, query tile, group of heads), groups fastest
  int64_t tiles, heads_per_task, groups;

  int64_t heads_per_key_head;  // of q that read one of k and v

  // packed inputs, one entry a (sample, key head)
  char* packed_k;          // [B * Hk, key_blocks, depth, block] units
  char* packed_v;          // [B * Hk, key_blocks * block / values_per_unit, width] units
  int64_t packed_k_bytes;  // an entry's
  int64_t packed_v_bytes;
  // whether V of a (sample, key head) is not finite at a key that delta may hide from some rows and not from others;
  // null without delta. A product would give the others 0 * NaN, so these heads are summed key by key
  // (attention_cpu.cpp)
  uint8_t* v_not_finite;  // [B * Hk]

  // edit rows for every label, or null where labels are so many that each tile expands its own
  const float* edit;               // [edit batch, Lq, planes, key_blocks * block]
  int64_t edit_batch, edit_label;  // strides; edit_batch is 0 when all samples share
  int64_t keys_padded;             // key_blocks * block

  // read-out: the keys whose row of W is not zero, and those rows
  const int32_t* read_keys;    // [read batch, Nk], position within its block
  const float* read_rows;      // [read batch, Nk, map_width]
  const int32_t* read_starts;  // [read batch, key_blocks + 1]
  int64_t read_batch;          // 0 when all samples share, else 1
  bool read_not_finite;  // whether a row of W is not finite, which must not reach the rows that do not see its key
  float* head_maps;      // [B, H, Nq, M], or null where one task runs all heads of a tile
};

// One instruction set's code.
struct AttentionKernels {
  TileShape (*shape)(const AttentionParams&, EditMode);
  void (*pack)(const AttentionPlan&, int64_t entry);
  void (*attend)(const AttentionPlan&, int64_t task, Span<char> scratch);
};

// Lays out a call in memory that the plan points into.
class PreparedAttention {
 public:
  PreparedAttention(const AttentionParams& params, const AttentionKernels& kernels);
  PreparedAttention(const PreparedAttention&) = delete;
  PreparedAttention& operator=(const PreparedAttention&) = delete;

  const AttentionPlan& plan() const { return plan_; }
  Span<char> scratch(int worker) const {
    return part(scratch_, worker * plan_.shape.scratch_bytes, plan_.shape.scratch_bytes);
  }
  int64_t bytes() const { return memory_.bytes(); }
  int workers() const { return workers_; }

 private:
  int64_t lay_out(Carver carver);
  void expand_edit();
  void compress_readout();

  AttentionPlan plan_{};
  AlignedMemory memory_;
  // what is written here before the kernels read it through the plan, and the workers' memory
  Span<float> edit_{}, read_rows_{};
  Span<int32_t> read_keys_{}, read_starts_{};
  Span<char> scratch_{};
  int workers_ = 1;
};

}  // namespace weft
