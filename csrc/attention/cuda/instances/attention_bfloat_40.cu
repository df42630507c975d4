// Written by csrc/attention/cuda/generate.py.
#include "attention/cuda/instance.cuh"

namespace weft {
extern const CudaInstance attention_bfloat_40;
const CudaInstance attention_bfloat_40 = make_instance<Bfloat, 40>();
}  // namespace weft
