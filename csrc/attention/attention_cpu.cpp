// The attention forward of one instruction set. Compiled once for each, with -DWEFT_ISA naming it.
//
// A task is one tile of queries of one sample and a group of heads. Per head: q is staged, and for every block of
// keys S = q K^T is formed, edited, turned into weights, and multiplied into V. One block holds all keys where they
// are few; otherwise the softmax runs online, after a first sweep for rowmax and rowmin if the edit needs them.
#include "attention/edit_row.h"
#include "attention/pack.h"
#include "attention/plan.h"
#include "attention/products.h"
#include "attention/readout.h"
#include "attention/softmax.h"

#if !defined(WEFT_ISA)
#error "WEFT_ISA names the instruction set this file is compiled for"
#endif

namespace weft {
namespace {

// Most keys of a block: the tile of logits, a block of K and one of V should live in the first-level cache.
constexpr int64_t kMaxBlock = 128;
// Fewest and most queries of a tile; between them the count that wastes least of the products' row steps.
constexpr int64_t kMinRows = 32, kMaxRows = 48;
static_assert(kMaxRows + kRowSlack <= kMostRows, "a product reads a factor for every row and its slack");

// A worker's memory, cut up.
template <class Products>
struct Scratch {
  using Unit = typename Products::Unit;
  Unit* q;                             // [rows, q_stride]
  float* logits;                       // [rows, block], later the fp32 weights
  typename Products::Weight* weights;  // [rows, block]; `logits` itself where those are fp32
  float* out;                          // [rows, width]
  float* maps;                         // [rows, map_width] of one head
  float* map_sum;                      // [rows, map_width] over heads
  float* edit;                         // [rows, planes, block], where a tile expands its own
  RowStatistics stats;

  Scratch(const TileShape& shape, EditMode mode, int64_t q_stride, Carver& carver) {
    const int64_t rows = shape.rows + kRowSlack;
    q = carver.take<Unit>(rows, q_stride).data;
    logits = carver.take<float>(rows, shape.block).data;
    Bfloat* const pairs = carver.take<Bfloat>(Products::kValues > 1 ? rows : 0, shape.block).data;
    weights = Products::kValues > 1 ? reinterpret_cast<typename Products::Weight*>(pairs)
                                    : reinterpret_cast<typename Products::Weight*>(logits);
    out = carver.take<float>(rows, shape.width).data;
    maps = carver.take<float>(rows, shape.map_width).data;
    map_sum = carver.take<float>(rows, shape.map_width).data;
    edit = carver.take<float>(rows, edit_planes(mode) * shape.block).data;
    float** const arrays[] = {&stats.largest,   &stats.sum,  &stats.decay, &stats.block_max,
                              &stats.block_sum, &stats.high, &stats.low};
    for (float** array : arrays) *array = carver.take<float>(rows).data;
  }
};

template <class Products>
Scratch<Products> lay_out(const TileShape& shape, EditMode mode, int64_t q_stride, Span<char> memory) {
  Carver carver(memory);
  return Scratch<Products>(shape, mode, q_stride, carver);
}

inline int64_t q_stride(const TileShape& shape) { return round_up(shape.depth, kLanes); }

template <class Products>
TileShape shape_for(const AttentionParams& p, EditMode mode) {
  TileShape s{};
  s.key_blocks = (p.Nk + kMaxBlock - 1) / kMaxBlock;
  s.block = round_up((p.Nk + s.key_blocks - 1) / s.key_blocks, Products::kKeyStep);
  s.depth = round_up((p.D + Products::kValues - 1) / Products::kValues, Products::kDepthStep);
  s.width = round_up(p.D, Products::kWidthStep);
  s.map_width = round_up(p.M, kLanes);
  s.unit_bytes = 4;
  s.values_per_unit = Products::kValues;
  s.rows = kMinRows;
  if (Products::kRowStep == 1) {
    double least = 0;
    for (int64_t rows = kMinRows; rows <= kMaxRows; ++rows) {
      const double cost = static_cast<double>(gemm_cost(rows, vectors(s.block)) * s.depth +
                                              gemm_cost(rows, vectors(s.width)) * s.block / s.values_per_unit);
      if (rows == kMinRows || cost / rows <= least) least = cost / rows, s.rows = rows;
    }
  }
  Carver carver;
  Scratch<Products>(s, mode, q_stride(s), carver);
  s.scratch_bytes = carver.bytes();
  return s;
}

template <class Products, class T>
class Tile {
  using Unit = typename Products::Unit;

