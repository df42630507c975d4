// The emulation's half of csrc/include/weft/cp_async.cuh: what is copied arrives when it is waited for, not before.
#pragma once

#include <cuda_runtime.h>

namespace weft {

inline void cp_async_16(void* shared, const void* global, bool inside) {
  emulation::copy_async(shared, global, inside);
}

inline void cp_async_commit() { emulation::commit_copies(); }

template <int kPending>
void cp_async_wait() {
  emulation::wait_copies(kPending);
}

}  // namespace weft
