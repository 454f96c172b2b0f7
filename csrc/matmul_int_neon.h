// Products with quantised weights, NEON: bytes of four output rows times four bytes of one activation row.
//
// Included by one file per way to multiply bytes, which defines before it
//   template <int lane> int32x4_t dot(int32x4_t sum, int8x16_t w, int8x16_t x)
//       sum[r] + w[4 r … 4 r + 3] · x[4 lane … 4 lane + 3]
// The integer sums start from -zero_point * (sum of the activations), so that weights are used as they are stored. Every
// float operation is the one of the AVX2 kernels: the results have the same bits.
#pragma once
#include <arm_neon.h>

#include "prepare_neon.h"

namespace tramontane {
namespace {

constexpr int int_row_tile = 4;  // four bytes of each of four rows fill a register
constexpr int vecs = 4;          // registers of the 16 rows of a panel

using Acc = float32x4_t[vecs];

template <int NT>
inline void load_acc(const float* from, int stride, Acc (&acc)[NT]) {
    for (int t = 0; t < NT; ++t)
        for (int v = 0; v < vecs; ++v) acc[t][v] = vld1q_f32(from + t * stride + v * 4);
}
template <int NT>
inline void zero_acc(Acc (&acc)[NT]) {
    for (int t = 0; t < NT; ++t)
        for (int v = 0; v < vecs; ++v) acc[t][v] = vdupq_n_f32(0.0f);
}
template <int NT>
inline void store_acc(float* to, int stride, const Acc (&acc)[NT]) {
    for (int t = 0; t < NT; ++t)
        for (int v = 0; v < vecs; ++v) vst1q_f32(to + t * stride + v * 4, acc[t][v]);
}

inline float32x4_t load_f16(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }

template <int NT>
inline int8x16_t load_x(const uint8_t* q) {  // one group of four values of NT rows
    if constexpr (NT == 4) return vreinterpretq_s8_u8(vld1q_u8(q));
    uint8_t bytes[16] = {};
    __builtin_memcpy(bytes, q, NT * 4);
    return vreinterpretq_s8_u8(vld1q_u8(bytes));
}

template <int NT>
inline void add_group(const int8x16_t (&w)[vecs], int8x16_t x, int32x4_t (&sum)[NT][vecs]) {
    for (int v = 0; v < vecs; ++v) {
        sum[0][v] = dot<0>(sum[0][v], w[v], x);
        if constexpr (NT > 1) sum[1][v] = dot<1>(sum[1][v], w[v], x);
        if constexpr (NT > 2) sum[2][v] = dot<2>(sum[2][v], w[v], x);
        if constexpr (NT > 3) sum[3][v] = dot<3>(sum[3][v], w[v], x);
    }
}

template <int NT>
inline void start_sums(const int32_t* offset, int32x4_t (&sum)[NT][vecs]) {
    for (int t = 0; t < NT; ++t)
        for (int v = 0; v < vecs; ++v) sum[t][v] = vdupq_n_s32(offset == nullptr ? 0 : offset[t]);
}

inline void load_group(const void* group, int8x16_t (&w)[vecs]) {
    for (int v = 0; v < vecs; ++v) w[v] = vld1q_s8(static_cast<const int8_t*>(group) + v * 16);
}
inline void store_group(const int8x16_t (&w)[vecs], void* group) {
    for (int v = 0; v < vecs; ++v) vst1q_s8(static_cast<int8_t*>(group) + v * 16, w[v]);
}

// Nibbles of 16 bytes; the low or the high ones.
inline uint8x16_t nibble(const void* bytes, bool high) {
    const uint8x16_t pair = vld1q_u8(static_cast<const uint8_t*>(bytes));
    return high ? vshrq_n_u8(pair, 4) : vandq_u8(pair, vdupq_n_u8(15));
}

// ---- one scale per 32 values ----

struct AccessQ4_0 {
    using Tile = TileQ4_0;
    static constexpr WeightFormat format = WeightFormat::q4_0;
    static constexpr bool has_offset = true;
    const Tile* tile;
    void group(int g, int8x16_t (&w)[vecs]) const {
        for (int v = 0; v < vecs; ++v) w[v] = vreinterpretq_s8_u8(nibble(tile->q[g % 4][v * 4], g >= 4));
    }
    float32x4_t scale(int v) const { return load_f16(tile->d + v * 4); }
};

struct AccessQ8_0 {
    using Tile = TileQ8_0;
    static constexpr WeightFormat format = WeightFormat::q8_0;
    static constexpr bool has_offset = false;
    const Tile* tile;
    void group(int g, int8x16_t (&w)[vecs]) const { load_group(tile->q[g], w); }
    float32x4_t scale(int v) const { return load_f16(tile->d + v * 4); }
};

template <class Access>
struct Format32 {
    using Tile = typename Access::Tile;
    static constexpr WeightFormat format = Access::format;
    static constexpr int row_tile = int_row_tile, direct_rows = 16, tile_k = 32;
    static constexpr int panels_per_group = 4, panels_together = 1, acc_stride = panels_per_group * panel_rows;
    static constexpr size_t tile_bytes = sizeof(Tile);

