// Asks of the workspace what kernels rely on. Prints what failed; 0 if nothing did.
#include <atomic>
#include <cstdio>
#include <stdexcept>

#include "weft/aligned_memory.h"
#include "weft/parallel.h"
#include "weft/workspace.h"

namespace {

int failures = 0;

void expect(bool holds, const char* what) {
  if (!holds) ++failures, std::printf("not so: %s\n", what);
}

template <class Error, class Call>
void expect_throws(Call call, const char* what) {
  try {
    call();
  } catch (const Error&) {
    return;
  }
  expect(false, what);
}

struct Layout {
  weft::Span<float> floats;
  weft::Span<char> bytes, none;

  explicit Layout(weft::Carver& carver)
      : floats(carver.take<float>(3, 5)), bytes(carver.take<char>(70)), none(carver.take<char>(0, 9)) {}
};

void check_carver() {
  weft::Carver counting;
  expect(!Layout(counting).floats.data, "a Carver that counts hands no memory out");
  weft::AlignedMemory memory(counting.bytes());
  weft::Carver carving(memory.span(counting.bytes()));
  Layout layout(carving);
  expect(carving.bytes() == counting.bytes(), "the size counted is the size taken");
  expect(layout.floats.size == 15 && layout.bytes.size == 70 && !layout.none.size, "spans have the size asked for");
  expect(reinterpret_cast<uintptr_t>(layout.bytes.data) % 64 == 0, "spans are aligned");
  expect(layout.bytes.data - reinterpret_cast<char*>(layout.floats.data) >= 60, "spans do not overlap");

  weft::Carver narrow(memory.span(counting.bytes() - 1));
  expect_throws<std::logic_error>([&] { Layout{narrow}; }, "a layout that does not fit is not handed out");
  weft::Carver carver;
  expect_throws<std::length_error>([&] { carver.take<float>(-1, 2); }, "negative sizes are refused");
  expect_throws<std::length_error>([&] { carver.take<float>(int64_t{1} << 32, int64_t{1} << 31); },
                                   "sizes beyond an int64 are refused");
  expect_throws<std::length_error>([&] { carver.take<char>(INT64_MAX), carver.take<char>(INT64_MAX); },
                                   "sums beyond an int64 are refused");
}

void check_spans() {
  float values[8] = {};
  const weft::Span<float> span{values, 8};
  weft::at(weft::part(span, 5, 3), 2) = 1.0f;
  expect(values[7] == 1.0f, "a part begins where it was asked for");
  expect(weft::part(span, 8, 0).size == 0, "nothing fits behind the end");
  for (int64_t first : {int64_t{-1}, int64_t{7}, INT64_MAX}) {
    expect_throws<std::logic_error>([&] { weft::part(span, first, 2); }, "a part lies inside");
  }
  expect_throws<std::logic_error>([&] { weft::part(span, 0, -1); }, "a part is not negative");
  expect_throws<std::logic_error>([&] { weft::at(span, 8); }, "an element lies inside");
  expect(weft::as<char>(span).size == 32, "a span of another type has as many bytes");
}

void fail_at_three(void* context, int64_t task, int) {
  if (task == 3) throw std::logic_error("three");
  static_cast<std::atomic<int>*>(context)->fetch_add(1);
}

void check_parallel() {
  for (int threads : {1, 2, 4}) {
    std::atomic<int> done{0};
    expect_throws<std::logic_error>([&] { weft::parallel_for(100, threads, &done, fail_at_three); },
                                    "a task's exception reaches the caller");
    expect(done.load() < 100, "no task begins after one has failed");
    done = 0;
    weft::parallel_for(3, threads, &done, fail_at_three);
    expect(done.load() == 3, "all tasks run");
  }
}

}  // namespace

int main() {
  check_carver();
  check_spans();
  check_parallel();
  return failures;
}
