// The loops around a format's inner product, compiled once per instruction set (include only from its files: everything
// is in an unnamed namespace, so that no function built for one processor is shared with another).
//
// A format F provides
//   row_tile, tile_k, tile_bytes      rows multiplied together; k values and bytes of one tile of a panel
//   direct_rows                       up to this many rows the product works straight from the packed bytes, tile by
//                                     tile of rows while the panel stays in the cache (where unpacking once does not pay)
//   Unpacked, unpack(tiles, n, u)     a chunk of a panel made ready for many rows
//   direct<NT>(panel, k, x, row, acc) the whole panel for the NT rows from `row` on
//   direct<1, NP>(panels, …)          for matmul<F, NP> with NP > 1: NP panels for a single row, whose sums would wait for
//                                     each other in one panel alone; acc[NP][16]
//   accumulate<NT, NP>(u, n, x, acc)  one chunk of NP panels for NT rows; acc[row][panels_per_group][16] is read and
//                                     written
//   panels_together                   the largest NP: what one activation is multiplied with once it is loaded
// Both must form every element by the same sequence of float operations.
#pragma once
#include "kernels.h"

namespace tramontane {
namespace {

// Prepared activations seen from one chunk and row on.
struct Rows {
    const uint8_t* q;      // int8 values, or floats
    const float* d;
    const int32_t* offset;
    const int32_t* sums;
};

struct Prepared {
    const uint8_t* base;
    int64_t num_rows;
    int64_t row_chunks;  // num_chunks * num_rows
    ActivationForm form;

    Prepared(const uint8_t* x, ActivationForm activation, int64_t in_features, int64_t rows)
        : base(x), num_rows(rows), row_chunks(num_chunks(activation, in_features) * rows), form(activation) {}

