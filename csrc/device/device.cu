// Answers of the CUDA runtime, with its errors as text.
#include "device/device.h"

#include <cuda_runtime_api.h>

namespace weft {
namespace {

CudaAnswer ask(cudaError_t (*query)(int*)) {
  CudaAnswer answer{0, nullptr};
  const cudaError_t status = query(&answer.value);
  if (status != cudaSuccess) {
    answer.error = cudaGetErrorString(status);
    // a failed question must not be found by the next caller that checks the last error
    cudaGetLastError();
  }
  return answer;
}

}  // namespace

CudaAnswer cuda_runtime_version() { return ask(cudaRuntimeGetVersion); }
CudaAnswer cuda_driver_version() { return ask(cudaDriverGetVersion); }
CudaAnswer cuda_device_count() { return ask(cudaGetDeviceCount); }

}  // namespace weft
