// float32 -> quantised blocks.
#pragma once
#include "weight_formats.h"

namespace tramontane {

// num_values is a multiple of block_size(format); format is q8_0, q4_0 or q4_k (throws std::invalid_argument else).
// q8_0 and q4_0 give the bytes of `gguf.quants.quantize`.
void quantize(WeightFormat format, const float* x, int64_t num_values, void* blocks);

}  // namespace tramontane
