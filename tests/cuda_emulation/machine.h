// A block of CUDA threads on one CPU core: fibres that take turns, and watched memory. See README.md.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace emulation {

struct Index {
  unsigned x = 1, y = 1, z = 1;
};

struct Device {
  int multiprocessors, shared_per_block, shared_per_multiprocessor, major;
};
// Few multiprocessors, so that a small problem gives each block several tiles. 0: the least shared memory that sm_80
// and newer have; 1: as much as sm_90; 2: too old.
constexpr Device kDevices[] = {{2, 99 << 10, 100 << 10, 8}, {2, 227 << 10, 228 << 10, 9}, {2, 64 << 10, 64 << 10, 7}};

extern int device;        // the current one
extern int capture_mode;  // of the thread, a cudaStreamCaptureMode
extern int order;         // who runs first: 0 forwards, 1 backwards, others a shuffle of every round with this seed

// Forgets all global memory, or makes `bytes` from `begin` on known to kernels under a name.
void forget_memory();
void know_memory(const char* name, void* begin, int64_t bytes, bool writable);

// Runs the kernel for every block; false if something went wrong, and then failure() says what.
bool run(Index grid, Index block, size_t shared_bytes, const std::function<void()>& kernel);
const std::string& failure();

// --- from here on: called by the thread that is running ------------------------------------------------------------

// Ends the launch with a message.
[[noreturn]] void fail(const std::string& what);

int lane();
void block_barrier();
void warp_barrier();

// All 32 lanes of the warp bring an argument; the last to come runs the instruction on all of them.
void warp_instruction(const char* name, void* argument, const std::function<void(void* const*)>& execute);

char* shared_memory();
enum class Access { kRead, kWrite, kAtomic };
void use_shared(const void* address, size_t bytes, size_t alignment, Access access);
// A row that ldmatrix hands to other lanes: what was written must be visible to the whole warp, the writer included.
void use_shared_by_warp(const void* address, size_t bytes, size_t alignment);

enum class Global { kConstant, kOwn, kWrite };
void use_global(const void* address, size_t bytes, size_t alignment, Global access);

void copy_async(void* shared, const void* global, bool inside);
void commit_copies();
void wait_copies(int pending);

}  // namespace emulation
