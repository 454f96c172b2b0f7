// Vec: sixteen floats in one AVX-512 register, for the kernels written once over Vec (include from AVX-512 files only).
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace tramontane {
namespace {

struct Vec {
    static constexpr int width = 16;
    __m512 v;
};

inline Vec vload(const float* p) { return {_mm512_loadu_ps(p)}; }
inline Vec vload_bf16(const uint16_t* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
inline Vec vload_f16(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline Vec vload_i8(const int8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))};
}
inline Vec vload_bf16_even(const uint16_t* p) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16))};
}
inline Vec vload_bf16_odd(const uint16_t* p) {
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    return {_mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), high))};
}
inline void vstore(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
inline void vstore_bf16(uint16_t* p, Vec a) {
    const __m512i bits = _mm512_castps_si512(a.v);
    const __m512i even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), even);
    const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
    rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
}
inline void vstore_f16(uint16_t* p, Vec a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline Vec vset1(float x) { return {_mm512_set1_ps(x)}; }
inline Vec vset1_f16(uint16_t x) { return {_mm512_cvtph_ps(_mm256_set1_epi16(static_cast<int16_t>(x)))}; }
inline Vec vadd(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Vec vsub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Vec vmul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Vec vdiv(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Vec vmax(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Vec vmin(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Vec vfma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }  // a b + c
inline Vec vround(Vec a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
// a * 2^n for whole n in -126…127
inline Vec vscale2(Vec a, Vec n) {
    const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
    return {_mm512_mul_ps(a.v, _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23)))};
}
// lanes below n from a, the others from b
inline Vec vfirst(int n, Vec a, Vec b) {
    const __mmask16 lanes = static_cast<__mmask16>(n >= 16 ? 0xffffu : n <= 0 ? 0u : (1u << n) - 1);
    return {_mm512_mask_blend_ps(lanes, b.v, a.v)};
}
// where a < b: x, elsewhere y
inline Vec vless(Vec a, Vec b, Vec x, Vec y) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v)};
}
inline Vec vswap_pairs(Vec a) { return {_mm512_permute_ps(a.v, 0xb1)}; }  // (0, 1), (2, 3), … exchanged
inline float vsum(Vec a) {
    const __m256 high = _mm512_extractf32x8_ps(a.v, 1);
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a.v), high);
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_shuffle_ps(sum, sum, 1)));
}
// Lane i: the sum of a[i]'s lanes, in the same order for every i.
inline Vec vsum_each(const Vec (&a)[16]) {
    __m512 half[8], quarter[4];
    for (int i = 0; i < 8; ++i)  // 128-bit lanes 0, 1: of a[i]; 2, 3: of a[i + 8]
        half[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a[i].v, a[i + 8].v, 0x44),
                                _mm512_shuffle_f32x4(a[i].v, a[i + 8].v, 0xee));
    for (int i = 0; i < 4; ++i)  // 128-bit lanes of a[i], a[i + 8], a[i + 4], a[i + 12]
        quarter[i] = _mm512_add_ps(_mm512_shuffle_f32x4(half[i], half[i + 4], 0x88),
                                   _mm512_shuffle_f32x4(half[i], half[i + 4], 0xdd));
    const __m512 low01 = _mm512_unpacklo_ps(quarter[0], quarter[1]), high01 = _mm512_unpackhi_ps(quarter[0], quarter[1]);
    const __m512 low23 = _mm512_unpacklo_ps(quarter[2], quarter[3]), high23 = _mm512_unpackhi_ps(quarter[2], quarter[3]);
    const __m512 sum0 = _mm512_add_ps(_mm512_shuffle_ps(low01, low23, 0x44), _mm512_shuffle_ps(low01, low23, 0xee));
    const __m512 sum1 = _mm512_add_ps(_mm512_shuffle_ps(high01, high23, 0x44), _mm512_shuffle_ps(high01, high23, 0xee));
    const __m512 sum = _mm512_add_ps(sum0, sum1);
    return {_mm512_shuffle_f32x4(sum, sum, 0xd8)};
}
inline float vhmax(Vec a) {
    const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}

}  // namespace
}  // namespace tramontane
