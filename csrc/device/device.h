// What the CUDA runtime says about this machine. Asking is explicit: nothing here runs at import.
#pragma once

namespace weft {

// `error` is null on success, else the runtime's own message, and then `value` means nothing.
struct CudaAnswer {
  int value;
  const char* error;
};

CudaAnswer cuda_runtime_version();  // 1000 * major + 10 * minor of the runtime linked in
CudaAnswer cuda_driver_version();   // same scale; 0 when no driver is installed
CudaAnswer cuda_device_count();

}  // namespace weft
