// Written by csrc/attention/cuda/generate.py.
#include "attention/cuda/instance.cuh"

namespace weft {
extern const CudaInstance attention_bfloat_88;
const CudaInstance attention_bfloat_88 = make_instance<Bfloat, 88>();
}  // namespace weft
