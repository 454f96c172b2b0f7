// Products of bf16 weights by AMX: a tile of 16 rows of activations times 32 k times 16 outputs in one instruction, 16
// times what one of AVX512_BF16 multiplies. Panels lie as the tiles want them, pairs of k side by side.
//
// One row runs through tiles of one row, so that it is added up like the same row among others. Numbers too small for
// bf16's normal range count as zero: the instruction takes them so.
#include <type_traits>

#include "amx_tiles.h"
#include "matmul_driver.h"

namespace tramontane {
namespace {

constexpr int tile_rows = 16, step_k = 32;
constexpr int64_t x_bytes = 512;  // from row to row of a chunk of prepared activations, of which half are used
constexpr size_t step_bytes = 1024;

struct TileMatmul {
    const MatmulCall& call;
    const Prepared x;
    const size_t panel_size;
    const int64_t whole_steps;

    explicit TileMatmul(const MatmulCall& c)
        : call(c),
          x(c.x, ActivationForm::bf16, c.in_features, c.num_rows),
          panel_size(panel_bytes(WeightFormat::bf16, c.in_features)),
          whole_steps(c.in_features / step_k) {}

    // NM tiles of rows times NP panels. Tiles 0…3 are sums, 4 and (two tiles of rows) 5 activations, the others weights.
    template <int NM, int NP>
    void multiply(int64_t row, int num_rows, int64_t panel, bool is_first) const {
        const uint8_t* const panels = call.panels + static_cast<size_t>(panel) * panel_size;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int64_t step = 0; step < whole_steps; ++step) {
            const uint8_t* const at = panels + static_cast<size_t>(step) * step_bytes;
            if (is_first) prefetch_panels_ahead<NP, step_bytes>(panels, static_cast<size_t>(step) * step_bytes, panel_size);
            add_step<NM, NP>(row, step, at, panel_size);
        }
        if (call.in_features % step_k != 0) {
            alignas(64) uint8_t last[NP][step_bytes] = {};
            for (int p = 0; p < NP; ++p) {
                const size_t from = static_cast<size_t>(whole_steps) * step_bytes;
                __builtin_memcpy(last[p], panels + static_cast<size_t>(p) * panel_size + from, panel_size - from);
            }
            __asm__ volatile("" ::: "memory");
            add_step<NM, NP>(row, whole_steps, last[0], step_bytes);
        }
        store<NM, NP>(row, num_rows, panel);
    }

   private:
    template <int NM, int NP>
    void add_step(int64_t row, int64_t step, const uint8_t* weights, size_t panel_distance) const {
        const uint8_t* const rows = x.at(step / 4, row).q + step % 4 * 64;
        _tile_loadd(4, rows, x_bytes);
        if constexpr (NM == 2) {
            _tile_loadd(5, rows + tile_rows * x_bytes, x_bytes);
            _tile_loadd(6, weights, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(2, 5, 6);
            if constexpr (NP == 2) {
                _tile_loadd(7, weights + panel_distance, 64);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(3, 5, 7);
            }
        } else {
            _tile_loadd(6, weights, 64);
            _tile_dpbf16ps(0, 4, 6);
            if constexpr (NP > 1) {
                _tile_loadd(7, weights + panel_distance, 64);
                _tile_dpbf16ps(1, 4, 7);
            }
            if constexpr (NP > 2) {
                _tile_loadd(5, weights + 2 * panel_distance, 64);
                _tile_dpbf16ps(2, 4, 5);
                _tile_loadd(6, weights + 3 * panel_distance, 64);
                _tile_dpbf16ps(3, 4, 6);
            }
        }
    }

    template <int NM, int NP>
    void store(int64_t row, int num_rows, int64_t panel) const {
        alignas(64) float sums[4][tile_rows * panel_rows];
        _tile_stored(0, sums[0], 64);
        if constexpr (NP > 1) _tile_stored(1, sums[1], 64);
        if constexpr (NM == 2 || NP > 2) _tile_stored(2, sums[2], 64);
        if constexpr (NM * NP == 4) _tile_stored(3, sums[3], 64);
        MatmulCall part = call;
        for (int m = 0; m < NM; ++m)
            for (int p = 0; p < NP; ++p) {
                part.row_begin = row + m * tile_rows;
                store_panel(sums[m * 2 + p], panel_rows, NM == 2 ? tile_rows : num_rows, part, panel + p);
            }
    }
};

void matmul_bf16(const MatmulCall& call) {
    const TileMatmul product(call);
    const int64_t num_rows = call.row_end - call.row_begin, pairs = num_rows / (2 * tile_rows);
    const auto for_panels = [&](int64_t together, auto&& some, auto&& one) {
        int64_t panel = call.panel_begin;
        for (; panel + together <= call.panel_end; panel += together) some(panel);
        for (; panel < call.panel_end; ++panel) one(panel);
    };
    if (pairs > 0) {
        const Tiles tiles;
        const auto all_rows = [&](int64_t panel, auto count) {
            for (int64_t i = 0; i < pairs; ++i)
                product.multiply<2, decltype(count)::value>(call.row_begin + i * 2 * tile_rows, 2 * tile_rows, panel, i == 0);
        };
        for_panels(
            2, [&](int64_t panel) { all_rows(panel, std::integral_constant<int, 2>()); },
            [&](int64_t panel) { all_rows(panel, std::integral_constant<int, 1>()); });
    }
    for (int64_t row = call.row_begin + pairs * 2 * tile_rows; row < call.row_end; row += tile_rows) {
        const int rows = static_cast<int>(at_most(call.row_end - row, tile_rows));
        const Tiles tiles(rows);
        for_panels(
            4, [&](int64_t panel) { product.multiply<1, 4>(row, rows, panel, pairs == 0); },
            [&](int64_t panel) { product.multiply<1, 1>(row, rows, panel, pairs == 0); });
    }
}

// A chunk of each row, in bf16, zero behind the last k.
void prepare_bf16(const PrepareCall& call) {
    const Prepared prepared(call.prepared, ActivationForm::bf16, call.in_features, call.num_rows);
    for (int64_t row = call.row_begin; row < call.row_end; ++row)
        for (int64_t chunk = 0; chunk < num_chunks(ActivationForm::bf16, call.in_features); ++chunk) {
            const float* const from = call.x + row * call.x_stride + chunk * 128;
            const int64_t count = at_most(call.in_features - chunk * 128, 128);
            uint8_t* const to = const_cast<uint8_t*>(prepared.at(chunk, row).q);
            const auto part = [&](int64_t k) {
                const int64_t left = count - k;
                const __mmask16 mask = left >= 16 ? 0xffff : left <= 0 ? 0 : static_cast<__mmask16>((1 << left) - 1);
                return _mm512_maskz_loadu_ps(mask, from + k);
            };
            for (int64_t k = 0; k < 128; k += 32)
                _mm512_store_si512(to + k * 2, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(part(k + 16), part(k))));
        }
}

}  // namespace

void add_bf16_products_amx(Kernels& table) {
    table.row_tile[static_cast<int>(ActivationForm::bf16)] = tile_rows;
    table.prepare[static_cast<int>(ActivationForm::bf16)] = prepare_bf16;
    table.matmul[static_cast<int>(WeightFormat::bf16)] = matmul_bf16;
}

}  // namespace tramontane
