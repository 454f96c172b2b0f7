#include "cpu_features.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace tramontane {
namespace {

constexpr const char* names[] = {"scalar", "avx2", "avx512", "avx512_bf16",
                                   "avx512_amx", "neon", "neon_dotprod"};  // InstructionSet
constexpr int unset = -1;
std::atomic<int> in_use{unset};

const char* name_of(InstructionSet set) { return names[static_cast<int>(set)]; }

#if defined(__aarch64__)
bool has_dot_product() {
#if defined(__APPLE__)
    return true;  // since the first processor of its kind
#elif defined(__linux__)
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
    return false;
#endif
}
#endif

#if defined(__x86_64__)
// Tiles that multiply bf16 and bytes, which the operating system hands out on request (to the process, for all its threads).
bool has_tiles() {
#if defined(__linux__) && defined(SYS_arch_prctl)
    static const bool was_granted = [] {
        constexpr long ask_for_state = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
        unsigned a, b, c, d;
        constexpr unsigned products_and_tiles = 1u << 22 | 1u << 24 | 1u << 25;
        return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & products_and_tiles) == products_and_tiles &&
               syscall(SYS_arch_prctl, ask_for_state, tile_data) == 0;
    }();
    return was_granted;
#else
    return false;
#endif
}
#endif

std::vector<InstructionSet> available_sets() {
    std::vector<InstructionSet> sets{InstructionSet::scalar};
#if defined(__x86_64__)
    __builtin_cpu_init();
    // __builtin_cpu_supports also asks the operating system (XGETBV) whether it saves the wide registers.
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
        sets.push_back(InstructionSet::avx2);
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
            __builtin_cpu_supports("avx512vnni")) {
            sets.push_back(InstructionSet::avx512);
            if (__builtin_cpu_supports("avx512bf16")) {
                sets.push_back(InstructionSet::avx512_bf16);
                if (has_tiles()) sets.push_back(InstructionSet::avx512_amx);
            }
        }
    }
#elif defined(__aarch64__)
    sets.push_back(InstructionSet::neon);  // every processor of this architecture has it
    if (has_dot_product()) sets.push_back(InstructionSet::neon_dotprod);
#endif
    return sets;
}

int parse(const std::string& name, const std::string& asked_by) {
    std::string choices;
    for (const InstructionSet set : available_sets()) {
        if (name == name_of(set)) return static_cast<int>(set);
        choices += (choices.empty() ? "" : ", ") + std::string(name_of(set));
    }
    throw std::invalid_argument(asked_by + "=" + name + " is not available here; use one of " + choices);
}

}  // namespace

std::vector<std::string> instruction_sets() {
    std::vector<std::string> available;
    for (const InstructionSet set : available_sets()) available.push_back(name_of(set));
    return available;
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

std::string instruction_set_name() { return name_of(instruction_set()); }

void set_instruction_set(const std::string& name) { in_use.store(parse(name, "instruction set")); }

}  // namespace tramontane
