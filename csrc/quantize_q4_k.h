// 256 float32 values -> one q4_k block, over Vec: small whole numbers of two shared float16 steps for every 32 values.
//
// A sub-block is x ~ scale * q - min with q = 0…15. Its error is weighted by w = |x| + rms(x): large weights matter more.
//   1. For every sub-block, several grids for q; for each, the scale and min that fit it best (weighted least squares,
//      min >= 0). The best stays.
//   2. The shared steps d and dmin are the largest scale and min over 63; the whole numbers around scale / d and
//      min / dmin are tried, every pair with its own best q.
//   3. With all whole numbers fixed, d and dmin are fitted once more and step 2 is repeated; the best block stays.
// Eight lanes and no fused multiply-add: the same bytes on every processor. Values so large that their squares overflow
// leave every error infinite or NaN; the block then holds a step that is not finite and marks them.
#pragma once
#include "half.h"
#include "weight_formats.h"

namespace tramontane {
namespace {

constexpr int sub_vecs = 32 / Vec::width;

struct SubBlock {
    Vec x[sub_vecs], w[sub_vecs], q[sub_vecs];
    float sum_w, sum_wx;
    float scale, min;  // before they become whole numbers
    int whole_scale, whole_min;
};

inline Vec multiply_add(Vec a, Vec b, Vec c) { return vadd(vmul(a, b), c); }

// q of every value for x ~ scale * q - min; returns the weighted square error.
inline float choose_levels(const SubBlock& s, float scale, float min, Vec (&q)[sub_vecs]) {
    const Vec inverse = vset1(scale > 0.0f ? 1.0f / scale : 0.0f), step = vset1(scale), offset = vset1(min);
    Vec error = vset1(0.0f);
    for (int i = 0; i < sub_vecs; ++i) {
        const Vec level = vmul(vadd(s.x[i], offset), inverse);
        q[i] = vround(vmin(vset1(15.0f), vmax(vset1(0.0f), level)));
        const Vec miss = vsub(vadd(s.x[i], offset), vmul(step, q[i]));
        error = multiply_add(vmul(s.w[i], miss), miss, error);
    }
    return vsum(error);
}

// The scale and min >= 0 that fit the levels best; left as they are where no positive scale does.
inline void fit_sub_block(const SubBlock& s, const Vec (&q)[sub_vecs], float* scale, float* min) {
    Vec vq = vset1(0.0f), vqq = vq, vxq = vq;
    for (int i = 0; i < sub_vecs; ++i) {
        const Vec wq = vmul(s.w[i], q[i]);
        vq = vadd(vq, wq);
        vqq = multiply_add(wq, q[i], vqq);
        vxq = multiply_add(wq, s.x[i], vxq);
    }
    const double w = s.sum_w, wx = s.sum_wx, wq = vsum(vq), wqq = vsum(vqq), wxq = vsum(vxq);
    const double determinant = w * wqq - wq * wq;
    if (determinant > 0) {
        const double fitted_scale = (w * wxq - wq * wx) / determinant, fitted_min = (wq * wxq - wqq * wx) / determinant;
        if (fitted_scale > 0 && fitted_min >= 0) {
            *scale = static_cast<float>(fitted_scale);
            *min = static_cast<float>(fitted_min);
            return;
        }
    }
    if (wqq > 0 && wxq > 0) {
        *scale = static_cast<float>(wxq / wqq);
        *min = 0.0f;
    }
}

inline void search_sub_block(const float* x, SubBlock& s) {
    float low = 0.0f, high = x[0];
    Vec squares = vset1(0.0f);
    for (int i = 0; i < sub_vecs; ++i) {
        s.x[i] = vload(x + i * Vec::width);
        squares = multiply_add(s.x[i], s.x[i], squares);
    }
    for (int k = 0; k < 32; ++k) {
        low = x[k] < low ? x[k] : low;
        high = x[k] > high ? x[k] : high;
    }
    const Vec rms = vset1(__builtin_sqrtf(vsum(squares) / 32.0f)), zero = vset1(0.0f);
    Vec w = zero, wx = zero;
    for (int i = 0; i < sub_vecs; ++i) {
        s.w[i] = vadd(rms, vmax(s.x[i], vsub(zero, s.x[i])));
        w = vadd(w, s.w[i]);
        wx = multiply_add(s.w[i], s.x[i], wx);
    }
    s.sum_w = vsum(w);
    s.sum_wx = vsum(wx);
    s.scale = 0.0f;
    s.min = -low;
    s.whole_scale = s.whole_min = 0;
    for (Vec& q : s.q) q = zero;
    if (high <= low) return;  // all equal and not positive: the min alone is exact
    float best = __builtin_inff();
    for (int i = -12; i <= 12; i += 2) {  // 13.8 to 16.2 levels over the range: ends cut off, ends not reached
        float scale = (high - low) / (15.0f + 0.1f * static_cast<float>(i)), min = -low;
        Vec q[sub_vecs];
        choose_levels(s, scale, min, q);
        fit_sub_block(s, q, &scale, &min);
        const float error = choose_levels(s, scale, min, q);
        if (error < best) {
            best = error;
            s.scale = scale;
            s.min = min;
        }
    }
}

inline int within_63(int value) { return value < 0 ? 0 : value > 63 ? 63 : value; }

// Whole numbers of d and dmin for every sub-block; returns the weighted square error of the block.
inline float round_scales(SubBlock (&sub)[8], float d, float dmin) {
    float total = 0.0f;
    for (SubBlock& s : sub) {
        const int scale = d > 0.0f ? within_63(static_cast<int>(s.scale / d + 0.5f)) : 0;
        const int min = dmin > 0.0f ? within_63(static_cast<int>(s.min / dmin + 0.5f)) : 0;
        float best = __builtin_inff();
        Vec q[sub_vecs];
        for (int i = within_63(scale - 1); i <= within_63(scale + 1); ++i) {
            for (int j = within_63(min - 1); j <= within_63(min + 1); ++j) {
                const float error = choose_levels(s, d * static_cast<float>(i), dmin * static_cast<float>(j), q);
                if (error < best) {
                    best = error;
                    s.whole_scale = i;
                    s.whole_min = j;
                    for (int k = 0; k < sub_vecs; ++k) s.q[k] = q[k];
                }
            }
        }
        total += best;
    }
    return total;
}

// d and dmin that fit the whole numbers and levels best: x ~ d * (scale * q) - dmin * min.
inline void fit_block(const SubBlock (&sub)[8], float* d, float* dmin) {
    double aa = 0, ab = 0, bb = 0, ax = 0, bx = 0;
    for (const SubBlock& s : sub) {
        Vec vq = vset1(0.0f), vqq = vq, vxq = vq;
        for (int i = 0; i < sub_vecs; ++i) {
            const Vec wq = vmul(s.w[i], s.q[i]);
            vq = vadd(vq, wq);
            vqq = multiply_add(wq, s.q[i], vqq);
            vxq = multiply_add(wq, s.x[i], vxq);
        }
        const double scale = s.whole_scale, min = -s.whole_min;
        aa += scale * scale * vsum(vqq);
        ab += scale * min * vsum(vq);
        bb += min * min * s.sum_w;
        ax += scale * vsum(vxq);
        bx += min * s.sum_wx;
    }
    const double determinant = aa * bb - ab * ab;
    if (determinant > 0) {
        const double fitted_d = (bb * ax - ab * bx) / determinant, fitted_dmin = (aa * bx - ab * ax) / determinant;
        if (fitted_d > 0 && fitted_dmin >= 0) {
            *d = static_cast<float>(fitted_d);
            *dmin = static_cast<float>(fitted_dmin);
        }
    } else if (aa > 0 && ax > 0) {
        *d = static_cast<float>(ax / aa);
    }
}

inline void write_block(const SubBlock (&sub)[8], uint16_t d, uint16_t dmin, BlockQ4_K& block) {
    block.d = d;
    block.dmin = dmin;
    for (int s = 0; s < 4; ++s) {
        const SubBlock &low = sub[s], &high = sub[s + 4];
        block.scales[s] = static_cast<uint8_t>(low.whole_scale | high.whole_scale >> 4 << 6);
        block.scales[s + 4] = static_cast<uint8_t>(low.whole_min | high.whole_min >> 4 << 6);
        block.scales[s + 8] = static_cast<uint8_t>((high.whole_scale & 15) | (high.whole_min & 15) << 4);
    }
    for (int pair = 0; pair < 4; ++pair) {
        alignas(64) float low[32], high[32];
        for (int i = 0; i < sub_vecs; ++i) {
            vstore(low + i * Vec::width, sub[2 * pair].q[i]);
            vstore(high + i * Vec::width, sub[2 * pair + 1].q[i]);
        }
        for (int k = 0; k < 32; ++k)
            block.q[pair * 32 + k] = static_cast<uint8_t>(static_cast<int>(low[k]) | static_cast<int>(high[k]) << 4);
    }
}

inline void quantize_q4_k(const float* x, BlockQ4_K& block) {
    static_assert(Vec::width == 8, "the order of the sums, hence the bytes, must not depend on the processor");
    SubBlock sub[8];
    float largest_scale = 0.0f, largest_min = 0.0f;
    for (int i = 0; i < 8; ++i) {
        search_sub_block(x + i * 32, sub[i]);
        largest_scale = sub[i].scale > largest_scale ? sub[i].scale : largest_scale;
        largest_min = sub[i].min > largest_min ? sub[i].min : largest_min;
    }
    float d = largest_scale / 63.0f, dmin = largest_min / 63.0f, best = __builtin_inff();
    for (int round = 0; round < 3; ++round) {
        const uint16_t d16 = f32_to_f16(d), dmin16 = f32_to_f16(dmin);
        const float error = round_scales(sub, f16_to_f32(d16), f16_to_f32(dmin16));
        if (round == 0 || error < best) {
            best = error;
            write_block(sub, d16, dmin16, block);
        }
        fit_block(sub, &d, &dmin);
    }
}

}  // namespace
}  // namespace tramontane
