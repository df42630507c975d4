// Attention over many keys: K and V stream past resident queries, softmax is taken online.
//
// Up to three sweeps over the keys, each only where it is needed:
//   range    K       rowmax and rowmin, where beta or gamma is given
//   attend   K, V    O and the final maximum and sum
//   read     K       maps, over the tiles whose rows of W are not all zero; P is made again with its final scale, so
//                    nothing of the read-out weighs on the sweep that matters
#pragma once

#include "attention/cuda/edit.cuh"
#include "attention/cuda/products.cuh"
#include "attention/cuda/readout.cuh"
#include "attention/cuda/softmax.cuh"

namespace weft {

// A block's tile. Two blocks of 16 rows a warp halve the reads of K and V from shared memory, as long as O fits.
template <int D>
struct LongTile {
  static constexpr int kRowTiles = D <= 128 ? 2 : 1;
  static constexpr int kKeys = D <= 64 ? 64 : D <= 160 ? 32 : 16;
  static constexpr int kRows = kWarps * kRowTiles * 16;
  // blocks that a multiprocessor's registers must hold
  static constexpr int kBlocks = 2;

  // shared memory, in bytes from its start
  static constexpr int kRow = kRowStride<D> * 2;
  static constexpr int kQ = 0;                             // [kRows] rows
  static constexpr int kK = kQ + kRows * kRow;             // [2, kKeys] rows
  static constexpr int kV = kK + 2 * kKeys * kRow;         // [2, kKeys] rows
  static constexpr int kLabels = kV + 2 * kKeys * kRow;    // [2, kKeys] int
  static constexpr int kStrays = kLabels + 2 * kKeys * 4;  // one word: whether a product met what is not finite
  static constexpr int kMarks = kStrays + 16;              // [2] words: keys of a tile whose V is not finite
  static constexpr int kTables = kMarks + 16;
  static_assert(kRows <= 4 * kKeys, "the output leaves through the space of K and V");
  static_assert(kKeys <= kThreads, "one thread a key fetches labels");
};

// Tiles of K, V and key labels on their way into two stages of shared memory.
template <int D, bool kEdited>
struct KeyTiles {
  using Tile = LongTile<D>;
  static constexpr int kStage = Tile::kKeys * kRowStride<D>;

  const CudaCall& call;
  const uint16_t *k, *v;
  uint16_t *k_shared, *v_shared;
  int* labels;
  int sample, thread;

  __device__ __forceinline__ void copy(int tile, int stage, bool values) const {
    const AttentionParams& p = call.p;
    const int64_t first = static_cast<int64_t>(tile) * Tile::kKeys;
    const int count = static_cast<int>(p.Nk) - tile * Tile::kKeys;
    copy_rows<D, Tile::kKeys>(k_shared + stage * kStage, k + first * p.k_stride.token,
                              static_cast<int>(p.k_stride.token), count, call.aligned, thread, kThreads);
    if (values) {
      copy_rows<D, Tile::kKeys>(v_shared + stage * kStage, v + first * p.v_stride.token,
                                static_cast<int>(p.v_stride.token), count, call.aligned, thread, kThreads,
                                kEdited ? padding_from(p, sample, first) : nullptr);
    }
    cp_async_commit();
  }

  __device__ __forceinline__ int fetch_label(int tile) const {
    return kEdited && thread < Tile::kKeys ? key_label(call.p, sample, tile * Tile::kKeys + thread) : 0;
  }

  __device__ __forceinline__ void store_label(int stage, int label) const {
    if (kEdited && thread < Tile::kKeys) store_shared(labels + stage * Tile::kKeys + thread, label);
  }

  // Runs visit(tile, stage) for next(0), next(that + 1) and so on below `tiles`, each while its successor comes in.
  template <class Next, class Visit>
  __device__ __forceinline__ void sweep(int tiles, bool values, Next next, Visit visit) const {
    int tile = next(0), stage = 0;
    if (tile < tiles) {
      copy(tile, stage, values);
      store_label(stage, fetch_label(tile));
    }
    while (tile < tiles) {
      cp_async_wait<0>();
      // the tile is there for all, and all are done with the one whose stage its successor takes
      __syncthreads();
      const int successor = next(tile + 1);
      int label = 0;
      if (successor < tiles) {
        label = fetch_label(successor);
        copy(successor, stage ^ 1, values);
      }
      visit(tile, stage);
      // stored only now, so that fetching it took no time
      if (successor < tiles) store_label(stage ^ 1, label);
      tile = successor;
      stage ^= 1;
    }
    __syncthreads();
  }
};

// Sets `found` if a row whose probabilities are finite has an output that is not. All threads take part; ends in a
// barrier.
template <int kRowTiles, int kColumns>
__device__ __forceinline__ void find_strays(const Fragments<kRowTiles, kColumns>& o,
                                            const Softmax (&softmax)[kRowTiles], uint32_t* found) {
  bool has_stray = false;
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) has_stray |= is_finite(softmax[i].sum[e / 2]) && !is_finite(o[i][n][e]);
    }
  }
  if (has_stray) atomic_or_shared(found, 1u);
  __syncthreads();
}