 public:
  Tile(const AttentionPlan& plan, int64_t task, Span<char> memory)
      : plan_(plan),
        p_(plan.params),
        shape_(plan.shape),
        q_stride_(weft::q_stride(plan.shape)),
        scratch_(lay_out<Products>(plan.shape, plan.mode, q_stride_, memory)) {
    const int64_t tile = task / plan.groups;
    group_ = task % plan.groups;
    sample_ = tile / plan.tiles;
    first_row_ = tile % plan.tiles * shape_.rows;
    rows_ = p_.Nq - first_row_ < shape_.rows ? p_.Nq - first_row_ : shape_.rows;
    factor_ = p_.scale < 0 ? -p_.scale : p_.scale;
  }

  void run() {
    const bool sum_heads = p_.M && !plan_.head_maps;
    if (sum_heads) memset(scratch_.map_sum, 0, rows_ * shape_.map_width * 4);
    const int64_t begin = group_ * plan_.heads_per_task;
    const int64_t end = begin + plan_.heads_per_task < p_.H ? begin + plan_.heads_per_task : p_.H;
    if (shape_.key_blocks == 1) expand_edit(0);
    for (int64_t head = begin; head < end; ++head) attend(head, head + 1 < end);
    if (sum_heads) store_maps();
  }

 private:
  void attend(int64_t head, bool another_follows) {
    stage_queries(head);
    for (int64_t r = 0; r < rows_; ++r) {
      scratch_.stats.largest[r] = -kInfinity;
      scratch_.stats.sum[r] = 0.0f;
      scratch_.stats.high[r] = -kInfinity;
      scratch_.stats.low[r] = kInfinity;
    }
    const bool two_sweeps = plan_.mode == EditMode::kRange && shape_.key_blocks > 1;
    if (two_sweeps) {
      for (int64_t block = 0; block < shape_.key_blocks; ++block) {
        form_logits(head, block);
        expand_edit(block);
        update_range(block);
      }
    }
    for (int64_t block = 0; block < shape_.key_blocks; ++block) {
      form_logits(head, block);
      if (shape_.key_blocks > 1) expand_edit(block);
      if (plan_.mode == EditMode::kRange && !two_sweeps) update_range(block);
      weigh_rows(head, block, another_follows && block == 0 ? head + 1 : -1);
      accumulate(head, block);
    }
    finish(head);
  }

  int64_t keys_in(int64_t block) const {
    const int64_t left = p_.Nk - block * shape_.block;
    return left < shape_.block ? left : shape_.block;
  }

  void stage_queries(int64_t head) {
    const float sign = p_.scale < 0 ? -1.0f : 1.0f;
    for (int64_t r = 0; r < rows_; ++r) {
      const T* from = row_of<T>(p_.q, p_.q_stride, sample_, first_row_ + r, head);
      Products::stage_row(from, p_.D, scratch_.q + r * q_stride_, shape_.depth, sign);
    }
  }

  // One head's row is a few cache lines, a whole token away from the next row: no processor foresees that. Without
  // this, staging took a fifth of the time at Nk = 77.
  // Always inlined: gcc takes a function that only prefetches for one without effect, and drops the call.
  __attribute__((always_inline)) void prefetch_row(const void* base, const HeadStrides& strides, int64_t head,
                                                   int64_t row) const {
    const T* from = row_of<T>(base, strides, sample_, first_row_ + row, head);
    for (int64_t i = 0; i < p_.D; i += 64 / static_cast<int64_t>(sizeof(T))) __builtin_prefetch(from + i);
  }

  int64_t key_head(int64_t head) const { return head / plan_.heads_per_key_head; }

  // Of the packed K and V that a head reads.
  int64_t entry(int64_t head) const { return sample_ * p_.Hk + key_head(head); }

  // logits = q K^T for one block of keys
  void form_logits(int64_t head, int64_t block) {
    const Unit* keys = reinterpret_cast<const Unit*>(plan_.packed_k + entry(head) * plan_.packed_k_bytes);
    Products::product(rows_, keys_in(block), scratch_.q, q_stride_, keys + block * shape_.depth * shape_.block,
                      shape_.block, shape_.depth, scratch_.logits, shape_.block, nullptr);
  }

