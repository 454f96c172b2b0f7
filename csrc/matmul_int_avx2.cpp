// Products with quantised weights, AVX2: bytes of 8 output rows times bytes of one activation row, in 16-bit pairs.
//
// A 4- to 6-bit weight (unsigned) times an int8 activation leaves room to add several products in 16 bits before they
// are widened. The zero point is taken off by starting the 16-bit sums from -zero_point * (sum of the activations of the
// same lane): wrapping additions make the final value right as soon as it fits, whatever happened on the way.
#include <immintrin.h>

#include "matmul_driver.h"
#include "prepare_x86.h"

namespace tramontane {
namespace {

// Bytes between what is multiplied and what is asked for: on Zen 4, 6 KB are 8 to 17 % faster than 3 KB for a single row.
constexpr size_t ahead = 6144;

using Acc = __m256[2];  // 16 rows of one activation row

inline __m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline __m256i broadcast_32(const void* p) {
    int value;
    __builtin_memcpy(&value, p, sizeof value);
    return _mm256_set1_epi32(value);
}
inline __m256 load_f16(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

template <int NT>
inline void load_acc(const float* from, int stride, Acc (&acc)[NT]) {
    for (int t = 0; t < NT; ++t)
        for (int h = 0; h < 2; ++h) acc[t][h] = _mm256_load_ps(from + t * stride + h * 8);
}
template <int NT>
inline void zero_acc(Acc (&acc)[NT]) {
    for (int t = 0; t < NT; ++t) acc[t][0] = acc[t][1] = _mm256_setzero_ps();
}
template <int NT>
inline void store_acc(float* to, int stride, const Acc (&acc)[NT]) {
    for (int t = 0; t < NT; ++t)
        for (int h = 0; h < 2; ++h) _mm256_store_ps(to + t * stride + h * 8, acc[t][h]);
}

// acc += float(sum) * (weight scale * activation scale)
inline __m256 add_scaled(__m256 acc, __m256i sum, __m256 d, float x_d) {
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(d, _mm256_set1_ps(x_d)), acc);
}

// ---- one scale per 32 values ----

// Weight bytes W::group(g, h): k = 4 g … 4 g + 3 of rows 8 h … 8 h + 7.
template <int NT, class W>
inline void add_block_u4(const W& w, const uint8_t* q, const float* x_d, const int32_t* offset, Acc (&acc)[NT]) {
    __m256i sum[NT][2];
    for (int t = 0; t < NT; ++t) sum[t][0] = sum[t][1] = broadcast_32(offset + t);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 2
        for (int g = i; g < 8; g += 4) {
            const __m256i w0 = w.group(g, 0), w1 = w.group(g, 1);
#pragma GCC unroll 8
            for (int t = 0; t < NT; ++t) {
                const __m256i x = broadcast_32(q + (g * NT + t) * 4);
                sum[t][0] = _mm256_add_epi16(sum[t][0], _mm256_maddubs_epi16(w0, x));
                sum[t][1] = _mm256_add_epi16(sum[t][1], _mm256_maddubs_epi16(w1, x));
            }
        }
    }
    const __m256i ones = _mm256_set1_epi16(1);
    for (int h = 0; h < 2; ++h) {
        const __m256 d = w.scale(h);
        for (int t = 0; t < NT; ++t) acc[t][h] = add_scaled(acc[t][h], _mm256_madd_epi16(sum[t][h], ones), d, x_d[t]);
    }
}

struct Q4_0 {
    static constexpr WeightFormat format = WeightFormat::q4_0;
    static constexpr int row_tile = 4, direct_rows = 24, tile_k = 32, panels_per_group = 4, panels_together = 1;
    static constexpr int acc_stride = panels_per_group * panel_rows;
    static constexpr size_t tile_bytes = sizeof(TileQ4_0);

    struct Packed {
        const TileQ4_0* tile;
        __m256i group(int g, int h) const {
            const __m256i pair = load(tile->q[g % 4][h * 8]);
            return _mm256_and_si256(g < 4 ? pair : _mm256_srli_epi16(pair, 4), _mm256_set1_epi8(15));
        }
        __m256 scale(int h) const { return load_f16(tile->d + h * 8); }
    };
    struct alignas(64) Unpacked {
        uint8_t w[8][8][16][4];
        float d[8][16];
    };
    struct Chunk {
        const Unpacked& u;
        int b;
        __m256i group(int g, int h) const { return load(u.w[b][g][h * 8]); }
        __m256 scale(int h) const { return _mm256_load_ps(u.d[b] + h * 8); }
    };

