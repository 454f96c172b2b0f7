#include "cpu_features.h"

namespace tramontane {

std::string best_instruction_set() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    // __builtin_cpu_supports also asks the operating system (XGETBV) whether it saves the wide registers.
    const bool avx2 =
        __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
    if (avx2 && avx512) return "avx512";
    if (avx2) return "avx2";
    return "scalar";
#elif defined(__aarch64__)
    return "neon";
#else
    return "scalar";
#endif
}

}  // namespace tramontane
