// An operand in a heap block of its own that ends where its last element does, so that one element too many is seen.
//
// Bytes that belong to no element are 0xff: NaN to a kernel that reads them as numbers, -1 as a label, and changed if
// a kernel writes them.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>

#include "draw.h"
#include "weft/dtype.h"

namespace sanitize {

enum class Kind { kFloat32, kFloat16, kBfloat16, kInt32, kByte };

inline Kind kind_of(weft::Dtype dtype) { return static_cast<Kind>(dtype); }

// Up to four axes; those that are not used have size 1 and stride 0.
using Axes = std::array<int64_t, 4>;

class Operand {
 public:
  Operand() = default;

  // `offset` elements lie before the first; `stride` counts elements.
  Operand(Kind kind, Axes size, Axes stride, int64_t offset = 0);

  bool given() const { return block_ != nullptr; }
  bool empty() const;
  template <class T>
  T* data() const {
    return block_ ? reinterpret_cast<T*>(block_.get() + offset_ * width()) : nullptr;
  }
  const Axes& size() const { return size_; }
  const Axes& stride() const { return stride_; }

  double get(int64_t i, int64_t j = 0, int64_t k = 0, int64_t l = 0) const;
  // `value` must be one that the kind holds exactly, NaN or an infinity of a float.
  void set(double value, int64_t i, int64_t j = 0, int64_t k = 0, int64_t l = 0);
  // Every element by its own call; elements that share memory keep the last one.
  template <class Value>
  void fill(Value value) {
    each([&](unsigned char* at) { encode(value(), at); });
  }

  // Writes 0xff over the whole block.
  void clear();
  // Whether every byte outside the elements is as `clear` left it.
  bool is_intact() const;
  // The elements' bytes, in order of their axes.
  std::string bytes() const;
  std::string describe() const;

 private:
  struct Free {
    void operator()(unsigned char* block) const;
  };

  int64_t width() const { return kind_ == Kind::kByte ? 1 : kind_ == Kind::kFloat32 || kind_ == Kind::kInt32 ? 4 : 2; }
  int64_t place(int64_t i, int64_t j, int64_t k, int64_t l) const {
    return offset_ + i * stride_[0] + j * stride_[1] + k * stride_[2] + l * stride_[3];
  }
  void encode(double value, unsigned char* at) const;
  double decode(const unsigned char* at) const;

  // Calls `visit` with the address of every element.
  template <class Visit>
  void each(Visit visit) const {
    for (int64_t i = 0; i < size_[0]; ++i) {
      for (int64_t j = 0; j < size_[1]; ++j) {
        for (int64_t k = 0; k < size_[2]; ++k) {
          for (int64_t l = 0; l < size_[3]; ++l) visit(block_.get() + place(i, j, k, l) * width());
        }
      }
    }
  }

  Kind kind_ = Kind::kFloat32;
  Axes size_{}, stride_{};
  int64_t offset_ = 0, elements_ = 0;
  std::unique_ptr<unsigned char, Free> block_;
};

}  // namespace sanitize
