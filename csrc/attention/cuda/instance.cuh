// The kernels of one dtype and head width, as data for the launch. cuda/generate.py writes one .cu for each.
#pragma once

#include "attention/cuda/instance.h"
#include "attention/cuda/long.cuh"
#include "attention/cuda/short.cuh"

namespace weft {

template <class T, int D, int kKeys>
CudaKernel short_kernel() {
  return {&attention_short_kernel<T, D, kKeys>, kKeys, 16, kShortBlocks<D, kKeys>, ShortShared<D, kKeys>::kTables};
}

template <class T, int D>
CudaInstance make_instance() {
  using Tile = LongTile<D>;
  return {{short_kernel<T, D, 80>(), short_kernel<T, D, 128>()},
          {&attention_long_kernel<T, D>, Tile::kKeys, Tile::kRows, Tile::kBlocks, Tile::kTables}};
}

}  // namespace weft
