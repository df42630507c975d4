// Written by csrc/attention/cuda/generate.py.
#include "attention/cuda/instance.cuh"

namespace weft {
extern const CudaInstance attention_bfloat_80;
const CudaInstance attention_bfloat_80 = make_instance<Bfloat, 80>();
}  // namespace weft
