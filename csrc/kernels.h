// The kernel table: what every instruction set provides. One table is chosen at run time (kernels()).
//
// A product runs in two steps. `prepare` brings T rows of activations into the form the weight format multiplies with
// (float32, or int8 with one scale per 32 or per 256 values and row) and into the order the product reads them. Then
// `matmul` computes a range of panels for a range of rows; ranges of one product may run on any threads.
//
// Every output element is formed by the same operations in the same order whatever T, the ranges and the threads are:
// integer sums are exact, and float sums run over ascending k in one chain per element.
#pragma once
#include <cstddef>
#include <cstdint>

#include "weight_formats.h"

namespace tramontane {

enum class ActivationForm : int { f32, q8_32, q8_256 };
constexpr int num_activation_forms = 3;

constexpr ActivationForm activation_form(WeightFormat format) {
    switch (format) {
        case WeightFormat::q8_0:
        case WeightFormat::q4_0: return ActivationForm::q8_32;
        case WeightFormat::q4_k:
        case WeightFormat::q5_k:
        case WeightFormat::q6_k: return ActivationForm::q8_256;
        default: return ActivationForm::f32;
    }
}

// k values per chunk of prepared activations.
constexpr int chunk_size(ActivationForm form) { return form == ActivationForm::f32 ? 128 : chunk_k; }

// Prepared activations are chunks of k; a chunk holds its T rows in tiles of `row_tile` rows (the last one narrower),
// and a tile interleaves its rows: int8 [k / 4][row][4], float [k][row]. Beside the int8 values, per row and chunk:
//   q8_32   d float[8], offset int32[8]                       one of each per 32 values
//   q8_256  d float,    offset int32[16], sums int32[4]       offsets per 16 values; sums: two int16 sums of 32
// An offset is the sum of the quantised values times the zero point of the weights, in the form the instruction set
// starts its integer sums with.
constexpr size_t prepared_row_chunk_bytes(ActivationForm form) {
    switch (form) {
        case ActivationForm::f32: return 128 * sizeof(float);
        case ActivationForm::q8_32: return 256 + 8 * sizeof(float) + 8 * sizeof(int32_t);
        case ActivationForm::q8_256: return 256 + sizeof(float) + 16 * sizeof(int32_t) + 4 * sizeof(int32_t);
    }
    return 0;
}

constexpr int64_t num_chunks(ActivationForm form, int64_t in_features) {
    return (in_features + chunk_size(form) - 1) / chunk_size(form);
}

constexpr size_t prepared_bytes(ActivationForm form, int64_t in_features, int64_t num_rows) {
    return static_cast<size_t>(num_chunks(form, in_features) * num_rows) * prepared_row_chunk_bytes(form);
}

struct PrepareCall {
    const float* x;         // (num_rows, in_features)
    int64_t x_stride;       // floats from row to row
    int64_t in_features;
    int64_t num_rows;       // of the whole product: it decides the tiles
    int64_t row_begin, row_end;
    uint8_t* prepared;      // prepared_bytes(...), 64-byte aligned
};

struct MatmulCall {
    const uint8_t* panels;  // packed weight
    int64_t in_features, out_features;
    const uint8_t* x;       // prepared activations
    int64_t num_rows;       // of the whole product
    float* out;             // (num_rows, out_features)
    int64_t out_stride;     // floats from row to row
    int64_t panel_begin, panel_end;
    int64_t row_begin, row_end;  // row_begin a multiple of row_tile
    uint8_t* scratch;            // matmul_scratch_bytes, 64-byte aligned, one per thread
};

constexpr int max_rows_per_call = 128;        // row_end - row_begin of a MatmulCall
constexpr int panels_per_group = 4;           // panels a blocked product unpacks together
constexpr size_t matmul_scratch_bytes = panels_per_group * (10240 + max_rows_per_call * panel_rows * sizeof(float));

struct Kernels {
    int row_tile[num_activation_forms];
    void (*prepare[num_activation_forms])(const PrepareCall&);
    void (*matmul[num_weight_formats])(const MatmulCall&);
};

const Kernels& kernels();  // of the instruction set in use

const Kernels& kernels_scalar();
#if defined(__x86_64__)
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();
#endif

}  // namespace tramontane
