// The bridge to the CUDA forward of attention. No CUDA header is needed to include it.
#pragma once

#include <cstdint>

#include "attention/attention.h"

namespace weft {

// Bytes of the label tables in a block's shared memory: Lq * (Lk + 1) entries of 8, or of 16 with beta or gamma.
// The long kernel has it beside its tiles on every device from sm_80 on (99 KB a block at least).
constexpr int64_t kMaxCudaTableBytes = 24 << 10;

// Bytes of device memory that attention_fwd_cuda needs beside its arguments, aligned to 16.
int64_t attention_cuda_workspace_bytes(const AttentionParams& params);

// Queues the computation of `out` and `maps` on `stream` (a cudaStream_t) of `device`. Everything `params` points to
// lies in that device's memory. Allocates nothing and waits for nothing, so a CUDA graph can capture it.
// A label outside its table counts as the nearest inside; it cannot be checked from here.
//
// Throws std::invalid_argument if sizes, pointers or the workspace cannot be what they should be, or no kernel is
// compiled for D and dtype; std::runtime_error with CUDA's message if CUDA refuses.
void attention_fwd_cuda(const AttentionParams& params, void* workspace, int64_t workspace_bytes, int device,
                        void* stream);

}  // namespace weft
