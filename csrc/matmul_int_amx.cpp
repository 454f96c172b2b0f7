// Products with quantised weights by AMX, for more rows than go straight through the packed bytes: a tile of 16 rows times
// a block of 16 outputs in one instruction. The sums are whole numbers and those of AVX-512 VNNI exactly; what follows are
// its float operations, so that a row among many has the bits of a row alone.
//
// Weights are unpacked to signed bytes: nothing is to be added for a zero point.
#include "amx_tiles.h"
#include "matmul_int_avx512.h"

namespace tramontane {
namespace {

constexpr int tile_rows = 16;

using BlockSums = int32_t[tile_rows][panel_rows];

// For every block of a chunk of one panel body(block, its sums of 16 rows). A block is `block_k` values of each row of x
// times w(block), (block_k / 4, 16 outputs, 4). Four at a time: products, then stores, then what is done with them, which
// is faster by a quarter than one after the other.
template <int block_k, class Weights, class Body>
inline void for_blocks(int num_blocks, const uint8_t* x, Weights&& w, Body&& body) {
    alignas(64) BlockSums sums[4];
    __asm__ volatile("" ::: "memory");  // weights and activations are stored before a tile is loaded
    const int in_fours = num_blocks / 4 * 4;
    for (int block = 0; block < in_fours; block += 4, x += 4 * block_k) {
        _tile_zero(0);
        _tile_loadd(4, x, chunk_k);
        _tile_loadd(5, w(block), 64);
        _tile_dpbssd(0, 4, 5);
        _tile_zero(1);
        _tile_loadd(4, x + block_k, chunk_k);
        _tile_loadd(6, w(block + 1), 64);
        _tile_dpbssd(1, 4, 6);
        _tile_zero(2);
        _tile_loadd(4, x + 2 * block_k, chunk_k);
        _tile_loadd(7, w(block + 2), 64);
        _tile_dpbssd(2, 4, 7);
        _tile_zero(3);
        _tile_loadd(4, x + 3 * block_k, chunk_k);
        _tile_loadd(5, w(block + 3), 64);
        _tile_dpbssd(3, 4, 5);
        _tile_stored(0, sums[0], 64);
        _tile_stored(1, sums[1], 64);
        _tile_stored(2, sums[2], 64);
        _tile_stored(3, sums[3], 64);
        for (int i = 0; i < 4; ++i) body(block + i, sums[i]);
    }
    for (int block = in_fours; block < num_blocks; ++block, x += block_k) {
        _tile_zero(0);
        _tile_loadd(4, x, chunk_k);
        _tile_loadd(5, w(block), 64);
        _tile_dpbssd(0, 4, 5);
        _tile_stored(0, sums[0], 64);
        body(block, sums[0]);
    }
}

inline __m512 as_floats(const int32_t* sums) { return _mm512_cvtepi32_ps(load(sums)); }

// The rows of a tile of AMX are up to two of those in which activations are prepared: calls body(t, its tile, rows in that
// tile, its number in that tile) for every row t. `d_of_row` and `sums_of_row`: how many of each belong to a row.
template <bool is_whole, int row_tile, int d_of_row, int sums_of_row, class Body>
inline void for_rows(const Rows& x, int num_rows, Body&& body) {
    const Rows second{x.q + row_tile * chunk_k, x.d + row_tile * d_of_row, nullptr, x.sums + row_tile * sums_of_row};
    const int in_first = is_whole || num_rows > row_tile ? row_tile : num_rows;
    const int in_second = is_whole ? row_tile : num_rows - in_first;
#pragma GCC unroll 8
    for (int i = 0; i < in_first; ++i) body(i, x, in_first, i);
#pragma GCC unroll 8
    for (int i = 0; i < in_second; ++i) body(row_tile + i, second, in_second, i);
}

template <class Format>
struct Tiled32 : Format {
    static constexpr int direct_rows = 20, panels_together = 1, block_k = 32;
    using typename Format::Unpacked;

    static void unpack(const uint8_t* tiles, int num_tiles, Unpacked& u) {
        Format::unpack(tiles, num_tiles, u);
        const __m512i zero_point = _mm512_set1_epi8(static_cast<char>(8 << Format::offset_shift));
        for (int b = 0; b < num_tiles; ++b)
            for (int g = 0; g < 8; ++g) _mm512_store_si512(u.w[b][g], _mm512_sub_epi8(load(u.w[b][g]), zero_point));
    }

