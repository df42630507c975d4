// The emulation's half of csrc/include/weft/memory.cuh: the same functions, each access judged first.
#pragma once

#include <cuda_runtime.h>

namespace weft {

inline char* dynamic_shared_memory() { return emulation::shared_memory(); }

template <class T>
T load_shared(const T* from) {
  emulation::use_shared(from, sizeof(T), sizeof(T), emulation::Access::kRead);
  return *from;
}

inline int2 reload_shared(const int2* from) { return load_shared(from); }

template <class T>
void store_shared(T* to, T value) {
  emulation::use_shared(to, sizeof(T), sizeof(T), emulation::Access::kWrite);
  *to = value;
}

inline void atomic_or_shared(uint32_t* to, uint32_t bits) {
  emulation::use_shared(to, sizeof bits, sizeof bits, emulation::Access::kAtomic);
  *to |= bits;
}

template <class T>
T load_constant(const T* from) {
  emulation::use_global(from, sizeof(T), sizeof(T), emulation::Global::kConstant);
  return *from;
}

template <class T>
T load_global(const T* from) {
  emulation::use_global(from, sizeof(T), sizeof(T), emulation::Global::kOwn);
  return *from;
}

template <class T>
void store_global(T* to, T value) {
  emulation::use_global(to, sizeof(T), sizeof(T), emulation::Global::kWrite);
  *to = value;
}

}  // namespace weft
