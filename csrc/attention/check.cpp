// What must hold before a kernel follows a pointer.
#include <cmath>
#include <stdexcept>
#include <string>

#include "attention/attention.h"

namespace weft {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument("attention: " + what); }

std::string number(int64_t x) { return std::to_string(x); }

void check_size(const char* name, int64_t size) {
  if (size < 0) refuse("`" + std::string(name) + "` must not be negative; got " + number(size));
}

// Product of sizes, refused where bytes of it could pass what an int64 holds.
int64_t product(std::initializer_list<int64_t> sizes) {
  constexpr int64_t kLimit = int64_t{1} << 56;
  int64_t total = 1;
  for (int64_t size : sizes) {
    if (size && total > kLimit / size) refuse("sizes must multiply to less than 2^56 elements");
    total *= size;
  }
  return total;
}

void check_pointer(const char* name, const void* pointer, int64_t elements) {
  if (!pointer && elements > 0)
    refuse("`" + std::string(name) + "` must not be null; it has " + number(elements) + " elements");
}

// Strides reach at most this far from the first element, so offsets fit an int64 with a wide margin. Those of an axis
// with one entry are never walked.
void check_strides(const char* name, const HeadStrides& strides, int64_t samples, int64_t tokens, int64_t heads) {
  constexpr int64_t kLimit = int64_t{1} << 56;
  for (const auto& [stride, size] :
       {std::pair{strides.batch, samples}, {strides.token, tokens}, {strides.head, heads}}) {
    if (size == 1) continue;
    if (stride < 0) refuse("strides of `" + std::string(name) + "` must not be negative; got " + number(stride));
    if (size && stride > kLimit / size) refuse("strides of `" + std::string(name) + "` reach past 2^56 elements");
  }
}

void check_table(const char* name, const float* table, int64_t batch, const AttentionParams& p) {
  if (!table) return;
  if (batch != 0 && batch < p.Lq * p.Lk) {
    refuse("batch stride of `" + std::string(name) + "` must be 0 or at least Lq * Lk = " + number(p.Lq * p.Lk) +
           "; got " + number(batch));
  }
}

void check_row(const char* name, bool given, int64_t batch, int64_t length) {
  if (given && batch != 0 && batch < length) {
    refuse("batch stride of `" + std::string(name) + "` must be 0 or at least " + number(length) + "; got " +
           number(batch));
  }
}

void check_labels(const char* name, const char* limit_name, const int32_t* labels, int64_t batch, int64_t samples,
                  int64_t length, int64_t limit) {
  if (!labels) {
    if (limit < 1 && samples > 0 && length > 0) refuse("`" + std::string(limit_name) + "` must be at least 1; got 0");
    return;
  }
  const int64_t rows = batch == 0 ? (samples > 0) : samples;
  const uint64_t bound = static_cast<uint64_t>(limit);
  for (int64_t row = 0; row < rows; ++row) {
    const int32_t* line = labels + row * batch;
    bool bad = false;  // without an early exit the loop is vectorised
    for (int64_t i = 0; i < length; ++i) bad |= static_cast<uint64_t>(static_cast<int64_t>(line[i])) >= bound;
    if (!bad) continue;
    int64_t i = 0;
    while (static_cast<uint64_t>(static_cast<int64_t>(line[i])) < bound) ++i;
    refuse("`" + std::string(name) + "` must lie in [0, " + limit_name + ") = [0, " + number(limit) + "); got " +
           number(line[i]) + " at [" + number(row) + ", " + number(i) + "]");
  }
}

}  // namespace

void check_attention_layout(const AttentionParams& p) {
  const std::pair<const char*, int64_t> sizes[] = {{"B", p.B}, {"Nq", p.Nq}, {"Nk", p.Nk}, {"H", p.H},  {"Hk", p.Hk},
                                                   {"D", p.D}, {"M", p.M},   {"Lq", p.Lq}, {"Lk", p.Lk}};
  for (const auto& [name, size] : sizes) check_size(name, size);
  if (p.Hk ? p.H % p.Hk != 0 : p.H != 0)
    refuse("H must be a multiple of Hk; got " + number(p.H) + " and " + number(p.Hk));
  if (p.D > kMaxHeadWidth) refuse("D must be at most " + number(kMaxHeadWidth) + "; got " + number(p.D));
  if (p.Nq > INT32_MAX || p.Nk > INT32_MAX)
    refuse("Nq and Nk must be below 2^31; got " + number(p.Nq) + " and " + number(p.Nk));
  if (p.num_threads < 1) refuse("`num_threads` must be at least 1; got " + number(p.num_threads));
  if (!std::isfinite(p.scale)) refuse("`scale` must be finite; got " + std::to_string(p.scale));
  if (p.dtype != Dtype::kFloat32 && p.dtype != Dtype::kFloat16 && p.dtype != Dtype::kBfloat16) {
    refuse("`dtype` must be float32, float16 or bfloat16; got code " + number(static_cast<int>(p.dtype)));
  }

  const int64_t queries = product({p.B, p.Nq, p.H, p.D}), keys = product({p.B, p.Nk, p.Hk, p.D});
  product({p.B, p.Nk, p.M});
  product({p.Lq, p.Lk});
  check_strides("q", p.q_stride, p.B, p.Nq, p.H);
  check_strides("k", p.k_stride, p.B, p.Nk, p.Hk);
  check_strides("v", p.v_stride, p.B, p.Nk, p.Hk);
  check_strides("out", p.out_stride, p.B, p.Nq, p.H);
  check_pointer("q", p.q, queries);
  check_pointer("k", p.k, keys);
  check_pointer("v", p.v, keys);
  check_pointer("out", p.out, queries);
  check_pointer("readout", p.readout, p.M ? product({p.B, p.Nk, p.M}) : 0);
  check_pointer("maps", p.maps, product({p.B, p.Nq, p.M}));

  check_table("alpha", p.alpha, p.alpha_batch, p);
  check_table("beta", p.beta, p.beta_batch, p);
  check_table("gamma", p.gamma, p.gamma_batch, p);
  check_table("delta", p.delta, p.delta_batch, p);
  check_row("readout", p.readout, p.readout_batch, p.Nk * p.M);
  check_row("query_labels", p.query_labels, p.query_labels_batch, p.Nq);
  check_row("key_labels", p.key_labels, p.key_labels_batch, p.Nk);
  check_row("key_padding", p.key_padding, p.key_padding_batch, p.Nk);
}

void check_attention(const AttentionParams& p) {
  check_attention_layout(p);
  if (p.alpha || p.beta || p.gamma || p.delta) {
    check_labels("query_labels", "Lq", p.query_labels, p.query_labels_batch, p.B, p.Nq, p.Lq);
    check_labels("key_labels", "Lk", p.key_labels, p.key_labels_batch, p.B, p.Nk, p.Lk);
  }
}

}  // namespace weft
