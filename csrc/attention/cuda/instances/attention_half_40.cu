// Written by csrc/attention/cuda/generate.py.
#include "attention/cuda/instance.cuh"

namespace weft {
extern const CudaInstance attention_half_40;
const CudaInstance attention_half_40 = make_instance<Half, 40>();
}  // namespace weft