    Rows at(int64_t chunk, int64_t row) const {
        const int64_t index = chunk * num_rows + row;
        if (chunk_size(form) == 128) return {base + index * 128 * 4, nullptr, nullptr, nullptr};
        const uint8_t* offsets = base + row_chunks * 256;
        if (form == ActivationForm::q8_32) {
            const uint8_t* scales = offsets + row_chunks * 32;
            return {base + index * 256, reinterpret_cast<const float*>(scales) + index * 8,
                    reinterpret_cast<const int32_t*>(offsets) + index * 8, nullptr};
        }
        const uint8_t* sums = offsets + row_chunks * 64;
        const uint8_t* scales = sums + row_chunks * 16;
        return {base + index * 256, reinterpret_cast<const float*>(scales) + index,
                reinterpret_cast<const int32_t*>(offsets) + index * 16, reinterpret_cast<const int32_t*>(sums) + index * 4};
    }
};

inline int64_t at_most(int64_t value, int64_t limit) { return value < limit ? value : limit; }

// For float forms, which put four bytes of a row beside those of the tile's other rows: calls body(x, count, to, rows) for
// every chunk of every row of the call, with its `count` values and where the first four bytes go; the next lie `rows` on.
template <class Unit, class Body>
inline void for_row_chunks(const PrepareCall& call, ActivationForm form, int row_tile, Body&& body) {
    const Prepared prepared(call.prepared, form, call.in_features, call.num_rows);
    const int size = chunk_size(form);
    for (int64_t row = call.row_begin; row < call.row_end; ++row) {
        const int64_t tile = row / row_tile * row_tile, rows = at_most(call.num_rows - tile, row_tile);
        for (int64_t chunk = 0; chunk < num_chunks(form, call.in_features); ++chunk)
            body(call.x + row * call.x_stride + chunk * size, at_most(call.in_features - chunk * size, size),
                 reinterpret_cast<Unit*>(const_cast<uint8_t*>(prepared.at(chunk, tile).q)) + row - tile, rows);
    }
}

// A product of few rows waits for its weights: it asks for those some way ahead, in this panel or the next ones. Not all
// of a tile at once: part-th of `parts` shares. Into the second-level cache, since the first level's few pending misses
// would make a single row wait. Always inline: GCC drops calls of a function that does nothing but prefetch.
template <size_t tile_bytes, size_t distance = 3072>
__attribute__((always_inline)) inline void prefetch_ahead(const void* tile, size_t part = 0, size_t parts = 1) {
    constexpr size_t lines = (tile_bytes + 63) / 64;
    for (size_t i = lines * part / parts; i < lines * (part + 1) / parts; ++i)
        __builtin_prefetch(static_cast<const uint8_t*>(tile) + distance + i * 64, 0, 2);
}

// For NP panels read side by side, `at` bytes into each of `bytes`: behind a panel's end lies what the next NP begin with.
template <int NP, size_t tile_bytes>
__attribute__((always_inline)) inline void prefetch_panels_ahead(const uint8_t* panels, size_t at, size_t bytes) {
    constexpr size_t distance = NP == 1 ? 3072 : 6144 / NP;  // with more than 6 KB in all a 7B in bf16 is 14 % slower
    const size_t jump = at + distance < bytes ? 0 : (NP - 1) * bytes;
    for (int p = 0; p < NP; ++p) prefetch_ahead<tile_bytes, distance>(panels + p * bytes + at + jump);
}

inline void store_panel(const float* acc, int64_t acc_stride, int64_t num_rows, const MatmulCall& call, int64_t panel) {
    const int64_t width = at_most(call.out_features - panel * panel_rows, panel_rows);
    for (int64_t row = 0; row < num_rows; ++row) {
        float* out = call.out + (call.row_begin + row) * call.out_stride + panel * panel_rows;
        if (width == panel_rows) {
            __builtin_memcpy(out, acc + row * acc_stride, panel_rows * sizeof(float));
        } else {
            for (int64_t r = 0; r < width; ++r) out[r] = acc[row * acc_stride + r];
        }
    }
}

template <class F, int NT>
struct ForRows {
    static void direct(int num_rows, const uint8_t* panel, int64_t k, const Prepared& x, int64_t row, float* acc) {
        if (num_rows == NT)
            F::template direct<NT>(panel, k, x, row, acc);
        else
            ForRows<F, NT - 1>::direct(num_rows, panel, k, x, row, acc);
    }
    template <int NP, class Unpacked>
    static void accumulate(int num_rows, const Unpacked* u, int num_tiles, const Rows& x, float* acc) {
        if (num_rows == NT)
            F::template accumulate<NT, NP>(u, num_tiles, x, acc);
        else
            ForRows<F, NT - 1>::template accumulate<NP>(num_rows, u, num_tiles, x, acc);
    }
};
template <class F>
struct ForRows<F, 0> {
    static void direct(int, const uint8_t*, int64_t, const Prepared&, int64_t, float*) {}
    template <int NP, class Unpacked>
    static void accumulate(int, const Unpacked*, int, const Rows&, float*) {}
};

template <class F, int panels_of_one_row = 1>
void matmul_direct(const MatmulCall& call, const Prepared& x) {
    alignas(64) float acc[F::direct_rows * panel_rows];
    const size_t bytes = panel_bytes(F::format, call.in_features);
    const int64_t num_rows = call.row_end - call.row_begin;
    int64_t first = call.panel_begin;
    if constexpr (panels_of_one_row > 1) {
        for (; num_rows == 1 && first + panels_of_one_row <= call.panel_end; first += panels_of_one_row) {
            const uint8_t* panels = call.panels + static_cast<size_t>(first) * bytes;
            F::template direct<1, panels_of_one_row>(panels, call.in_features, x, call.row_begin, acc);
            for (int p = 0; p < panels_of_one_row; ++p) store_panel(acc + p * panel_rows, panel_rows, 1, call, first + p);
        }
    }
    for (int64_t p = first; p < call.panel_end; ++p) {
        const uint8_t* panel = call.panels + static_cast<size_t>(p) * bytes;
        for (int64_t row = 0; row < num_rows; row += F::row_tile) {
            const int rows = static_cast<int>(at_most(num_rows - row, F::row_tile));
            ForRows<F, F::row_tile>::direct(rows, panel, call.in_features, x, call.row_begin + row, acc + row * panel_rows);
        }
        store_panel(acc, panel_rows, num_rows, call, p);
    }
}

// Asks for the part-th of `parts` equal shares of some bytes, so that they are near when they are read.
__attribute__((always_inline)) inline void prefetch_share(const uint8_t* bytes, size_t size, int64_t part, int64_t parts) {
    const int64_t lines = static_cast<int64_t>(size + 63) / 64;
    for (int64_t i = lines * part / parts; i < lines * (part + 1) / parts; ++i) __builtin_prefetch(bytes + i * 64, 0, 2);
}

template <class F, int rows_together>
void matmul_blocked(const MatmulCall& call, const Prepared& x) {
    using Unpacked = typename F::Unpacked;
    static_assert(sizeof(Unpacked) <= 10240 && sizeof(Unpacked) % 64 == 0, "scratch size");
    constexpr int group = F::panels_per_group;
    constexpr int tiles_per_chunk = chunk_size(activation_form(F::format)) / F::tile_k;
    Unpacked* unpacked = reinterpret_cast<Unpacked*>(call.scratch);
    float* acc = reinterpret_cast<float*>(call.scratch + panels_per_group * 10240);
    const size_t bytes = panel_bytes(F::format, call.in_features);
    const int64_t num_rows = call.row_end - call.row_begin;
    const int64_t num_tiles = (call.in_features + F::tile_k - 1) / F::tile_k;
    for (int64_t first = call.panel_begin; first < call.panel_end; first += group) {
        const int panels = static_cast<int>(at_most(call.panel_end - first, group));
        __builtin_memset(acc, 0, static_cast<size_t>(num_rows * group * panel_rows) * sizeof(float));
        for (int64_t tile = 0, chunk = 0; tile < num_tiles; tile += tiles_per_chunk, ++chunk) {
            const int tiles = static_cast<int>(at_most(num_tiles - tile, tiles_per_chunk));
            for (int p = 0; p < panels; ++p) {
                const uint8_t* panel = call.panels + static_cast<size_t>(first + p) * bytes;
                F::unpack(panel + static_cast<size_t>(tile) * F::tile_bytes, tiles, unpacked[p]);
            }
            // Chunks are read in bursts with much work between: no hardware stream lives that long.
            const bool is_last = tile + tiles_per_chunk >= num_tiles;
            const int64_t next_first = is_last ? first + group : first, next_tile = is_last ? 0 : tile + tiles_per_chunk;
            const int64_t next_panels = at_most(call.panel_end - next_first, group);
            const size_t next_bytes = static_cast<size_t>(at_most(num_tiles - next_tile, tiles_per_chunk)) * F::tile_bytes;
            for (int64_t row = 0; row < num_rows; row += rows_together) {
                const int rows = static_cast<int>(at_most(num_rows - row, rows_together));
                const Rows tile_x = x.at(chunk, call.row_begin + row);
                for (int64_t i = 0; i < next_panels; ++i)
                    prefetch_share(call.panels + static_cast<size_t>(next_first + i) * bytes +
                                       static_cast<size_t>(next_tile) * F::tile_bytes,
                                   next_bytes, row / rows_together, (num_rows + rows_together - 1) / rows_together);
                int p = 0;
                const auto panel_acc = [&] { return acc + (row * group + p) * panel_rows; };
                for (; p + F::panels_together <= panels; p += F::panels_together)
                    ForRows<F, rows_together>::template accumulate<F::panels_together>(rows, unpacked + p, tiles, tile_x,
                                                                                       panel_acc());
                for (; p < panels; ++p)
                    ForRows<F, rows_together>::template accumulate<1>(rows, unpacked + p, tiles, tile_x, panel_acc());
            }
        }
        for (int p = 0; p < panels; ++p) store_panel(acc + p * panel_rows, group * panel_rows, num_rows, call, first + p);
    }
}

// rows_together: of a blocked product, a multiple of the row tile
template <class F, int panels_of_one_row = 1, int rows_together = F::row_tile>
void matmul(const MatmulCall& call) {
    const Prepared x(call.x, activation_form(F::format), call.in_features, call.num_rows);
    if (call.row_end - call.row_begin <= F::direct_rows)
        matmul_direct<F, panels_of_one_row>(call, x);
    else
        matmul_blocked<F, rows_together>(call, x);
}

}  // namespace
}  // namespace tramontane