  int64_t label_of(int64_t row) const {
    const bool has_tables = p_.alpha || p_.beta || p_.gamma || p_.delta;
    return has_tables && p_.query_labels ? p_.query_labels[sample_ * p_.query_labels_batch + first_row_ + row] : 0;
  }

  // Where labels are too many to expand for all, the rows of this tile alone.
  void expand_edit(int64_t block) {
    if (plan_.mode == EditMode::kPlain || plan_.edit) return;
    for (int64_t r = 0; r < rows_; ++r) {
      expand_edit_row(plan_, sample_, label_of(r), block * shape_.block, shape_.block,
                      scratch_.edit + r * edit_planes(plan_.mode) * shape_.block, shape_.block);
    }
  }

  EditRow edit_of(int64_t row, int64_t block) const {
    if (!plan_.edit) return {scratch_.edit + row * edit_planes(plan_.mode) * shape_.block, shape_.block};
    const float* label = plan_.edit + sample_ * plan_.edit_batch + label_of(row) * plan_.edit_label;
    return {label + block * shape_.block, plan_.keys_padded};
  }

  void update_range(int64_t block) {
    for (int64_t r = 0; r < rows_; ++r) {
      raw_range(scratch_.logits + r * shape_.block, keys_in(block), edit_of(r, block), scratch_.stats.high + r,
                scratch_.stats.low + r);
    }
  }

  // Meanwhile the queries of `next_head` are fetched, unless it is negative.
  void weigh_rows(int64_t head, int64_t block, int64_t next_head) {
    RowStatistics& stats = scratch_.stats;
    const int64_t keys = keys_in(block);
    for (int64_t r = 0; r < rows_; ++r) {
      if (next_head >= 0) prefetch_row(p_.q, p_.q_stride, next_head, r);
      if (block + 1 == shape_.key_blocks) prefetch_row(p_.out, p_.out_stride, head, r);
      float* logits = scratch_.logits + r * shape_.block;
      float largest = stats.largest[r];
      const float here = edit_and_scale(logits, keys, r, block);
      if (here > largest) largest = here;
      stats.block_max[r] = largest;
      const float base = largest > -kInfinity ? largest : 0.0f;
      auto* weights = scratch_.weights + r * shape_.block;
      stats.block_sum[r] = weigh(logits, keys, base, weights, p_.M > 0);
      // products walk whole steps of keys
      const int64_t written = round_up(keys, kLanes);
      if (written < shape_.block) memset(weights + written, 0, (shape_.block - written) * sizeof *weights);
    }
    advance(stats, rows_);
  }

  float edit_and_scale(float* logits, int64_t keys, int64_t row, int64_t block) {
    const RowStatistics& stats = scratch_.stats;
    switch (plan_.mode) {
      case EditMode::kAffine:
        return edit_logits<EditMode::kAffine>(logits, keys, edit_of(row, block), 0.0f, 0.0f);
      case EditMode::kRange:
        return edit_logits<EditMode::kRange>(logits, keys, edit_of(row, block), stats.high[row], stats.low[row]);
      default:
        return scale_logits(logits, keys, factor_);
    }
  }

  // out = diag(decay) out + weights V, and the same for the maps
  void accumulate(int64_t head, int64_t block) {
    const Unit* values = reinterpret_cast<const Unit*>(plan_.packed_v + entry(head) * plan_.packed_v_bytes);
    const float* decay = block ? scratch_.stats.decay : nullptr;
    if (plan_.v_not_finite && plan_.v_not_finite[entry(head)]) {
      add_seen_values(head, block, decay);
    } else {
      multiply_values(values, block, decay);
    }
    if (p_.M) read_block(plan_, sample_, block, scratch_.logits, rows_, scratch_.maps, decay);
  }

  void multiply_values(const Unit* values, int64_t block, const float* decay) {
    const int64_t depth = round_up((keys_in(block) + Products::kValues - 1) / Products::kValues, Products::kDepthStep);
    Products::product(rows_, p_.D, reinterpret_cast<const Unit*>(scratch_.weights), shape_.block / Products::kValues,
                      values + block * shape_.block / Products::kValues * shape_.width, shape_.width, depth,
                      scratch_.out, shape_.width, decay);
  }

