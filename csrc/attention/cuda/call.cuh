// A kernel's arguments: the caller's params and what the launch made of them.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "attention/attention.h"

namespace weft {

struct CudaCall {
  AttentionParams p;
  float* head_maps;           // [B, H, Nq, M]
  const uint32_t* read_mask;  // long keys: [B or 1, words, 2], see readout.cuh
  int64_t read_mask_batch;    // its batch stride, in words
  int tables_bytes;           // space for the tables in shared memory; the weights of a short kernel lie behind
  int heads_per_key_head;     // of q that read one of k and v
  int chunks;                 // blocks that share the queries of one (sample, head)
  bool aligned;               // rows of q, k, v and out begin at multiples of 16 bytes
  bool ranged;                // beta or gamma is given
};

// Factor of exp2 for e^x.
constexpr float kLog2E = 1.44269504088896340736f;

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;

}  // namespace weft