    struct alignas(64) Unpacked {
        int8_t w[8][8][16][4];
        float d[8][16];
    };
    struct Chunk {
        const Unpacked& u;
        int b;
        void group(int g, int8x16_t (&w)[vecs]) const { load_group(u.w[b][g], w); }
        float32x4_t scale(int v) const { return vld1q_f32(u.d[b] + v * 4); }
    };

    static void unpack(const uint8_t* tiles, int num_tiles, Unpacked& u) {
        for (int b = 0; b < num_tiles; ++b) {
            const Access packed{reinterpret_cast<const Tile*>(tiles) + b};
            for (int g = 0; g < 8; ++g) {
                int8x16_t w[vecs];
                packed.group(g, w);
                store_group(w, u.w[b][g]);
            }
            for (int v = 0; v < vecs; ++v) vst1q_f32(u.d[b] + v * 4, packed.scale(v));
        }
    }

    // Block b of the chunk that x is at.
    template <int NT, class W>
    static void add_block(const W& w, const Rows& x, int64_t b, Acc (&acc)[NT]) {
        int32x4_t sum[NT][vecs];
        start_sums<NT>(Access::has_offset ? x.offset + b * NT : nullptr, sum);
#pragma GCC unroll 8
        for (int g = 0; g < 8; ++g) {
            int8x16_t wg[vecs];
            w.group(g, wg);
            add_group<NT>(wg, load_x<NT>(x.q + (b * 8 + g) * NT * 4), sum);
        }
        for (int v = 0; v < vecs; ++v) {
            const float32x4_t d = w.scale(v);
            for (int t = 0; t < NT; ++t)
                acc[t][v] = vfmaq_f32(acc[t][v], vcvtq_f32_s32(sum[t][v]), vmulq_n_f32(d, x.d[b * NT + t]));
        }
    }

    template <int NT>
    static void direct(const uint8_t* panel, int64_t in_features, const Prepared& x, int64_t row, float* out) {
        Acc acc[NT];
        zero_acc<NT>(acc);
        const Tile* tiles = reinterpret_cast<const Tile*>(panel);
        const int64_t num_tiles = in_features / 32;
        for (int64_t first = 0; first < num_tiles; first += 8) {
            const Rows at = x.at(first / 8, row);
            for (int64_t b = 0; b < at_most(num_tiles - first, 8); ++b) add_block<NT>(Access{tiles + first + b}, at, b, acc);
        }
        store_acc<NT>(out, panel_rows, acc);
    }

    template <int NT, int NP>
    static void accumulate(const Unpacked* u, int num_tiles, const Rows& x, float* out) {
        static_assert(NP == 1, "one panel fills the registers");
        Acc acc[NT];
        load_acc<NT>(out, acc_stride, acc);
        for (int b = 0; b < num_tiles; ++b) add_block<NT>(Chunk{*u, b}, x, b, acc);
        store_acc<NT>(out, acc_stride, acc);
    }
};

// ---- one scale per 256 values, integer scales inside ----

struct KScales {
    int32_t scale[16][16];  // per group and row
    int16_t min[8][16];     // per 32 values and row
    float d[16], dmin[16];
};

inline void store_scale(int32_t (&to)[16], int8x16_t bytes) {
    const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
    vst1q_s32(to, vmovl_s16(vget_low_s16(low)));
    vst1q_s32(to + 4, vmovl_s16(vget_high_s16(low)));
    vst1q_s32(to + 8, vmovl_s16(vget_low_s16(high)));
    vst1q_s32(to + 12, vmovl_s16(vget_high_s16(high)));
}
inline void store_min(int16_t (&to)[16], uint8x16_t bytes) {
    vst1q_s16(to, vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes))));
    vst1q_s16(to + 8, vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(bytes))));
}
inline void store_f16(float (&to)[16], const uint16_t* from) {
    for (int v = 0; v < vecs; ++v) vst1q_f32(to + v * 4, load_f16(from + v * 4));
}

