// Products of bf16 weights by AVX512_BF16: one instruction adds two products to each of 16 output rows, twice what
// float32 multiply-adds do. It takes activations in bf16 too, so they are rounded to it, to nearest even.
//
// Numbers too small for bf16's normal range count as zero: the instruction takes them so.
#include <immintrin.h>

#include "matmul_driver.h"

namespace tramontane {

void add_document_attention_avx512_bf16(Kernels& table);

namespace {

constexpr int bf16_row_tile = 12;  // enough sums in flight to hide the instruction's latency

inline __m512bh as_bf16(__m512i pairs) { return reinterpret_cast<__m512bh>(pairs); }

struct PairsBf16 {
    static constexpr WeightFormat format = WeightFormat::bf16;
    static constexpr int row_tile = bf16_row_tile, direct_rows = max_rows_per_call;
    static constexpr size_t tile_bytes = panel_rows * 4;

    template <int NT, int NP = 1>
    static void direct(const uint8_t* panels, int64_t in_features, const Prepared& x, int64_t row, float* out) {
        __m512 acc[NP][NT];
        for (int p = 0; p < NP; ++p)
            for (int t = 0; t < NT; ++t) acc[p][t] = _mm512_setzero_ps();
        const int64_t pairs = (in_features + 1) / 2;
        const size_t bytes = panel_bytes(format, in_features);
        size_t at = 0;
        for (int64_t first = 0; first < pairs; first += 64) {
            const int32_t* xs = reinterpret_cast<const int32_t*>(x.at(first / 64, row).q);
            const int64_t count = at_most(pairs - first, 64);
            for (int64_t i = 0; i < count; ++i, at += tile_bytes, xs += NT) {
                prefetch_panels_ahead<NP, tile_bytes>(panels, at, bytes);
                __m512bh w[NP];
                for (int p = 0; p < NP; ++p) w[p] = as_bf16(_mm512_loadu_si512(panels + p * bytes + at));
#pragma GCC unroll 12
                for (int t = 0; t < NT; ++t) {
                    const __m512bh xt = as_bf16(_mm512_set1_epi32(xs[t]));
                    for (int p = 0; p < NP; ++p) acc[p][t] = _mm512_dpbf16_ps(acc[p][t], w[p], xt);
                }
            }
        }
        for (int p = 0; p < NP; ++p)
            for (int t = 0; t < NT; ++t) _mm512_store_ps(out + (p * NT + t) * panel_rows, acc[p][t]);
    }
};

// bf16 pairs of k, [k / 2][row][2], zero behind the last k.
void prepare_bf16(const PrepareCall& call) {
    const auto body = [](const float* x, int64_t count, int32_t* to, int64_t rows) {
        const auto part = [&](int64_t from) {
            const int64_t left = count - from;
            const __mmask16 mask = left >= 16 ? 0xffff : left <= 0 ? 0 : static_cast<__mmask16>((1 << left) - 1);
            return _mm512_maskz_loadu_ps(mask, x + from);
        };
        for (int64_t k = 0; k < 128; k += 32) {
            alignas(64) int32_t pairs[16];
            _mm512_store_si512(pairs, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(part(k + 16), part(k))));
            for (int i = 0; i < 16; ++i) to[(k / 2 + i) * rows] = pairs[i];
        }
    };
    for_row_chunks<int32_t>(call, ActivationForm::bf16, bf16_row_tile, body);
}

// Panels lie as the instruction wants them: there is nothing to unpack, however many rows there are.
void matmul_bf16(const MatmulCall& call) {
    matmul_direct<PairsBf16, 4>(call, Prepared(call.x, ActivationForm::bf16, call.in_features, call.num_rows));
}

Kernels make_table() {
    Kernels table = kernels_avx512();
    add_document_attention_avx512_bf16(table);
    table.row_tile[static_cast<int>(ActivationForm::bf16)] = bf16_row_tile;
    table.prepare[static_cast<int>(ActivationForm::bf16)] = prepare_bf16;
    table.matmul[static_cast<int>(WeightFormat::bf16)] = matmul_bf16;
    return table;
}

}  // namespace

const Kernels& kernels_avx512_bf16() {
    static const Kernels table = make_table();
    return table;
}

}  // namespace tramontane