    static void unpack(const uint8_t* tiles, int num_tiles, Unpacked& u) {
        for (int b = 0; b < num_tiles; ++b) {
            const Packed packed{reinterpret_cast<const TileQ4_0*>(tiles) + b};
            for (int h = 0; h < 2; ++h) {
                for (int g = 0; g < 8; ++g)
                    _mm256_store_si256(reinterpret_cast<__m256i*>(u.w[b][g][h * 8]), packed.group(g, h));
                _mm256_store_ps(u.d[b] + h * 8, packed.scale(h));
            }
        }
    }

    template <int NT>
    static void direct(const uint8_t* panel, int64_t in_features, const Prepared& x, int64_t row, float* out) {
        Acc acc[NT];
        zero_acc<NT>(acc);
        const TileQ4_0* tiles = reinterpret_cast<const TileQ4_0*>(panel);
        for (int64_t b = 0, chunk = 0; b < in_features / 32; ++chunk) {
            const Rows at = x.at(chunk, row);
            const int64_t first = b;
            for (; b < at_most(first + 8, in_features / 32); ++b) {
                const int64_t i = (b - first) * NT;
                prefetch_ahead<tile_bytes, ahead>(tiles + b);
                add_block_u4<NT>(Packed{tiles + b}, at.q + i * 32, at.d + i, at.offset + i, acc);
            }
        }
        store_acc<NT>(out, panel_rows, acc);
    }

    template <int NT, int NP>
    static void accumulate(const Unpacked* panel, int num_tiles, const Rows& x, float* out) {
        static_assert(NP == 1, "one panel fills the registers");
        const Unpacked& u = *panel;
        Acc acc[NT];
        load_acc<NT>(out, acc_stride, acc);
        for (int b = 0; b < num_tiles; ++b)
            add_block_u4<NT>(Chunk{u, b}, x.q + b * NT * 32, x.d + b * NT, x.offset + b * NT, acc);
        store_acc<NT>(out, acc_stride, acc);
    }
};

struct Q8_0 {
    static constexpr WeightFormat format = WeightFormat::q8_0;
    static constexpr int row_tile = 4, direct_rows = 8, tile_k = 32, panels_per_group = 2, panels_together = 2;
    static constexpr int acc_stride = panels_per_group * panel_rows;
    static constexpr size_t tile_bytes = sizeof(TileQ8_0);

    // Few rows: |w| * (x with the sign of w) from the packed bytes; a pair of products is at most 2 * 128 * 127 and fits
    // 16 bits. vpsign shares its ports with the multiplications, so that from four rows on the form below is faster.
    template <int NT>
    static void add_block(const TileQ8_0& tile, const uint8_t* q, const float* x_d, Acc (&acc)[NT]) {
        const __m256i ones = _mm256_set1_epi16(1);
        __m256i sum[NT][2];
        for (int t = 0; t < NT; ++t) sum[t][0] = sum[t][1] = _mm256_setzero_si256();
#pragma GCC unroll 8
        for (int g = 0; g < 8; ++g) {
            const __m256i w0 = load(tile.q[g][0]), w1 = load(tile.q[g][8]);
            const __m256i size0 = _mm256_abs_epi8(w0), size1 = _mm256_abs_epi8(w1);
#pragma GCC unroll 8
            for (int t = 0; t < NT; ++t) {
                const __m256i x = broadcast_32(q + (g * NT + t) * 4);
                const __m256i p0 = _mm256_maddubs_epi16(size0, _mm256_sign_epi8(x, w0));
                const __m256i p1 = _mm256_maddubs_epi16(size1, _mm256_sign_epi8(x, w1));
                sum[t][0] = _mm256_add_epi32(sum[t][0], _mm256_madd_epi16(p0, ones));
                sum[t][1] = _mm256_add_epi32(sum[t][1], _mm256_madd_epi16(p1, ones));
            }
        }
        for (int h = 0; h < 2; ++h) {
            const __m256 d = load_f16(tile.d + h * 8);
            for (int t = 0; t < NT; ++t) acc[t][h] = add_scaled(acc[t][h], sum[t][h], d, x_d[t]);
        }
    }

