// Fibres, barriers, and the copies that are on their way. Memory is watched in watch.cpp.
#include "machine.h"

#include <ucontext.h>
#include <algorithm>
#include <csetjmp>
#include <cstring>
#include <deque>
#include <memory>
#include <numeric>
#include <random>

#include "watch.h"

emulation::Index threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

int device = 0;
int capture_mode = 0;
int order = 0;

namespace {

constexpr int kLanes = 32;
constexpr size_t kStackBytes = 256 << 10;

struct Copy {
  char* to;
  const char* from;
  bool inside;
};

struct Fibre {
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  ucontext_t entry;
  jmp_buf resume;
  bool started, finished;
  const uint64_t* counter;  // runs on once *counter reaches `goal`
  uint64_t goal;
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> groups;
};

struct Warp {
  const char* instruction;
  int arrived;
  uint64_t executed, synchronised;
  void* arguments[kLanes];
};

struct Block {
  int arrived;
  uint64_t synchronised;
};

std::vector<std::unique_ptr<Fibre>> fibres;
std::vector<Warp> warps;
Block block;
int current;
jmp_buf scheduler;
const std::function<void()>* body;
std::string message;

enum Return { kFirst, kYielded, kFailed };

void start_fibre() {
  (*body)();
  fibres[current]->finished = true;
  _longjmp(scheduler, kYielded);
}

// setcontext and makecontext only enter a new stack; to switch they would make a system call each time
void resume(int thread) {
  current = thread;
  threadIdx.x = thread;
  Fibre& fibre = *fibres[thread];
  if (fibre.started) _longjmp(fibre.resume, 1);
  fibre.started = true;
  getcontext(&fibre.entry);
  fibre.entry.uc_stack.ss_sp = fibre.stack.get();
  fibre.entry.uc_stack.ss_size = kStackBytes;
  fibre.entry.uc_link = nullptr;
  makecontext(&fibre.entry, start_fibre, 0);
  setcontext(&fibre.entry);
}

void wait_until(const uint64_t& counter, uint64_t goal) {
  Fibre& fibre = *fibres[current];
  if (counter >= goal) return;
  fibre.counter = &counter;
  fibre.goal = goal;
  if (_setjmp(fibre.resume) == 0) _longjmp(scheduler, kYielded);
}

// Lets a thread run until it has to wait; the scheduler's own variables live in the callers, beyond every longjmp.
[[gnu::noinline]] Return take_turn(int thread) {
  const int back = _setjmp(scheduler);
  if (back == kFirst) resume(thread);
  return static_cast<Return>(back);
}

bool can_run(const Fibre& fibre) { return !fibre.finished && (!fibre.counter || *fibre.counter >= fibre.goal); }

std::string describe(int thread) {
  return "block " + std::to_string(blockIdx.x) + "," + std::to_string(blockIdx.y) + " thread " +
         std::to_string(thread);
}

void run_block(int threads, std::mt19937& random) {
  for (int i = 0; i < threads; ++i) {
    Fibre& fibre = *fibres[i];
    fibre.started = fibre.finished = false;
    fibre.counter = nullptr;
    fibre.open.clear();
    fibre.groups.clear();
  }
  warps.assign((threads + kLanes - 1) / kLanes, Warp{});
  block = Block{};
  begin_block();

  std::vector<int> turns(threads);
  std::iota(turns.begin(), turns.end(), 0);
  if (order == 1) std::reverse(turns.begin(), turns.end());

  for (int left = threads; left > 0;) {
    bool progress = false;
    if (order > 1) std::shuffle(turns.begin(), turns.end(), random);
    for (const int thread : turns) {
      if (!can_run(*fibres[thread])) continue;
      if (take_turn(thread) == kFailed) return;
      progress = true;
      left -= fibres[thread]->finished;
    }
    if (!progress) {
      const auto waiting = std::find_if(fibres.begin(), fibres.end(), [](const auto& x) { return !x->finished; });
      message = describe(static_cast<int>(waiting - fibres.begin())) +
                ": waits at a barrier or in an instruction of its warp that others never reach";
      return;
    }
  }
}

}  // namespace

