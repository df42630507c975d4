// A plain C door to the attention kernels, for builds that Python's extension module cannot be: with AMX emulated,
// or under sanitizers. tests/csrc/shim.py compiles it and calls it by ctypes.
#include <cstring>
#include <exception>

#include "attention/attention.h"

extern "C" int weft_attention(const weft::AttentionParams* params, const char* isa, char* message, int capacity) {
  try {
    weft::attention_fwd_cpu(*params, isa);
    return 0;
  } catch (const std::exception& error) {
    std::strncpy(message, error.what(), capacity - 1);
    message[capacity - 1] = 0;
    return 1;
  }
}
