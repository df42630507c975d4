// Between machine.cpp, which knows who runs when, and watch.cpp, which judges each access by it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulation {

// Who, and after how many barriers of the block and of the thread's warp.
struct Moment {
  int thread;
  uint64_t block_barriers, warp_barriers;
};

Moment now();
Moment now(int thread);
int thread_in_launch();  // unlike any other thread's of the launch

void begin_launch(size_t shared_bytes);
void begin_block();

// 16 bytes are on their way into shared memory; they have arrived.
void begin_copy(void* shared, size_t bytes);
void end_copy(void* shared, size_t bytes);

}  // namespace emulation
