// Written by csrc/attention/cuda/generate.py.
#include "attention/cuda/instance.cuh"

namespace weft {
extern const CudaInstance attention_half_88;
const CudaInstance attention_half_88 = make_instance<Half, 88>();
}  // namespace weft
