// Written by csrc/attention/cuda/generate.py.
#include "attention/cuda/instance.cuh"

namespace weft {
extern const CudaInstance attention_bfloat_128;
const CudaInstance attention_bfloat_128 = make_instance<Bfloat, 128>();
}  // namespace weft
