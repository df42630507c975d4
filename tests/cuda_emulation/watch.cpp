// Bounds, races, and reads of what was never written.
//
// Shared memory is watched in cells of two bytes, by order and not by luck: an access is safe after another thread's
// only if a barrier of the block lies between, or one of the warp if both are in it. Whether the fibres happened to
// run in a harmless order does not matter.
#include "watch.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "machine.h"

namespace emulation {
namespace {

constexpr size_t kCell = 2;
constexpr int kNobody = -1, kSeveralWarps = -2;
constexpr int kWarpOf = -64;  // kWarpOf - w: several lanes of warp w

enum State : uint8_t { kEmpty, kFull, kArriving };

struct Cell {
  Moment written{kNobody, 0, 0}, read{kNobody, 0, 0}, atomic{kNobody, 0, 0};
  State state = kEmpty;
};

std::unique_ptr<char[]> shared_buffer;
char* shared_begin = nullptr;
size_t shared_size = 0;
std::vector<Cell> cells;

int warp_of(int who) { return who <= kWarpOf ? kWarpOf - who : who / 32; }

// Whether what happened `then` is over and visible for a thread at `moment`.
bool ordered(const Moment& then, const Moment& moment) {
  if (then.thread == kNobody || then.block_barriers < moment.block_barriers) return true;
  if (then.thread == kSeveralWarps) return false;
  if (then.thread == moment.thread) return true;
  return warp_of(then.thread) == warp_of(moment.thread) && then.warp_barriers < moment.warp_barriers;
}

std::string place(const void* address) {
  return "byte " + std::to_string(static_cast<const char*>(address) - shared_begin) + " of " +
         std::to_string(shared_size) + " of shared memory";
}

std::string name(int who) {
  if (who == kSeveralWarps) return "threads of several warps";
  if (who <= kWarpOf) return "lanes of warp " + std::to_string(kWarpOf - who);
  return "thread " + std::to_string(who);
}

void check_alignment(const void* address, size_t alignment, const char* memory) {
  if (reinterpret_cast<uintptr_t>(address) % alignment == 0) return;
  fail(std::string(memory) + " access at an address that is no multiple of " + std::to_string(alignment));
}

Cell* cells_of(const void* address, size_t bytes, size_t alignment) {
  const char* begin = static_cast<const char*>(address);
  if (begin < shared_begin || begin + bytes > shared_begin + shared_size) {
    fail(place(address) + ": access of " + std::to_string(bytes) + " bytes is out of bounds");
  }
  check_alignment(address, alignment, "shared");
  return &cells[(begin - shared_begin) / kCell];
}

void note_reader(Cell& cell, const Moment& moment) {
  if (cell.read.thread != kNobody && cell.read.block_barriers == moment.block_barriers &&
      cell.read.thread != moment.thread) {
    const bool one_warp = cell.read.thread != kSeveralWarps && warp_of(cell.read.thread) == warp_of(moment.thread);
    cell.read.thread = one_warp ? kWarpOf - warp_of(moment.thread) : kSeveralWarps;
  } else {
    cell.read.thread = moment.thread;
  }
  cell.read.block_barriers = moment.block_barriers;
  cell.read.warp_barriers = moment.warp_barriers;
}

void check_order(const Moment& then, const Moment& moment, const void* address, const char* now, const char* before) {
  if (ordered(then, moment)) return;
  fail(place(address) + ": " + now + " without a barrier after the " + before + " of " + name(then.thread));
}

void read_cell(Cell& cell, const Moment& moment, const void* address) {
  if (cell.state == kArriving) fail(place(address) + ": read while a cp.async to it has not been waited for");
  if (cell.state == kEmpty) fail(place(address) + ": read, but it was never written");
  check_order(cell.written, moment, address, "read", "write");
  check_order(cell.atomic, moment, address, "read", "atomic change");
  note_reader(cell, moment);
}

void write_cell(Cell& cell, const Moment& moment, const void* address, State state) {
  if (cell.state == kArriving) fail(place(address) + ": written while a cp.async to it has not been waited for");
  check_order(cell.written, moment, address, "written", "write");
  check_order(cell.atomic, moment, address, "written", "atomic change");
  check_order(cell.read, moment, address, "written", "read");
  cell.written = moment;
  cell.state = state;
}

// Atomic changes need no order among themselves, but one with all other accesses.
void touch_atomically(Cell& cell, const Moment& moment, const void* address) {
  if (cell.state != kFull) fail(place(address) + ": changed atomically, but it was never written");
  check_order(cell.written, moment, address, "changed atomically", "write");
  check_order(cell.read, moment, address, "changed atomically", "read");
  cell.atomic = moment;
  cell.atomic.thread = kSeveralWarps;
}

struct Region {
  std::string name;
  char* begin;
  size_t bytes;
  bool writable;
  std::vector<int> writers;  // of this launch, one a cell; 0 for none
};

std::vector<Region> regions;

Region& region_of(const void* address, size_t bytes) {
  const char* begin = static_cast<const char*>(address);
  for (Region& region : regions) {
    if (begin >= region.begin && begin + bytes <= region.begin + region.bytes) return region;
  }
  std::string near;
  for (const Region& region : regions) {
    const int64_t offset = begin - region.begin;
    if (offset > -4096 && offset < static_cast<int64_t>(region.bytes) + 4096) {
      near = "; `" + region.name + "` has " + std::to_string(region.bytes) + " bytes, this is at byte " +
             std::to_string(offset);
    }
  }
  fail("global access of " + std::to_string(bytes) + " bytes is out of bounds" + near);
}

}  // namespace

void forget_memory() { regions.clear(); }

void know_memory(const char* name, void* begin, int64_t bytes, bool writable) {
  regions.push_back({name, static_cast<char*>(begin), static_cast<size_t>(bytes), writable, {}});
}

void begin_launch(size_t shared_bytes) {
  // the address a kernel sees is a multiple of 16 and of nothing more
  shared_buffer.reset(new char[shared_bytes + 64]);
  const uintptr_t start = (reinterpret_cast<uintptr_t>(shared_buffer.get()) + 31) / 32 * 32 + 16;
  shared_begin = reinterpret_cast<char*>(start);
  shared_size = shared_bytes;
  for (Region& region : regions) region.writers.assign(region.writable ? (region.bytes + 1) / kCell : 0, 0);
}

void begin_block() {
  cells.assign((shared_size + 1) / kCell, Cell{});
  std::fill_n(shared_begin, shared_size, '\xff');  // NaN, should it get through
}

char* shared_memory() { return shared_begin; }

void use_shared(const void* address, size_t bytes, size_t alignment, Access access) {
  Cell* cell = cells_of(address, bytes, alignment);
  const Moment moment = now();
  for (size_t i = 0; i < bytes / kCell; ++i) {
    if (access == Access::kRead) read_cell(cell[i], moment, address);
    if (access == Access::kWrite) write_cell(cell[i], moment, address, kFull);
    if (access == Access::kAtomic) touch_atomically(cell[i], moment, address);
  }
}

void use_shared_by_warp(const void* address, size_t bytes, size_t alignment) {
  Cell* cell = cells_of(address, bytes, alignment);
  Moment moment = now();
  moment.thread = kWarpOf - moment.thread / 32;
  for (size_t i = 0; i < bytes / kCell; ++i) read_cell(cell[i], moment, address);
}

void begin_copy(void* shared, size_t bytes) {
  Cell* cell = cells_of(shared, bytes, bytes);
  for (size_t i = 0; i < bytes / kCell; ++i) write_cell(cell[i], now(), shared, kArriving);
}

void end_copy(void* shared, size_t bytes) {
  Cell* cell = cells_of(shared, bytes, bytes);
  for (size_t i = 0; i < bytes / kCell; ++i) {
    cell[i].written = now();
    cell[i].state = kFull;
  }
}

void use_global(const void* address, size_t bytes, size_t alignment, Global access) {
  Region& region = region_of(address, bytes);
  check_alignment(address, alignment, "global");
  if (access == Global::kWrite && !region.writable) fail("store to `" + region.name + "`, which is an input");
  if (!region.writable) return;
  const size_t first = (static_cast<const char*>(address) - region.begin) / kCell;
  const int me = thread_in_launch() + 1;
  for (size_t i = first; i < first + std::max<size_t>(bytes / kCell, 1); ++i) {
    int& writer = region.writers[i];
    if (writer && (access == Global::kConstant || writer != me)) {
      fail("`" + region.name + "` at byte " + std::to_string(i * kCell) + ": " +
           (access == Global::kWrite ? "two threads write one place" : "read what this launch writes"));
    }
    if (access == Global::kWrite) writer = me;
  }
}

}  // namespace emulation
