// Products with quantised weights for processors without the dot product instruction (ARMv8.0).
#include <arm_neon.h>

namespace tramontane {
namespace {

template <int lane>
inline int32x4_t dot(int32x4_t sum, int8x16_t w, int8x16_t x) {
    const int8x16_t xl = vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(x), lane));
    const int32x4_t first = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(xl)));  // of two rows: two sums of two
    const int32x4_t second = vpaddlq_s16(vmull_high_s8(w, xl));
    return vaddq_s32(sum, vpaddq_s32(first, second));
}

}  // namespace
}  // namespace tramontane

#include "matmul_int_neon.h"

namespace tramontane {

void add_int_products_neon(Kernels& table) { add_int_products(table); }

}  // namespace tramontane
