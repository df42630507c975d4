// The bridge to the attention kernels: plain pointers, sizes and strides. Meaning: kernels/attention/reference.py.
#pragma once

#include <cstdint>
#include <string>

#include "weft/dtype.h"

namespace weft {

// Distance in elements from one entry of an axis to the next; the last axis, D, always has stride 1.
struct HeadStrides {
  int64_t batch, token, head;
};

struct AttentionParams {
  // inputs
  const void* q = nullptr;  // [B, Nq, H, D] of `dtype`
  const void* k = nullptr;  // [B, Nk, Hk, D] of `dtype`; H / Hk neighbouring heads of q share one of k and v
  const void* v = nullptr;  // [B, Nk, Hk, D] of `dtype`

  // optional inputs: null where the argument is absent; contiguous within a batch entry
  const float* alpha = nullptr;           // [B or 1, Lq, Lk]
  const float* beta = nullptr;            // [B or 1, Lq, Lk]
  const float* gamma = nullptr;           // [B or 1, Lq, Lk]
  const float* delta = nullptr;           // [B or 1, Lq, Lk], -inf removes a key
  const float* readout = nullptr;         // [B or 1, Nk, M]
  const int32_t* query_labels = nullptr;  // [B or 1, Nq] in [0, Lq)
  const int32_t* key_labels = nullptr;    // [B or 1, Nk] in [0, Lk)
  const uint8_t* key_padding = nullptr;   // [B or 1, Nk], nonzero = padding

  // outputs
  void* out = nullptr;    // [B, Nq, H, D] of `dtype`
  float* maps = nullptr;  // [B, Nq, M] contiguous

  // sizes
  int64_t B = 0, Nq = 0, Nk = 0, H = 0, Hk = 0, D = 0, M = 0, Lq = 1, Lk = 1;

  // strides, in elements; a batch stride of 0 shares one entry among all samples
  HeadStrides q_stride{}, k_stride{}, v_stride{}, out_stride{};
  int64_t alpha_batch = 0, beta_batch = 0, gamma_batch = 0, delta_batch = 0, readout_batch = 0;
  int64_t query_labels_batch = 0, key_labels_batch = 0, key_padding_batch = 0;

  float scale = 1.0f;
  Dtype dtype = Dtype::kFloat32;
  int num_threads = 1;
};

constexpr int64_t kMaxHeadWidth = 256;

// Throws std::invalid_argument, before any tensor's content but the labels is touched, if the sizes, pointers or
// labels cannot be what the comments above say.
void check_attention(const AttentionParams& params);

// The same without the labels, which may lie in another device's memory.
void check_attention_layout(const AttentionParams& params);

// Computes `out` and `maps`. `isa` names an instruction set of weft::instruction_sets(), or "auto" for the best.
// The result does not depend on `num_threads`. Throws as check_attention, and for an unknown `isa`.
void attention_fwd_cpu(const AttentionParams& params, const std::string& isa = "auto");

// Bytes attention_fwd_cpu takes beside its arguments.
int64_t attention_workspace_bytes(const AttentionParams& params, const std::string& isa = "auto");

}  // namespace weft
