// Quantised blocks -> float32, bit for bit what `gguf.quants.dequantize` gives.
#pragma once
#include "weight_formats.h"

namespace tramontane {

void dequantize_block(const BlockQ8_0& block, float* out);
void dequantize_block(const BlockQ4_0& block, float* out);
void dequantize_block(const BlockQ4_K& block, float* out);
void dequantize_block(const BlockQ5_K& block, float* out);
void dequantize_block(const BlockQ6_K& block, float* out);

// `num_values` values (a multiple of block_size(format)) stored one block after another; any format, floats included.
void dequantize(WeightFormat format, const void* blocks, int64_t num_values, float* out);

// Scale and minimum `s` (0…7) of the twelve bytes shared by Q4_K and Q5_K.
struct ScaleMin {
    uint8_t scale, min;
};
ScaleMin scale_min(const uint8_t* scales, int s);

}  // namespace tramontane
