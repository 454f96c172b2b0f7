// The kernels in plain C++: for processors without AVX2, and the readable twin the others are tested against.
#include <cmath>

#include "half.h"
#include "vec_scalar.h"

#include "attention.h"
#include "document_attention.h"
#include "matmul_float.h"
#include "quantize_q4_k.h"

namespace tramontane {
namespace {

constexpr float smallest = 1e-30f;  // of a block's largest magnitude, as in prepare_x86.h

// Scale of n values, which become out[0…n) in -127…127; NaN if one of them is not finite.
float quantise(const float* x, int n, int8_t* out) {
    float largest = 0.0f;
    bool finite = true;
    for (int i = 0; i < n; ++i) {
        const float size = std::fabs(x[i]);
        if (size > largest) largest = size;
        finite = finite && size <= 3.402823466e38f;
    }
    const bool is_zero = !finite || largest < smallest;
    const float inverse = is_zero ? 0.0f : 127.0f / largest;
    for (int i = 0; i < n; ++i) out[i] = is_zero ? 0 : static_cast<int8_t>(std::nearbyint(x[i] * inverse));
    if (!finite) return __builtin_nanf("");
    return is_zero ? 0.0f : largest / 127.0f;
}

template <ActivationForm form>
void prepare_int(const PrepareCall& call) {
    const Prepared prepared(call.prepared, form, call.in_features, call.num_rows);
    constexpr int block = form == ActivationForm::q8_32 ? 32 : 256;
    for (int64_t row = call.row_begin; row < call.row_end; ++row) {
        for (int64_t chunk = 0; chunk < num_chunks(form, call.in_features); ++chunk) {
            const Rows to = prepared.at(chunk, row);
            const float* x = call.x + row * call.x_stride + chunk * 256;
            int8_t* q = reinterpret_cast<int8_t*>(const_cast<uint8_t*>(to.q));
            const int64_t blocks = at_most(call.in_features - chunk * 256, 256) / block;
            for (int64_t b = 0; b < blocks; ++b)
                const_cast<float*>(to.d)[b] = quantise(x + b * block, block, q + b * block);
        }
    }
}

// A chunk of a panel as whole numbers: w less its zero point, a scale per 16 values and a minimum per 32 where the
// format has them.
struct alignas(64) Chunk {
    int8_t w[256][16];
    int16_t scale[16][16], min[8][16];
    float d[8][16], dmin[16];
};

struct Q8_0 {
    using Tile = TileQ8_0;
    static constexpr WeightFormat format = WeightFormat::q8_0;
    static void unpack(const Tile& tile, int b, int r, Chunk& u) {
        u.d[b][r] = f16_to_f32(tile.d[r]);
        for (int k = 0; k < 32; ++k) u.w[b * 32 + k][r] = tile.q[k / 4][r][k % 4];
    }
};

struct Q4_0 {
    using Tile = TileQ4_0;
    static constexpr WeightFormat format = WeightFormat::q4_0;
    static void unpack(const Tile& tile, int b, int r, Chunk& u) {
        u.d[b][r] = f16_to_f32(tile.d[r]);
        for (int k = 0; k < 32; ++k)
            u.w[b * 32 + k][r] = static_cast<int8_t>((tile.q[k % 16 / 4][r][k % 4] >> k / 16 * 4 & 15) - 8);
    }
};

template <class Tile>
void unpack_scales(const Tile& tile, int r, Chunk& u) {
    u.d[0][r] = f16_to_f32(tile.d[r]);
    u.dmin[r] = f16_to_f32(tile.dmin[r]);
    for (int s = 0; s < 8; ++s) {
        const auto byte = [&](int i) { return tile.scales[i][r]; };
        const int scale = s < 4 ? byte(s) & 63 : (byte(s + 4) & 15) | byte(s - 4) >> 6 << 4;
        const int min = s < 4 ? byte(s + 4) & 63 : byte(s + 4) >> 4 | byte(s) >> 6 << 4;
        u.scale[2 * s][r] = u.scale[2 * s + 1][r] = static_cast<int16_t>(scale);
        u.min[s][r] = static_cast<int16_t>(min);
    }
}

struct Q4_K {
    using Tile = TileQ4_K;
    static constexpr WeightFormat format = WeightFormat::q4_k;
    static void unpack(const Tile& tile, int, int r, Chunk& u) {
        unpack_scales(tile, r, u);
        for (int k = 0; k < 256; ++k)
            u.w[k][r] = static_cast<int8_t>(tile.q[k / 64][k % 32 / 4][r][k % 4] >> k / 32 % 2 * 4 & 15);
    }
};

struct Q5_K {
    using Tile = TileQ5_K;
    static constexpr WeightFormat format = WeightFormat::q5_k;
    static void unpack(const Tile& tile, int, int r, Chunk& u) {
        unpack_scales(tile, r, u);
        for (int k = 0; k < 256; ++k) {
            const int low = tile.q[k / 64][k % 32 / 4][r][k % 4] >> k / 32 % 2 * 4 & 15;
            u.w[k][r] = static_cast<int8_t>(low | (tile.qh[k % 32 / 4][r][k % 4] >> k / 32 & 1) << 4);
        }
    }
};

struct Q6_K {
    using Tile = TileQ6_K;
    static constexpr WeightFormat format = WeightFormat::q6_k;
    static void unpack(const Tile& tile, int, int r, Chunk& u) {
        u.d[0][r] = f16_to_f32(tile.d[r]);
        for (int i = 0; i < 16; ++i) u.scale[i][r] = tile.scales[i][r];
        for (int k = 0; k < 256; ++k) {
            const int half = k / 128, quarter = k / 32 % 4, g = k % 32 / 4;
            const int low = tile.ql[half][quarter % 2][g][r][k % 4] >> quarter / 2 * 4 & 15;
            const int high = tile.qh[half][g][r][k % 4] >> quarter * 2 & 3;
            u.w[k][r] = static_cast<int8_t>((low | high << 4) - 32);
        }
    }
};

template <class Quant>
struct IntFormat {
    using Unpacked = Chunk;
    static constexpr WeightFormat format = Quant::format;
    static constexpr int row_tile = 1, direct_rows = 1, tile_k = block_size(format);
    static constexpr int panels_per_group = 1, panels_together = 1;
    static constexpr size_t tile_bytes = sizeof(typename Quant::Tile);
    static constexpr bool has_min = format == WeightFormat::q4_k || format == WeightFormat::q5_k;

