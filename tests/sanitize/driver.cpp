// Calls native entry points without Python, for sanitizers to watch: driver --op OP --isa ISA --from I --count N.
// --list names the instruction sets that run here, --show each case.
//
// Exit status 0: every case came out right and no sanitizer reported. Whatever ends the process names its case first.
#include <sanitizer/common_interface_defs.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <stdexcept>
#include <string>
#include <thread>

#include "case.h"
#include "weft/cpu_features.h"
#include "weft/parallel.h"

namespace sanitize {
namespace {

constexpr int kMostThreads = 4;

struct Options {
  std::string op, isa = "scalar";
  int64_t from = 0, count = 1000, seed = 0;
  bool shows = false, lists = false;
};

using Maker = std::unique_ptr<Case> (*)(Draw&);
const std::map<std::string, Maker>& makers() {
  static const std::map<std::string, Maker> all = {
      {"attention", draw_attention}, {"lowrank_linear", draw_lowrank_linear}, {"parallel_for", draw_parallel_for}};
  return all;
}

std::string running;  // what a sanitizer's report ends with

void name_case() { std::fprintf(stderr, "\nwhile running:\n  %s\n", running.c_str()); }

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "wrong: %s\n", what.c_str());
  name_case();
  std::fflush(nullptr);
  std::_Exit(1);
}

// What a call throws; null if nothing.
std::exception_ptr attempt(Case& one, const std::string& isa, int threads) {
  try {
    one.call(isa, threads);
    return nullptr;
  } catch (...) {
    return std::current_exception();
  }
}

void expect(const Case& one, const std::exception_ptr& thrown) {
  try {
    if (thrown) std::rethrow_exception(thrown);
    if (one.is_invalid()) fail("the call must be refused, and was not");
  } catch (const std::invalid_argument& refusal) {
    if (!one.is_invalid()) fail(std::string("the call was refused: ") + refusal.what());
  }
}

void run(const Options& options, int64_t index) {
  Draw draw(options.seed, options.op, index);
  const Maker make = makers().at(options.op);
  Draw again = draw;
  const std::unique_ptr<Case> one = make(draw);
  const int threads = static_cast<int>(draw.between(1, kMostThreads));
  running = "driver --op " + options.op + " --isa " + options.isa + " --seed " + std::to_string(options.seed) +
            " --from " + std::to_string(index) + " --count 1\n  threads " + std::to_string(threads) + " " +
            one->describe();
  if (options.shows) std::printf("%s\n", running.c_str());

  std::exception_ptr thrown;
  if (draw.chance(0.5)) {
    // a thread keeps memory from call to call, in which a small case could hide; a new one has none
    std::thread([&] { thrown = attempt(*one, options.isa, threads); }).join();
  } else {
    thrown = attempt(*one, options.isa, threads);
  }
  expect(*one, thrown);
  if (one->is_invalid()) return;
  const std::string fault = one->fault(draw);
  if (!fault.empty()) fail(fault);

  if (draw.chance(0.2)) {
    const std::string before = one->result();
    one->clear();
    expect(*one, attempt(*one, options.isa, static_cast<int>(draw.between(1, kMostThreads))));
    if (one->result() != before) fail("another thread count changed the result");
  }
  if (draw.chance(0.05)) {
    // two callers at once, as two Python threads may be
    const std::unique_ptr<Case> twin = make(again);
    one->clear();
    std::thread other([&] { thrown = attempt(*twin, options.isa, threads); });
    expect(*one, attempt(*one, options.isa, threads));
    other.join();
    expect(*twin, thrown);
    if (one->result() != twin->result()) fail("two callers at once got different results");
  }
}

Options parse(int argc, char** argv) {
  Options options;
  const std::map<std::string, std::string*> words = {{"--op", &options.op}, {"--isa", &options.isa}};
  const std::map<std::string, int64_t*> numbers = {
      {"--from", &options.from}, {"--count", &options.count}, {"--seed", &options.seed}};
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--show") {
      options.shows = true;
    } else if (name == "--list") {
      options.lists = true;
    } else if (i + 1 < argc && words.count(name)) {
      *words.at(name) = argv[++i];
    } else if (i + 1 < argc && numbers.count(name)) {
      *numbers.at(name) = std::stoll(argv[++i]);
    } else {
      throw std::invalid_argument("unknown option " + name);
    }
  }
  if (!options.lists && !makers().count(options.op)) {
    throw std::invalid_argument("`--op` must be attention, lowrank_linear or parallel_for; got '" + options.op + "'");
  }
  return options;
}

}  // namespace
}  // namespace sanitize

int main(int argc, char** argv) {
  using namespace sanitize;
  Options options;
  try {
    options = parse(argc, argv);
    weft::find_instruction_set(options.isa);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "driver: %s\n", error.what());
    return 2;
  }
  if (options.lists) {
    for (const weft::InstructionSet& set : weft::instruction_sets()) {
      if (set.usable) std::printf("%s\n", set.name);
    }
    return 0;
  }
  __sanitizer_set_death_callback(name_case);
  if (std::string(weft::parallel_runtime()) != "std::thread")
    fail("an OpenMP runtime is loaded, which no sanitizer sees into");
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < options.count; ++i) run(options, options.from + i);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  running = "the leak check after all cases";
  std::printf("%s %s: %lld cases in %.1f s\n", options.op.c_str(), options.isa.c_str(),
              static_cast<long long>(options.count), took.count());
  return 0;
}