// The twelve bytes per row of Q4_K and Q5_K (scale_min in dequantize.cpp), 16 rows at a time.
template <class Tile>
inline void unpack_scales_q45(const Tile& tile, KScales& out) {
    const uint8x16_t six = vdupq_n_u8(63), four = vdupq_n_u8(15), top = vdupq_n_u8(0x30);
    uint8x16_t v[12];
    for (int i = 0; i < 12; ++i) v[i] = vld1q_u8(tile.scales[i]);
    for (int i = 0; i < 4; ++i) {
        store_scale(out.scale[i], vreinterpretq_s8_u8(vandq_u8(v[i], six)));
        const uint8x16_t scale_high = vandq_u8(vshrq_n_u8(v[i], 2), top);
        store_scale(out.scale[i + 4], vreinterpretq_s8_u8(vorrq_u8(vandq_u8(v[i + 8], four), scale_high)));
        store_min(out.min[i], vandq_u8(v[i + 4], six));
        const uint8x16_t min_high = vandq_u8(vshrq_n_u8(v[i + 4], 2), top);
        store_min(out.min[i + 4], vorrq_u8(vshrq_n_u8(v[i + 8], 4), min_high));
    }
    store_f16(out.d, tile.d);
    store_f16(out.dmin, tile.dmin);
}

// Quant: Tile, format, groups_per_scale, has_offset, has_min, unpack_scales(tile, scales) and bytes(tile, g, v): group g
// of rows 4 v … 4 v + 3. The rest is common to the K-quants.
template <class Quant>
struct KFormat {
    using Tile = typename Quant::Tile;
    static constexpr WeightFormat format = Quant::format;
    static constexpr int row_tile = int_row_tile, direct_rows = 8, tile_k = 256;
    static constexpr int panels_per_group = 4, panels_together = 1, acc_stride = panels_per_group * panel_rows;
    static constexpr size_t tile_bytes = sizeof(Tile);

    struct Packed {
        const Tile& tile;
        void group(int g, int8x16_t (&w)[vecs]) const {
            for (int v = 0; v < vecs; ++v) w[v] = vreinterpretq_s8_u8(Quant::bytes(tile, g, v));
        }
    };
    struct alignas(64) Unpacked {
        uint8_t w[64][16][4];
        KScales scales;
        void group(int g, int8x16_t (&to)[vecs]) const { load_group(w[g], to); }
    };

    static void unpack(const uint8_t* bytes, int, Unpacked& u) {
        const Packed packed{*reinterpret_cast<const Tile*>(bytes)};
        for (int g = 0; g < 64; ++g) {
            int8x16_t w[vecs];
            packed.group(g, w);
            store_group(w, u.w[g]);
        }
        Quant::unpack_scales(packed.tile, u.scales);
    }

    template <int NT, class W>
    static void add_super_block(const W& w, const KScales& s, const Rows& x, Acc (&acc)[NT]) {
        constexpr int groups = Quant::groups_per_scale;
        int32x4_t total[NT][vecs];
        start_sums<NT>(nullptr, total);
        for (int i = 0; i < 64 / groups; ++i) {
            int32x4_t sum[NT][vecs];
            start_sums<NT>(Quant::has_offset ? x.offset + i * NT : nullptr, sum);
#pragma GCC unroll 8
            for (int g = i * groups; g < (i + 1) * groups; ++g) {
                int8x16_t wg[vecs];
                w.group(g, wg);
                add_group<NT>(wg, load_x<NT>(x.q + g * NT * 4), sum);
            }
            for (int v = 0; v < vecs; ++v) {
                const int32x4_t scale = vld1q_s32(s.scale[i] + v * 4);
                for (int t = 0; t < NT; ++t) total[t][v] = vmlaq_s32(total[t][v], sum[t][v], scale);
            }
        }
        for (int v = 0; v < vecs; ++v) {
            const float32x4_t d = vld1q_f32(s.d + v * 4);
            for (int t = 0; t < NT; ++t)
                acc[t][v] = vfmaq_f32(acc[t][v], vcvtq_f32_s32(total[t][v]), vmulq_n_f32(d, x.d[t]));
        }
        if constexpr (Quant::has_min) subtract_min<NT>(s, x, acc);
    }

    template <int NT>
    static void subtract_min(const KScales& s, const Rows& x, Acc (&acc)[NT]) {
        for (int t = 0; t < NT; ++t) {
            int16_t sums[8];
            for (int i = 0; i < 4; ++i) __builtin_memcpy(sums + 2 * i, x.sums + i * NT + t, 4);
            for (int v = 0; v < vecs; ++v) {
                int32x4_t sum = vdupq_n_s32(0);
                for (int i = 0; i < 8; ++i) sum = vmlal_n_s16(sum, vld1_s16(s.min[i] + v * 4), sums[i]);
                const float32x4_t scaled = vmulq_n_f32(vld1q_f32(s.dmin + v * 4), x.d[t]);
                acc[t][v] = vfmsq_f32(acc[t][v], vcvtq_f32_s32(sum), scaled);
            }
        }
    }

