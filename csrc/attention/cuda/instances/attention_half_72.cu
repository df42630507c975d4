// Written by csrc/attention/cuda/generate.py.
#include "attention/cuda/instance.cuh"

namespace weft {
extern const CudaInstance attention_half_72;
const CudaInstance attention_half_72 = make_instance<Half, 72>();
}  // namespace weft
