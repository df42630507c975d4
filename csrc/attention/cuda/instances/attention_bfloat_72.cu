// Written by csrc/attention/cuda/generate.py.
#include "attention/cuda/instance.cuh"

namespace weft {
extern const CudaInstance attention_bfloat_72;
const CudaInstance attention_bfloat_72 = make_instance<Bfloat, 72>();
}  // namespace weft
