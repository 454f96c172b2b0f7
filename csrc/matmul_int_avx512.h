// Quantised weights and their products by AVX-512 VNNI: one instruction adds four byte products to each of 16 output rows.
//
// The integer sums start from -zero_point * (sum of the activations), so that weights stay unsigned.
#pragma once
#include <immintrin.h>

#include "matmul_driver.h"
#include "prepare_x86.h"

namespace tramontane {
namespace {

inline __m512i load(const void* p) { return _mm512_loadu_si512(p); }
inline __m512i broadcast_32(const void* p) {
    int value;
    __builtin_memcpy(&value, p, sizeof value);
    return _mm512_set1_epi32(value);
}
inline __m512 load_f16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

template <int NT>
inline void zero_acc(__m512 (&acc)[NT]) {
    for (int t = 0; t < NT; ++t) acc[t] = _mm512_setzero_ps();
}
template <int NT>
inline void store_acc(float* to, const __m512 (&acc)[NT]) {
    for (int t = 0; t < NT; ++t) _mm512_store_ps(to + t * panel_rows, acc[t]);
}

// Bytes between what is multiplied and what is asked for: measured on Zen 4, where 6 KB are 3 to 13 % faster than 3 KB, but
// for a single row of 8-bit weights.
constexpr size_t ahead = 6144, ahead_of_one_wide_row = 3072;

// ---- one scale per 32 values ----

// offset_shift: offsets are made for a zero point of 8; 8 << offset_shift is the format's.
template <int NT, int offset_shift, class W>
inline void add_block(const W& w, const uint8_t* q, const float* x_d, const int32_t* offset, __m512 (&acc)[NT]) {
    __m512i sum[NT];
    for (int t = 0; t < NT; ++t) sum[t] = _mm512_slli_epi32(broadcast_32(offset + t), offset_shift);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 2
        for (int g = i; g < 8; g += 4) {
            const __m512i wg = w.group(g);
#pragma GCC unroll 8
            for (int t = 0; t < NT; ++t) sum[t] = _mm512_dpbusd_epi32(sum[t], wg, broadcast_32(q + t * chunk_k + g * 4));
        }
    }
    const __m512 d = w.scale();
    for (int t = 0; t < NT; ++t)
        acc[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t]), _mm512_mul_ps(d, _mm512_set1_ps(x_d[t])), acc[t]);
}

struct AccessQ4_0 {
    using Tile = TileQ4_0;
    static constexpr WeightFormat format = WeightFormat::q4_0;
    static constexpr int offset_shift = 0;
    const Tile* tile;
    __m512i group(int g) const {
        const __m512i pair = load(tile->q[g % 4]);
        return _mm512_and_si512(g < 4 ? pair : _mm512_srli_epi16(pair, 4), _mm512_set1_epi8(15));
    }
    __m512 scale() const { return load_f16(tile->d); }
};

struct AccessQ8_0 {
    using Tile = TileQ8_0;
    static constexpr WeightFormat format = WeightFormat::q8_0;
    static constexpr int offset_shift = 4;
    const Tile* tile;
    __m512i group(int g) const { return _mm512_xor_si512(load(tile->q[g]), _mm512_set1_epi8(-128)); }
    __m512 scale() const { return load_f16(tile->d); }
};

template <class Access>
struct Format32 {
    using Tile = typename Access::Tile;
    static constexpr WeightFormat format = Access::format;
    static constexpr int row_tile = 8, direct_rows = 64, tile_k = 32, panels_per_group = 4,
                         panels_together = 2;
    static constexpr size_t tile_bytes = sizeof(Tile);
    static constexpr bool is_wide = format == WeightFormat::q8_0;
    static constexpr int offset_shift = Access::offset_shift;

    struct alignas(64) Unpacked {
        uint8_t w[8][8][16][4];
        float d[8][16];
    };
    static void unpack(const uint8_t* tiles, int num_tiles, Unpacked& u) {
        for (int b = 0; b < num_tiles; ++b) {
            const Access packed{reinterpret_cast<const Tile*>(tiles) + b};
            for (int g = 0; g < 8; ++g) _mm512_store_si512(u.w[b][g], packed.group(g));
            _mm512_store_ps(u.d[b], packed.scale());
        }
    }

    template <int NT>
    static void direct(const uint8_t* panel, int64_t in_features, const Prepared& x, int64_t row, float* out) {
        __m512 acc[NT];
        zero_acc<NT>(acc);
        const Tile* tiles = reinterpret_cast<const Tile*>(panel);
        for (int64_t b = 0, chunk = 0; b < in_features / 32; ++chunk) {
            const Rows at = x.at(chunk, row);
            const int64_t first = b;
            for (; b < at_most(first + 8, in_features / 32); ++b) {
                const int64_t i = (b - first) * NT;
                prefetch_ahead<tile_bytes, is_wide && NT == 1 ? ahead_of_one_wide_row : ahead>(tiles + b);
                add_block<NT, Access::offset_shift>(Access{tiles + b}, at.q + (b - first) * 32, at.d + i, at.offset + i, acc);
            }
        }
        store_acc<NT>(out, acc);
    }

