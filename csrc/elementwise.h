// Everything between the products, over Vec. Each row is computed by itself, its sums in one fixed order.
#pragma once
#include "half.h"
#include "kernels.h"

namespace tramontane {
namespace {

// The Vec at p of which only n lanes may be read; the others are zero.
inline Vec load_part(const float* p, int64_t n) {
    if (n >= Vec::width) return vload(p);
    alignas(64) float lanes[Vec::width] = {};
    for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
    return vload(lanes);
}

inline void store_part(float* p, int64_t n, Vec a) {
    if (n >= Vec::width) {
        vstore(p, a);
        return;
    }
    alignas(64) float lanes[Vec::width];
    vstore(lanes, a);
    for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}

// e^x within 2 units in the last place: 2^n e^r, |r| <= ln 2 / 2, Taylor's polynomial of degree 7. 0 below -87.3 and
// e^88.3 above 88.3, so that no intermediate overflows; NaN stays NaN (vmax and vmin return their second operand then).
inline Vec vexp(Vec x) {
    const Vec bounded = vmin(vset1(88.3f), vmax(vset1(-87.3f), x));
    const Vec n = vround(vmul(bounded, vset1(1.44269504f)));
    const Vec r = vfma(n, vset1(-1.42860677e-6f), vfma(n, vset1(-0.693145752f), bounded));  // ln 2 in two parts
    Vec p = vset1(1.98412698e-4f);
    p = vfma(p, r, vset1(1.38888889e-3f));
    p = vfma(p, r, vset1(8.33333333e-3f));
    p = vfma(p, r, vset1(4.16666667e-2f));
    p = vfma(p, r, vset1(1.66666667e-1f));
    p = vfma(p, r, vset1(0.5f));
    p = vfma(p, r, vset1(1.0f));
    p = vfma(p, r, vset1(1.0f));
    return vless(x, vset1(-87.3f), vset1(0.0f), vscale2(p, n));
}

inline void rms_norm(const NormCall& call) {
    const float inverse_dim = 1.0f / static_cast<float>(call.dim);
    for (int64_t row = 0; row < call.num_rows; ++row) {
        const float* x = call.x + row * call.dim;
        float* out = call.out + row * call.dim;
        Vec sums[4] = {vset1(0.0f), vset1(0.0f), vset1(0.0f), vset1(0.0f)};
        int64_t i = 0;
        for (; i + 4 * Vec::width <= call.dim; i += 4 * Vec::width)
            for (int j = 0; j < 4; ++j) {
                const Vec v = vload(x + i + j * Vec::width);
                sums[j] = vfma(v, v, sums[j]);
            }
        for (; i < call.dim; i += Vec::width) {
            const Vec v = load_part(x + i, call.dim - i);
            sums[0] = vfma(v, v, sums[0]);
        }
        const float mean = vsum(vadd(vadd(sums[0], sums[1]), vadd(sums[2], sums[3]))) * inverse_dim;
        const Vec scale = vset1(1.0f / __builtin_sqrtf(mean + call.eps));
        for (i = 0; i < call.dim; i += Vec::width) {
            const int64_t left = call.dim - i;
            const Vec scaled = vmul(load_part(x + i, left), scale);
            store_part(out + i, left, vmul(scaled, load_part(call.weight + i, left)));
        }
    }
}

inline void swiglu(const float* gate, const float* up, int64_t count, float* out) {
    const Vec one = vset1(1.0f), zero = vset1(0.0f);
    for (int64_t i = 0; i < count; i += Vec::width) {
        const int64_t left = count - i;
        const Vec g = load_part(gate + i, left);
        const Vec silu = vdiv(g, vadd(one, vexp(vsub(zero, g))));
        store_part(out + i, left, vmul(silu, load_part(up + i, left)));
    }
}

inline void add(const float* a, const float* b, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i += Vec::width) {
        const int64_t left = count - i;
        store_part(out + i, left, vadd(load_part(a + i, left), load_part(b + i, left)));
    }
}

// out += scale * x
inline void add_scaled_row(const float* x, float scale, int64_t count, float* out) {
    for (int64_t i = 0; i < count; i += Vec::width) {
        const int64_t left = count - i;
        store_part(out + i, left, vadd(load_part(out + i, left), vmul(load_part(x + i, left), vset1(scale))));
    }
}

inline Vec load_element(const float* p) { return vload(p); }
inline Vec load_element(const uint16_t* p) { return vload_f16(p); }

template <class Element>
inline Vec load_element_part(const Element* p, int64_t n) {
    if (n >= Vec::width) return load_element(p);
    alignas(64) Element lanes[Vec::width] = {};
    for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
    return load_element(lanes);
}

template <class Element>
inline void add_low_rank(const LowRankCall& call) {
    float hidden[max_rank];
    for (int64_t r = 0; r < call.rank; ++r) {
        const Element* a = static_cast<const Element*>(call.a) + r * call.in_features;
        Vec sums[4] = {vset1(0.0f), vset1(0.0f), vset1(0.0f), vset1(0.0f)};
        int64_t i = 0;
        for (; i + 4 * Vec::width <= call.in_features; i += 4 * Vec::width)
            for (int j = 0; j < 4; ++j)
                sums[j] = vfma(vload(call.x + i + j * Vec::width), load_element(a + i + j * Vec::width), sums[j]);
        for (; i < call.in_features; i += Vec::width) {
            const int64_t left = call.in_features - i;
            sums[0] = vfma(load_part(call.x + i, left), load_element_part(a + i, left), sums[0]);
        }
        hidden[r] = call.scale * vsum(vadd(vadd(sums[0], sums[1]), vadd(sums[2], sums[3])));
    }
    constexpr int vecs = static_cast<int>(low_rank_panel / Vec::width);
    const Element* b = static_cast<const Element*>(call.b);
    for (int64_t i = 0; i < call.out_features; i += low_rank_panel) {
        Vec sums[vecs];
        for (int j = 0; j < vecs; ++j) sums[j] = vset1(0.0f);
        for (int64_t r = 0; r < call.rank; ++r, b += low_rank_panel) {
            const Vec h = vset1(hidden[r]);
            for (int j = 0; j < vecs; ++j) sums[j] = vfma(load_element(b + j * Vec::width), h, sums[j]);
        }
        for (int j = 0; j < vecs; ++j) {
            const int64_t left = call.out_features - i - j * Vec::width;
            if (left <= 0) break;
            float* out = call.out + i + j * Vec::width;
            store_part(out, left, vadd(load_part(out, left), sums[j]));
        }
    }
}

inline void low_rank(const LowRankCall& call) {
    if (call.is_half)
        add_low_rank<uint16_t>(call);
    else
        add_low_rank<float>(call);
}

inline void rotate(const RotateCall& call) {
    const int64_t pairs = call.head_dim / 2;
    for (int64_t row = 0; row < call.num_rows; ++row) {
        const float* cosine = call.cosine + row * pairs;
        const float* sine = call.sine + row * pairs;
        // (c, c) and (-s, s) for each pair: out = x * c + (x with its pairs exchanged) * s
        alignas(64) float c[max_head_dim + 16], s[max_head_dim + 16];
        for (int64_t i = 0; i < pairs; ++i) {
            c[2 * i] = c[2 * i + 1] = cosine[i];
            s[2 * i] = -sine[i];
            s[2 * i + 1] = sine[i];
        }
        for (int64_t head = 0; head < call.num_heads; ++head) {
            const float* x = call.x + row * call.x_stride + head * call.head_dim;
            float* out = call.out + row * call.out_stride + head * call.head_dim;
            for (int64_t i = 0; i < call.head_dim; i += Vec::width) {
                const int64_t left = call.head_dim - i;
                const Vec v = load_part(x + i, left);
                store_part(out + i, left, vadd(vmul(v, vload(c + i)), vmul(vswap_pairs(v), vload(s + i))));
            }
        }
    }
}

// 32 values -> a block of a KV page (ops/page_types.py): the smallest float16 scale that reaches the largest value with
// 127, and values to nearest even; a scale that is NaN where one is not finite.
inline void to_q8_0(const float* x, BlockQ8_0& block) {
    Vec largest = vset1(0.0f), mark = largest;  // mark: zero, or NaN if a value is not finite
    for (int k = 0; k < 32; k += Vec::width) {
        const Vec v = vload(x + k);
        largest = vmax(largest, vmax(v, vsub(vset1(0.0f), v)));
        mark = vfma(v, vset1(0.0f), mark);
    }
    const float exact = vhmax(largest) / 127.0f;
    uint16_t d = f32_to_f16(exact);
    if (f16_to_f32(d) < exact) ++d;
    if (vsum(mark) != 0.0f || d >= 0x7c00u) d = 0x7e00u;  // no finite float16 is large enough, or there is none
    const float step = f16_to_f32(d);
    const Vec inverse = vset1(step > 0.0f ? 1.0f / step : 0.0f);
    alignas(64) float q[32];
    for (int k = 0; k < 32; k += Vec::width) vstore(q + k, vround(vmul(vload(x + k), inverse)));
    for (int k = 0; k < 32; ++k) block.q[k] = step > 0.0f ? static_cast<int8_t>(q[k]) : int8_t{0};
    block.d = d;
}

// count floats -> elements of a KV page, to nearest even; of q8_0 a multiple of 32
inline void to_page(const float* x, int64_t count, PageType type, void* out) {
    if (type == PageType::q8_0) {
        for (int64_t i = 0; i < count; i += 32) {
            BlockQ8_0 block;
            to_q8_0(x + i, block);
            __builtin_memcpy(static_cast<uint8_t*>(out) + i / 32 * static_cast<int64_t>(sizeof block), &block, sizeof block);
        }
        return;
    }
    if (type == PageType::f32) {
        __builtin_memcpy(out, x, static_cast<size_t>(count) * sizeof(float));
        return;
    }
    uint16_t* to = static_cast<uint16_t*>(out);
    for (int64_t i = 0; i < count; i += Vec::width) {
        const int64_t left = count - i;
        const Vec v = load_part(x + i, left);
        alignas(64) uint16_t lanes[Vec::width];
        uint16_t* place = left >= Vec::width ? to + i : lanes;
        if (type == PageType::bf16)
            vstore_bf16(place, v);
        else
            vstore_f16(place, v);
        if (place == lanes) __builtin_memcpy(to + i, lanes, static_cast<size_t>(left) * sizeof(uint16_t));
    }
}

}  // namespace
}  // namespace tramontane
