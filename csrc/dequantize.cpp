#include "dequantize.h"

#include <cstring>

#include "half.h"
#include "thread_pool.h"

namespace tramontane {

ScaleMin scale_min(const uint8_t* scales, int s) {
    if (s < 4) return {static_cast<uint8_t>(scales[s] & 63), static_cast<uint8_t>(scales[s + 4] & 63)};
    const uint8_t low = scales[s + 4];  // bytes 8…11: low nibbles of both
    return {static_cast<uint8_t>((low & 15) | (scales[s - 4] >> 6) << 4),
            static_cast<uint8_t>((low >> 4) | (scales[s] >> 6) << 4)};
}

void dequantize_block(const BlockQ8_0& block, float* out) {
    const float d = f16_to_f32(block.d);
    for (int k = 0; k < 32; ++k) out[k] = static_cast<float>(block.q[k]) * d;
}

void dequantize_block(const BlockQ4_0& block, float* out) {
    const float d = f16_to_f32(block.d);
    for (int k = 0; k < 16; ++k) {
        out[k] = d * static_cast<float>((block.q[k] & 15) - 8);
        out[k + 16] = d * static_cast<float>((block.q[k] >> 4) - 8);
    }
}

void dequantize_block(const BlockQ4_K& block, float* out) {
    const float d = f16_to_f32(block.d), dmin = f16_to_f32(block.dmin);
    for (int s = 0; s < 8; ++s) {
        const ScaleMin sm = scale_min(block.scales, s);
        const float scale = d * static_cast<float>(sm.scale), min = dmin * static_cast<float>(sm.min);
        const uint8_t* q = block.q + s / 2 * 32;
        const int shift = s % 2 * 4;
        for (int k = 0; k < 32; ++k) out[s * 32 + k] = scale * static_cast<float>(q[k] >> shift & 15) - min;
    }
}

void dequantize_block(const BlockQ5_K& block, float* out) {
    const float d = f16_to_f32(block.d), dmin = f16_to_f32(block.dmin);
    for (int s = 0; s < 8; ++s) {
        const ScaleMin sm = scale_min(block.scales, s);
        const float scale = d * static_cast<float>(sm.scale), min = dmin * static_cast<float>(sm.min);
        const uint8_t* q = block.q + s / 2 * 32;
        const int shift = s % 2 * 4;
        for (int k = 0; k < 32; ++k) {
            const int value = (q[k] >> shift & 15) | (block.qh[k] >> s & 1) << 4;
            out[s * 32 + k] = scale * static_cast<float>(value) - min;
        }
    }
}

void dequantize_block(const BlockQ6_K& block, float* out) {
    const float d = f16_to_f32(block.d);
    for (int half = 0; half < 2; ++half) {
        for (int quarter = 0; quarter < 4; ++quarter) {
            const uint8_t* ql = block.ql + half * 64 + quarter % 2 * 32;
            const uint8_t* qh = block.qh + half * 32;
            const int8_t* scales = block.scales + half * 8 + quarter * 2;
            const float first = d * static_cast<float>(scales[0]), second = d * static_cast<float>(scales[1]);
            float* y = out + half * 128 + quarter * 32;
            for (int k = 0; k < 32; ++k) {
                const int value = (ql[k] >> (quarter / 2 * 4) & 15) | (qh[k] >> quarter * 2 & 3) << 4;
                y[k] = (k < 16 ? first : second) * static_cast<float>(value - 32);
            }
        }
    }
}

namespace {

template <class Block>
void dequantize_range(const void* blocks, int64_t begin, int64_t end, float* out) {
    constexpr int size = sizeof(Block) == sizeof(BlockQ8_0) || sizeof(Block) == sizeof(BlockQ4_0) ? 32 : 256;
    const uint8_t* bytes = static_cast<const uint8_t*>(blocks);
    for (int64_t i = begin / size; i < end / size; ++i) {
        Block block;  // blocks are not aligned in a file
        std::memcpy(&block, bytes + i * static_cast<int64_t>(sizeof block), sizeof block);
        dequantize_block(block, out + i * size);
    }
}

void dequantize_values(WeightFormat format, const void* blocks, int64_t begin, int64_t end, float* out) {
    const uint8_t* bytes = static_cast<const uint8_t*>(blocks);
    switch (format) {
        case WeightFormat::f32: std::memcpy(out + begin, bytes + begin * 4, static_cast<size_t>(end - begin) * 4); break;
        case WeightFormat::bf16:
        case WeightFormat::f16:
            for (int64_t i = begin; i < end; ++i) {
                uint16_t value;
                std::memcpy(&value, bytes + i * 2, sizeof value);
                out[i] = format == WeightFormat::bf16 ? bf16_to_f32(value) : f16_to_f32(value);
            }
            break;
        case WeightFormat::q8_0: dequantize_range<BlockQ8_0>(blocks, begin, end, out); break;
        case WeightFormat::q4_0: dequantize_range<BlockQ4_0>(blocks, begin, end, out); break;
        case WeightFormat::q4_k: dequantize_range<BlockQ4_K>(blocks, begin, end, out); break;
        case WeightFormat::q5_k: dequantize_range<BlockQ5_K>(blocks, begin, end, out); break;
        case WeightFormat::q6_k: dequantize_range<BlockQ6_K>(blocks, begin, end, out); break;
    }
}

}  // namespace

void dequantize(WeightFormat format, const void* blocks, int64_t num_values, float* out) {
    constexpr int64_t piece = 1 << 16;
    ThreadPool::instance().parallel_for((num_values + piece - 1) / piece, [&](int64_t i, int) {
        const int64_t end = (i + 1) * piece < num_values ? (i + 1) * piece : num_values;
        dequantize_values(format, blocks, i * piece, end, out);
    });
}

}  // namespace tramontane