    // add_block's operations on NP panels, whose integer sums fill the registers.
    template <int NT, int NP>
    static void accumulate(const Unpacked* u, int num_tiles, const Rows& x, float* out) {
        alignas(64) float acc[NT][NP][panel_rows];
        for (int t = 0; t < NT; ++t)
            for (int p = 0; p < NP; ++p)
                _mm512_store_ps(acc[t][p], _mm512_load_ps(out + (t * panels_per_group + p) * panel_rows));
        for (int b = 0; b < num_tiles; ++b) {
            const uint8_t* q = x.q + b * 32;
            __m512i sum[NP][NT];
            for (int t = 0; t < NT; ++t) {
                const __m512i offset = _mm512_slli_epi32(broadcast_32(x.offset + b * NT + t), Access::offset_shift);
                for (int p = 0; p < NP; ++p) sum[p][t] = offset;
            }
#pragma GCC unroll 8
            for (int g = 0; g < 8; ++g) {
                __m512i w[NP];
                for (int p = 0; p < NP; ++p) w[p] = load(u[p].w[b][g]);
#pragma GCC unroll 8
                for (int t = 0; t < NT; ++t) {
                    const __m512i xt = broadcast_32(q + t * chunk_k + g * 4);
                    for (int p = 0; p < NP; ++p) sum[p][t] = _mm512_dpbusd_epi32(sum[p][t], w[p], xt);
                }
            }
            for (int t = 0; t < NT; ++t) {
                const __m512 x_d = _mm512_set1_ps(x.d[b * NT + t]);
                for (int p = 0; p < NP; ++p) {
                    const __m512 scale = _mm512_mul_ps(_mm512_load_ps(u[p].d[b]), x_d);
                    _mm512_store_ps(acc[t][p], _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[p][t]), scale,
                                                               _mm512_load_ps(acc[t][p])));
                }
            }
        }
        for (int t = 0; t < NT; ++t)
            for (int p = 0; p < NP; ++p)
                _mm512_store_ps(out + (t * panels_per_group + p) * panel_rows, _mm512_load_ps(acc[t][p]));
    }
};

// ---- one scale per 256 values and integer scales inside ----

struct KScales {
    float scale[16][16];  // per group and row: d times the integer scale, exact in float32
    int32_t min[4][16];   // per pair of sub-blocks and row, the two int16 minima
    float dmin[16];
};

inline void unpack_scales_q45(const uint16_t* d16, const uint16_t* dmin, const uint8_t (*scales)[16], KScales& out) {
    const __m128i six = _mm_set1_epi8(63), four = _mm_set1_epi8(15), top = _mm_set1_epi8(0x30);
    const __m512 d = load_f16(d16);
    const auto store_scale = [&](float* to, __m128i bytes) {
        _mm512_store_ps(to, _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))));
    };
    __m128i v[12], min[8];
    for (int i = 0; i < 12; ++i) v[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(scales[i]));
    for (int i = 0; i < 4; ++i) {
        store_scale(out.scale[i], _mm_and_si128(v[i], six));
        const __m128i scale_high = _mm_and_si128(_mm_srli_epi16(v[i], 2), top);
        store_scale(out.scale[i + 4], _mm_or_si128(_mm_and_si128(v[i + 8], four), scale_high));
        min[i] = _mm_and_si128(v[i + 4], six);
        const __m128i min_high = _mm_and_si128(_mm_srli_epi16(v[i + 4], 2), top);
        min[i + 4] = _mm_or_si128(_mm_and_si128(_mm_srli_epi16(v[i + 8], 4), four), min_high);
    }
    for (int i = 0; i < 4; ++i) {
        const __m256i pairs = _mm256_set_m128i(_mm_unpackhi_epi8(min[2 * i], min[2 * i + 1]),
                                               _mm_unpacklo_epi8(min[2 * i], min[2 * i + 1]));
        _mm512_store_si512(out.min[i], _mm512_cvtepu8_epi16(pairs));
    }
    _mm512_store_ps(out.dmin, load_f16(dmin));
}

inline void unpack_scales_q6(const TileQ6_K& tile, KScales& out) {
    const __m512 d = load_f16(tile.d);
    for (int i = 0; i < 16; ++i) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(tile.scales[i]));
        _mm512_store_ps(out.scale[i], _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))));
    }
}

