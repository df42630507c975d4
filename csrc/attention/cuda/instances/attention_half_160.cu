// Written by csrc/attention/cuda/generate.py.
#include "attention/cuda/instance.cuh"

namespace weft {
extern const CudaInstance attention_half_160;
const CudaInstance attention_half_160 = make_instance<Half, 160>();
}  // namespace weft
