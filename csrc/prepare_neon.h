// Activations -> prepared activations with NEON. Offsets are one int32: -zero_point times the sum of the values.
#pragma once
#include <arm_neon.h>

#include "prepare.h"

namespace tramontane {
namespace {

inline BlockScale block_scale(const float* x, int n) {  // n a multiple of 4
    uint32x4_t largest = vdupq_n_u32(0);
    for (int i = 0; i < n; i += 4)
        largest = vmaxq_u32(largest, vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x + i)), vdupq_n_u32(0x7fffffff)));
    return block_scale(static_cast<int>(vmaxvq_u32(largest)));
}

// 16 floats -> 16 int8. With inverse == 0 (zero or not finite) the result is zero, never an overflow.
inline int8x16_t quantise_16(const float* x, float inverse) {
    if (inverse == 0.0f) return vdupq_n_s8(0);
    int16x4_t q[4];
    for (int i = 0; i < 4; ++i) q[i] = vqmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i * 4), inverse)));
    return vcombine_s8(vqmovn_s16(vcombine_s16(q[0], q[1])), vqmovn_s16(vcombine_s16(q[2], q[3])));
}

inline void store_interleaved(int8x16_t q, uint8_t* out, int num_rows) {  // four groups of four values
    int8_t values[16];
    vst1q_s8(values, q);
    for (int g = 0; g < 4; ++g) __builtin_memcpy(out + g * num_rows * 4, values + g * 4, 4);
}

template <int row_tile>
void prepare_q8_32(const PrepareCall& call) {
    const Prepared prepared(call.prepared, ActivationForm::q8_32, call.in_features, call.num_rows);
    for_each_row_chunk(call, row_tile, num_chunks(prepared.form, call.in_features),
                       [&](int64_t chunk, int64_t tile, int rows, int r, int64_t row) {
        const Rows to = prepared.at(chunk, tile);
        const float* x = call.x + row * call.x_stride + chunk * 256;
        const int blocks = static_cast<int>(at_most(call.in_features - chunk * 256, 256) / 32);
        for (int b = 0; b < blocks; ++b, x += 32) {
            const BlockScale scale = block_scale(x, 32);
            int sum = 0;
            for (int half = 0; half < 2; ++half) {
                const int8x16_t q = quantise_16(x + half * 16, scale.inverse);
                store_interleaved(q, const_cast<uint8_t*>(to.q) + ((b * 8 + half * 4) * rows + r) * 4, rows);
                sum += vaddlvq_s8(q);
            }
            const_cast<float*>(to.d)[b * rows + r] = scale.d;
            const_cast<int32_t*>(to.offset)[b * rows + r] = sum * -8;
        }
    });
}

template <int row_tile>
void prepare_q8_256(const PrepareCall& call) {
    const Prepared prepared(call.prepared, ActivationForm::q8_256, call.in_features, call.num_rows);
    for_each_row_chunk(call, row_tile, num_chunks(prepared.form, call.in_features),
                       [&](int64_t chunk, int64_t tile, int rows, int r, int64_t row) {
        const Rows to = prepared.at(chunk, tile);
        const float* x = call.x + row * call.x_stride + chunk * 256;
        const BlockScale scale = block_scale(x, 256);
        const_cast<float*>(to.d)[r] = scale.d;
        for (int s = 0; s < 8; ++s) {
            int sum = 0;
            for (int half = 0; half < 2; ++half) {
                const int8x16_t q = quantise_16(x + s * 32 + half * 16, scale.inverse);
                store_interleaved(q, const_cast<uint8_t*>(to.q) + ((s * 8 + half * 4) * rows + r) * 4, rows);
                const int half_sum = vaddlvq_s8(q);
                const_cast<int32_t*>(to.offset)[(s * 2 + half) * rows + r] = half_sum * -32;
                sum += half_sum;
            }
            const int16_t word = static_cast<int16_t>(sum);
            __builtin_memcpy(reinterpret_cast<int16_t*>(const_cast<int32_t*>(to.sums) + s / 2 * rows + r) + s % 2, &word,
                             sizeof word);
        }
    });
}

}  // namespace
}  // namespace tramontane
