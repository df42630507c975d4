// Written by csrc/attention/cuda/generate.py.
#include "attention/cuda/instance.cuh"

namespace weft {
extern const CudaInstance attention_bfloat_256;
const CudaInstance attention_bfloat_256 = make_instance<Bfloat, 256>();
}  // namespace weft
