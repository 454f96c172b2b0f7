// The kernel table: what every instruction set provides. One table is chosen at run time (kernels()).
//
// A product runs in two steps. `prepare` brings T rows of activations into the form the weight format multiplies with
// (float32, bf16, or int8 with one scale per 32 or per 256 values and row) and into the order the product reads them. Then
// `matmul` computes a range of panels for a range of rows; ranges of one product may run on any threads.
//
// Every output element is formed by the same operations in the same order whatever T, the ranges and the threads are:
// integer sums are exact, and float sums run over ascending k in one chain per element.
#pragma once
#include <cstddef>
#include <cstdint>

#include "weight_formats.h"

namespace tramontane {

// bf16: what bf16 weights multiply with, on most instruction sets float32 all the same.
enum class ActivationForm : int { f32, bf16, q8_32, q8_256 };
constexpr int num_activation_forms = 4;

static constexpr ActivationForm activation_form(WeightFormat format) {
    switch (format) {
        case WeightFormat::bf16: return ActivationForm::bf16;
        case WeightFormat::q8_0:
        case WeightFormat::q4_0: return ActivationForm::q8_32;
        case WeightFormat::q4_k:
        case WeightFormat::q5_k:
        case WeightFormat::q6_k: return ActivationForm::q8_256;
        default: return ActivationForm::f32;
    }
}

// k values per chunk of prepared activations.
static constexpr int chunk_size(ActivationForm form) {
    return form == ActivationForm::f32 || form == ActivationForm::bf16 ? 128 : chunk_k;
}

// Prepared activations are chunks of k; a chunk holds its T rows in tiles of `row_tile` rows (the last one narrower),
// and a tile interleaves its rows: int8 [k / 4][row][4], bf16 [k / 2][row][2], float [k][row]; but int8 of AVX-512 and bf16
// of AMX lie row by row. Beside the int8 values, per row and chunk:
//   q8_32   d float[8], offset int32[8]                       one of each per 32 values
//   q8_256  d float,    offset int32[16], sums int32[4]       offsets per 16 values; sums: two int16 sums of 32
// An offset is the sum of the quantised values times the zero point of the weights, in the form the instruction set
// starts its integer sums with.
static constexpr size_t prepared_row_chunk_bytes(ActivationForm form) {
    switch (form) {
        case ActivationForm::f32:
        case ActivationForm::bf16: return 128 * sizeof(float);
        case ActivationForm::q8_32: return 256 + 8 * sizeof(float) + 8 * sizeof(int32_t);
        case ActivationForm::q8_256: return 256 + sizeof(float) + 16 * sizeof(int32_t) + 4 * sizeof(int32_t);
    }
    return 0;
}

static constexpr int64_t num_chunks(ActivationForm form, int64_t in_features) {
    return (in_features + chunk_size(form) - 1) / chunk_size(form);
}

static constexpr size_t prepared_bytes(ActivationForm form, int64_t in_features, int64_t num_rows) {
    // 16 rows of a chunk are read together, however few there are
    return static_cast<size_t>(num_chunks(form, in_features) * num_rows) * prepared_row_chunk_bytes(form) + 16 * chunk_k;
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

struct NormCall {
    const float* x;       // (num_rows, dim)
    const float* weight;  // (dim)
    float eps;
    int64_t num_rows, dim;
    float* out;           // (num_rows, dim)
};

constexpr int max_head_dim = 256;

struct RotateCall {
    const float* x;                    // (num_rows, num_heads, head_dim)
    const float *cosine, *sine;        // (num_rows, head_dim / 2)
    int64_t num_rows, num_heads, head_dim;
    int64_t x_stride, out_stride;      // floats from row to row
    float* out;                        // may be x
};

enum class PageType : int { f32, bf16, f16, q8_0 };

// Bytes of one head's row in a page. q8_0: a BlockQ8_0 per 32 values, head_dim a multiple of 32.
static constexpr int64_t page_row_bytes(PageType type, int64_t head_dim) {
    switch (type) {
        case PageType::f32: return head_dim * 4;
        case PageType::q8_0: return head_dim / 32 * static_cast<int64_t>(sizeof(BlockQ8_0));
        default: return head_dim * 2;
    }
}

// Queries of one sequence and one kv head against the pages of that sequence (ops/paged.py).
struct AttentionCall {
    const float* q;        // first query, first of the heads that share the kv head: (num_queries, heads_per_kv, head_dim)
    float* out;            // likewise
    int64_t q_stride, out_stride;  // floats from query to query
    int64_t num_queries, heads_per_kv, head_dim;
    int64_t first_position;        // of the first query; the others follow
    int64_t window;                // keys a query sees, itself included
    const uint8_t *k_pages, *v_pages;  // the kv head's row of the first slot
    PageType page_type;
    int64_t page_size, page_stride, slot_stride;  // strides in bytes
    const int32_t* page_table;     // entry j holds positions (page_offset + j) * page_size …
    int64_t page_offset;
    uint8_t* scratch;              // attention_scratch_bytes, 64-byte aligned, one per thread
};

constexpr int attention_tile_rows = 64;  // num_queries * heads_per_kv of an AttentionCall
constexpr size_t attention_scratch_bytes = sizeof(float) * ((32 + 2 * attention_tile_rows) * max_head_dim +
                                                            attention_tile_rows * (32 + 2));

// One head of a document of training against itself (document_attention.h; T bf16: document_attention_bf16.h).
template <class T>
struct DocumentCall {
    const T *q, *k, *v;            // first row of the document, first number of the head
    T* out;
    float* lse;                    // (length): log of each row's normaliser
    int64_t q_stride, kv_stride;   // numbers from row to row; that of out and of all gradients of rows of queries is q's
    int64_t length, head_dim;      // head_dim a multiple of document_lanes
    int64_t window;                // keys a query sees, itself included
    uint8_t* scratch;              // document_scratch_bytes, 64-byte aligned, one per thread
};

template <class T>
struct DocumentGradientCall {
    DocumentCall<T> call;          // out and lse as the forward pass left them
    const T* grad;                 // of out
    T* grad_q;
    float *grad_k, *grad_v;        // (length, head_dim): what this head adds, zeros before
};

constexpr int document_lanes = 16;
constexpr int document_lanes_bf16 = 32;  // head_dim is a multiple of it where T is bf16
constexpr int document_tile = 64;  // queries of a DocumentCall that are computed together
constexpr size_t document_scratch_bytes(int64_t head_dim) {
    return sizeof(float) * static_cast<size_t>(document_tile) * static_cast<size_t>(7 * head_dim + 2 * document_tile + 3);
}

constexpr int64_t max_rank = 1024;
constexpr int64_t low_rank_panel = 64;  // columns of B that lie together

// out += B (scale A x) for one row. A lies by rows, B in panels of 64 outputs, so that both are read from end to end.
struct LowRankCall {
    const float* x;        // (in_features)
    const void* a;         // (rank, in_features)
    const void* b;         // (panels, rank, 64): the transposed B, padded
    bool is_half;          // float16, else float32
    float scale;
    int64_t in_features, out_features, rank;  // rank at most max_rank
    float* out;            // (out_features)
};

struct Kernels {
    int row_tile[num_activation_forms];
    void (*prepare[num_activation_forms])(const PrepareCall&);
    void (*matmul[num_weight_formats])(const MatmulCall&);
    void (*rms_norm)(const NormCall&);
    void (*rotate)(const RotateCall&);
    void (*swiglu)(const float* gate, const float* up, int64_t count, float* out);
    void (*add)(const float* a, const float* b, int64_t count, float* out);
    void (*add_scaled_row)(const float* x, float scale, int64_t count, float* out);  // out += scale * x
    void (*low_rank)(const LowRankCall&);
    void (*to_page)(const float* x, int64_t count, PageType type, void* out);  // page_row_bytes(type, count)
    void (*attention)(const AttentionCall&);
    void (*document_forward)(const DocumentCall<float>&, int64_t first_query);  // one tile of queries
    void (*document_backward)(const DocumentGradientCall<float>&);
    void (*document_forward_bf16)(const DocumentCall<uint16_t>&, int64_t first_query);  // null where nothing is won
    void (*document_backward_bf16)(const DocumentGradientCall<uint16_t>&);
    void (*quantize_q4_k)(const float* x, BlockQ4_K& block);  // 256 values
};

const Kernels& kernels();  // of the instruction set in use

const Kernels& kernels_scalar();
#if defined(__x86_64__)
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();
const Kernels& kernels_avx512_bf16();
const Kernels& kernels_avx512_amx();
#elif defined(__aarch64__)
const Kernels& kernels_neon();
const Kernels& kernels_neon_dotprod();
#endif

}  // namespace tramontane
