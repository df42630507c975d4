// The memory a call takes beside its arguments.
//
// A layout is one function that takes spans from a Carver, in order. Run on a Carver without memory it gives the size;
// run on one with memory it hands the spans out. So a size and its use cannot differ. Code that writes where
// the data says calls `part`, `at` or `holds` first, once for many elements: a mistake there is an exception.
//
// Internal linkage as in simd.h, since kernels of every instruction set include this.
#pragma once

#include <cstdint>

#if defined(__SANITIZE_ADDRESS__)
#define WEFT_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WEFT_ADDRESS_SANITIZER 1
#endif
#endif
#if defined(WEFT_ADDRESS_SANITIZER)
#include <sanitizer/asan_interface.h>
#endif

namespace weft {

// Some elements that lie one after the other. Plain data: it may be a member of what all instruction sets share.
template <class T>
struct Span {
  T* data;
  int64_t size;
};

// Throw std::length_error and std::logic_error. Not inline: what they call must not be compiled for an instruction set
// that this processor may lack.
[[noreturn]] void refuse_workspace_size();
[[noreturn]] void fail_outside_workspace(int64_t first, int64_t count, int64_t size);

namespace {

constexpr int64_t kWorkspaceAlignment = 64;

// a * b and a + b of sizes; what is negative or more than an int64 holds is refused.
inline int64_t multiply_sizes(int64_t a, int64_t b) {
  int64_t product;
  if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &product)) refuse_workspace_size();
  return product;
}

inline int64_t add_sizes(int64_t a, int64_t b) {
  int64_t sum;
  if (a < 0 || b < 0 || __builtin_add_overflow(a, b, &sum)) refuse_workspace_size();
  return sum;
}

template <class T>
inline bool holds(Span<T> span, int64_t first, int64_t count) {
  return first >= 0 && count >= 0 && count <= span.size && first <= span.size - count;
}

// `count` elements from `first` on.
template <class T>
inline Span<T> part(Span<T> span, int64_t first, int64_t count) {
  if (!holds(span, first, count)) fail_outside_workspace(first, count, span.size);
  return {span.data + first, count};
}

template <class T>
inline T& at(Span<T> span, int64_t index) {
  return *part(span, index, 1).data;
}

// The same memory as elements of another type.
template <class To, class T>
inline Span<To> as(Span<T> span) {
  return {reinterpret_cast<To*>(span.data), span.size * static_cast<int64_t>(sizeof(T)) / int64_t{sizeof(To)}};
}

class Carver {
 public:
  // Counts only; its spans have no memory.
  Carver() = default;
  explicit Carver(Span<char> memory) : memory_(memory) {}

  // The next rows * columns elements, none of them set, at a multiple of kWorkspaceAlignment.
  template <class T>
  Span<T> take(int64_t rows, int64_t columns = 1) {
    const int64_t size = multiply_sizes(rows, columns), bytes = multiply_sizes(size, sizeof(T)), first = at_;
    at_ = add_sizes(first, add_sizes(bytes, kGap + kWorkspaceAlignment - 1) & -kWorkspaceAlignment);
    if (!memory_.data) return {nullptr, size};
    char* const place = part(memory_, first, at_ - first).data;
    forbid(place + bytes, at_ - first - bytes);
    return {reinterpret_cast<T*>(place), size};
  }

  int64_t bytes() const { return at_; }

 private:
  // AddressSanitizer then sees who runs from one span into the next.
#if defined(WEFT_ADDRESS_SANITIZER)
  static constexpr int64_t kGap = kWorkspaceAlignment;
  static void forbid(const char* place, int64_t bytes) { __asan_poison_memory_region(place, bytes); }
#else
  static constexpr int64_t kGap = 0;
  static void forbid(const char*, int64_t) {}
#endif

  Span<char> memory_{nullptr, 0};
  int64_t at_ = 0;
};

}  // namespace
}  // namespace weft
