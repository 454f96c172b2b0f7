// The instruction sets this processor offers and the one in use.
#pragma once
#include <string>
#include <vector>

namespace tramontane {

enum class InstructionSet { scalar, avx2, avx512, avx512_bf16, avx512_amx, neon, neon_dotprod };

// Sets this build holds and this processor and its operating system support, narrowest first.
std::vector<std::string> instruction_sets();

// The widest of them.
std::string best_instruction_set();

// The set in use: chosen at the first call from TRAMONTANE_CPU, else the widest. Throws std::invalid_argument when the
// variable names a set that is unknown or unavailable.
InstructionSet instruction_set();
std::string instruction_set_name();

// Use `name` from now on; no kernel may be running. Throws std::invalid_argument like instruction_set().
void set_instruction_set(const std::string& name);

}  // namespace tramontane