bool run(Index grid, Index size, size_t shared_bytes, const std::function<void()>& kernel) {
  message.clear();
  const int threads = static_cast<int>(size.x);
  if (size.y != 1 || size.z != 1 || grid.z != 1 || threads < 1 || threads > 1024 || threads % kLanes) {
    message = "the emulation runs blocks of whole warps in one dimension, in grids of two";
  }
  if (shared_bytes > static_cast<size_t>(kDevices[device].shared_per_block)) {
    message = "a block asks for " + std::to_string(shared_bytes) + " bytes of shared memory";
  }
  if (!message.empty()) return false;
  while (static_cast<int>(fibres.size()) < threads) fibres.push_back(std::make_unique<Fibre>());
  body = &kernel;
  gridDim = grid;
  blockDim = size;
  begin_launch(shared_bytes);
  std::mt19937 random(static_cast<unsigned>(order));
  for (unsigned y = 0; y < grid.y; ++y) {
    for (unsigned x = 0; x < grid.x; ++x) {
      blockIdx = {x, y, 0};
      run_block(threads, random);
      if (!message.empty()) return false;
    }
  }
  return true;
}

const std::string& failure() { return message; }

void fail(const std::string& what) {
  message = describe(current) + ": " + what;
  _longjmp(scheduler, kFailed);
}

int lane() { return current % kLanes; }

Moment now(int thread) { return {thread, block.synchronised, warps[thread / kLanes].synchronised}; }

Moment now() { return now(current); }

int thread_in_launch() { return static_cast<int>((blockIdx.y * gridDim.x + blockIdx.x) * blockDim.x) + current; }

void block_barrier() {
  const uint64_t goal = block.synchronised + 1;
  if (++block.arrived == static_cast<int>(blockDim.x)) {
    block.arrived = 0;
    ++block.synchronised;
  }
  wait_until(block.synchronised, goal);
}

void warp_instruction(const char* name, void* argument, const std::function<void(void* const*)>& execute) {
  Warp& warp = warps[current / kLanes];
  if (warp.arrived && std::strcmp(warp.instruction, name) != 0) {
    fail(std::string("is at ") + name + " while a lane of its warp is at " + warp.instruction);
  }
  warp.instruction = name;
  warp.arguments[lane()] = argument;
  const uint64_t goal = warp.executed + 1;
  if (++warp.arrived == kLanes) {
    warp.arrived = 0;
    execute(warp.arguments);
    ++warp.executed;
  }
  wait_until(warp.executed, goal);
}

void warp_barrier() {
  Warp& warp = warps[current / kLanes];
  warp_instruction("__syncwarp", nullptr, [&](void* const*) { ++warp.synchronised; });
}

void copy_async(void* shared, const void* global, bool inside) {
  if (inside) use_global(global, 16, 16, Global::kConstant);
  begin_copy(shared, 16);
  fibres[current]->open.push_back({static_cast<char*>(shared), static_cast<const char*>(global), inside});
}

void commit_copies() {
  Fibre& fibre = *fibres[current];
  fibre.groups.push_back(std::move(fibre.open));
  fibre.open.clear();
}

void wait_copies(int pending) {
  Fibre& fibre = *fibres[current];
  while (static_cast<int>(fibre.groups.size()) > pending) {
    for (const Copy& copy : fibre.groups.front()) {
      // only now: a thread that looked earlier has seen what was there before
      if (copy.inside) {
        std::memcpy(copy.to, copy.from, 16);
      } else {
        std::memset(copy.to, 0, 16);
      }
      end_copy(copy.to, 16);
    }
    fibre.groups.pop_front();
  }
}

}  // namespace emulation
