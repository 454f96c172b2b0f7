// Products with float weights (f32, bf16, f16) over Vec: one fused multiply-add per weight and row, k ascending.
#pragma once
#include "matmul_driver.h"

namespace tramontane {
namespace {

constexpr int panel_vecs = panel_rows / Vec::width;
// Eight chains of additions at least, as many as the registers hold beside the weights: 16 of 8 floats, 32 of 16.
constexpr int float_row_tile = Vec::width == 16 ? 8 : 6;
// For a single row, as many panels as hide the latency of an addition and fit the registers beside their weights.
constexpr int float_panels_of_one_row = Vec::width >= 8 ? 4 : Vec::width == 4 ? 2 : 1;

struct WeightF32 {
    static constexpr WeightFormat format = WeightFormat::f32;
    static constexpr int group = 1;  // k values that lie together
    static constexpr size_t bytes = 4;
    static Vec get(const uint8_t* p, int, int v) { return vload(reinterpret_cast<const float*>(p) + v * Vec::width); }
};
struct WeightBf16 {
    static constexpr WeightFormat format = WeightFormat::bf16;
    static constexpr int group = 2;
    static constexpr size_t bytes = 2;
    static Vec get(const uint8_t* p, int i, int v) {
        const uint16_t* pairs = reinterpret_cast<const uint16_t*>(p) + v * Vec::width * 2;
        return i == 0 ? vload_bf16_even(pairs) : vload_bf16_odd(pairs);
    }
};
struct WeightF16 {
    static constexpr WeightFormat format = WeightFormat::f16;
    static constexpr int group = 1;
    static constexpr size_t bytes = 2;
    static Vec get(const uint8_t* p, int, int v) { return vload_f16(reinterpret_cast<const uint16_t*>(p) + v * Vec::width); }
};

template <class Weight>
struct FloatFormat {
    static constexpr WeightFormat format = Weight::format;
    static constexpr int row_tile = float_row_tile, panels_per_group = 2, panels_together = 1;
    // f32 loads feed the multiply-adds for nothing, f16 conversions nearly so; bf16 shifts and masks compete with 8-wide
    // multiply-adds, and unpacking once is faster from 12 rows on (77 against 105 GFLOP/s at 128 rows on Zen 4).
    static constexpr int direct_rows = format == WeightFormat::bf16 && Vec::width == 8 ? 12 : max_rows_per_call;
    static constexpr int tile_k = Weight::group;
    static constexpr size_t tile_bytes = panel_rows * Weight::group * Weight::bytes;

    struct alignas(64) Unpacked {
        float w[128][16];
    };

    static void unpack(const uint8_t* tiles, int num_tiles, Unpacked& u) {
        for (int i = 0; i < num_tiles; ++i)
            for (int j = 0; j < Weight::group; ++j)
                for (int v = 0; v < panel_vecs; ++v)
                    vstore(u.w[i * Weight::group + j] + v * Vec::width, Weight::get(tiles + i * tile_bytes, j, v));
    }

    // acc[p][t][v] += w(p, k) * x(t, k) for one group of k.
    template <class Source, int Group, int NT, int NP>
    static void add(const uint8_t* w, size_t panel_step, const float* x, Vec (&acc)[NP][NT][panel_vecs]) {
        for (int i = 0; i < Group; ++i) {
            Vec wv[NP][panel_vecs];
            for (int p = 0; p < NP; ++p)
                for (int v = 0; v < panel_vecs; ++v) wv[p][v] = Source::get(w + p * panel_step, i, v);
#pragma GCC unroll 8
            for (int t = 0; t < NT; ++t) {
                const Vec xv = vset1(x[i * NT + t]);
                for (int p = 0; p < NP; ++p)
                    for (int v = 0; v < panel_vecs; ++v) acc[p][t][v] = vfma(wv[p][v], xv, acc[p][t][v]);
            }
        }
    }

    template <int NT, int NP = 1>
    static void direct(const uint8_t* panels, int64_t in_features, const Prepared& x, int64_t row, float* out) {
        Vec acc[NP][NT][panel_vecs];
        for (int p = 0; p < NP; ++p)
            for (int t = 0; t < NT; ++t)
                for (int v = 0; v < panel_vecs; ++v) acc[p][t][v] = vset1(0.0f);
        const int64_t padded = (in_features + tile_k - 1) / tile_k * tile_k;
        const size_t bytes = panel_bytes(format, in_features);
        size_t at = 0;
        for (int64_t chunk = 0; chunk * 128 < padded; ++chunk) {
            const float* xs = reinterpret_cast<const float*>(x.at(chunk, row).q);
            const int64_t count = at_most(padded - chunk * 128, 128);
            for (int64_t k = 0; k < count; k += tile_k, at += tile_bytes, xs += tile_k * NT) {
                prefetch_panels_ahead<NP, tile_bytes>(panels, at, bytes);
                add<Weight, Weight::group>(panels + at, bytes, xs, acc);
            }
        }
        for (int p = 0; p < NP; ++p)
            for (int t = 0; t < NT; ++t)
                for (int v = 0; v < panel_vecs; ++v)
                    vstore(out + (p * NT + t) * panel_rows + v * Vec::width, acc[p][t][v]);
    }

    template <int NT, int NP>
    static void accumulate(const Unpacked* u, int num_tiles, const Rows& x, float* out) {
        static_assert(NP == 1, "one panel fills the registers");
        Vec acc[1][NT][panel_vecs];
        for (int t = 0; t < NT; ++t)
            for (int v = 0; v < panel_vecs; ++v)
                acc[0][t][v] = vload(out + t * panels_per_group * panel_rows + v * Vec::width);
        const float* xs = reinterpret_cast<const float*>(x.q);
        for (int64_t k = 0; k < num_tiles * tile_k; ++k)
            add<WeightF32, 1>(reinterpret_cast<const uint8_t*>(u->w[k]), 0, xs + k * NT, acc);
        for (int t = 0; t < NT; ++t)
            for (int v = 0; v < panel_vecs; ++v)
                vstore(out + t * panels_per_group * panel_rows + v * Vec::width, acc[0][t][v]);
    }
};

inline void prepare_f32(const PrepareCall& call) {
    for_row_chunks<float>(call, ActivationForm::f32, float_row_tile, [](const float* x, int64_t count, float* to, int64_t rows) {
        for (int64_t k = 0; k < count; ++k) to[k * rows] = x[k];
        for (int64_t k = count; k < 128; ++k) to[k * rows] = 0.0f;
    });
}

inline void add_float_products(Kernels& table) {
    for (const ActivationForm form : {ActivationForm::f32, ActivationForm::bf16}) {
        table.row_tile[static_cast<int>(form)] = float_row_tile;
        table.prepare[static_cast<int>(form)] = prepare_f32;
    }
    table.matmul[static_cast<int>(WeightFormat::f32)] = matmul<FloatFormat<WeightF32>, float_panels_of_one_row>;
    table.matmul[static_cast<int>(WeightFormat::bf16)] = matmul<FloatFormat<WeightBf16>, float_panels_of_one_row>;
    table.matmul[static_cast<int>(WeightFormat::f16)] = matmul<FloatFormat<WeightF16>, float_panels_of_one_row>;
}

}  // namespace
}  // namespace tramontane
