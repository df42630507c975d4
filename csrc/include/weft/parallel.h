// Runs tasks on the threads the host program already has.
//
// PyTorch computes on the OpenMP runtime that is loaded with it, and that runtime's threads keep spinning for a while
// after each region. A second pool beside it would fight for the same cores, so we look the runtime up in the process
// and enter through GOMP_parallel, which libgomp, libomp and libiomp all have.
#pragma once

#include <cstdint>

namespace weft {

using Task = void (*)(void* context, int64_t task, int worker);

// Calls `run(context, task, worker)` once for every task in [0, tasks), on at most `threads` workers, and waits.
// Tasks are handed out in order as workers come free; `worker` < `threads` is the one at work. Where a task throws,
// the others that run are waited for, no further one begins, and the first exception is thrown here.
void parallel_for(int64_t tasks, int threads, void* context, Task run);

// Who runs the tasks: the path of the OpenMP runtime found in the process, or "std::thread".
const char* parallel_runtime();

}  // namespace weft