    template <int NT>
    static void direct(const uint8_t* panel, int64_t in_features, const Prepared& x, int64_t row, float* out) {
        Acc acc[NT];
        zero_acc<NT>(acc);
        const TileQ8_0* tiles = reinterpret_cast<const TileQ8_0*>(panel);
        for (int64_t b = 0, chunk = 0; b < in_features / 32; ++chunk) {
            const Rows at = x.at(chunk, row);
            const int64_t first = b;
            for (; b < at_most(first + 8, in_features / 32); ++b) {
                const int64_t i = (b - first) * NT;
                prefetch_ahead<tile_bytes, ahead>(tiles + b);
                add_block<NT>(tiles[b], at.q + i * 32, at.d + i, acc);
            }
        }
        store_acc<NT>(out, panel_rows, acc);
    }

    // Many rows: both sides widened to 16 bits once, in pairs (k, k + 2) and (k + 1, k + 3) of every four k, which
    // need no shuffle.
    struct alignas(64) Unpacked {
        int16_t w[8][8][2][16][2];  // [block][group of four k][pair][row][]
        float d[8][16];
    };

    static __m256i even_bytes(__m256i v) { return _mm256_srai_epi16(_mm256_slli_epi16(v, 8), 8); }
    static __m256i odd_bytes(__m256i v) { return _mm256_srai_epi16(v, 8); }

    static void unpack(const uint8_t* bytes, int num_tiles, Unpacked& u) {
        for (int b = 0; b < num_tiles; ++b) {
            const TileQ8_0& tile = reinterpret_cast<const TileQ8_0*>(bytes)[b];
            for (int h = 0; h < 2; ++h) {
                for (int g = 0; g < 8; ++g) {
                    const __m256i v = load(tile.q[g][h * 8]);
                    _mm256_store_si256(reinterpret_cast<__m256i*>(u.w[b][g][0][h * 8]), even_bytes(v));
                    _mm256_store_si256(reinterpret_cast<__m256i*>(u.w[b][g][1][h * 8]), odd_bytes(v));
                }
                _mm256_store_ps(u.d[b] + h * 8, load_f16(tile.d + h * 8));
            }
        }
    }

    template <int NT, int NP>
    static void accumulate(const Unpacked* panel, int num_tiles, const Rows& x, float* out) {
        alignas(32) int32_t pairs[8 * NT][2][8];  // the chunk's groups of four k, eight at a time
        for (int i = 0; i < num_tiles * NT; ++i) {
            const __m256i v = load(x.q + i * 32);
            _mm256_store_si256(reinterpret_cast<__m256i*>(pairs[i][0]), even_bytes(v));
            _mm256_store_si256(reinterpret_cast<__m256i*>(pairs[i][1]), odd_bytes(v));
        }
        for (int p = 0; p < NP; ++p) add_panel<NT>(panel[p], num_tiles, pairs, x.d, out + p * panel_rows);
    }

