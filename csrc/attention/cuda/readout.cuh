// The read-out: maps of one head, P W, and their mean over the heads.
//
// Maps are fp32 by contract, so P must not be rounded to 16 bits here. Both factors are split into two tf32 numbers,
// P = P' + P'', and three products P' W' + P'' W' + P' W'' on tensor cores leave an error near 2^-23, that of fp32
// itself. Multiplying in fp32 would cost M / 8 times as many instructions as the whole softmax.
#pragma once

#include "attention/cuda/call.cuh"
#include "attention/cuda/strays.cuh"
#include "weft/memory.cuh"
#include "weft/mma.cuh"

namespace weft {

__device__ __forceinline__ float as_float(uint32_t bits) { return __uint_as_float(bits); }

// Columns of W in shared memory, [columns, kStride] with zeros around: keys of one column lie side by side.
template <int kKeys>
struct SharedWeights {
  // 8 or 24 words beyond a multiple of 32, so that a warp's pairs of keys fall into different banks
  static constexpr int kStride = kKeys + 8;
  static_assert(kStride % 32 == 8 || kStride % 32 == 24);
  const float* first;  // key 2t of the lane's column

  __device__ __forceinline__ SharedWeights(const float* weights, int column, int lane)
      : first(weights + (column + lane / 4) * kStride + lane % 4 * 2) {}
  __device__ __forceinline__ float2 pair(int block) const {
    return load_shared(reinterpret_cast<const float2*>(first + block * 8));
  }
};

// Columns of W where the caller has it, [keys, columns]; with kFinite zeros in place of what is not finite there.
template <bool kFinite>
struct GlobalWeights {
  const float* first;  // key 2t of the lane's column
  int left, columns;   // keys from there on, none if the column is beyond the last

  __device__ __forceinline__ GlobalWeights(const float* w, int keys, int columns, int column, int lane)
      : first(w + lane % 4 * 2 * columns + column + lane / 4),
        left(column + lane / 4 < columns ? keys - lane % 4 * 2 : 0),
        columns(columns) {}
  __device__ __forceinline__ float2 pair(int block) const {
    const float* at = first + block * 8 * columns;
    const float2 pair{block * 8 < left ? load_constant(at) : 0.0f,
                      block * 8 + 1 < left ? load_constant(at + columns) : 0.0f};
    if constexpr (!kFinite) return pair;
    return float2{is_finite(pair.x) ? pair.x : 0.0f, is_finite(pair.y) ? pair.y : 0.0f};
  }
};

// c += p w for 8 columns of W, over the blocks of 8 keys whose bit is set in `blocks`.
template <class Weights, int kKeyTiles>
__device__ __forceinline__ void read_out(float (&c)[4], const float (&p)[kKeyTiles][4], uint32_t blocks,
                                         const Weights& weights) {
#pragma unroll
  for (int n = 0; n < kKeyTiles; ++n) {
    if ((blocks >> n & 1) == 0) continue;
    const float2 pair = weights.pair(n);
    const uint32_t b[2] = {to_tf32(pair.x), to_tf32(pair.y)};
    const uint32_t b_rest[2] = {to_tf32(pair.x - as_float(b[0])), to_tf32(pair.y - as_float(b[1]))};
    // the product sums over keys in any order: key 2t takes the place of column t, key 2t + 1 that of t + 4, and
    // then P need not move between lanes
    const float terms[4] = {p[n][0], p[n][2], p[n][1], p[n][3]};
    uint32_t a[4], a_rest[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      a[i] = to_tf32(terms[i]);
      a_rest[i] = to_tf32(terms[i] - as_float(a[i]));
    }
    mma_tf32(c, a_rest, b[0], b[1]);
    mma_tf32(c, a, b_rest[0], b_rest[1]);
    mma_tf32(c, a, b[0], b[1]);
  }
}

// Calls visit(entry, c) for a lane's four entries of a [16, 8] block of maps that lie inside [rows, columns].
// Entries count from the block's first row.
template <class Visit>
__device__ __forceinline__ void each_map_entry(int rows, int columns, int column, int lane, Visit visit) {
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    const int row = lane / 4 + e / 2 * 8, m = column + lane % 4 * 2 + e % 2;
    if (row < rows && m < columns) visit(row * columns + m, e);
  }
}