// acc - dmin * x_d * (the integer minima times the sums of row t's activations, of num_rows in the tile)
inline __m512 subtract_min(const KScales& s, const Rows& x, int num_rows, int t, __m512 x_d, __m512 acc) {
    __m512i sum = _mm512_setzero_si512();
    for (int i = 0; i < 4; ++i) sum = _mm512_dpwssd_epi32(sum, load(s.min[i]), broadcast_32(x.sums + i * num_rows + t));
    return _mm512_fnmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(_mm512_load_ps(s.dmin), x_d), acc);
}

// One super-block of 64 groups of four k; W::group(part, g) is group g of part `part` of W::parts equal parts.
template <class F, int NT, class W>
inline void add_super_block(const W& w, const KScales& s, const Rows& x, __m512 (&acc)[NT]) {
    constexpr int groups = F::groups_per_scale, scales_per_part = 64 / groups / W::parts;
    __m512 total[NT];
    zero_acc<NT>(total);
    for (int part = 0; part < W::parts; ++part) {
        const uint8_t* q = x.q + part * (64 / W::parts) * 4;
#pragma GCC unroll 16
        for (int i = 0; i < scales_per_part; ++i) {
            const int index = part * scales_per_part + i;
            prefetch_ahead<sizeof(typename F::Tile), ahead>(&w.tile, static_cast<size_t>(index), 64 / groups);
            __m512i sum[NT];
            for (int t = 0; t < NT; ++t)
                sum[t] = F::has_offset ? broadcast_32(x.offset + index * NT + t) : _mm512_setzero_si512();
#pragma GCC unroll 8
            for (int g = i * groups; g < (i + 1) * groups; ++g) {
                const __m512i wg = w.group(part, g);
#pragma GCC unroll 8
                for (int t = 0; t < NT; ++t) sum[t] = _mm512_dpbusd_epi32(sum[t], wg, broadcast_32(q + t * chunk_k + g * 4));
            }
            const __m512 scale = _mm512_load_ps(s.scale[index]);
            for (int t = 0; t < NT; ++t) total[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t]), scale, total[t]);
        }
    }
    for (int t = 0; t < NT; ++t) {
        const __m512 x_d = _mm512_set1_ps(x.d[t]);
        acc[t] = _mm512_fmadd_ps(total[t], x_d, acc[t]);
        if (F::has_min) acc[t] = subtract_min(s, x, NT, t, x_d, acc[t]);
    }
}

// Quant: Tile, format, the sizes above, unpack_scales(tile, scales) and group(tile, part, g). The rest is common.
template <class Quant>
struct KFormat : Quant {
    using Tile = typename Quant::Tile;
    static constexpr int row_tile = 8, direct_rows = 32, tile_k = 256, panels_per_group = 4,
                         panels_together = 2;
    static constexpr size_t tile_bytes = sizeof(Tile);

    struct Packed {
        static constexpr int parts = Quant::parts;
        const Tile& tile;
        __m512i group(int part, int g) const { return Quant::group(tile, part, g); }
    };
    struct alignas(64) Unpacked {
        uint8_t w[64][16][4];
        KScales scales;
    };

    static void unpack(const uint8_t* bytes, int, Unpacked& u) {
        constexpr int groups = 64 / Quant::parts;
        const Tile& tile = *reinterpret_cast<const Tile*>(bytes);
        for (int part = 0; part < Quant::parts; ++part) {
#pragma GCC unroll 64
            for (int g = 0; g < groups; ++g) _mm512_store_si512(u.w[part * groups + g], Quant::group(tile, part, g));
        }
        Quant::unpack_scales(tile, u.scales);
    }

    template <int NT>
    static void direct(const uint8_t* panel, int64_t in_features, const Prepared& x, int64_t row, float* out) {
        __m512 acc[NT];
        zero_acc<NT>(acc);
        alignas(64) KScales scales;
        for (int64_t b = 0; b < in_features / 256; ++b) {
            const Tile& tile = reinterpret_cast<const Tile*>(panel)[b];
            Quant::unpack_scales(tile, scales);
            add_super_block<Quant, NT>(Packed{tile}, scales, x.at(b, row), acc);
        }
        store_acc<NT>(out, acc);
    }

