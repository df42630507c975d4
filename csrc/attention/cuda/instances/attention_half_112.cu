// Written by csrc/attention/cuda/generate.py.
#include "attention/cuda/instance.cuh"

namespace weft {
extern const CudaInstance attention_half_112;
const CudaInstance attention_half_112 = make_instance<Half, 112>();
}  // namespace weft
