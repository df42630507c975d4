// Written by csrc/attention/cuda/generate.py.
#include "attention/cuda/instance.cuh"

namespace weft {
extern const CudaInstance attention_half_96;
const CudaInstance attention_half_96 = make_instance<Half, 96>();
}  // namespace weft
