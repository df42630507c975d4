// The kernels of one dtype and head width, as data for the launch. cuda/generate.py writes one .cu for each.
#pragma once

#include "attention/cuda/instance.h"
#include "attention/cuda/long.cuh"
#include "attention/cuda/short.cuh"

namespace weft {

template <class T, int D, int kKeys, bool kEdited>
CudaKernel short_kernel() {
  return {&attention_short_kernel<T, D, kKeys, kEdited>, kKeys, 16, kShortBlocks<D, kKeys>,
          ShortShared<D, kKeys>::kTables};
}

template <class T, int D, bool kEdited>
CudaKernels make_kernels() {
  using Tile = LongTile<D>;
  return {{short_kernel<T, D, 80, kEdited>(), short_kernel<T, D, 128, kEdited>()},
          {&attention_long_kernel<T, D, kEdited>, Tile::kKeys, Tile::kRows, Tile::kBlocks, Tile::kTables}};
}

template <class T, int D>
CudaInstance make_instance() {
  return {make_kernels<T, D, false>(), make_kernels<T, D, true>()};
}

}  // namespace weft
