// Weight formats: the blocks of GGUF files, and the panels they are repacked into at load.
//
// A panel holds 16 output rows. Inside it, k advances outermost, so that a matrix product reads every panel front to
// back; four consecutive k of one row lie together (what one lane of an int8 dot product consumes) and the 16 rows lie
// side by side (one row per lane). Packing permutes bytes and never changes a value: a panel of a quantised format has
// exactly the bytes of its 16 rows of blocks. Rows beyond the last are zero.
//
// Block layouts: ggml's ggml-common.h as implemented by the `gguf` Python package (gguf/quants.py).
#pragma once
#include <cstddef>
#include <cstdint>

namespace tramontane {

enum class WeightFormat : int { f32, bf16, f16, q8_0, q4_0, q4_k, q5_k, q6_k };
constexpr int num_weight_formats = 8;

constexpr int panel_rows = 16;
constexpr int chunk_k = 256;  // k values a blocked product unpacks at a time; the super-block of the K-quants

// ---- blocks of one row, as they lie in a file ----

struct BlockQ8_0 {
    uint16_t d;
    int8_t q[32];
};
struct BlockQ4_0 {
    uint16_t d;
    uint8_t q[16];  // low nibble: k = j, high nibble: k = j + 16; value - 8
};
struct BlockQ4_K {
    uint16_t d, dmin;
    uint8_t scales[12];  // eight 6-bit scales and eight 6-bit minima
    uint8_t q[128];      // 64 values per 32 bytes: low nibbles first
};
struct BlockQ5_K {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qh[32];  // bit s of byte j: the fifth bit of value j of sub-block s
    uint8_t q[128];
};
struct BlockQ6_K {
    uint8_t ql[128], qh[64];
    int8_t scales[16];
    uint16_t d;
};
static_assert(sizeof(BlockQ8_0) == 34 && sizeof(BlockQ4_0) == 18, "GGUF block layout");
static_assert(sizeof(BlockQ4_K) == 144 && sizeof(BlockQ5_K) == 176 && sizeof(BlockQ6_K) == 210, "GGUF block layout");

// ---- tiles: one block of each of the 16 rows of a panel ----

struct TileQ8_0 {
    uint16_t d[16];
    int8_t q[8][16][4];  // [k / 4][row][k % 4]
};
struct TileQ4_0 {
    uint16_t d[16];
    uint8_t q[4][16][4];  // low nibbles k / 4 = 0…3, high nibbles 4…7
};
struct TileQ4_K {
    uint16_t d[16], dmin[16];
    uint8_t scales[12][16];
    uint8_t q[4][8][16][4];  // [pair of sub-blocks][k / 4][row][k % 4]; low nibbles: the even sub-block
};
struct TileQ5_K {
    uint16_t d[16], dmin[16];
    uint8_t scales[12][16];
    uint8_t qh[8][16][4];  // [k % 32 / 4][row][k % 4], bit s: sub-block s
    uint8_t q[4][8][16][4];
};
struct TileQ6_K {
    uint16_t d[16];
    int8_t scales[16][16];      // [group of 16 k][row]
    uint8_t ql[2][2][8][16][4];  // [half][quarter 0 and 2 | 1 and 3][k % 32 / 4][row][k % 4]
    uint8_t qh[2][8][16][4];     // two bits per quarter
};
static_assert(sizeof(TileQ8_0) == 16 * sizeof(BlockQ8_0), "packing must not change the size");
static_assert(sizeof(TileQ4_0) == 16 * sizeof(BlockQ4_0), "packing must not change the size");
static_assert(sizeof(TileQ4_K) == 16 * sizeof(BlockQ4_K), "packing must not change the size");
static_assert(sizeof(TileQ5_K) == 16 * sizeof(BlockQ5_K), "packing must not change the size");
static_assert(sizeof(TileQ6_K) == 16 * sizeof(BlockQ6_K), "packing must not change the size");

// Float panels: f32 and f16 [k][row]; bf16 [k / 2][row][k % 2], an odd last k padded with zero.

static constexpr int block_size(WeightFormat format) {  // k values per block: in_features must be a multiple
    switch (format) {
        case WeightFormat::q8_0:
        case WeightFormat::q4_0: return 32;
        case WeightFormat::q4_k:
        case WeightFormat::q5_k:
        case WeightFormat::q6_k: return 256;
        default: return 1;
    }
}

static constexpr size_t row_bytes(WeightFormat format, int64_t in_features) {  // of one row in a file
    switch (format) {
        case WeightFormat::f32: return static_cast<size_t>(in_features) * 4;
        case WeightFormat::bf16:
        case WeightFormat::f16: return static_cast<size_t>(in_features) * 2;
        case WeightFormat::q8_0: return static_cast<size_t>(in_features / 32) * sizeof(BlockQ8_0);
        case WeightFormat::q4_0: return static_cast<size_t>(in_features / 32) * sizeof(BlockQ4_0);
        case WeightFormat::q4_k: return static_cast<size_t>(in_features / 256) * sizeof(BlockQ4_K);
        case WeightFormat::q5_k: return static_cast<size_t>(in_features / 256) * sizeof(BlockQ5_K);
        case WeightFormat::q6_k: return static_cast<size_t>(in_features / 256) * sizeof(BlockQ6_K);
    }
    return 0;
}

static constexpr size_t panel_bytes(WeightFormat format, int64_t in_features) {
    const int64_t padded = format == WeightFormat::bf16 ? (in_features + 1) / 2 * 2 : in_features;
    return panel_rows * row_bytes(format, padded);
}

static constexpr int64_t num_panels(int64_t out_features) { return (out_features + panel_rows - 1) / panel_rows; }

}  // namespace tramontane
