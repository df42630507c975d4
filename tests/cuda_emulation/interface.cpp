// A plain C interface to the emulated attention, for ctypes.
#include <cstring>
#include <stdexcept>

#include "attention/attention_cuda.h"
#include "machine.h"

namespace {

int report(const std::exception& error, int code, char* message, int capacity) {
  std::strncpy(message, error.what(), static_cast<size_t>(capacity) - 1);
  message[capacity - 1] = 0;
  return code;
}

}  // namespace

extern "C" {

int weft_emulation_params_bytes() { return sizeof(weft::AttentionParams); }

void weft_emulation_order(int order) { emulation::order = order; }

int weft_emulation_capture_mode() { return emulation::capture_mode; }

void weft_emulation_forget_memory() { emulation::forget_memory(); }

void weft_emulation_know_memory(const char* name, void* begin, int64_t bytes, int writable) {
  emulation::know_memory(name, begin, bytes, writable);
}

int64_t weft_emulation_workspace_bytes(const weft::AttentionParams* params) {
  return weft::attention_cuda_workspace_bytes(*params);
}

// 0, or 1 for an argument that is refused, 2 for anything else; then `message` says what.
int weft_emulation_attention(const weft::AttentionParams* params, void* workspace, int64_t workspace_bytes, int device,
                             char* message, int capacity) {
  try {
    weft::attention_fwd_cuda(*params, workspace, workspace_bytes, device, nullptr);
    return 0;
  } catch (const std::invalid_argument& error) {
    return report(error, 1, message, capacity);
  } catch (const std::exception& error) {
    return report(error, 2, message, capacity);
  }
}

}  // extern "C"
