// Written by csrc/attention/cuda/generate.py.
#include "attention/cuda/instance.cuh"

namespace weft {
extern const CudaInstance attention_half_128;
const CudaInstance attention_half_128 = make_instance<Half, 128>();
}  // namespace weft
