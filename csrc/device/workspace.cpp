// What workspace.h leaves to one copy for all instruction sets.
#include "weft/workspace.h"

#include <algorithm>
#include <new>
#include <stdexcept>
#include <string>

#include "weft/aligned_memory.h"

namespace weft {

void refuse_workspace_size() {
  throw std::length_error("weft: sizes must need a workspace of less than 2^63 bytes; got larger ones");
}

void fail_outside_workspace(int64_t first, int64_t count, int64_t size) {
  throw std::logic_error("weft: a kernel must stay inside its workspace; it asked for " + std::to_string(count) +
                         " elements from " + std::to_string(first) + " on, of " + std::to_string(size) +
                         "; nothing was written there; please report this");
}

AlignedMemory::AlignedMemory(int64_t bytes) : bytes_(std::max(bytes, kWorkspaceAlignment)) {
  memory_.reset(static_cast<char*>(std::aligned_alloc(kWorkspaceAlignment, bytes_)));
  if (!memory_) throw std::bad_alloc();
}

Span<char> AlignedMemory::span(int64_t bytes) {
#if defined(WEFT_ADDRESS_SANITIZER)
  __asan_unpoison_memory_region(memory_.get(), bytes_);
#endif
  return part(Span<char>{memory_.get(), bytes_}, 0, bytes);
}

}  // namespace weft
