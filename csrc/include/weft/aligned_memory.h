// Memory of one call, which a thread may keep for its next one.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

#include "weft/workspace.h"

namespace weft {

class AlignedMemory {
 public:
  AlignedMemory() = default;
  // Aligned as a Carver wants it, its content not set. Throws std::bad_alloc.
  explicit AlignedMemory(int64_t bytes);

  int64_t bytes() const { return bytes_; }
  // The first `bytes`, which must be there. What an earlier layout forbade may be used again.
  Span<char> span(int64_t bytes);

 private:
  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };
  std::unique_ptr<char, Free> memory_;
  int64_t bytes_ = 0;
};

}  // namespace weft
