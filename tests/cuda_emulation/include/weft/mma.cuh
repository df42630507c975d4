// The emulation's half of csrc/include/weft/mma.cuh, where the layout of fragments is written down.
#pragma once

#include <cuda_runtime.h>

#include "weft/dtype.h"

namespace weft {
namespace emulated {

inline float widen(Half, uint32_t bits) {
  const uint16_t low = static_cast<uint16_t>(bits);
  _Float16 value;
  std::memcpy(&value, &low, sizeof value);
  return static_cast<float>(value);
}

inline float widen(Bfloat, uint32_t bits) { return __uint_as_float(bits << 16); }

struct Operands {
  float* c;
  const uint32_t* a;
  uint32_t b[2];
};

// c += a b with a [16, depth], b [depth, 8] gathered from all lanes; the sum over depth is taken in fp32.
inline void multiply_add(void* const* lanes, const float (&a)[16][16], const float (&b)[16][8], int depth) {
  for (int lane = 0; lane < 32; ++lane) {
    float* c = static_cast<const Operands*>(lanes[lane])->c;
    for (int e = 0; e < 4; ++e) {
      const int row = lane / 4 + e / 2 * 8, column = lane % 4 * 2 + e % 2;
      float sum = c[e];
      for (int k = 0; k < depth; ++k) sum += a[row][k] * b[k][column];
      c[e] = sum;
    }
  }
}

template <class T>
void mma_16bit(void* const* lanes, int depth) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const Operands& mine = *static_cast<const Operands*>(lanes[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int half = 0; half < 2; ++half) {
      for (int step = 0; step < depth / 8; ++step) {
        const int k = step * 8 + 2 * t + half;
        a[g][k] = widen(T{}, mine.a[2 * step] >> 16 * half);
        a[g + 8][k] = widen(T{}, mine.a[2 * step + 1] >> 16 * half);
        b[k][g] = widen(T{}, mine.b[step] >> 16 * half);
      }
    }
  }
  multiply_add(lanes, a, b, depth);
}

inline void mma_tf32(void* const* lanes) {
  // hardware reads sign, exponent and ten bits of the mantissa
  const auto value = [](uint32_t bits) { return __uint_as_float(bits & 0xffffe000u); };
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const Operands& mine = *static_cast<const Operands*>(lanes[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) a[g + i % 2 * 8][t + i / 2 * 4] = value(mine.a[i]);
    for (int i = 0; i < 2; ++i) b[t + i * 4][g] = value(mine.b[i]);
  }
  multiply_add(lanes, a, b, 8);
}

template <int kMatrices>
void load_matrices(uint32_t (&r)[kMatrices], const void* row, bool transposed) {
  struct Argument {
    uint32_t* r;
    const uint16_t* row;
  } argument{r, static_cast<const uint16_t*>(row)};
  if (emulation::lane() < 8 * kMatrices) emulation::use_shared_by_warp(row, 16, 16);
  emulation::warp_instruction(transposed ? "ldmatrix.trans" : "ldmatrix", &argument, [=](void* const* lanes) {
    const auto at = [&](int lane) -> Argument& { return *static_cast<Argument*>(lanes[lane]); };
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4, t = lane % 4;
      for (int i = 0; i < kMatrices; ++i) {
        uint32_t pair = 0;
        for (int half = 0; half < 2; ++half) {
          const int j = 2 * t + half;
          const uint16_t value = transposed ? at(8 * i + j).row[g] : at(8 * i + g).row[j];
          pair |= static_cast<uint32_t>(value) << 16 * half;
        }
        at(lane).r[i] = pair;
      }
    }
  });
}

}  // namespace emulated

template <class T>
void mma_k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulated::Operands mine{c, a, {b0, b1}};
  emulation::warp_instruction("mma.m16n8k16", &mine, [](void* const* lanes) { emulated::mma_16bit<T>(lanes, 16); });
}

template <class T>
void mma_k8(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t b0) {
  const uint32_t a[2] = {a0, a1};
  emulated::Operands mine{c, a, {b0, 0}};
  emulation::warp_instruction("mma.m16n8k8", &mine, [](void* const* lanes) { emulated::mma_16bit<T>(lanes, 8); });
}

inline uint32_t to_tf32(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  // to nearest, ties away from zero; infinities and NaN have no mantissa to carry into
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
}

inline void mma_tf32(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  emulated::Operands mine{c, a, {b0, b1}};
  emulation::warp_instruction("mma.m16n8k8.tf32", &mine, [](void* const* lanes) { emulated::mma_tf32(lanes); });
}

inline void load_matrices(uint32_t (&r)[4], const void* row) { emulated::load_matrices(r, row, false); }
inline void load_matrices(uint32_t (&r)[2], const void* row) { emulated::load_matrices(r, row, false); }
inline void load_matrices_transposed(uint32_t (&r)[4], const void* row) { emulated::load_matrices(r, row, true); }
inline void load_matrices_transposed(uint32_t (&r)[2], const void* row) { emulated::load_matrices(r, row, true); }

}  // namespace weft
