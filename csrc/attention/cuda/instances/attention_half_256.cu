// Written by csrc/attention/cuda/generate.py.
#include "attention/cuda/instance.cuh"

namespace weft {
extern const CudaInstance attention_half_256;
const CudaInstance attention_half_256 = make_instance<Half, 256>();
}  // namespace weft
