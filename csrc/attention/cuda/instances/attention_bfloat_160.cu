// Written by csrc/attention/cuda/generate.py.
#include "attention/cuda/instance.cuh"

namespace weft {
extern const CudaInstance attention_bfloat_160;
const CudaInstance attention_bfloat_160 = make_instance<Bfloat, 160>();
}  // namespace weft
