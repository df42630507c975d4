// Stands in for CUDA's header when a .cu file is compiled for the emulation: words of the language, the few built-in
// functions that weft's kernels use, and the runtime's host side.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>

#include "machine.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

extern emulation::Index threadIdx, blockIdx, blockDim, gridDim;

struct alignas(8) int2 {
  int x, y;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};

using std::max;
using std::min;

inline void __syncthreads() { emulation::block_barrier(); }
inline void __syncwarp() { emulation::warp_barrier(); }

inline float __shfl_xor_sync(uint32_t mask, float value, int other) {
  if (mask != 0xffffffffu) emulation::fail("the emulation shuffles whole warps only");
  struct Argument {
    float value;
    int other;
    float result;
  } argument{value, other, 0.0f};
  emulation::warp_instruction("__shfl_xor_sync", &argument, [](void* const* lanes) {
    const auto at = [&](int lane) -> Argument& { return *static_cast<Argument*>(lanes[lane]); };
    for (int lane = 0; lane < 32; ++lane) at(lane).result = at(lane ^ at(lane).other).value;
  });
  return argument.result;
}

inline int __ffs(uint32_t x) { return __builtin_ffs(static_cast<int>(x)); }

inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// --- host side ------------------------------------------------------------------------------------------------------

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidDevice = 101,
  cudaErrorLaunchFailure = 719,
  cudaErrorStreamCaptureUnsupported = 900
};
enum cudaStreamCaptureMode {
  cudaStreamCaptureModeGlobal,
  cudaStreamCaptureModeThreadLocal,
  cudaStreamCaptureModeRelaxed
};
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor,
  cudaDevAttrComputeCapabilityMajor,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize, cudaFuncAttributePreferredSharedMemoryCarveout };

using cudaStream_t = struct CUstream_st*;

struct dim3 : emulation::Index {
  explicit dim3(unsigned x) : emulation::Index{x, 1, 1} {}
  dim3() = default;
};

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t status) {
  return status == cudaErrorLaunchFailure ? emulation::failure().c_str() : "an error of the emulated runtime";
}

inline cudaError_t cudaGetDevice(int* device) {
  *device = emulation::device;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= static_cast<int>(std::size(emulation::kDevices))) return cudaErrorInvalidDevice;
  emulation::device = device;
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  const emulation::Device& asked = emulation::kDevices[device];
  const int values[] = {asked.multiprocessors, asked.shared_per_block, asked.shared_per_multiprocessor, asked.major};
  *value = values[attribute];
  return cudaSuccess;
}

inline cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  const int before = emulation::capture_mode;
  emulation::capture_mode = *mode;
  *mode = static_cast<cudaStreamCaptureMode>(before);
  return cudaSuccess;
}

// as if every call were captured: what goes to no stream is refused in any other mode
inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) {
  return emulation::capture_mode == cudaStreamCaptureModeRelaxed ? cudaSuccess : cudaErrorStreamCaptureUnsupported;
}

template <class... Expected, class... Given>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Expected...), Given... arguments) {
  const bool fine = emulation::run(config->gridDim, config->blockDim, config->dynamicSmemBytes,
                                   [&] { kernel(static_cast<Expected>(arguments)...); });
  return fine ? cudaSuccess : cudaErrorLaunchFailure;
}
