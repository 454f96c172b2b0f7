// The instruction sets this processor offers, read once at run time.
#pragma once
#include <string>

namespace tramontane {

// "avx512", "avx2", "neon" or "scalar": the widest set whose every required feature the processor and the operating
// system support.
std::string best_instruction_set();

}  // namespace tramontane
