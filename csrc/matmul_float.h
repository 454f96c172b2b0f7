// Products with float weights (f32, bf16, f16) over Vec: one fused multiply-add per weight and row, k ascending.
#pragma once
#include "matmul_driver.h"

namespace tramontane {
namespace {

constexpr int panel_vecs = panel_rows / Vec::width;
// Eight chains of additions at least, as many as the registers hold beside the weights: 16 of 8 floats, 32 of 16.
constexpr int float_row_tile = Vec::width == 16 ? 8 : 6;

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

    // acc[t][v] += w(k) * x(t, k) for k < num_k, k a multiple of Group; packed weights are in memory, others at hand.
    template <int NT, class Source, int Group, bool is_packed>
    static void add(const uint8_t* w, size_t step, int64_t num_k, const float* x, Vec (&acc)[NT][panel_vecs]) {
        for (int64_t k = 0; k < num_k; k += Group, w += step) {
            if (is_packed) prefetch_ahead<tile_bytes>(w);
            for (int i = 0; i < Group; ++i) {
                Vec wv[panel_vecs];
                for (int v = 0; v < panel_vecs; ++v) wv[v] = Source::get(w, i, v);
#pragma GCC unroll 8
                for (int t = 0; t < NT; ++t) {
                    const Vec xv = vset1(x[(k + i) * NT + t]);
                    for (int v = 0; v < panel_vecs; ++v) acc[t][v] = vfma(wv[v], xv, acc[t][v]);
                }
            }
        }
    }

    template <int NT>
    static void direct(const uint8_t* panel, int64_t in_features, const Prepared& x, int64_t row, float* out) {
        Vec acc[NT][panel_vecs];
        for (int t = 0; t < NT; ++t)
            for (int v = 0; v < panel_vecs; ++v) acc[t][v] = vset1(0.0f);
        const int64_t padded = (in_features + tile_k - 1) / tile_k * tile_k;
        for (int64_t k = 0; k < padded; k += 128)
            add<NT, Weight, Weight::group, true>(panel + k / tile_k * tile_bytes, tile_bytes, at_most(padded - k, 128),
                                                 reinterpret_cast<const float*>(x.at(k / 128, row).q), acc);
        for (int t = 0; t < NT; ++t)
            for (int v = 0; v < panel_vecs; ++v) vstore(out + t * panel_rows + v * Vec::width, acc[t][v]);
    }

    template <int NT, int NP>
    static void accumulate(const Unpacked* u, int num_tiles, const Rows& x, float* out) {
        static_assert(NP == 1, "one panel fills the registers");
        Vec acc[NT][panel_vecs];
        for (int t = 0; t < NT; ++t)
            for (int v = 0; v < panel_vecs; ++v) acc[t][v] = vload(out + t * panels_per_group * panel_rows + v * Vec::width);
        add<NT, WeightF32, 1, false>(reinterpret_cast<const uint8_t*>(u->w), sizeof u->w[0], num_tiles * tile_k,
                                     reinterpret_cast<const float*>(x.q), acc);
        for (int t = 0; t < NT; ++t)
            for (int v = 0; v < panel_vecs; ++v) vstore(out + t * panels_per_group * panel_rows + v * Vec::width, acc[t][v]);
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
    table.matmul[static_cast<int>(WeightFormat::f32)] = matmul<FloatFormat<WeightF32>>;
    table.matmul[static_cast<int>(WeightFormat::bf16)] = matmul<FloatFormat<WeightBf16>>;
    table.matmul[static_cast<int>(WeightFormat::f16)] = matmul<FloatFormat<WeightF16>>;
}

}  // namespace
}  // namespace tramontane
