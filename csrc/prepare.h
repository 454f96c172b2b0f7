// Activations -> prepared activations: what every instruction set has in common.
//
// A block is scaled by its largest magnitude to -127…127, to nearest even. A block that holds a NaN or an infinity gets
// the scale NaN, so that every output of its row becomes NaN; magnitudes below `smallest` count as zero.
#pragma once
#include "matmul_driver.h"

namespace tramontane {
namespace {

constexpr float smallest = 1e-30f;  // of a block's largest magnitude: 127 / smallest is still finite

struct BlockScale {
    float d, inverse;
};

// From the bits of the largest magnitude: magnitudes compare like their bits, NaN above all.
inline BlockScale block_scale(int magnitude_bits) {
    if (magnitude_bits >= 0x7f800000) return {__builtin_nanf(""), 0.0f};
    float largest;
    __builtin_memcpy(&largest, &magnitude_bits, sizeof largest);
    if (largest < smallest) return {0.0f, 0.0f};
    return {largest / 127.0f, 127.0f / largest};
}

// Calls body(chunk, first row of the tile, rows in the tile, row within the tile, row) for every row and chunk.
template <class Body>
void for_each_row_chunk(const PrepareCall& call, int row_tile, int64_t chunks, Body body) {
    for (int64_t row = call.row_begin; row < call.row_end; ++row) {
        const int64_t tile = row / row_tile * row_tile;
        const int tile_rows = static_cast<int>(at_most(call.num_rows - tile, row_tile));
        for (int64_t chunk = 0; chunk < chunks; ++chunk) body(chunk, tile, tile_rows, static_cast<int>(row - tile), row);
    }
}

}  // namespace
}  // namespace tramontane