    // One after the other: a panel fills the registers.
    template <int NT>
    static void add_panel(const Unpacked& u, int num_tiles, const int32_t (*pairs)[2][8], const float* x_d, float* out) {
        Acc acc[NT];
        load_acc<NT>(out, acc_stride, acc);
        for (int b = 0; b < num_tiles; ++b) {
            __m256i sum[NT][2];
            for (int t = 0; t < NT; ++t) sum[t][0] = sum[t][1] = _mm256_setzero_si256();
#pragma GCC unroll 8
            for (int g = 0; g < 8; ++g) {
#pragma GCC unroll 2
                for (int pair = 0; pair < 2; ++pair) {
                    const __m256i w0 = load(u.w[b][g][pair][0]), w1 = load(u.w[b][g][pair][8]);
#pragma GCC unroll 8
                    for (int t = 0; t < NT; ++t) {
                        const int i = g * NT + t;
                        const __m256i xp = broadcast_32(&pairs[b * NT + i / 8][pair][i % 8]);
                        sum[t][0] = _mm256_add_epi32(sum[t][0], _mm256_madd_epi16(w0, xp));
                        sum[t][1] = _mm256_add_epi32(sum[t][1], _mm256_madd_epi16(w1, xp));
                    }
                }
            }
            for (int h = 0; h < 2; ++h) {
                const __m256 d = _mm256_load_ps(u.d[b] + h * 8);
                for (int t = 0; t < NT; ++t) acc[t][h] = add_scaled(acc[t][h], sum[t][h], d, x_d[b * NT + t]);
            }
        }
        store_acc<NT>(out, acc_stride, acc);
    }
};

// ---- one scale per 256 values, integer scales inside ----

struct KScales {
    int32_t scale[16][16];  // per group and row, the int16 scale twice
    int32_t min[4][16];     // per pair of sub-blocks and row, the two int16 minima
    float d[16], dmin[16];
};

inline void store_i32(int32_t* to, __m256i v) { _mm256_store_si256(reinterpret_cast<__m256i*>(to), v); }

inline void store_twice(int32_t* to, __m128i bytes) {  // 16 bytes 0…127 -> 16 lanes of two equal int16
    for (int h = 0; h < 2; ++h, bytes = _mm_srli_si128(bytes, 8)) {
        const __m256i v = _mm256_cvtepu8_epi32(bytes);
        store_i32(to + h * 8, _mm256_or_si256(v, _mm256_slli_epi32(v, 16)));
    }
}

// The twelve bytes per row of Q4_K and Q5_K (scale_min in dequantize.cpp), 16 rows at a time.
inline void unpack_scales_q45(const uint16_t* d, const uint16_t* dmin, const uint8_t (*scales)[16], KScales& out) {
    const __m128i six = _mm_set1_epi8(63), four = _mm_set1_epi8(15), top = _mm_set1_epi8(0x30);
    __m128i v[12], min[8];
    for (int i = 0; i < 12; ++i) v[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(scales[i]));
    for (int i = 0; i < 4; ++i) {
        store_twice(out.scale[i], _mm_and_si128(v[i], six));
        const __m128i scale_high = _mm_and_si128(_mm_srli_epi16(v[i], 2), top);
        store_twice(out.scale[i + 4], _mm_or_si128(_mm_and_si128(v[i + 8], four), scale_high));
        min[i] = _mm_and_si128(v[i + 4], six);
        const __m128i min_high = _mm_and_si128(_mm_srli_epi16(v[i + 4], 2), top);
        min[i + 4] = _mm_or_si128(_mm_and_si128(_mm_srli_epi16(v[i + 8], 4), four), min_high);
    }
    for (int i = 0; i < 4; ++i) {
        store_i32(out.min[i], _mm256_cvtepu8_epi16(_mm_unpacklo_epi8(min[2 * i], min[2 * i + 1])));
        store_i32(out.min[i] + 8, _mm256_cvtepu8_epi16(_mm_unpackhi_epi8(min[2 * i], min[2 * i + 1])));
    }
    for (int h = 0; h < 2; ++h) {
        _mm256_store_ps(out.d + h * 8, load_f16(d + h * 8));
        _mm256_store_ps(out.dmin + h * 8, load_f16(dmin + h * 8));
    }
}

inline void unpack_scales_q6(const TileQ6_K& tile, KScales& out) {
    for (int i = 0; i < 16; ++i) {
        __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(tile.scales[i]));
        for (int h = 0; h < 2; ++h, bytes = _mm_srli_si128(bytes, 8)) {
            const __m256i v = _mm256_cvtepi8_epi32(bytes);
            const __m256i low = _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
            store_i32(out.scale[i] + h * 8, _mm256_or_si256(low, _mm256_slli_epi32(v, 16)));
        }
    }
    for (int h = 0; h < 2; ++h) _mm256_store_ps(out.d + h * 8, load_f16(tile.d + h * 8));
}