    // add_super_block's operations on NP panels; the integer sums fill the registers.
    template <int NT, int NP>
    static void accumulate(const Unpacked* u, int, const Rows& x, float* out) {
        constexpr int groups = Quant::groups_per_scale;
        alignas(64) float total[NP][NT][panel_rows];
        for (int p = 0; p < NP; ++p)
            for (int t = 0; t < NT; ++t) _mm512_store_ps(total[p][t], _mm512_setzero_ps());
        for (int i = 0; i < 64 / groups; ++i) {
            const uint8_t* q = x.q + i * groups * 4;
            __m512i sum[NP][NT];
            for (int t = 0; t < NT; ++t) {
                const __m512i offset = Quant::has_offset ? broadcast_32(x.offset + i * NT + t) : _mm512_setzero_si512();
                for (int p = 0; p < NP; ++p) sum[p][t] = offset;
            }
#pragma GCC unroll 8
            for (int g = 0; g < groups; ++g) {
                __m512i w[NP];
                for (int p = 0; p < NP; ++p) w[p] = load(u[p].w[i * groups + g]);
#pragma GCC unroll 8
                for (int t = 0; t < NT; ++t) {
                    const __m512i xt = broadcast_32(q + t * chunk_k + g * 4);
                    for (int p = 0; p < NP; ++p) sum[p][t] = _mm512_dpbusd_epi32(sum[p][t], w[p], xt);
                }
            }
            for (int p = 0; p < NP; ++p) {
                const __m512 scale = _mm512_load_ps(u[p].scales.scale[i]);
                for (int t = 0; t < NT; ++t)
                    _mm512_store_ps(total[p][t], _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[p][t]), scale,
                                                                 _mm512_load_ps(total[p][t])));
            }
        }
        for (int p = 0; p < NP; ++p)
            for (int t = 0; t < NT; ++t)
                add_total(u[p].scales, x, NT, t, _mm512_load_ps(total[p][t]), out + (t * panels_per_group + p) * panel_rows);
    }

    // The sum of a super-block for row t of num_rows -> out
    static void add_total(const KScales& scales, const Rows& x, int num_rows, int t, __m512 total, float* out) {
        const __m512 x_d = _mm512_set1_ps(x.d[t]);
        __m512 acc = _mm512_fmadd_ps(total, x_d, _mm512_load_ps(out));
        if (Quant::has_min) acc = subtract_min(scales, x, num_rows, t, x_d, acc);
        _mm512_store_ps(out, acc);
    }
};

inline __m512i nibble(const uint8_t (*rows)[4], bool high) {
    const __m512i pair = load(rows);
    return _mm512_and_si512(high ? _mm512_srli_epi16(pair, 4) : pair, _mm512_set1_epi8(15));
}

struct QuantQ4_K {
    using Tile = TileQ4_K;
    static constexpr WeightFormat format = WeightFormat::q4_k;
    static constexpr int groups_per_scale = 8, parts = 4;
    static constexpr bool has_offset = false, has_min = true;
    static void unpack_scales(const Tile& tile, KScales& s) { unpack_scales_q45(tile.d, tile.dmin, tile.scales, s); }
    static __m512i group(const Tile& tile, int part, int g) { return nibble(tile.q[part][g % 8], g / 8 % 2); }
};

struct QuantQ5_K {
    using Tile = TileQ5_K;
    static constexpr WeightFormat format = WeightFormat::q5_k;
    static constexpr int groups_per_scale = 8, parts = 1;
    static constexpr bool has_offset = false, has_min = true;
    static void unpack_scales(const Tile& tile, KScales& s) { unpack_scales_q45(tile.d, tile.dmin, tile.scales, s); }
    static __m512i group(const Tile& tile, int, int g) {
        const int s = g / 8;
        const __m512i bits = load(tile.qh[g % 8]);
        const __m512i fifth = s < 4 ? _mm512_slli_epi16(bits, s < 4 ? 4 - s : 0) : _mm512_srli_epi16(bits, s < 4 ? 0 : s - 4);
        return _mm512_or_si512(nibble(tile.q[g / 16][g % 8], s % 2), _mm512_and_si512(fifth, _mm512_set1_epi8(16)));
    }
};

struct QuantQ6_K {
    using Tile = TileQ6_K;
    static constexpr WeightFormat format = WeightFormat::q6_k;
    static constexpr int groups_per_scale = 4, parts = 2;
    static constexpr bool has_offset = true, has_min = false;
    static void unpack_scales(const Tile& tile, KScales& s) { unpack_scales_q6(tile, s); }
    static __m512i group(const Tile& tile, int half, int g) {
        const int quarter = g / 8;
        const __m512i bits = load(tile.qh[half][g % 8]);
        const __m512i high = quarter < 2 ? _mm512_slli_epi16(bits, quarter == 0 ? 4 : 2)
                                         : _mm512_srli_epi16(bits, quarter == 2 ? 0 : 2);
        const __m512i low = nibble(tile.ql[half][quarter % 2][g % 8], quarter >= 2);
        return _mm512_or_si512(low, _mm512_and_si512(high, _mm512_set1_epi8(0x30)));
    }
};

}  // namespace
}  // namespace tramontane
