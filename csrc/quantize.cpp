#include "quantize.h"

#include <cmath>
#include <cstring>
#include <stdexcept>

#include "half.h"
#include "kernels.h"
#include "thread_pool.h"

namespace tramontane {
namespace {

// A value that is not a number (a damaged weight) becomes 0; its block's scale stays NaN and marks it.
int to_int(float value) { return value == value ? static_cast<int>(value) : 0; }

int clamp(int value, int low, int high) { return value < low ? low : value > high ? high : value; }

void quantize_block(const float* x, BlockQ8_0& block) {
    float largest = 0.0f;
    for (int k = 0; k < 32; ++k) {
        const float size = std::fabs(x[k]);
        if (size > largest || size != size) largest = size;
    }
    const float d = largest / 127.0f, inverse = d == 0.0f ? 0.0f : 1.0f / d;
    for (int k = 0; k < 32; ++k) {  // to nearest, halves away from zero
        const float size = std::fabs(x[k] * inverse), floor = std::floor(size);
        const int q = clamp(to_int(floor + std::floor(2.0f * (size - floor))), 0, 127);
        block.q[k] = static_cast<int8_t>(x[k] < 0.0f ? -q : q);
    }
    block.d = f32_to_f16(d);
}

void quantize_block(const float* x, BlockQ4_0& block) {
    float largest = 0.0f;  // the value of the largest magnitude, with its sign: it becomes -8 exactly
    for (int k = 0; k < 32; ++k)
        if (std::fabs(x[k]) > std::fabs(largest) || x[k] != x[k]) largest = x[k];
    const float d = largest / -8.0f, inverse = d == 0.0f ? 0.0f : 1.0f / d;
    for (int k = 0; k < 16; ++k) {
        const int low = clamp(to_int(x[k] * inverse + 8.5f), 0, 15);
        const int high = clamp(to_int(x[k + 16] * inverse + 8.5f), 0, 15);
        block.q[k] = static_cast<uint8_t>(low | high << 4);
    }
    block.d = f32_to_f16(d);
}

void quantize_block(const float* x, BlockQ4_K& block) { kernels().quantize_q4_k(x, block); }

template <class Block>
void quantize_range(const float* x, int64_t begin, int64_t end, int size, uint8_t* blocks) {
    for (int64_t i = begin / size; i < end / size; ++i) {
        Block block;
        quantize_block(x + i * size, block);
        std::memcpy(blocks + i * static_cast<int64_t>(sizeof block), &block, sizeof block);
    }
}

}  // namespace

void quantize(WeightFormat format, const float* x, int64_t num_values, void* blocks) {
    if (format != WeightFormat::q8_0 && format != WeightFormat::q4_0 && format != WeightFormat::q4_k)
        throw std::invalid_argument("weights can be quantised to q8_0, q4_0 or q4_k");
    constexpr int64_t piece = 1 << 14;
    uint8_t* bytes = static_cast<uint8_t*>(blocks);
    ThreadPool::instance().parallel_for((num_values + piece - 1) / piece, [&](int64_t i, int) {
        const int64_t begin = i * piece, end = begin + piece < num_values ? begin + piece : num_values;
        if (format == WeightFormat::q8_0)
            quantize_range<BlockQ8_0>(x, begin, end, 32, bytes);
        else if (format == WeightFormat::q4_0)
            quantize_range<BlockQ4_0>(x, begin, end, 32, bytes);
        else
            quantize_range<BlockQ4_K>(x, begin, end, 256, bytes);
    });
}

}  // namespace tramontane
