#include "cpu_features.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace tramontane {
namespace {

constexpr const char* names[] = {"scalar", "avx2", "avx512"};
constexpr int unset = -1;
std::atomic<int> in_use{unset};

int parse(const std::string& name, const std::string& asked_by) {
    const std::vector<std::string> available = instruction_sets();
    std::string choices;
    for (size_t i = 0; i < available.size(); ++i) {
        if (available[i] == name) return static_cast<int>(i);
        choices += (i ? ", " : "") + available[i];
    }
    throw std::invalid_argument(asked_by + "=" + name + " is not available here; use one of " + choices);
}

}  // namespace

std::vector<std::string> instruction_sets() {
    std::vector<std::string> sets{names[0]};
#if defined(__x86_64__)
    __builtin_cpu_init();
    // __builtin_cpu_supports also asks the operating system (XGETBV) whether it saves the wide registers.
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
        sets.push_back(names[1]);
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
            __builtin_cpu_supports("avx512vnni"))
            sets.push_back(names[2]);
    }
#endif
    return sets;
}

std::string best_instruction_set() { return instruction_sets().back(); }

InstructionSet instruction_set() {
    int set = in_use.load(std::memory_order_relaxed);
    if (set == unset) {
        const char* forced = std::getenv("TRAMONTANE_CPU");
        set = parse(forced && *forced ? forced : best_instruction_set(), "TRAMONTANE_CPU");
        in_use.store(set, std::memory_order_relaxed);
    }
    return static_cast<InstructionSet>(set);
}

std::string instruction_set_name() { return names[static_cast<int>(instruction_set())]; }

void set_instruction_set(const std::string& name) { in_use.store(parse(name, "instruction set")); }

}  // namespace tramontane
