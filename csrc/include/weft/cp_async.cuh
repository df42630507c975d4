// Copies from global to shared memory that go on while the warp computes (sm_80 and newer).
//
// A copy is visible to the thread that issued it after its cp_async_wait, and to others after a barrier beyond that.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace weft {

// Copies 16 bytes, both addresses aligned to them; writes zeros and reads nothing where `inside` is false.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, bool inside) {
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = inside ? 16 : 0;
  // .cg: past L1, which holds the tables and the read-out
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(global), "r"(bytes) : "memory");
}

// Closes a group: the copies issued since the last one, possibly none.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }

// Waits until at most `kPending` of this thread's latest groups are still on their way.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

}  // namespace weft
