// Vec: eight floats in two NEON registers, for the kernels written once over Vec (include from AArch64 files only).
//
// Eight lanes, not the four of one register: sums run in the order of the AVX2 kernels, so that results have the same
// bits as theirs, the blocks of quantize_q4_k.h among them.
#pragma once
#include <arm_neon.h>

#include <cstdint>

namespace tramontane {
namespace {

struct Vec {
    static constexpr int width = 8;
    float32x4_t low, high;
};

inline float32x4_t bf16_low_half(uint32x4_t pairs) { return vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16)); }
inline float32x4_t bf16_high_half(uint32x4_t pairs) {
    return vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff0000u)));
}
inline uint32x4_t load_pairs(const uint16_t* p) { return vreinterpretq_u32_u16(vld1q_u16(p)); }

inline Vec vload(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
inline Vec vload_bf16(const uint16_t* p) {
    const uint16x8_t v = vld1q_u16(p);
    return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(v), 16)),
            vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(v), 16))};
}
inline Vec vload_f16(const uint16_t* p) {
    const uint16x8_t v = vld1q_u16(p);
    return {vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(v))), vcvt_f32_f16(vreinterpret_f16_u16(vget_high_u16(v)))};
}
inline Vec vload_bf16_even(const uint16_t* p) { return {bf16_low_half(load_pairs(p)), bf16_low_half(load_pairs(p + 8))}; }
inline Vec vload_bf16_odd(const uint16_t* p) { return {bf16_high_half(load_pairs(p)), bf16_high_half(load_pairs(p + 8))}; }
inline Vec vload_i8(const int8_t* p) {
    const int16x8_t v = vmovl_s8(vld1_s8(p));
    return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(v))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(v)))};
}
inline void vstore(float* p, Vec a) {
    vst1q_f32(p, a.low);
    vst1q_f32(p + 4, a.high);
}
inline uint16x4_t to_bf16(float32x4_t a) {
    const uint32x4_t bits = vreinterpretq_u32_f32(a);
    const uint32x4_t even = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), even);
    const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
    return vshrn_n_u32(vbslq_u32(vceqq_f32(a, a), rounded, quiet), 16);
}
inline void vstore_bf16(uint16_t* p, Vec a) { vst1q_u16(p, vcombine_u16(to_bf16(a.low), to_bf16(a.high))); }
inline void vstore_f16(uint16_t* p, Vec a) {
    const uint16x4_t low = vreinterpret_u16_f16(vcvt_f16_f32(a.low)), high = vreinterpret_u16_f16(vcvt_f16_f32(a.high));
    vst1q_u16(p, vcombine_u16(low, high));
}
inline Vec vset1(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x)}; }
inline Vec vset1_f16(uint16_t x) {
    const float32x4_t v = vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(x)));
    return {v, v};
}
inline Vec vadd(Vec a, Vec b) { return {vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)}; }
inline Vec vsub(Vec a, Vec b) { return {vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)}; }
inline Vec vmul(Vec a, Vec b) { return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)}; }
inline Vec vdiv(Vec a, Vec b) { return {vdivq_f32(a.low, b.low), vdivq_f32(a.high, b.high)}; }
// Comparisons and not FMAX, FMIN: of a NaN and a number these return the second operand, like the other Vecs.
inline float32x4_t larger(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
inline float32x4_t smaller(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
inline Vec vmax(Vec a, Vec b) { return {larger(a.low, b.low), larger(a.high, b.high)}; }
inline Vec vmin(Vec a, Vec b) { return {smaller(a.low, b.low), smaller(a.high, b.high)}; }
inline Vec vfma(Vec a, Vec b, Vec c) {  // a b + c
    return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)};
}
inline Vec vround(Vec a) { return {vrndnq_f32(a.low), vrndnq_f32(a.high)}; }
// a * 2^n for whole n in -126…127
inline float32x4_t scale2(float32x4_t a, float32x4_t n) {
    const int32x4_t exponent = vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127));
    return vmulq_f32(a, vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23)));
}
inline Vec vscale2(Vec a, Vec n) { return {scale2(a.low, n.low), scale2(a.high, n.high)}; }
// lanes below n from a, the others from b
inline Vec vfirst(int n, Vec a, Vec b) {
    static constexpr int32_t lanes[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    const int32x4_t limit = vdupq_n_s32(n);
    return {vbslq_f32(vcgtq_s32(limit, vld1q_s32(lanes)), a.low, b.low),
            vbslq_f32(vcgtq_s32(limit, vld1q_s32(lanes + 4)), a.high, b.high)};
}
// where a < b: x, elsewhere y
inline Vec vless(Vec a, Vec b, Vec x, Vec y) {
    return {vbslq_f32(vcltq_f32(a.low, b.low), x.low, y.low), vbslq_f32(vcltq_f32(a.high, b.high), x.high, y.high)};
}
inline Vec vswap_pairs(Vec a) { return {vrev64q_f32(a.low), vrev64q_f32(a.high)}; }  // (0, 1), (2, 3), … exchanged
inline float vsum(Vec a) {
    const float32x4_t quarter = vaddq_f32(a.low, a.high);
    const float32x2_t half = vadd_f32(vget_low_f32(quarter), vget_high_f32(quarter));
    return vget_lane_f32(half, 0) + vget_lane_f32(half, 1);
}
// Lane i: the sum of a[i]'s lanes, in the same order for every i.
inline Vec vsum_each(const Vec (&a)[8]) {
    float32x4_t half[8];
    for (int i = 0; i < 8; ++i) half[i] = vaddq_f32(a[i].low, a[i].high);
    const auto four = [&](int i) {
        return vpaddq_f32(vpaddq_f32(half[i], half[i + 1]), vpaddq_f32(half[i + 2], half[i + 3]));
    };
    return {four(0), four(4)};
}
inline float vhmax(Vec a) { return vmaxvq_f32(larger(a.low, a.high)); }

}  // namespace
}  // namespace tramontane
