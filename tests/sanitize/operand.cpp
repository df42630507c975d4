#include "operand.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <new>
#include <vector>

namespace sanitize {
namespace {

constexpr int kFractionBits = 10, kBias = 15;  // of a half

double decode_half(uint16_t bits) {
  const int exponent = bits >> kFractionBits & 0x1f, fraction = bits & 0x3ff;
  double size = std::ldexp(exponent ? fraction + 1024 : fraction, (exponent ? exponent : 1) - kBias - kFractionBits);
  if (exponent == 0x1f) size = fraction ? std::numeric_limits<double>::quiet_NaN() : HUGE_VAL;
  return bits & 0x8000 ? -size : size;
}

uint16_t encode_half(double value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return 0x7e00;
  if (std::isinf(value)) return sign | 0x7c00;
  if (value == 0) return sign;
  int exponent;
  const double fraction = std::frexp(std::fabs(value), &exponent);  // in [1/2, 1)
  const int steps = static_cast<int>(std::ldexp(fraction, kFractionBits + 1)) - 1024;
  return static_cast<uint16_t>(sign | (exponent - 1 + kBias) << kFractionBits | steps);
}

template <class T>
T read(const unsigned char* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

template <class T>
void write(unsigned char* at, T value) {
  std::memcpy(at, &value, sizeof value);
}

}  // namespace

void Operand::Free::operator()(unsigned char* block) const { std::free(block); }

Operand::Operand(Kind kind, Axes size, Axes stride, int64_t offset)
    : kind_(kind), size_(size), stride_(stride), offset_(offset), elements_(offset) {
  if (!empty()) {
    elements_ += 1;
    for (int axis = 0; axis < 4; ++axis) elements_ += (size[axis] - 1) * stride[axis];
  }
  block_.reset(static_cast<unsigned char*>(std::malloc(elements_ * width())));
  if (!block_) throw std::bad_alloc();
  clear();
}

bool Operand::empty() const {
  return std::any_of(size_.begin(), size_.end(), [](int64_t size) { return size == 0; });
}

double Operand::decode(const unsigned char* at) const {
  switch (kind_) {
    case Kind::kFloat32:
      return read<float>(at);
    case Kind::kFloat16:
      return decode_half(read<uint16_t>(at));
    case Kind::kBfloat16: {
      const uint32_t bits = static_cast<uint32_t>(read<uint16_t>(at)) << 16;
      float value;
      std::memcpy(&value, &bits, 4);
      return value;
    }
    case Kind::kInt32:
      return read<int32_t>(at);
    case Kind::kByte:
      return *at;
  }
  std::abort();
}

void Operand::encode(double value, unsigned char* at) const {
  switch (kind_) {
    case Kind::kFloat32:
      return write(at, static_cast<float>(value));
    case Kind::kFloat16:
      return write(at, encode_half(value));
    case Kind::kBfloat16: {
      const float narrow = static_cast<float>(value);
      uint32_t bits;
      std::memcpy(&bits, &narrow, 4);
      return write(at, static_cast<uint16_t>(bits >> 16));
    }
    case Kind::kInt32:
      return write(at, static_cast<int32_t>(value));
    case Kind::kByte:
      return write(at, static_cast<uint8_t>(value));
  }
}

double Operand::get(int64_t i, int64_t j, int64_t k, int64_t l) const {
  return decode(block_.get() + place(i, j, k, l) * width());
}

void Operand::set(double value, int64_t i, int64_t j, int64_t k, int64_t l) {
  encode(value, block_.get() + place(i, j, k, l) * width());
}

void Operand::clear() { std::memset(block_.get(), 0xff, elements_ * width()); }

bool Operand::is_intact() const {
  std::vector<bool> owned(elements_ * width());
  each([&](const unsigned char* at) { std::fill_n(owned.begin() + (at - block_.get()), width(), true); });
  for (size_t i = 0; i < owned.size(); ++i) {
    if (!owned[i] && block_.get()[i] != 0xff) return false;
  }
  return true;
}

std::string Operand::bytes() const {
  std::string all;
  each([&](const unsigned char* at) { all.append(reinterpret_cast<const char*>(at), width()); });
  return all;
}

std::string Operand::describe() const {
  if (!given()) return "absent";
  const auto list = [](const Axes& axes) {
    std::string text;
    for (int64_t value : axes) text += (text.empty() ? "" : ",") + std::to_string(value);
    return text;
  };
  return "[" + list(size_) + "] strides (" + list(stride_) + ") from " + std::to_string(offset_);
}

}  // namespace sanitize