    static void unpack(const uint8_t* tiles, int num_tiles, Unpacked& u) {
        for (int b = 0; b < num_tiles; ++b)
            for (int r = 0; r < panel_rows; ++r)
                Quant::unpack(reinterpret_cast<const typename Quant::Tile*>(tiles)[b], b, r, u);
    }

    template <int NT>
    static void direct(const uint8_t* panel, int64_t in_features, const Prepared& x, int64_t row, float* out) {
        Unpacked u;
        for (int r = 0; r < panel_rows; ++r) out[r] = 0.0f;
        const int64_t num_tiles = in_features / tile_k, per_chunk = chunk_k / tile_k;
        for (int64_t tile = 0; tile < num_tiles; tile += per_chunk) {
            const int tiles = static_cast<int>(at_most(num_tiles - tile, per_chunk));
            unpack(panel + tile * static_cast<int64_t>(tile_bytes), tiles, u);
            accumulate<1, 1>(&u, tiles, x.at(tile / per_chunk, row), out);
        }
    }

    template <int NT, int NP>
    static void accumulate(const Unpacked* panel, int num_tiles, const Rows& x, float* out) {
        static_assert(NP == 1, "one panel at a time");
        const Unpacked& u = *panel;
        const int8_t* q = reinterpret_cast<const int8_t*>(x.q);
        for (int b = 0; b < num_tiles; ++b) {
            int32_t total[panel_rows] = {}, offset[panel_rows] = {};
            for (int i = b * tile_k; i < (b + 1) * tile_k; i += 16) {
                int32_t sum[panel_rows] = {}, x_sum = 0;
                for (int k = i; k < i + 16; ++k) {
                    for (int r = 0; r < panel_rows; ++r) sum[r] += u.w[k][r] * q[k];
                    x_sum += q[k];
                }
                for (int r = 0; r < panel_rows; ++r) {
                    total[r] += tile_k == 32 ? sum[r] : sum[r] * u.scale[i / 16][r];
                    if (has_min) offset[r] += x_sum * u.min[i / 32][r];
                }
            }
            for (int r = 0; r < panel_rows; ++r) {
                out[r] += static_cast<float>(total[r]) * (u.d[b][r] * x.d[b]);
                if (has_min) out[r] -= static_cast<float>(offset[r]) * (u.dmin[r] * x.d[b]);
            }
        }
    }
};

Kernels make_table() {
    Kernels table{};
    add_float_products(table);
    add_elementwise(table);
    add_document_attention(table);
    table.quantize_q4_k = quantize_q4_k;
    table.row_tile[static_cast<int>(ActivationForm::q8_32)] = 1;
    table.row_tile[static_cast<int>(ActivationForm::q8_256)] = 1;
    table.prepare[static_cast<int>(ActivationForm::q8_32)] = prepare_int<ActivationForm::q8_32>;
    table.prepare[static_cast<int>(ActivationForm::q8_256)] = prepare_int<ActivationForm::q8_256>;
    table.matmul[static_cast<int>(WeightFormat::q8_0)] = matmul<IntFormat<Q8_0>>;
    table.matmul[static_cast<int>(WeightFormat::q4_0)] = matmul<IntFormat<Q4_0>>;
    table.matmul[static_cast<int>(WeightFormat::q4_k)] = matmul<IntFormat<Q4_K>>;
    table.matmul[static_cast<int>(WeightFormat::q5_k)] = matmul<IntFormat<Q5_K>>;
    table.matmul[static_cast<int>(WeightFormat::q6_k)] = matmul<IntFormat<Q6_K>>;
    return table;
}

}  // namespace

const Kernels& kernels_scalar() {
    static const Kernels table = make_table();
    return table;
}

}  // namespace tramontane