template <class T, int D, bool kEdited>
__global__ void __launch_bounds__(kThreads, LongTile<D>::kBlocks)
    attention_long_kernel(const __grid_constant__ CudaCall call) {
  using Tile = LongTile<D>;
  constexpr int kRowTiles = Tile::kRowTiles, kKeyTiles = Tile::kKeys / 8;
  const AttentionParams& p = call.p;
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const int pair = blockIdx.x / call.chunks, chunk = blockIdx.x % call.chunks;
  const int heads = static_cast<int>(p.H), sample = pair / heads, head = pair % heads;
  const int key_head = head / call.heads_per_key_head;
  const int keys = static_cast<int>(p.Nk), columns = static_cast<int>(p.M);
  const int tiles = (keys + Tile::kKeys - 1) / Tile::kKeys;
  const int queries = static_cast<int>(p.Nq);
  const int first_row = chunk * Tile::kRows, warp_row = first_row + warp * kRowTiles * 16;

  char* shared = dynamic_shared_memory();
  uint16_t* q_shared = reinterpret_cast<uint16_t*>(shared + Tile::kQ);
  const KeyTiles<D, kEdited> key_tiles{
      call,
      static_cast<const uint16_t*>(p.k) + sample * p.k_stride.batch + key_head * p.k_stride.head,
      static_cast<const uint16_t*>(p.v) + sample * p.v_stride.batch + key_head * p.v_stride.head,
      reinterpret_cast<uint16_t*>(shared + Tile::kK),
      reinterpret_cast<uint16_t*>(shared + Tile::kV),
      reinterpret_cast<int*>(shared + Tile::kLabels),
      sample,
      thread};

  // resident: queries, tables, labels of the lane's rows
  const uint16_t* q = static_cast<const uint16_t*>(p.q) + sample * p.q_stride.batch + head * p.q_stride.head;
  copy_rows<D, Tile::kRows>(q_shared, q + first_row * p.q_stride.token, static_cast<int>(p.q_stride.token),
                            queries - first_row, call.aligned, thread, kThreads);
  const Tables tables(reinterpret_cast<float2*>(shared + Tile::kTables), p);
  if constexpr (kEdited) tables.fill(p, sample, call.ranged, thread);
  int rows[kRowTiles][2];
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      rows[i][j] = kEdited ? tables.row(query_label(p, sample, warp_row + i * 16 + lane / 4 + j * 8)) : 0;
    }
  }

  // S of one tile, scaled, in units of log2
  const auto logits = [&](float (&s)[kRowTiles][kKeyTiles][4], int stage) {
    multiply_queries_keys<T, D>(s, q_shared + warp * kRowTiles * 16 * kRowStride<D>,
                                key_tiles.k_shared + stage * KeyTiles<D, kEdited>::kStage, lane);
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) multiply(s[i], p.scale * kLog2E);
  };
  RowRange ranges[kRowTiles];
  const auto edit = [&](float (&s)[kRowTiles][kKeyTiles][4], int tile, int stage) {
    const int* labels = key_tiles.labels + stage * Tile::kKeys;
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      if constexpr (!kEdited) {
        mask_tail(s[i], keys - tile * Tile::kKeys, lane);
      } else {
        apply_alpha_delta<false>(s[i], ranges[i], tables, rows[i], labels, lane);
        if (call.ranged) add_range(s[i], ranges[i], tables, rows[i], labels, lane);
      }
    }
  };
  const auto every = [](int tile) { return tile; };
  uint32_t* strays = reinterpret_cast<uint32_t*>(shared + Tile::kStrays);
  uint32_t* marks = reinterpret_cast<uint32_t*>(shared + Tile::kMarks);
  if (kEdited && thread == 0) store_shared(strays, 0u);

  if (call.ranged) {
    key_tiles.sweep(tiles, false, every, [&](int, int stage) {
      float s[kRowTiles][kKeyTiles][4];
      logits(s, stage);
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        apply_alpha_delta<true>(s[i], ranges[i], tables, rows[i], key_tiles.labels + stage * Tile::kKeys, lane);
      }
    });
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) ranges[i].close();
  }

  Softmax softmax[kRowTiles];
  float inverse[kRowTiles][2];
  {
    float o[kRowTiles][D / 8][4];
    bool again = false;
    do {
      clear(o);
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) softmax[i] = Softmax{};
      key_tiles.sweep(tiles, true, every, [&](int tile, int stage) {
        uint16_t* values = key_tiles.v_shared + stage * KeyTiles<D, kEdited>::kStage;
        if (kEdited && load_shared(strays)) {
          if (thread < 2) store_shared(marks + thread, 0u);
          __syncthreads();
          clean_rows<T, D, Tile::kKeys>(values, marks, thread);
          __syncthreads();
        }
        float s[kRowTiles][kKeyTiles][4];
        logits(s, stage);
        edit(s, tile, stage);
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i) {
          float2 correction = softmax[i].update(s[i]);
          if (kEdited && load_shared(strays)) {
            // NaN stays NaN through all later tiles
            float factor[2] = {correction.x, correction.y};
            spoil(factor, s[i], marks, lane);
            correction = float2{factor[0], factor[1]};
          }
#pragma unroll
          for (int n = 0; n < D / 8; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) o[i][n][e] *= e < 2 ? correction.x : correction.y;
          }
        }
        multiply_probabilities_values<T, D>(o, s, values, lane);
      });
      again = false;
      if constexpr (kEdited) {
        // a value that is not finite has reached rows from which delta may hide its key: rare, so all goes over
        // again
        if (p.delta && !load_shared(strays)) {
          __syncthreads();
          find_strays(o, softmax, strays);
          again = load_shared(strays) != 0;
        }
      }
    } while (again);

    // the sweep ended in a barrier, so K and V may go; Q is needed for the maps
    uint16_t* stage = key_tiles.k_shared + warp * kRowTiles * 16 * kRowStride<D>;
    uint16_t* out = static_cast<uint16_t*>(p.out) + sample * p.out_stride.batch + head * p.out_stride.head;
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      softmax[i].finish(inverse[i]);
      const int row = warp_row + i * 16;
      store_output<T, D>(out + row * p.out_stride.token, static_cast<int>(p.out_stride.token), o[i], inverse[i],
                         stage + i * 16 * kRowStride<D>, queries - row, call.aligned, lane);
    }
  }
  if (columns == 0) return;

  __syncthreads();
  const ReadMask<Tile::kKeys> mask{call.read_mask + sample * call.read_mask_batch};
  const int first_read = mask.next(0, tiles);
  float* maps = call.head_maps + (pair * p.Nq + warp_row) * columns;
  const auto each_entry = [&](int i, int column, auto visit) {
    each_map_entry(queries - warp_row - i * 16, columns, column, lane,
                   [&](int at, int e) { visit(maps + i * 16 * columns + at, e); });
  };
  key_tiles.sweep(
      tiles, false, [&](int tile) { return mask.next(tile, tiles); },
      [&](int tile, int stage) {
        float s[kRowTiles][kKeyTiles][4];
        logits(s, stage);
        edit(s, tile, stage);
        const float* w = p.readout + sample * p.readout_batch + static_cast<int64_t>(tile) * Tile::kKeys * columns;
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i) {
          softmax[i].exponentiate(s[i]);
          float factor[2] = {inverse[i][0], inverse[i][1]};
          if (kEdited && mask.strays(tile)) {
            spoil_by_readout(factor, s[i], mask.strays(tile), w, keys - tile * Tile::kKeys, columns, lane);
          }
#pragma unroll 1
          for (int column = 0; column < columns; column += 8) {
            float c[4] = {};
            read_out(c, s[i], mask.blocks(tile),
                     GlobalWeights<kEdited>(w, keys - tile * Tile::kKeys, columns, column, lane));
            // a lane adds to what it wrote itself: no other thread has these entries
            each_entry(i, column, [&](float* entry, int e) {
              const float before = tile == first_read ? 0.0f : load_global(entry);
              store_global(entry, fmaf(c[e], factor[e / 2], before));
            });
          }
        }
      });
  if (first_read < tiles) return;

  // nothing is read
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
    for (int column = 0; column < columns; column += 8) {
      each_entry(i, column, [](float* entry, int) { store_global(entry, 0.0f); });
    }
  }
}

}  // namespace weft