    template <int NT, int>
    static void accumulate(const Unpacked* u, int num_tiles, const Rows& x, float* out) {
        add_rows<NT == tile_rows>(NT, *u, num_tiles, x, out);
    }

    template <bool is_whole>
    static void add_rows(int rows, const Unpacked& u, int num_tiles, const Rows& x, float* out) {
        constexpr int stride = Format::panels_per_group * panel_rows;
        const int num_rows = is_whole ? tile_rows : rows;
        __m512 acc[tile_rows];
        for (int t = 0; t < num_rows; ++t) acc[t] = _mm512_load_ps(out + t * stride);
        for_blocks<block_k>(
            num_tiles, x.q, [&](int block) { return u.w[block]; },
            [&](int block, const BlockSums& sums) {
                const __m512 d = _mm512_load_ps(u.d[block]);
                for_rows<is_whole, Format::row_tile, 8, 0>(x, num_rows, [&](int t, const Rows& tile, int in_tile, int i) {
                    const __m512 scale = _mm512_mul_ps(d, _mm512_set1_ps(tile.d[block * in_tile + i]));
                    acc[t] = _mm512_fmadd_ps(as_floats(sums[t]), scale, acc[t]);
                });
            });
        for (int t = 0; t < num_rows; ++t) _mm512_store_ps(out + t * stride, acc[t]);
    }
};

template <class Format>
struct TiledK : Format {
    static constexpr int direct_rows = 12, panels_together = 1, block_k = Format::groups_per_scale * 4;
    using typename Format::Unpacked;

    static void unpack(const uint8_t* tiles, int num_tiles, Unpacked& u) {
        Format::unpack(tiles, num_tiles, u);
        if (!Format::has_offset) return;
        for (auto& group : u.w) _mm512_store_si512(group, _mm512_sub_epi8(load(group), _mm512_set1_epi8(32)));
    }

    template <int NT, int>
    static void accumulate(const Unpacked* u, int, const Rows& x, float* out) {
        add_rows<NT == tile_rows>(NT, *u, x, out);
    }

    template <bool is_whole>
    static void add_rows(int rows, const Unpacked& u, const Rows& x, float* out) {
        constexpr int stride = Format::panels_per_group * panel_rows;
        const int num_rows = is_whole ? tile_rows : rows;
        __m512 total[tile_rows];
        for (__m512& each : total) each = _mm512_setzero_ps();
        for_blocks<block_k>(
            64 / Format::groups_per_scale, x.q, [&](int block) { return u.w[block * Format::groups_per_scale]; },
            [&](int block, const BlockSums& sums) {
                const __m512 scale = _mm512_load_ps(u.scales.scale[block]);
#pragma GCC unroll 16
                for (int t = 0; t < tile_rows; ++t) total[t] = _mm512_fmadd_ps(as_floats(sums[t]), scale, total[t]);
            });
        for_rows<is_whole, Format::row_tile, 1, 4>(x, num_rows, [&](int t, const Rows& tile, int in_tile, int i) {
            Format::add_total(u.scales, tile, in_tile, i, total[t], out + t * stride);
        });
    }
};

// Few rows as AVX-512 has it, without tiles.
template <class F>
void matmul_tiled(const MatmulCall& call) {
    if (call.row_end - call.row_begin <= F::direct_rows) return matmul<F, 1, tile_rows>(call);
    const Tiles tiles(tile_rows, F::block_k);
    matmul<F, 1, tile_rows>(call);
}

}  // namespace

void add_int_products_amx(Kernels& table) {
    table.matmul[static_cast<int>(WeightFormat::q8_0)] = matmul_tiled<Tiled32<Format32<AccessQ8_0>>>;
    table.matmul[static_cast<int>(WeightFormat::q4_0)] = matmul_tiled<Tiled32<Format32<AccessQ4_0>>>;
    table.matmul[static_cast<int>(WeightFormat::q4_k)] = matmul_tiled<TiledK<KFormat<QuantQ4_K>>>;
    table.matmul[static_cast<int>(WeightFormat::q5_k)] = matmul_tiled<TiledK<KFormat<QuantQ5_K>>>;
    table.matmul[static_cast<int>(WeightFormat::q6_k)] = matmul_tiled<TiledK<KFormat<QuantQ6_K>>>;
}

}  // namespace tramontane
