// Written by csrc/attention/cuda/generate.py.
#include "attention/cuda/instance.cuh"

namespace weft {
extern const CudaInstance attention_bfloat_112;
const CudaInstance attention_bfloat_112 = make_instance<Bfloat, 112>();
}  // namespace weft
