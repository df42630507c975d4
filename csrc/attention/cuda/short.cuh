// Attention over few keys: all of K and V of one (sample, head) stay in shared memory while queries stream past.
//
// After the first barrier the warps no longer wait for each other. Each loops over tiles of 16 queries: the next tile
// comes in by cp.async while this one is computed, and the output leaves through the space of the queries.
// Traffic: Q and out once; K, V and W once per block, from L2 for all but the first.
#pragma once

#include "attention/cuda/edit.cuh"
#include "attention/cuda/products.cuh"
#include "attention/cuda/readout.cuh"
#include "attention/cuda/softmax.cuh"

namespace weft {

// One block's shared memory, in bytes from its start.
template <int D, int kKeys>
struct ShortShared {
  static constexpr int kRow = kRowStride<D> * 2;
  static constexpr int kK = 0;
  static constexpr int kV = kK + kKeys * kRow;
  static constexpr int kQ = kV + kKeys * kRow;             // [warp, 2, 16] rows
  static constexpr int kLabels = kQ + kWarps * 32 * kRow;  // [kKeys] int
  static constexpr int kReadBlocks = kLabels + kKeys * 4;  // two words
  static constexpr int kMarks = kReadBlocks + 16;          // [2, 4] words: keys whose V and whose W is not finite
  static constexpr int kTables = kMarks + 32;              // then W, [columns, kKeys + 8] float
};

// Blocks that a multiprocessor's registers must hold: two sets of fragments, P and O, decide.
template <int D, int kKeys>
constexpr int kShortBlocks = D + kKeys <= 128  ? 4
                             : D + kKeys < 192 ? 3
                                               : 2;

template <class T, int D, int kKeys, bool kEdited>
__global__ void __launch_bounds__(kThreads, kShortBlocks<D, kKeys>)
    attention_short_kernel(const __grid_constant__ CudaCall call) {
  static_assert(kKeys % 16 == 0 && kKeys <= kKeysPerWord);
  using Shared = ShortShared<D, kKeys>;
  const AttentionParams& p = call.p;
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const int pair = blockIdx.x / call.chunks, chunk = blockIdx.x % call.chunks;
  const int heads = static_cast<int>(p.H), sample = pair / heads, head = pair % heads;
  const int key_head = head / call.heads_per_key_head;
  const int keys = static_cast<int>(p.Nk), columns = static_cast<int>(p.M);
  const int queries = static_cast<int>(p.Nq);
  const int64_t tiles = (p.Nq + 15) / 16;
  const int first = static_cast<int>(tiles * chunk / call.chunks) + warp;
  const int last = static_cast<int>(tiles * (chunk + 1) / call.chunks);

  const uint16_t* q = static_cast<const uint16_t*>(p.q) + sample * p.q_stride.batch + head * p.q_stride.head;
  const uint16_t* k = static_cast<const uint16_t*>(p.k) + sample * p.k_stride.batch + key_head * p.k_stride.head;
  const uint16_t* v = static_cast<const uint16_t*>(p.v) + sample * p.v_stride.batch + key_head * p.v_stride.head;
  uint16_t* out = static_cast<uint16_t*>(p.out) + sample * p.out_stride.batch + head * p.out_stride.head;

  char* shared = dynamic_shared_memory();
  uint16_t* k_shared = reinterpret_cast<uint16_t*>(shared + Shared::kK);
  uint16_t* v_shared = reinterpret_cast<uint16_t*>(shared + Shared::kV);
  uint16_t* q_shared = reinterpret_cast<uint16_t*>(shared + Shared::kQ + warp * 32 * Shared::kRow);
  int* labels = reinterpret_cast<int*>(shared + Shared::kLabels);
  uint32_t* read_blocks = reinterpret_cast<uint32_t*>(shared + Shared::kReadBlocks);
  uint32_t* marks = reinterpret_cast<uint32_t*>(shared + Shared::kMarks);
  float2* tables_shared = reinterpret_cast<float2*>(shared + Shared::kTables);
  float* weights = reinterpret_cast<float*>(shared + Shared::kTables + call.tables_bytes);

  const auto load_queries = [&](int tile, int buffer) {
    copy_rows<D, 16>(q_shared + buffer * 16 * kRowStride<D>, q + tile * 16 * p.q_stride.token,
                     static_cast<int>(p.q_stride.token), queries - tile * 16, call.aligned, lane, 32);
  };

  // all that stays
  copy_rows<D, kKeys>(k_shared, k, static_cast<int>(p.k_stride.token), keys, call.aligned, thread, kThreads);
  copy_rows<D, kKeys>(v_shared, v, static_cast<int>(p.v_stride.token), keys, call.aligned, thread, kThreads,
                      kEdited ? padding_from(p, sample, 0) : nullptr);
  if (first < last) load_queries(first, 0);
  cp_async_commit();
  const Tables tables(tables_shared, p);
  if constexpr (kEdited) {
    tables.fill(p, sample, call.ranged, thread);
    for (int key = thread; key < kKeys; key += kThreads) store_shared(labels + key, key_label(p, sample, key));
  }
  if (thread < 8) store_shared(marks + thread, 0u);
  if (thread < 2) store_shared(read_blocks + thread, 0u);
  if (columns) {
    const int padded = (columns + 7) / 8 * 8;
    __syncthreads();
    scan_weights(read_blocks, p.readout + sample * p.readout_batch, keys, columns, padded, thread,
                 [&](int key, int column, float weight) {
                   const bool stray = kEdited && !is_finite(weight);
                   if (stray) mark(marks + 4, key);
                   store_shared(weights + column * SharedWeights<kKeys>::kStride + key, stray ? 0.0f : weight);
                 });
    // a block of 8 keys is read as a whole, also the last
#pragma unroll 1
    for (int i = thread; i < padded * (kKeys - keys); i += kThreads) {
      store_shared(weights + i % padded * SharedWeights<kKeys>::kStride + keys + i / padded, 0.0f);
    }
  }
  cp_async_wait<0>();
  __syncthreads();
  const uint32_t blocks = columns ? load_shared(read_blocks) : 0;
  if constexpr (kEdited) {
    if (p.delta) {
      clean_rows<T, D, kKeys>(v_shared, marks, thread);
      __syncthreads();
    }
  }

  int buffer = 0;
  for (int tile = first; tile < last; tile += kWarps, buffer ^= 1) {
    if (tile + kWarps < last) load_queries(tile + kWarps, buffer ^ 1);
    cp_async_commit();
    const int row = tile * 16 + lane / 4;
    int row_labels[2] = {0, 0};
    if constexpr (kEdited) {
      row_labels[0] = query_label(p, sample, row);
      row_labels[1] = query_label(p, sample, row + 8);
    }
    cp_async_wait<1>();
    __syncwarp();

    // S, and its edit
    uint16_t* rows_shared = q_shared + buffer * 16 * kRowStride<D>;
    float s[1][kKeys / 8][4];
    multiply_queries_keys<T, D>(s, rows_shared, k_shared, lane);
    multiply(s[0], p.scale * kLog2E);
    const int rows[2] = {tables.row(row_labels[0]), tables.row(row_labels[1])};
    RowRange range;
    if constexpr (!kEdited) {
      mask_tail(s[0], keys, lane);
    } else if (!call.ranged) {
      apply_alpha_delta<false>(s[0], range, tables, rows, labels, lane);
    } else {
      apply_alpha_delta<true>(s[0], range, tables, rows, labels, lane);
      range.close();
      add_range(s[0], range, tables, rows, labels, lane);
    }

    // P, up to the factor that makes its rows sum to one
    Softmax softmax;
    softmax.update(s[0]);
    float inverse[2];
    softmax.finish(inverse);

    float map_factor[2] = {inverse[0], inverse[1]};
    if (kEdited && columns && load_shared(read_blocks + 1)) spoil(map_factor, s[0], marks + 4, lane);
    float* maps = call.head_maps + (pair * p.Nq + tile * 16) * columns;
#pragma unroll 1
    for (int column = 0; column < columns; column += 8) {
      float c[4] = {};
      read_out(c, s[0], blocks, SharedWeights<kKeys>(weights, column, lane));
      each_map_entry(queries - tile * 16, columns, column, lane,
                     [&](int at, int e) { store_global(maps + at, c[e] * map_factor[e / 2]); });
    }

    float o[1][D / 8][4];
    clear(o);
    if (kEdited && any_mark(marks)) spoil(inverse, s[0], marks, lane);
    multiply_probabilities_values<T, D>(o, s, v_shared, lane);
    store_output<T, D>(out + tile * 16 * p.out_stride.token, static_cast<int>(p.out_stride.token), o[0], inverse,
                       rows_shared, queries - tile * 16, call.aligned, lane);
  }
}

}  // namespace weft
