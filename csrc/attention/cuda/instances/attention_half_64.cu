// Written by csrc/attention/cuda/generate.py.
#include "attention/cuda/instance.cuh"

namespace weft {
extern const CudaInstance attention_half_64;
const CudaInstance attention_half_64 = make_instance<Half, 64>();
}  // namespace weft
