// Products with quantised weights by the dot product instruction (FEAT_DotProd, optional from ARMv8.2 on).
#include <arm_neon.h>

namespace tramontane {
namespace {

template <int lane>
inline int32x4_t dot(int32x4_t sum, int8x16_t w, int8x16_t x) {
    return vdotq_laneq_s32(sum, w, x, lane);
}

}  // namespace
}  // namespace tramontane

#include "matmul_int_neon.h"

namespace tramontane {

void add_int_products_neon_dotprod(Kernels& table) { add_int_products(table); }

}  // namespace tramontane
