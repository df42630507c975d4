// Written by csrc/attention/cuda/generate.py.
#include "attention/cuda/instance.cuh"

namespace weft {
extern const CudaInstance attention_half_80;
const CudaInstance attention_half_80 = make_instance<Half, 80>();
}  // namespace weft
