// Written by csrc/attention/cuda/generate.py.
#include "attention/cuda/instance.cuh"

namespace weft {
extern const CudaInstance attention_bfloat_96;
const CudaInstance attention_bfloat_96 = make_instance<Bfloat, 96>();
}  // namespace weft
