// Attention of training on bf16, over AVX-512 and one of two ways to multiply: one head of one document against itself.
//
// As document_attention.h has it: queries in tiles of 64, keys in blocks of 64, scores transposed, a row for each key with
// 16 queries (a chunk) in the lanes. Products take bf16 and add in float32; weights and slopes are rounded to bf16 for
// them, the softmax is taken in float32, to the base of 2.
//
// `Products` offers a scope (`Products::Scope`) around everything and
//   multiply<adds>(a, a_stride, b, b_stride, num_k, c, c_stride, rows, columns)
// c (+)= a b, where a is (rows, num_k) bf16 and b holds pairs of k, (num_k / 2, columns) of two bf16 each; strides are of
// elements, rows and columns multiples of 16 and num_k of 32.
#pragma once
#include <immintrin.h>

#include <initializer_list>
#include <type_traits>

#include "kernels.h"

namespace tramontane {
namespace {

using bf16 = uint16_t;

constexpr int64_t chunk_len = 16;   // queries in the lanes of a register
constexpr int64_t depth_unit = 32;  // keys of a product are a multiple of this

inline __m512 widen(const bf16* from) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

inline void store_narrowed(bf16* to, __m512 values) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(values)));
}

// 2^x to 3e-6 of it: finer than bf16 by far
inline __m512 exp2_ps(__m512 x) {
    const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 rest = _mm512_sub_ps(x, whole);
    __m512 p = _mm512_set1_ps(1.33335581e-3f);  // the series of e^(rest ln 2)
    p = _mm512_fmadd_ps(p, rest, _mm512_set1_ps(9.61812911e-3f));
    p = _mm512_fmadd_ps(p, rest, _mm512_set1_ps(5.55041087e-2f));
    p = _mm512_fmadd_ps(p, rest, _mm512_set1_ps(0.240226507f));
    p = _mm512_fmadd_ps(p, rest, _mm512_set1_ps(0.693147181f));
    p = _mm512_fmadd_ps(p, rest, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(p, whole);
}

inline void transpose16(__m512i (&rows)[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {  // rows[i + j]: column j of each four, of rows i…i + 3
        rows[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        rows[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        rows[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        rows[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int j = 0; j < 4; ++j) {
        const __m512i low = _mm512_shuffle_i32x4(rows[j], rows[j + 4], 0x88);
        const __m512i high = _mm512_shuffle_i32x4(rows[j], rows[j + 4], 0xdd);
        const __m512i low2 = _mm512_shuffle_i32x4(rows[j + 8], rows[j + 12], 0x88);
        const __m512i high2 = _mm512_shuffle_i32x4(rows[j + 8], rows[j + 12], 0xdd);
        t[j] = _mm512_shuffle_i32x4(low, low2, 0x88);
        t[j + 8] = _mm512_shuffle_i32x4(low, low2, 0xdd);
        t[j + 4] = _mm512_shuffle_i32x4(high, high2, 0x88);
        t[j + 12] = _mm512_shuffle_i32x4(high, high2, 0xdd);
    }
    for (int i = 0; i < 16; ++i) rows[i] = t[i];
}

// (num_rows, num_columns) -> (num_columns, num_rows) of 4 bytes each, both multiples of 16; a row of `to` has 64 elements
// when it holds a tile's queries, 32 when it holds pairs of a block's keys
inline void transpose_pairs(const uint32_t* from, int64_t num_rows, int64_t num_columns, uint32_t* to) {
    for (int64_t row = 0; row < num_rows; row += 16)
        for (int64_t column = 0; column < num_columns; column += 16) {
            __m512i square[16];
            for (int i = 0; i < 16; ++i) square[i] = _mm512_loadu_si512(from + (row + i) * num_columns + column);
            transpose16(square);
            for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to + (column + i) * num_rows + row, square[i]);
        }
}

// (64, head_dim) -> (32, head_dim) of pairs of rows
inline void pair_rows(const bf16* from, int64_t head_dim, uint32_t* to) {
    for (int64_t pair = 0; pair < document_tile / 2; ++pair)
        for (int64_t d = 0; d < head_dim; d += 16) {
            const auto load = [&](int64_t row) {
                const bf16* at = from + row * head_dim + d;
                return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
            };
            const __m512i both = _mm512_or_si512(load(2 * pair), _mm512_slli_epi32(load(2 * pair + 1), 16));
            _mm512_storeu_si512(to + pair * head_dim + d, both);
        }
}

// A tile's or a block's rows, zeros behind the last
inline void copy_rows(const bf16* from, int64_t stride, int64_t num_rows, int64_t head_dim, bf16* to) {
    const size_t bytes = static_cast<size_t>(head_dim) * sizeof(bf16);
    for (int64_t row = 0; row < num_rows; ++row) __builtin_memcpy(to + row * head_dim, from + row * stride, bytes);
    __builtin_memset(to + num_rows * head_dim, 0, static_cast<size_t>(document_tile - num_rows) * bytes);
}

// Two rows of 16 weights as bf16: `first` and `second` one after the other, and in pairs.
inline __m512i narrow_two(__m512 first, __m512 second) {
    return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
}
inline void store_rows(__m512i two, bf16* first, bf16* second) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(first), _mm512_castsi512_si256(two));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(second), _mm512_extracti64x4_epi64(two, 1));
}
inline void store_pairs(__m512i two, uint32_t* pairs) {
    const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(two));
    const __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(two, 1));
    _mm512_storeu_si512(pairs, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}

// What a chunk of queries sees of a block of keys.
struct ChunkView {
    int64_t first, last;         // keys of the block that some query sees, in whole units of depth; none: first >= last
    int64_t oldest, newest;      // of key 0 of the block: lanes oldest… of it and later see it, up to newest - 1

    ChunkView(int64_t first_query, int64_t num_queries, int64_t window, int64_t block)
        : oldest(block - first_query), newest(block - first_query + window) {
        const int64_t from = first_query - window + 1 - block, to = first_query + num_queries - block;
        first = from > 0 ? from / depth_unit * depth_unit : 0;
        last = to < document_tile ? (to + depth_unit - 1) / depth_unit * depth_unit : document_tile;
        if (num_queries <= 0) last = first;
    }
    // Lanes whose query sees key `j` of the block
    __mmask16 lanes(int64_t j) const { return static_cast<__mmask16>(below(newest + j) & ~below(oldest + j)); }

   private:
    static uint32_t below(int64_t lane) { return lane <= 0 ? 0u : lane >= 16 ? 0xffffu : (1u << lane) - 1; }
};

// Room for one thread: document_scratch_bytes(head_dim) hold it.
struct DocumentScratchBf16 {
    bf16 *q, *grad, *k, *v;               // (64, head_dim)
    uint32_t *q_columns, *grad_columns;   // (head_dim / 2, 64 queries) of pairs of d
    uint32_t *q_pairs, *grad_pairs;       // (32, head_dim) of pairs of queries
    uint32_t *key_columns;                // (head_dim, 32) of pairs of keys: the block's keys or values, transposed
    float* sums;                          // (4 chunks, head_dim, 16 queries): output or gradient of the queries
    float* edge;                          // (64 keys, head_dim): gradient of a block that is not whole
    float *scores, *slopes;               // (64 keys, 16 queries)
    uint32_t* pairs;                      // (32, 16 queries) of pairs of keys
    bf16 *weight_rows, *slope_rows;       // (64 keys, 64 queries)
    float *largest, *total;               // of each query

    DocumentScratchBf16(uint8_t* memory, int64_t head_dim) {
        const auto take = [&memory](auto& part, int64_t bytes) {
            part = reinterpret_cast<std::remove_reference_t<decltype(part)>>(memory);
            memory += bytes;
        };
        const int64_t rows = document_tile * head_dim * static_cast<int64_t>(sizeof(bf16));
        for (bf16** each : {&q, &grad, &k, &v}) take(*each, rows);
        for (uint32_t** each : {&q_columns, &grad_columns, &q_pairs, &grad_pairs, &key_columns}) take(*each, rows);
        for (float** each : {&sums, &edge}) take(*each, 2 * rows);
        for (float** each : {&scores, &slopes}) take(*each, document_tile * chunk_len * 4);
        take(pairs, document_tile * chunk_len * 2);
        for (bf16** each : {&weight_rows, &slope_rows}) take(*each, document_tile * document_tile * 2);
        for (float** each : {&largest, &total}) take(*each, document_tile * 4);
    }
};

// sums (head_dim, 16 queries) of each chunk -> rows of queries, each multiplied by its factor, in bf16
inline void store_queries(const float* sums, const float* factors, int64_t num_queries, int64_t head_dim, bf16* to,
                          int64_t stride) {
    for (int64_t query = 0; query < num_queries; query += chunk_len) {
        const float* chunk = sums + query * head_dim;
        const __m512 factor = _mm512_loadu_ps(factors + query);
        const int64_t left = num_queries - query < chunk_len ? num_queries - query : chunk_len;
        for (int64_t d = 0; d < head_dim; d += 16) {
            __m512i square[16];
            for (int i = 0; i < 16; ++i)
                square[i] = _mm512_castps_si512(_mm512_mul_ps(_mm512_loadu_ps(chunk + (d + i) * chunk_len), factor));
            transpose16(square);
            for (int64_t i = 0; i < left; ++i)
                store_narrowed(to + (query + i) * stride + d, _mm512_castsi512_ps(square[i]));
        }
    }
}

// Scores of a chunk -> weights 2^(score - largest so far) in pairs of keys; sums so far are brought to the new largest.
inline void soften_chunk(const ChunkView& view, float scale, int64_t head_dim, float* sums, float* largest, float* total,
                         const DocumentScratchBf16& s) {
    const __m512 before = _mm512_loadu_ps(largest);
    __m512 most[4] = {before, before, before, before};
    for (int64_t j = view.first; j < view.last; j += 4)
        for (int i = 0; i < 4; ++i)
            most[i] = _mm512_mask_max_ps(most[i], view.lanes(j + i), most[i],
                                         _mm512_loadu_ps(s.scores + (j + i) * chunk_len));
    const __m512 now = _mm512_max_ps(_mm512_max_ps(most[0], most[1]), _mm512_max_ps(most[2], most[3]));
    const __m512 scales = _mm512_set1_ps(scale), shift = _mm512_mul_ps(now, scales);
    const auto weight = [&](int64_t j) {
        const __m512 score = _mm512_loadu_ps(s.scores + j * chunk_len);
        return _mm512_maskz_mov_ps(view.lanes(j), exp2_ps(_mm512_fmsub_ps(score, scales, shift)));
    };
    __m512 added[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int64_t j = view.first; j < view.last; j += 2) {
        const __m512 first = weight(j), second = weight(j + 1);
        added[0] = _mm512_add_ps(added[0], first);
        added[1] = _mm512_add_ps(added[1], second);
        store_pairs(narrow_two(first, second), s.pairs + j / 2 * chunk_len);
    }
    const __m512 factor = exp2_ps(_mm512_sub_ps(_mm512_mul_ps(before, scales), shift));
    const __m512 sum = _mm512_fmadd_ps(_mm512_loadu_ps(total), factor, _mm512_add_ps(added[0], added[1]));
    _mm512_storeu_ps(total, sum);
    _mm512_storeu_ps(largest, now);
    if (_mm512_cmpneq_ps_mask(factor, _mm512_set1_ps(1.0f)) == 0) return;
    for (int64_t d = 0; d < head_dim; ++d) {
        float* at = sums + d * chunk_len;
        _mm512_storeu_ps(at, _mm512_mul_ps(_mm512_loadu_ps(at), factor));
    }
}

// A block's keys or values, (64, head_dim) -> key_columns. Uses `edge`.
inline void transpose_block(const bf16* rows, int64_t head_dim, const DocumentScratchBf16& s) {
    uint32_t* const pairs = reinterpret_cast<uint32_t*>(s.edge);
    pair_rows(rows, head_dim, pairs);
    transpose_pairs(pairs, document_tile / 2, head_dim, s.key_columns);
}

constexpr float log2_e = 1.44269504f, ln_2 = 0.693147181f;

inline float score_scale(int64_t head_dim) { return log2_e / __builtin_sqrtf(static_cast<float>(head_dim)); }

inline int64_t tile_queries(int64_t length, int64_t first_query) {
    return length - first_query < document_tile ? length - first_query : document_tile;
}

// Calls body(first key, keys) for every block that a tile sees, its keys and values copied.
template <class Body>
inline void for_blocks(const DocumentCall<bf16>& call, int64_t first_query, int64_t num_queries,
                       const DocumentScratchBf16& s, Body&& body) {
    const int64_t oldest = first_query - call.window + 1, last_key = first_query + num_queries;
    const int64_t from = oldest > 0 ? oldest / document_tile * document_tile : 0;
    for (int64_t block = from; block < last_key; block += document_tile) {
        const int64_t num_keys = last_key - block < document_tile ? last_key - block : document_tile;
        copy_rows(call.k + block * call.kv_stride, call.kv_stride, num_keys, call.head_dim, s.k);
        copy_rows(call.v + block * call.kv_stride, call.kv_stride, num_keys, call.head_dim, s.v);
        body(block, num_keys);
    }
}

// Output and log normaliser of one tile of queries.
template <class Products>
void document_forward_bf16(const DocumentCall<bf16>& call, int64_t first_query) {
    [[maybe_unused]] const typename Products::Scope scope;
    const int64_t head_dim = call.head_dim, num_queries = tile_queries(call.length, first_query);
    const DocumentScratchBf16 s(call.scratch, head_dim);
    const float scale = score_scale(head_dim);
    copy_rows(call.q + first_query * call.q_stride, call.q_stride, num_queries, head_dim, s.q);
    transpose_pairs(reinterpret_cast<uint32_t*>(s.q), document_tile, head_dim / 2, s.q_columns);
    for (int64_t i = 0; i < document_tile * head_dim; ++i) s.sums[i] = 0.0f;
    for (int64_t i = 0; i < document_tile; ++i) {
        s.largest[i] = -1e30f;  // finite: the difference of two is a number
        s.total[i] = 0.0f;
    }
    for_blocks(call, first_query, num_queries, s, [&](int64_t block, int64_t) {
        transpose_block(s.v, head_dim, s);
        for (int64_t query = 0; query < num_queries; query += chunk_len) {
            const ChunkView view(first_query + query, num_queries - query < chunk_len ? num_queries - query : chunk_len,
                                 call.window, block);
            if (view.first >= view.last) continue;
            float* const sums = s.sums + query * head_dim;
            Products::template multiply<false>(s.k + view.first * head_dim, head_dim, s.q_columns + query, document_tile,
                                               head_dim, s.scores + view.first * chunk_len, chunk_len,
                                               view.last - view.first, chunk_len);
            soften_chunk(view, scale, head_dim, sums, s.largest + query, s.total + query, s);
            Products::template multiply<true>(reinterpret_cast<bf16*>(s.key_columns) + view.first, document_tile,
                                              s.pairs + view.first / 2 * chunk_len, chunk_len, view.last - view.first,
                                              sums, chunk_len, head_dim, chunk_len);
        }
    });
    for (int64_t i = 0; i < num_queries; ++i) {
        call.lse[first_query + i] = s.largest[i] * scale * ln_2 + __builtin_logf(s.total[i]);
        s.total[i] = 1.0f / s.total[i];
    }
    store_queries(s.sums, s.total, num_queries, head_dim, call.out + first_query * call.q_stride, call.q_stride);
}

// Scores of a chunk and products of the gradient with the values -> weights, and the gradient of the scores.
inline void slope_chunk(const ChunkView& view, int64_t query, float scale, const DocumentScratchBf16& s) {
    const __m512 scales = _mm512_set1_ps(scale), slope_scale = _mm512_set1_ps(scale * ln_2);
    const __m512 lse = _mm512_loadu_ps(s.largest + query), shift = _mm512_loadu_ps(s.total + query);
    const auto weight = [&](int64_t j) {
        const __m512 score = _mm512_loadu_ps(s.scores + j * chunk_len);
        return _mm512_maskz_mov_ps(view.lanes(j), exp2_ps(_mm512_fmsub_ps(score, scales, lse)));
    };
    const auto slope = [&](int64_t j, __m512 weight) {
        const __m512 product = _mm512_sub_ps(_mm512_loadu_ps(s.slopes + j * chunk_len), shift);
        return _mm512_mul_ps(_mm512_mul_ps(weight, slope_scale), product);
    };
    for (int64_t j = 0; j < document_tile; j += 2) {
        const int64_t at = j * document_tile + query, next = at + document_tile;
        if (j < view.first || j >= view.last) {  // other chunks of the tile may see the key
            store_rows(_mm512_setzero_si512(), s.weight_rows + at, s.weight_rows + next);
            store_rows(_mm512_setzero_si512(), s.slope_rows + at, s.slope_rows + next);
            continue;
        }
        const __m512 first = weight(j), second = weight(j + 1);
        const __m512i slopes = narrow_two(slope(j, first), slope(j + 1, second));
        store_rows(narrow_two(first, second), s.weight_rows + at, s.weight_rows + next);
        store_rows(slopes, s.slope_rows + at, s.slope_rows + next);
        store_pairs(slopes, s.pairs + j / 2 * chunk_len);
    }
}

// grad (keys, head_dim) += rows (keys, 64 queries) times pairs of queries; a block's keys behind `num_keys` are not there.
template <class Products>
inline void add_to_keys(const bf16* rows, const uint32_t* pairs, int64_t num_queries, int64_t num_keys, int64_t head_dim,
                        float* grad, float* edge) {
    const bool is_whole = num_keys == document_tile;
    float* const sums = is_whole ? grad : edge;
    const size_t bytes = static_cast<size_t>(num_keys * head_dim) * sizeof(float);
    if (!is_whole) __builtin_memcpy(edge, grad, bytes);
    Products::template multiply<true>(rows, document_tile, pairs, head_dim,
                                      (num_queries + depth_unit - 1) / depth_unit * depth_unit, sums, head_dim,
                                      (num_keys + 15) / 16 * 16, head_dim);
    if (!is_whole) __builtin_memcpy(grad, edge, bytes);
}

// Gradients of a whole document's queries, and of its keys and values as far as this head reads them.
template <class Products>
void document_backward_bf16(const DocumentGradientCall<bf16>& gradient) {
    [[maybe_unused]] const typename Products::Scope scope;
    const DocumentCall<bf16>& call = gradient.call;
    const int64_t head_dim = call.head_dim;
    const DocumentScratchBf16 s(call.scratch, head_dim);
    const float scale = score_scale(head_dim);
    for (int64_t first_query = 0; first_query < call.length; first_query += document_tile) {
        const int64_t num_queries = tile_queries(call.length, first_query), start = first_query * call.q_stride;
        copy_rows(call.q + start, call.q_stride, num_queries, head_dim, s.q);
        copy_rows(gradient.grad + start, call.q_stride, num_queries, head_dim, s.grad);
        transpose_pairs(reinterpret_cast<uint32_t*>(s.q), document_tile, head_dim / 2, s.q_columns);
        transpose_pairs(reinterpret_cast<uint32_t*>(s.grad), document_tile, head_dim / 2, s.grad_columns);
        pair_rows(s.q, head_dim, s.q_pairs);
        pair_rows(s.grad, head_dim, s.grad_pairs);
        for (int64_t i = 0; i < document_tile * head_dim; ++i) s.sums[i] = 0.0f;
        float *const lse = s.largest, *const shift = s.total;
        for (int64_t i = 0; i < document_tile; ++i) {
            lse[i] = 1e30f;  // of a query that is not there: all its weights are zero
            shift[i] = 0.0f;
        }
        for (int64_t i = 0; i < num_queries; ++i) {
            // sum over keys of weight * d weight, which the softmax subtracts from each row
            __m512 sum = _mm512_setzero_ps();
            for (int64_t d = 0; d < head_dim; d += 16)
                sum = _mm512_fmadd_ps(widen(s.grad + i * head_dim + d), widen(call.out + start + i * call.q_stride + d), sum);
            shift[i] = _mm512_reduce_add_ps(sum);
            lse[i] = call.lse[first_query + i] * log2_e;
        }
        for_blocks(call, first_query, num_queries, s, [&](int64_t block, int64_t num_keys) {
            transpose_block(s.k, head_dim, s);
            for (int64_t query = 0; query < document_tile; query += chunk_len) {
                const int64_t left = num_queries - query;
                const ChunkView view(first_query + query, left < chunk_len ? left : chunk_len, call.window, block);
                const int64_t num_seen = view.last - view.first, first_row = view.first * chunk_len;
                if (num_seen > 0) {
                    Products::template multiply<false>(s.k + view.first * head_dim, head_dim, s.q_columns + query,
                                                       document_tile, head_dim, s.scores + first_row, chunk_len, num_seen,
                                                       chunk_len);
                    Products::template multiply<false>(s.v + view.first * head_dim, head_dim, s.grad_columns + query,
                                                       document_tile, head_dim, s.slopes + first_row, chunk_len, num_seen,
                                                       chunk_len);
                }
                slope_chunk(view, query, scale, s);
                if (num_seen > 0)
                    Products::template multiply<true>(reinterpret_cast<bf16*>(s.key_columns) + view.first, document_tile,
                                                      s.pairs + view.first / 2 * chunk_len, chunk_len, num_seen,
                                                      s.sums + query * head_dim, chunk_len, head_dim, chunk_len);
            }
            add_to_keys<Products>(s.weight_rows, s.grad_pairs, num_queries, num_keys, head_dim,
                                  gradient.grad_v + block * head_dim, s.edge);
            add_to_keys<Products>(s.slope_rows, s.q_pairs, num_queries, num_keys, head_dim,
                                  gradient.grad_k + block * head_dim, s.edge);
        });
        for (int64_t i = 0; i < document_tile; ++i) s.total[i] = 1.0f;
        store_queries(s.sums, s.total, num_queries, head_dim, gradient.grad_q + start, call.q_stride);
    }
}

template <class Products>
void add_document_attention_bf16(Kernels& table) {
    table.document_forward_bf16 = document_forward_bf16<Products>;
    table.document_backward_bf16 = document_backward_bf16<Products>;
}

}  // namespace
}  // namespace tramontane