    template <int NT>
    static void direct(const uint8_t* panel, int64_t in_features, const Prepared& x, int64_t row, float* out) {
        Acc acc[NT];
        zero_acc<NT>(acc);
        KScales scales;
        for (int64_t b = 0; b < in_features / 256; ++b) {
            const Tile& tile = reinterpret_cast<const Tile*>(panel)[b];
            Quant::unpack_scales(tile, scales);
            add_super_block<NT>(Packed{tile}, scales, x.at(b, row), acc);
        }
        store_acc<NT>(out, panel_rows, acc);
    }

    template <int NT, int NP>
    static void accumulate(const Unpacked* u, int, const Rows& x, float* out) {
        static_assert(NP == 1, "one panel fills the registers");
        Acc acc[NT];
        load_acc<NT>(out, acc_stride, acc);
        add_super_block<NT>(*u, u->scales, x, acc);
        store_acc<NT>(out, acc_stride, acc);
    }
};

struct QuantQ4_K {
    using Tile = TileQ4_K;
    static constexpr WeightFormat format = WeightFormat::q4_k;
    static constexpr int groups_per_scale = 8;
    static constexpr bool has_offset = false, has_min = true;
    static void unpack_scales(const Tile& tile, KScales& s) { unpack_scales_q45(tile, s); }
    static uint8x16_t bytes(const Tile& tile, int g, int v) {
        return nibble(tile.q[g / 16][g % 8][v * 4], g / 8 % 2 != 0);
    }
};

struct QuantQ5_K {
    using Tile = TileQ5_K;
    static constexpr WeightFormat format = WeightFormat::q5_k;
    static constexpr int groups_per_scale = 8;
    static constexpr bool has_offset = false, has_min = true;
    static void unpack_scales(const Tile& tile, KScales& s) { unpack_scales_q45(tile, s); }
    static uint8x16_t bytes(const Tile& tile, int g, int v) {
        const uint8x16_t bits = vld1q_u8(tile.qh[g % 8][v * 4]);
        const uint8x16_t fifth = vshlq_u8(bits, vdupq_n_s8(static_cast<int8_t>(4 - g / 8)));
        return vorrq_u8(nibble(tile.q[g / 16][g % 8][v * 4], g / 8 % 2 != 0), vandq_u8(fifth, vdupq_n_u8(16)));
    }
};

struct QuantQ6_K {
    using Tile = TileQ6_K;
    static constexpr WeightFormat format = WeightFormat::q6_k;
    static constexpr int groups_per_scale = 4;
    static constexpr bool has_offset = true, has_min = false;
    static void unpack_scales(const Tile& tile, KScales& s) {
        for (int i = 0; i < 16; ++i) store_scale(s.scale[i], vld1q_s8(tile.scales[i]));
        store_f16(s.d, tile.d);
    }
    static uint8x16_t bytes(const Tile& tile, int g, int v) {
        const int half = g / 32, quarter = g / 8 % 4;
        const uint8x16_t bits = vld1q_u8(tile.qh[half][g % 8][v * 4]);
        const uint8x16_t high = vshlq_u8(bits, vdupq_n_s8(static_cast<int8_t>(4 - 2 * quarter)));
        const uint8x16_t low = nibble(tile.ql[half][quarter % 2][g % 8][v * 4], quarter >= 2);
        return vorrq_u8(low, vandq_u8(high, vdupq_n_u8(0x30)));
    }
};

inline void add_int_products(Kernels& table) {
    table.row_tile[static_cast<int>(ActivationForm::q8_32)] = int_row_tile;
    table.row_tile[static_cast<int>(ActivationForm::q8_256)] = int_row_tile;
    table.prepare[static_cast<int>(ActivationForm::q8_32)] = prepare_q8_32<int_row_tile>;
    table.prepare[static_cast<int>(ActivationForm::q8_256)] = prepare_q8_256<int_row_tile>;
    table.matmul[static_cast<int>(WeightFormat::q8_0)] = matmul<Format32<AccessQ8_0>>;
    table.matmul[static_cast<int>(WeightFormat::q4_0)] = matmul<Format32<AccessQ4_0>>;
    table.matmul[static_cast<int>(WeightFormat::q4_k)] = matmul<KFormat<QuantQ4_K>>;
    table.matmul[static_cast<int>(WeightFormat::q5_k)] = matmul<KFormat<QuantQ5_K>>;
    table.matmul[static_cast<int>(WeightFormat::q6_k)] = matmul<KFormat<QuantQ6_K>>;
}

}  // namespace
}  // namespace tramontane
