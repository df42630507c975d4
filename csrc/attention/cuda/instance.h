// What the launch must know of a compiled kernel.
#pragma once

#include <atomic>
#include <cstdint>

#include "attention/cuda/call.cuh"

namespace weft {

struct CudaKernel {
  void (*function)(CudaCall);
  int keys;              // short: the most keys it takes; long: keys of a tile
  int rows;              // queries that are computed together: by a warp if short, by a block if long
  int blocks;            // resident blocks that its registers allow on a multiprocessor
  int64_t shared_bytes;  // shared memory before tables and weights

  mutable std::atomic<uint64_t> prepared{0};  // devices, as bits, on which the launch has made it ready
};

struct CudaKernels {
  CudaKernel short_kernels[2];  // fewest keys first
  CudaKernel long_kernel;
};

// An edit (tables or padding) has kernels of its own: one kernel that branches needs more registers than either.
struct CudaInstance {
  CudaKernels plain, edited;
};

}  // namespace weft
