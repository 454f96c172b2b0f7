#include "pack.h"

#include <cstring>

#include "dequantize.h"
#include "half.h"
#include "thread_pool.h"

namespace tramontane {
namespace {

// Each copies row r of a tile in one of the two directions; the assignments are written once.
struct Put {
    template <class T, class B>
    static void move(T& tile, B& block) {
        tile = block;
    }
};
struct Take {
    template <class T, class B>
    static void move(T& tile, B& block) {
        block = tile;
    }
};

template <class Way>
void move_row(TileQ8_0& tile, BlockQ8_0& block, int r) {
    Way::move(tile.d[r], block.d);
    for (int k = 0; k < 32; ++k) Way::move(tile.q[k / 4][r][k % 4], block.q[k]);
}

template <class Way>
void move_row(TileQ4_0& tile, BlockQ4_0& block, int r) {
    Way::move(tile.d[r], block.d);
    for (int k = 0; k < 16; ++k) Way::move(tile.q[k / 4][r][k % 4], block.q[k]);
}

template <class Way>
void move_row(TileQ4_K& tile, BlockQ4_K& block, int r) {
    Way::move(tile.d[r], block.d);
    Way::move(tile.dmin[r], block.dmin);
    for (int i = 0; i < 12; ++i) Way::move(tile.scales[i][r], block.scales[i]);
    for (int k = 0; k < 128; ++k) Way::move(tile.q[k / 32][k % 32 / 4][r][k % 4], block.q[k]);
}

template <class Way>
void move_row(TileQ5_K& tile, BlockQ5_K& block, int r) {
    Way::move(tile.d[r], block.d);
    Way::move(tile.dmin[r], block.dmin);
    for (int i = 0; i < 12; ++i) Way::move(tile.scales[i][r], block.scales[i]);
    for (int k = 0; k < 32; ++k) Way::move(tile.qh[k / 4][r][k % 4], block.qh[k]);
    for (int k = 0; k < 128; ++k) Way::move(tile.q[k / 32][k % 32 / 4][r][k % 4], block.q[k]);
}

template <class Way>
void move_row(TileQ6_K& tile, BlockQ6_K& block, int r) {
    Way::move(tile.d[r], block.d);
    for (int i = 0; i < 16; ++i) Way::move(tile.scales[i][r], block.scales[i]);
    for (int k = 0; k < 128; ++k) Way::move(tile.ql[k / 64][k % 64 / 32][k % 32 / 4][r][k % 4], block.ql[k]);
    for (int k = 0; k < 64; ++k) Way::move(tile.qh[k / 32][k % 32 / 4][r][k % 4], block.qh[k]);
}

// memcpy on both sides: neither a file's blocks nor a mapped panel promise the alignment of their structs.
template <class Tile, class Block>
void pack_panel(const uint8_t* rows, size_t bytes_per_row, int num_rows, int64_t num_blocks, uint8_t* panel) {
    for (int64_t b = 0; b < num_blocks; ++b) {
        Tile tile;
        std::memset(&tile, 0, sizeof tile);
        for (int r = 0; r < num_rows; ++r) {
            Block block;
            std::memcpy(&block, rows + static_cast<size_t>(r) * bytes_per_row + static_cast<size_t>(b) * sizeof block,
                        sizeof block);
            move_row<Put>(tile, block, r);
        }
        std::memcpy(panel + static_cast<size_t>(b) * sizeof tile, &tile, sizeof tile);
    }
}

template <class Tile, class Block>
void read_row(const uint8_t* panel, int r, int64_t in_features, int values_per_block, float* out) {
    for (int64_t b = 0; b < in_features / values_per_block; ++b) {
        Tile tile;
        Block block;
        std::memcpy(&tile, panel + static_cast<size_t>(b) * sizeof tile, sizeof tile);
        move_row<Take>(tile, block, r);
        dequantize_block(block, out + b * values_per_block);
    }
}

template <class Element>
void pack_float_panel(const uint8_t* rows, int num_rows, int64_t in_features, int group, uint8_t* panel) {
    const int64_t padded = (in_features + group - 1) / group * group;
    for (int64_t k = 0; k < padded; ++k) {
        for (int r = 0; r < panel_rows; ++r) {
            Element value = 0;
            if (r < num_rows && k < in_features)
                std::memcpy(&value, rows + (r * in_features + k) * static_cast<int64_t>(sizeof value), sizeof value);
            const int64_t at = (k / group * panel_rows + r) * group + k % group;
            std::memcpy(panel + at * static_cast<int64_t>(sizeof value), &value, sizeof value);
        }
    }
}

}  // namespace

void pack_rows(WeightFormat format, const void* rows, int64_t out_features, int64_t in_features, void* panels) {
    const size_t bytes_per_row = row_bytes(format, in_features), bytes_per_panel = panel_bytes(format, in_features);
    ThreadPool::instance().parallel_for(num_panels(out_features), [&](int64_t p, int) {
        const uint8_t* from = static_cast<const uint8_t*>(rows) + static_cast<size_t>(p * panel_rows) * bytes_per_row;
        uint8_t* to = static_cast<uint8_t*>(panels) + static_cast<size_t>(p) * bytes_per_panel;
        const int64_t left = out_features - p * panel_rows;
        const int num_rows = left < panel_rows ? static_cast<int>(left) : panel_rows;
        switch (format) {
            case WeightFormat::f32: pack_float_panel<uint32_t>(from, num_rows, in_features, 1, to); break;
            case WeightFormat::bf16: pack_float_panel<uint16_t>(from, num_rows, in_features, 2, to); break;
            case WeightFormat::f16: pack_float_panel<uint16_t>(from, num_rows, in_features, 1, to); break;
            case WeightFormat::q8_0:
                pack_panel<TileQ8_0, BlockQ8_0>(from, bytes_per_row, num_rows, in_features / 32, to);
                break;
            case WeightFormat::q4_0:
                pack_panel<TileQ4_0, BlockQ4_0>(from, bytes_per_row, num_rows, in_features / 32, to);
                break;
            case WeightFormat::q4_k:
                pack_panel<TileQ4_K, BlockQ4_K>(from, bytes_per_row, num_rows, in_features / 256, to);
                break;
            case WeightFormat::q5_k:
                pack_panel<TileQ5_K, BlockQ5_K>(from, bytes_per_row, num_rows, in_features / 256, to);
                break;
            case WeightFormat::q6_k:
                pack_panel<TileQ6_K, BlockQ6_K>(from, bytes_per_row, num_rows, in_features / 256, to);
                break;
        }
    });
}

void read_packed_row(WeightFormat format, const void* panels, int64_t row, int64_t in_features, float* out) {
    const uint8_t* panel =
        static_cast<const uint8_t*>(panels) + static_cast<size_t>(row / panel_rows) * panel_bytes(format, in_features);
    const int r = static_cast<int>(row % panel_rows);
    switch (format) {
        case WeightFormat::f32:
            for (int64_t k = 0; k < in_features; ++k) std::memcpy(out + k, panel + (k * panel_rows + r) * 4, 4);
            break;
        case WeightFormat::bf16:
        case WeightFormat::f16:
            for (int64_t k = 0; k < in_features; ++k) {
                const int64_t at = format == WeightFormat::bf16 ? (k / 2 * panel_rows + r) * 2 + k % 2 : k * panel_rows + r;
                uint16_t value;
                std::memcpy(&value, panel + at * 2, sizeof value);
                out[k] = format == WeightFormat::bf16 ? bf16_to_f32(value) : f16_to_f32(value);
            }
            break;
        case WeightFormat::q8_0: read_row<TileQ8_0, BlockQ8_0>(panel, r, in_features, 32, out); break;
        case WeightFormat::q4_0: read_row<TileQ4_0, BlockQ4_0>(panel, r, in_features, 32, out); break;
        case WeightFormat::q4_k: read_row<TileQ4_K, BlockQ4_K>(panel, r, in_features, 256, out); break;
        case WeightFormat::q5_k: read_row<TileQ5_K, BlockQ5_K>(panel, r, in_features, 256, out); break;
        case WeightFormat::q6_k: read_row<TileQ6_K, BlockQ6_K>(panel, r, in_features, 256, out); break;
    }
}

}  // namespace tramontane
