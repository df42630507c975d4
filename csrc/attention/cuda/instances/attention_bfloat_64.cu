// Written by csrc/attention/cuda/generate.py.
#include "attention/cuda/instance.cuh"

namespace weft {
extern const CudaInstance attention_bfloat_64;
const CudaInstance attention_bfloat_64 = make_instance<Bfloat, 64>();
}  // namespace weft
