// Written by csrc/attention/cuda/generate.py.
#pragma once

#define WEFT_FOR_EACH_CUDA_INSTANCE(X) \
  X(Half, 40, attention_half_40)       \
  X(Half, 64, attention_half_64)       \
  X(Half, 72, attention_half_72)       \
  X(Half, 80, attention_half_80)       \
  X(Half, 88, attention_half_88)       \
  X(Half, 96, attention_half_96)       \
  X(Half, 112, attention_half_112)     \
  X(Half, 128, attention_half_128)     \
  X(Half, 160, attention_half_160)     \
  X(Half, 256, attention_half_256)     \
  X(Bfloat, 40, attention_bfloat_40)   \
  X(Bfloat, 64, attention_bfloat_64)   \
  X(Bfloat, 72, attention_bfloat_72)   \
  X(Bfloat, 80, attention_bfloat_80)   \
  X(Bfloat, 88, attention_bfloat_88)   \
  X(Bfloat, 96, attention_bfloat_96)   \
  X(Bfloat, 112, attention_bfloat_112) \
  X(Bfloat, 128, attention_bfloat_128) \
  X(Bfloat, 160, attention_bfloat_160) \
  X(Bfloat, 256, attention_bfloat_256)