// One super-block of 64 groups of four k. F: groups_per_sum (as many as fit 16 bits), groups_per_scale, has_offset,
// has_min. W::group(part, g, h): group g of part `part` of W::parts equal parts; the loop over parts stays a loop.
// W::prefetch(part, of_parts): the memory that is read some way ahead of that part.
template <class F, int NT, class W>
inline void add_super_block(const W& w, const KScales& s, const Rows& x, Acc (&acc)[NT]) {
    constexpr int groups = F::groups_per_sum, sums_per_part = 64 / groups / W::parts;
    __m256i total[NT][2];
    for (int t = 0; t < NT; ++t) total[t][0] = total[t][1] = _mm256_setzero_si256();
    for (int part = 0; part < W::parts; ++part) {
        const uint8_t* q = x.q + part * (64 / W::parts) * NT * 4;
#pragma GCC unroll 16
        for (int i = 0; i < sums_per_part; ++i) {
            const int sum_index = part * sums_per_part + i;
            w.prefetch(sum_index, 64 / groups);
            __m256i sum[NT][2];
            for (int t = 0; t < NT; ++t)
                sum[t][0] = sum[t][1] = F::has_offset ? broadcast_32(x.offset + sum_index * NT + t) : _mm256_setzero_si256();
#pragma GCC unroll 8
            for (int g = i * groups; g < (i + 1) * groups; ++g) {
                const __m256i w0 = w.group(part, g, 0), w1 = w.group(part, g, 1);
#pragma GCC unroll 8
                for (int t = 0; t < NT; ++t) {
                    const __m256i xg = broadcast_32(q + (g * NT + t) * 4);
                    sum[t][0] = _mm256_add_epi16(sum[t][0], _mm256_maddubs_epi16(w0, xg));
                    sum[t][1] = _mm256_add_epi16(sum[t][1], _mm256_maddubs_epi16(w1, xg));
                }
            }
            const int32_t* scale = s.scale[sum_index * groups / F::groups_per_scale];
            for (int h = 0; h < 2; ++h)
                for (int t = 0; t < NT; ++t)
                    total[t][h] = _mm256_add_epi32(total[t][h], _mm256_madd_epi16(sum[t][h], load(scale + h * 8)));
        }
    }
    for (int h = 0; h < 2; ++h) {
        const __m256 d = _mm256_load_ps(s.d + h * 8);
        for (int t = 0; t < NT; ++t) acc[t][h] = add_scaled(acc[t][h], total[t][h], d, x.d[t]);
    }
    if (F::has_min) {
        for (int h = 0; h < 2; ++h) {
            const __m256 dmin = _mm256_load_ps(s.dmin + h * 8);
            for (int t = 0; t < NT; ++t) {
                __m256i sum = _mm256_setzero_si256();
                for (int i = 0; i < 4; ++i)
                    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(load(s.min[i] + h * 8), broadcast_32(x.sums + i * NT + t)));
                const __m256 scaled = _mm256_mul_ps(dmin, _mm256_set1_ps(x.d[t]));
                acc[t][h] = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(sum), scaled, acc[t][h]);
            }
        }
    }
}

// Quant: Tile, format, the sizes above, unpack_scales(tile, scales) and group(tile, part, g, h). The rest is common to the K-quants.
template <class Quant>
struct KFormat : Quant {
    using Tile = typename Quant::Tile;
    static constexpr int row_tile = 4, tile_k = 256, panels_per_group = 4, panels_together = 1;
    static constexpr int acc_stride = panels_per_group * panel_rows;
    static constexpr size_t tile_bytes = sizeof(Tile);

    struct Packed {
        static constexpr int parts = Quant::parts;
        const Tile& tile;
        __m256i group(int part, int g, int h) const { return Quant::group(tile, part, g, h); }
        void prefetch(int part, int of_parts) const {
            prefetch_ahead<tile_bytes, ahead>(&tile, static_cast<size_t>(part), static_cast<size_t>(of_parts));
        }
    };
    struct alignas(64) Unpacked {
        uint8_t w[64][16][4];
        KScales scales;
        static constexpr int parts = 64 / Quant::groups_per_sum;
        __m256i group(int part, int g, int h) const { return load(w[part * Quant::groups_per_sum + g][h * 8]); }
        void prefetch(int, int) const {}
    };

    static void unpack(const uint8_t* bytes, int, Unpacked& u) {
        const Tile& tile = *reinterpret_cast<const Tile*>(bytes);
        constexpr int groups = 64 / Quant::parts;
        for (int part = 0; part < Quant::parts; ++part) {
#pragma GCC unroll 64
            for (int g = 0; g < groups; ++g)
                for (int h = 0; h < 2; ++h)
                    _mm256_store_si256(reinterpret_cast<__m256i*>(u.w[part * groups + g][h * 8]),
                                       Quant::group(tile, part, g, h));
        }
        Quant::unpack_scales(tile, u.scales);
    }

    template <int NT>
    static void direct(const uint8_t* panel, int64_t in_features, const Prepared& x, int64_t row, float* out) {
        Acc acc[NT];
        zero_acc<NT>(acc);
        alignas(64) KScales scales;
        for (int64_t b = 0; b < in_features / 256; ++b) {
            const Tile& tile = reinterpret_cast<const Tile*>(panel)[b];
            Quant::unpack_scales(tile, scales);
            add_super_block<Quant, NT>(Packed{tile}, scales, x.at(b, row), acc);
        }
        store_acc<NT>(out, panel_rows, acc);
    }

    template <int NT, int NP>
    static void accumulate(const Unpacked* panel, int, const Rows& x, float* out) {
        static_assert(NP == 1, "one panel fills the registers");
        const Unpacked& u = *panel;
        Acc acc[NT];
        load_acc<NT>(out, acc_stride, acc);
        add_super_block<Quant, NT>(u, u.scales, x, acc);
        store_acc<NT>(out, acc_stride, acc);
    }
};

