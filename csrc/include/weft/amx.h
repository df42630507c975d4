// AMX tiles: eight registers of 16 rows x 64 bytes. -DWEFT_EMULATE_AMX puts plain code in their place, so that kernels
// written for them can be executed, and tested, on a processor without them.
#pragma once

#include <cstdint>
#include <cstring>

#if !defined(WEFT_EMULATE_AMX)
#include <immintrin.h>
#endif

namespace weft {
namespace {

constexpr int kTileRows = 16;
constexpr int kTileBytes = 64;  // a row: 16 fp32 values, or 16 pairs of bf16
constexpr int kTilePairs = 16;

#if defined(WEFT_EMULATE_AMX)

thread_local unsigned char emulated_tiles[8][kTileRows][kTileBytes];

struct TileScope {};

inline void emulated_zero(int tile) { memset(emulated_tiles[tile], 0, sizeof emulated_tiles[tile]); }
inline void emulated_load(int tile, const void* p, int64_t stride_bytes) {
  for (int r = 0; r < kTileRows; ++r) {
    memcpy(emulated_tiles[tile][r], static_cast<const char*>(p) + r * stride_bytes, kTileBytes);
  }
}
inline void emulated_store(int tile, void* p, int64_t stride_bytes) {
  for (int r = 0; r < kTileRows; ++r) {
    memcpy(static_cast<char*>(p) + r * stride_bytes, emulated_tiles[tile][r], kTileBytes);
  }
}

inline float emulated_bfloat(const unsigned char* p) {
  uint16_t half;
  memcpy(&half, p, 2);
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

// C[m, n] += sum over pairs k of A[m, 2k] B[k, 2n] + A[m, 2k + 1] B[k, 2n + 1]
inline void emulated_dot(int c, int a, int b) {
  for (int m = 0; m < kTileRows; ++m) {
    for (int n = 0; n < kTilePairs; ++n) {
      float acc;
      memcpy(&acc, &emulated_tiles[c][m][4 * n], 4);
      for (int k = 0; k < kTilePairs; ++k) {
        for (int half = 0; half < 4; half += 2) {
          acc += emulated_bfloat(&emulated_tiles[a][m][4 * k + half]) *
                 emulated_bfloat(&emulated_tiles[b][k][4 * n + half]);
        }
      }
      memcpy(&emulated_tiles[c][m][4 * n], &acc, 4);
    }
  }
}

#define WEFT_TILE_ZERO(tile) emulated_zero(tile)
#define WEFT_TILE_LOAD(tile, p, stride_bytes) emulated_load(tile, p, stride_bytes)
#define WEFT_TILE_STORE(tile, p, stride_bytes) emulated_store(tile, p, stride_bytes)
#define WEFT_TILE_DOT(c, a, b) emulated_dot(c, a, b)

#else

// gcc's header says of no instruction what it reads beyond the first 8 bytes: without this, stores before one may be
// dropped or come after it. A configuration whose stores were dropped is a fault of the processor.
inline void finish_stores() { __asm__ volatile("" ::: "memory"); }

// The tiles are full-sized within its life, and free for the next thread of the core after it.
class TileScope {
 public:
  TileScope() {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int tile = 0; tile < 8; ++tile) {
      config.row_bytes[tile] = kTileBytes;
      config.rows[tile] = kTileRows;
    }
    finish_stores();
    _tile_loadconfig(&config);
  }
  ~TileScope() { _tile_release(); }
};

// gcc pastes the tile's number into assembler text, so it must be a literal: macros, not templates
#define WEFT_TILE_ZERO(tile) _tile_zero(tile)
#define WEFT_TILE_LOAD(tile, p, stride_bytes) \
  do {                                        \
    finish_stores();                          \
    _tile_loadd(tile, p, stride_bytes);       \
  } while (0)
#define WEFT_TILE_STORE(tile, p, stride_bytes) _tile_stored(tile, p, stride_bytes)
#define WEFT_TILE_DOT(c, a, b) _tile_dpbf16ps(c, a, b)

#endif

}  // namespace
}  // namespace weft