// Calls store(key, column, weight) for this thread's share of W with its columns filled up by zeros to `padded`, and
// adds the blocks of 8 keys whose rows are not all zero to `blocks`, as bits, and those whose rows are not all finite
// to blocks[1]. At most 32 blocks from `w` on.
template <class Store>
__device__ __forceinline__ void scan_weights(uint32_t* blocks, const float* w, int keys, int columns, int padded,
                                             int thread, Store store) {
  uint32_t read_here = 0, strays = 0;
#pragma unroll 1
  for (int i = thread; i < keys * padded; i += kThreads) {
    const int key = i / padded, column = i % padded;
    const float weight = column < columns ? load_constant(w + key * columns + column) : 0.0f;
    if (weight != 0.0f) read_here |= 1u << key / 8;
    if (!is_finite(weight)) strays |= 1u << key / 8;
    store(key, column, weight);
  }
  if (read_here) atomic_or_shared(blocks, read_here);
  if (strays) atomic_or_shared(blocks + 1, strays);
}

// Keys of one word of a read mask, 8 a bit.
constexpr int kKeysPerWord = 256;

// Marks which blocks of 8 keys are read, and which are not finite: [B or 1, words, 2], one thread block a pair; grids
// have one axis, since CUDA ends the others at 65535. A read-out that looks at a few text tokens then costs the long
// kernel these keys only. Template for linkage only: a kernel in a header must not be defined twice.
template <class Word>
__global__ void __launch_bounds__(kThreads)
    mark_read_blocks_kernel(const float* readout, int64_t readout_batch, int keys, int columns, Word* mask) {
  Word* blocks = reinterpret_cast<Word*>(dynamic_shared_memory());
  const int words = (keys + kKeysPerWord - 1) / kKeysPerWord;
  const int sample = blockIdx.x / words, first = blockIdx.x % words * kKeysPerWord;
  const float* w = readout + sample * readout_batch + static_cast<int64_t>(first) * columns;
  if (threadIdx.x < 2) store_shared(blocks + threadIdx.x, Word{0});
  __syncthreads();
  scan_weights(blocks, w, min(keys - first, kKeysPerWord), columns, columns, threadIdx.x, [](int, int, float) {});
  __syncthreads();
  if (threadIdx.x < 2) store_global(mask + blockIdx.x * 2 + threadIdx.x, load_shared(blocks + threadIdx.x));
}

// A read mask seen as tiles of kKeys keys.
template <int kKeys>
struct ReadMask {
  static constexpr int kBlocks = kKeys / 8, kTiles = kKeysPerWord / kKeys;
  const uint32_t* words;

  // Bits of the blocks that are read (`which` 0) or not finite (1) in `tile` and, above them, in the rest of its word.
  __device__ __forceinline__ uint32_t from(int tile, int which = 0) const {
    return load_constant(words + tile / kTiles * 2 + which) >> tile % kTiles * kBlocks;
  }
  __device__ __forceinline__ uint32_t blocks(int tile) const { return from(tile) & ((1u << kBlocks) - 1); }
  __device__ __forceinline__ uint32_t strays(int tile) const { return from(tile, 1) & ((1u << kBlocks) - 1); }

  // The first tile in [tile, tiles) that is read, or `tiles`.
  __device__ __forceinline__ int next(int tile, int tiles) const {
    while (tile < tiles) {
      const uint32_t rest = from(tile);
      if (rest) return tile + (__ffs(rest) - 1) / kBlocks;
      tile = (tile / kTiles + 1) * kTiles;
    }
    return tiles;
  }
};

// maps = mean of head_maps over the heads, summed in their order.
template <class Vector>
__global__ void __launch_bounds__(kThreads)
    mean_over_heads_kernel(const Vector* head_maps, Vector* maps, int64_t size, int heads, int64_t total) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= total) return;
  constexpr int kValues = sizeof(Vector) / sizeof(float);
  const Vector* from = head_maps + i / size * size * heads + i % size;
  float sum[kValues] = {};
  for (int head = 0; head < heads; ++head) {
    const Vector x = load_constant(from + head * size);
    const float* values = reinterpret_cast<const float*>(&x);
#pragma unroll
    for (int j = 0; j < kValues; ++j) sum[j] += values[j];
  }
  Vector mean;
#pragma unroll
  for (int j = 0; j < kValues; ++j) reinterpret_cast<float*>(&mean)[j] = sum[j] / static_cast<float>(heads);
  store_global(maps + i, mean);
}

}  // namespace weft
