// What the processor and its operating system let a program execute, asked once.
#pragma once

#include <string>
#include <vector>

namespace weft {

// One extension as compilers spell it in -m flags: "avx2", "avx512bw", "amx-bf16".
struct CpuFeature {
  const char* name;
  bool usable;
};

// Every extension that some kernel may be compiled for; empty off x86-64.
const std::vector<CpuFeature>& cpu_features();

// One instruction set that kernels are compiled for (build_native.py: INSTRUCTION_SETS), weakest first.
struct InstructionSet {
  const char* name;
  bool usable;
};

// The instruction sets in this build; the first is always "scalar" and always usable.
const std::vector<InstructionSet>& instruction_sets();

// From now on this process behaves as on a processor that has nothing beyond `strongest`. Not for use beside running
// kernels. Throws as find_instruction_set.
void limit_instruction_sets(const std::string& strongest);

// Position in instruction_sets() of the strongest usable one, or of `name`.
// Throws std::invalid_argument for a name that is not built or that this processor cannot execute.
int best_instruction_set();
int find_instruction_set(const std::string& name);

}  // namespace weft