  // The same product, in which a weight of 0 keeps its key out whatever the value is. Slow, and rarely needed.
  void add_seen_values(int64_t head, int64_t block, const float* decay) {
    for (int64_t r = 0; r < rows_; ++r) {
      float* out = scratch_.out + r * shape_.width;
      for (int64_t i = 0; i < p_.D; i += kLanes) {
        store(out + i, decay ? mul(load(out + i), splat(decay[r])) : splat(0.0f));
      }
      for (int64_t key = 0; key < keys_in(block); ++key) {
        const float weight = reduce_add(load_first(scratch_.weights + r * shape_.block + key, 1));
        if (weight == 0.0f) continue;
        const T* value = row_of<T>(p_.v, p_.v_stride, sample_, block * shape_.block + key, key_head(head));
        for (int64_t i = 0; i < p_.D; i += kLanes) {
          store(out + i, fmadd(splat(weight), load_first(value + i, static_cast<int>(p_.D - i)), load(out + i)));
        }
      }
    }
  }

  void finish(int64_t head) {
    for (int64_t r = 0; r < rows_; ++r) {
      const float sum = scratch_.stats.sum[r];
      const Vec share = splat(sum > 0.0f ? 1.0f / sum : 0.0f);
      const float* row = scratch_.out + r * shape_.width;
      T* to = const_cast<T*>(row_of<T>(p_.out, p_.out_stride, sample_, first_row_ + r, head));
      for (int64_t i = 0; i < p_.D; i += kLanes) {
        store_first(to + i, mul(load(row + i), share), static_cast<int>(p_.D - i));
      }
      if (!p_.M) continue;
      const float* maps = scratch_.maps + r * shape_.map_width;
      float* total = scratch_.map_sum + r * shape_.map_width;
      for (int64_t j = 0; j < p_.M; j += kLanes) {
        const Vec term = mul(load(maps + j), share);
        if (plan_.head_maps) {
          float* partial = plan_.head_maps + (((sample_ * p_.H + head) * p_.Nq) + first_row_ + r) * p_.M;
          store_first(partial + j, term, static_cast<int>(p_.M - j));
        } else {
          store(total + j, add(load(total + j), term));
        }
      }
    }
  }

  void store_maps() {
    const Vec share = splat(1.0f / static_cast<float>(p_.H));
    for (int64_t r = 0; r < rows_; ++r) {
      float* to = p_.maps + (sample_ * p_.Nq + first_row_ + r) * p_.M;
      for (int64_t j = 0; j < p_.M; j += kLanes) {
        const Vec sum = load(scratch_.map_sum + r * shape_.map_width + j);
        store_first(to + j, mul(sum, share), static_cast<int>(p_.M - j));
      }
    }
  }

  const AttentionPlan& plan_;
  const AttentionParams& p_;
  const TileShape& shape_;
  const int64_t q_stride_;
  Scratch<Products> scratch_;
  int64_t group_, sample_, first_row_, rows_;
  float factor_;
};

template <class Products, class T>
void attend_task(const AttentionPlan& plan, int64_t task, Span<char> scratch) {
  const FlushDenormals flush;
  const typename Products::Scope scope;
  (void)flush, (void)scope;
  Tile<Products, T>(plan, task, scratch).run();
}

TileShape shape(const AttentionParams& p, EditMode mode) {
  return p.dtype == Dtype::kBfloat16 ? shape_for<BfloatProducts>(p, mode) : shape_for<FloatProducts>(p, mode);
}

void pack(const AttentionPlan& plan, int64_t entry) {
  switch (plan.params.dtype) {
    case Dtype::kFloat32:
      return pack_head<FloatProducts, float>(plan, entry);
    case Dtype::kFloat16:
      return pack_head<FloatProducts, Half>(plan, entry);
    case Dtype::kBfloat16:
      return pack_head<BfloatProducts, Bfloat>(plan, entry);
  }
}

void attend(const AttentionPlan& plan, int64_t task, Span<char> scratch) {
  switch (plan.params.dtype) {
    case Dtype::kFloat32:
      return attend_task<FloatProducts, float>(plan, task, scratch);
    case Dtype::kFloat16:
      return attend_task<FloatProducts, Half>(plan, task, scratch);
    case Dtype::kBfloat16:
      return attend_task<BfloatProducts, Bfloat>(plan, task, scratch);
  }
}

}  // namespace

#define WEFT_JOIN(a, b) a##b
#define WEFT_EXPORT(isa) WEFT_JOIN(attention_kernels_, isa)
extern const AttentionKernels WEFT_EXPORT(WEFT_ISA);
const AttentionKernels WEFT_EXPORT(WEFT_ISA) = {shape, pack, attend};

}  // namespace weft
