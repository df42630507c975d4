// Every access of a kernel to memory, by name: the CPU emulation of tests/cuda_emulation puts its own functions of
// these names in their place and watches bounds, races and uninitialised reads.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace weft {

// The block's dynamic shared memory, aligned to 16 bytes.
__device__ __forceinline__ char* dynamic_shared_memory() {
  extern __shared__ __align__(16) char weft_dynamic_shared_memory[];
  return weft_dynamic_shared_memory;
}

template <class T>
__device__ __forceinline__ T load_shared(const T* from) {
  return *from;
}

// Loads again what an earlier load_shared read, where keeping it, or what was computed from it, would cost more
// registers than a second load costs time.
__device__ __forceinline__ int2 reload_shared(const int2* from) {
  int2 value;
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(from));
  asm volatile("ld.volatile.shared.v2.s32 {%0,%1}, [%2];\n" : "=r"(value.x), "=r"(value.y) : "r"(address) : "memory");
  return value;
}

template <class T>
__device__ __forceinline__ void store_shared(T* to, T value) {
  *to = value;
}

__device__ __forceinline__ void atomic_or_shared(uint32_t* to, uint32_t bits) { atomicOr(to, bits); }

// For memory that nothing writes while the kernel runs.
template <class T>
__device__ __forceinline__ T load_constant(const T* from) {
  return __ldg(from);
}

// For memory that this thread may have written itself.
template <class T>
__device__ __forceinline__ T load_global(const T* from) {
  return *from;
}

template <class T>
__device__ __forceinline__ void store_global(T* to, T value) {
  *to = value;
}

}  // namespace weft
