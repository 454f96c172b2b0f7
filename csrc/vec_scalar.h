// Vec: eight floats in plain C++, for the kernels written once over Vec (include from scalar files only).
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "half.h"

namespace tramontane {
namespace {

struct Vec {
    static constexpr int width = 8;
    float v[8];
};

template <class F>
inline Vec each(F f) {
    Vec out;
    for (int i = 0; i < 8; ++i) out.v[i] = f(i);
    return out;
}

inline Vec vload(const float* p) { return each([&](int i) { return p[i]; }); }
inline Vec vload_bf16(const uint16_t* p) { return each([&](int i) { return bf16_to_f32(p[i]); }); }
inline Vec vload_f16(const uint16_t* p) { return each([&](int i) { return f16_to_f32(p[i]); }); }
inline Vec vload_i8(const int8_t* p) { return each([&](int i) { return static_cast<float>(p[i]); }); }
inline Vec vload_bf16_even(const uint16_t* p) { return each([&](int i) { return bf16_to_f32(p[2 * i]); }); }
inline Vec vload_bf16_odd(const uint16_t* p) { return each([&](int i) { return bf16_to_f32(p[2 * i + 1]); }); }
inline void vstore(float* p, Vec a) { std::memcpy(p, a.v, sizeof a.v); }
inline void vstore_bf16(uint16_t* p, Vec a) {
    for (int i = 0; i < 8; ++i) p[i] = f32_to_bf16(a.v[i]);
}
inline void vstore_f16(uint16_t* p, Vec a) {
    for (int i = 0; i < 8; ++i) p[i] = f32_to_f16(a.v[i]);
}
inline Vec vset1(float x) { return each([&](int) { return x; }); }
inline Vec vset1_f16(uint16_t x) { return vset1(f16_to_f32(x)); }
inline Vec vadd(Vec a, Vec b) { return each([&](int i) { return a.v[i] + b.v[i]; }); }
inline Vec vsub(Vec a, Vec b) { return each([&](int i) { return a.v[i] - b.v[i]; }); }
inline Vec vmul(Vec a, Vec b) { return each([&](int i) { return a.v[i] * b.v[i]; }); }
inline Vec vdiv(Vec a, Vec b) { return each([&](int i) { return a.v[i] / b.v[i]; }); }
inline Vec vmax(Vec a, Vec b) { return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
inline Vec vmin(Vec a, Vec b) { return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; }); }
inline Vec vfma(Vec a, Vec b, Vec c) { return each([&](int i) { return a.v[i] * b.v[i] + c.v[i]; }); }  // a b + c
inline Vec vround(Vec a) { return each([&](int i) { return std::nearbyint(a.v[i]); }); }
// a * 2^n for whole n in -126…127; NaN where a is NaN
inline Vec vscale2(Vec a, Vec n) {
    return each([&](int i) {
        return a.v[i] * bits_float(static_cast<uint32_t>(n.v[i] == n.v[i] ? static_cast<int32_t>(n.v[i]) + 127 : 0) << 23);
    });
}
// lanes below n from a, the others from b
inline Vec vfirst(int n, Vec a, Vec b) { return each([&](int i) { return i < n ? a.v[i] : b.v[i]; }); }
// where a < b: x, elsewhere y
inline Vec vless(Vec a, Vec b, Vec x, Vec y) { return each([&](int i) { return a.v[i] < b.v[i] ? x.v[i] : y.v[i]; }); }
inline Vec vswap_pairs(Vec a) { return each([&](int i) { return a.v[i ^ 1]; }); }  // (0, 1), (2, 3), … exchanged
inline float vsum(Vec a) {
    const float b[4] = {a.v[0] + a.v[4], a.v[1] + a.v[5], a.v[2] + a.v[6], a.v[3] + a.v[7]};
    return (b[0] + b[2]) + (b[1] + b[3]);
}
// Lane i: the sum of a[i]'s lanes, in the same order for every i.
inline Vec vsum_each(const Vec (&a)[8]) {
    return each([&](int i) {
        const float* v = a[i].v;
        return ((v[0] + v[4]) + (v[1] + v[5])) + ((v[2] + v[6]) + (v[3] + v[7]));
    });
}
inline float vhmax(Vec a) {
    float m = a.v[0];
    for (int i = 1; i < 8; ++i) m = a.v[i] > m ? a.v[i] : m;
    return m;
}

}  // namespace
}  // namespace tramontane