inline __m256i nibble(const uint8_t (*rows)[4], bool high) {
    const __m256i pair = load(rows);
    return _mm256_and_si256(high ? _mm256_srli_epi16(pair, 4) : pair, _mm256_set1_epi8(15));
}

struct QuantQ4_K {
    using Tile = TileQ4_K;
    static constexpr WeightFormat format = WeightFormat::q4_k;
    // 32 products of 15 * 127, in two lanes
    static constexpr int groups_per_sum = 8, groups_per_scale = 8, parts = 4, direct_rows = 8;
    static constexpr bool has_offset = false, has_min = true;
    static void unpack_scales(const Tile& tile, KScales& s) { unpack_scales_q45(tile.d, tile.dmin, tile.scales, s); }
    static __m256i group(const Tile& tile, int part, int g, int h) {
        return nibble(tile.q[part][g % 8] + h * 8, g / 8 % 2);
    }
};

struct QuantQ5_K {
    using Tile = TileQ5_K;
    static constexpr WeightFormat format = WeightFormat::q5_k;
    // 16 products of 31 * 127, in two lanes
    static constexpr int groups_per_sum = 4, groups_per_scale = 8, parts = 1, direct_rows = 4;
    static constexpr bool has_offset = false, has_min = true;
    static void unpack_scales(const Tile& tile, KScales& s) { unpack_scales_q45(tile.d, tile.dmin, tile.scales, s); }
    static __m256i group(const Tile& tile, int, int g, int h) {
        const int s = g / 8;
        const __m256i bits = load(tile.qh[g % 8] + h * 8);
        const __m256i fifth = s < 4 ? _mm256_slli_epi16(bits, s < 4 ? 4 - s : 0) : _mm256_srli_epi16(bits, s < 4 ? 0 : s - 4);
        return _mm256_or_si256(nibble(tile.q[g / 16][g % 8] + h * 8, s % 2), _mm256_and_si256(fifth, _mm256_set1_epi8(16)));
    }
};

struct QuantQ6_K {
    using Tile = TileQ6_K;
    static constexpr WeightFormat format = WeightFormat::q6_k;
    // 16 products of 32 * 127, in two lanes, signed
    static constexpr int groups_per_sum = 4, groups_per_scale = 4, parts = 2, direct_rows = 4;
    static constexpr bool has_offset = true, has_min = false;
    static void unpack_scales(const Tile& tile, KScales& s) { unpack_scales_q6(tile, s); }
    static __m256i group(const Tile& tile, int half, int g, int h) {
        const int quarter = g / 8;
        const __m256i bits = load(tile.qh[half][g % 8] + h * 8);
        const __m256i high = quarter < 2 ? _mm256_slli_epi16(bits, quarter == 0 ? 4 : 2)
                                         : _mm256_srli_epi16(bits, quarter == 2 ? 0 : 2);
        const __m256i low = nibble(tile.ql[half][quarter % 2][g % 8] + h * 8, quarter >= 2);
        return _mm256_or_si256(low, _mm256_and_si256(high, _mm256_set1_epi8(0x30)));
    }
};

}  // namespace

void add_int_products_avx2(Kernels& table) {
    table.row_tile[static_cast<int>(ActivationForm::q8_32)] = Q4_0::row_tile;
    table.row_tile[static_cast<int>(ActivationForm::q8_256)] = KFormat<QuantQ4_K>::row_tile;
    table.prepare[static_cast<int>(ActivationForm::q8_32)] = prepare_q8_32<OffsetPairs, Interleaved, Q4_0::row_tile>;
    table.prepare[static_cast<int>(ActivationForm::q8_256)] = prepare_q8_256<OffsetPairs, Interleaved, KFormat<QuantQ4_K>::row_tile>;
    table.matmul[static_cast<int>(WeightFormat::q8_0)] = matmul<Q8_0>;
    table.matmul[static_cast<int>(WeightFormat::q4_0)] = matmul<Q4_0>;
    table.matmul[static_cast<int>(WeightFormat::q4_k)] = matmul<KFormat<QuantQ4_K>>;
    table.matmul[static_cast<int>(WeightFormat::q5_k)] = matmul<KFormat<QuantQ5_K>>;
    table.matmul[static_cast<int>(WeightFormat::q6_k)] = matmul<KFormat<QuantQ6_K>>;
}

}  // namespace tramontane
