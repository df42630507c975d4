// Processor features by CPUID, and the operating system's consent to their registers by XGETBV.
#include "weft/cpu_features.h"

#include <cstdint>
#include <sstream>
#include <stdexcept>

#include "weft/build_config.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace weft {
namespace {

#if defined(__x86_64__)

enum Register { kEax, kEbx, kEcx, kEdx };

// registers the operating system must save at a context switch: bits of XCR0
constexpr uint64_t kYmm = 0x6, kZmm = 0xe6, kTiles = 0x60000;

struct Probe {
  const char* name;
  uint32_t leaf, subleaf;
  Register reg;
  int bit;
  uint64_t state;
};

// Intel SDM volume 2A, CPUID; AMD uses the same bits for what it has
constexpr Probe kProbes[] = {
    {"f16c", 1, 0, kEcx, 29, kYmm},       {"fma", 1, 0, kEcx, 12, kYmm},        {"avx2", 7, 0, kEbx, 5, kYmm},
    {"avx512f", 7, 0, kEbx, 16, kZmm},    {"avx512bw", 7, 0, kEbx, 30, kZmm},   {"avx512dq", 7, 0, kEbx, 17, kZmm},
    {"avx512vl", 7, 0, kEbx, 31, kZmm},   {"avx512vnni", 7, 0, kEcx, 11, kZmm}, {"avx512fp16", 7, 0, kEdx, 23, kZmm},
    {"avx512bf16", 7, 1, kEax, 5, kZmm},  {"amx-tile", 7, 0, kEdx, 24, kTiles}, {"amx-bf16", 7, 0, kEdx, 22, kTiles},
    {"amx-int8", 7, 0, kEdx, 25, kTiles},
};

bool has_bit(const Probe& probe) {
  uint32_t regs[4] = {0, 0, 0, 0};
  if (!__get_cpuid_count(probe.leaf, probe.subleaf, &regs[kEax], &regs[kEbx], &regs[kEcx], &regs[kEdx])) {
    return false;
  }
  return (regs[probe.reg] >> probe.bit) & 1u;
}

uint64_t saved_state() {
  constexpr Probe kOsxsave{"osxsave", 1, 0, kEcx, 27, 0};
  if (!has_bit(kOsxsave)) return 0;
  uint32_t low, high;
  // by hand: the intrinsic wants -mxsave, and this file must run on every x86-64
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

// Linux hands out the 8 KiB of tile registers only to a process that asks for them.
bool request_tiles() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

std::vector<CpuFeature> probe_features() {
  const uint64_t saved = saved_state();
  std::vector<CpuFeature> features;
  for (const Probe& probe : kProbes) {
    bool usable = has_bit(probe) && (saved & probe.state) == probe.state;
    if (usable && probe.state == kTiles) usable = request_tiles();
    features.push_back({probe.name, usable});
  }
  return features;
}

#else

std::vector<CpuFeature> probe_features() { return {}; }

#endif

bool has_feature(const std::string& name) {
  for (const CpuFeature& feature : cpu_features()) {
    if (feature.usable && feature.name == name) return true;
  }
  return false;
}

// `needs` lists feature names with spaces between, as build_config.h has them from the compiler flags.
bool has_all(const char* needs) {
  std::istringstream words(needs);
  for (std::string word; words >> word;) {
    if (!has_feature(word)) return false;
  }
  return true;
}

std::vector<InstructionSet>& table_of_sets() {
#define WEFT_ROW(name, needs) {#name, has_all(needs)},
  static std::vector<InstructionSet> sets = {WEFT_FOR_EACH_ISA(WEFT_ROW)};
#undef WEFT_ROW
  return sets;
}

}  // namespace

const std::vector<CpuFeature>& cpu_features() {
  static const std::vector<CpuFeature> features = probe_features();
  return features;
}

const std::vector<InstructionSet>& instruction_sets() { return table_of_sets(); }

void limit_instruction_sets(const std::string& strongest) {
  auto& sets = table_of_sets();
  const auto first_excluded = sets.begin() + find_instruction_set(strongest) + 1;
  for (auto set = first_excluded; set != sets.end(); ++set) set->usable = false;
}

int best_instruction_set() {
  const auto& sets = instruction_sets();
  int best = 0;
  for (int i = 0; i < static_cast<int>(sets.size()); ++i) {
    if (sets[i].usable) best = i;
  }
  return best;
}

int find_instruction_set(const std::string& name) {
  const auto& sets = instruction_sets();
  std::string usable;
  for (int i = 0; i < static_cast<int>(sets.size()); ++i) {
    if (!sets[i].usable) continue;
    if (name == sets[i].name) return i;
    usable += std::string(usable.empty() ? "" : ", ") + sets[i].name;
  }
  throw std::invalid_argument("instruction set must be one that is built and runs on this processor (" + usable +
                              "); got '" + name + "'");
}

}  // namespace weft
