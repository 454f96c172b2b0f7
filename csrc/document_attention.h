// Attention of training, over Vec: one head of one document against itself, forward and backward.
//
// Queries come in tiles of 64, keys in blocks of 64 that start at multiples of 64 of the document. Scores are kept
// transposed, a row for each key with queries in the lanes, so that the softmax is taken lane by lane; lanes of a tile
// are taken two Vecs at a time, and each such chunk multiplies the keys its queries can see and no others. Nothing is
// kept between forward and backward but the output and each row's log normaliser (arXiv:2205.14135).
#pragma once
#include <initializer_list>
#include <type_traits>

#include "elementwise.h"

namespace tramontane {
namespace {

constexpr int chunk_lanes = 2 * Vec::width;
constexpr float hidden_score = -1e30f;  // finite, so that the difference of two is a number; e^(it - a score) is zero

// out(m, n) += sum over k of a(m, k) b(k, n) for NM rows and NV Vecs of columns; a is read element by element.
template <int NM, int NV>
inline void multiply_add(const float* a, int64_t a_row, int64_t a_col, const float* b, int64_t b_row, int64_t num_k,
                         float* out, int64_t out_row, bool is_first) {
    Vec sums[NM][NV];
#pragma GCC unroll 8
    for (int m = 0; m < NM; ++m)
#pragma GCC unroll 2
        for (int n = 0; n < NV; ++n) sums[m][n] = is_first ? vset1(0.0f) : vload(out + m * out_row + n * Vec::width);
    for (int64_t k = 0; k < num_k; ++k, a += a_col, b += b_row) {
        Vec columns[NV];
#pragma GCC unroll 2
        for (int n = 0; n < NV; ++n) columns[n] = vload(b + n * Vec::width);
#pragma GCC unroll 8
        for (int m = 0; m < NM; ++m) {
            const Vec element = vset1(a[m * a_row]);
#pragma GCC unroll 2
            for (int n = 0; n < NV; ++n) sums[m][n] = vfma(element, columns[n], sums[m][n]);
        }
    }
#pragma GCC unroll 8
    for (int m = 0; m < NM; ++m)
#pragma GCC unroll 2
        for (int n = 0; n < NV; ++n) vstore(out + m * out_row + n * Vec::width, sums[m][n]);
}

// Calls body(first row, rows) with six, four, two or one rows at a time: with two Vecs as many sums as AVX2 can hold.
template <class Body>
inline void in_sixes(int64_t begin, int64_t end, Body&& body) {
    int64_t m = begin;
    for (; m + 6 <= end; m += 6) body(m, std::integral_constant<int, 6>());
    if (m + 4 <= end) {
        body(m, std::integral_constant<int, 4>());
        m += 4;
    }
    for (; m + 2 <= end; m += 2) body(m, std::integral_constant<int, 2>());
    if (m < end) body(m, std::integral_constant<int, 1>());
}

// One row of head_dim columns for each m in begin…end - 1: out(m, ·) += sum over k of a(m, k) b(k, ·).
template <class Keys>
inline void add_products(int64_t begin, int64_t end, const float* a, int64_t a_row, int64_t a_col, const float* b,
                         int64_t head_dim, float* out, int64_t out_row, Keys&& keys) {
    in_sixes(begin, end, [&](int64_t m, auto count) {
        constexpr int rows = decltype(count)::value;
        const auto [first, last] = keys(m, rows);
        if (first >= last) return;
        const float* from = a + m * a_row + first * a_col;
        int64_t d = 0;
        for (; d + 2 * Vec::width <= head_dim; d += 2 * Vec::width)
            multiply_add<rows, 2>(from, a_row, a_col, b + first * head_dim + d, head_dim, last - first,
                                  out + m * out_row + d, out_row, false);
        if (d < head_dim)
            multiply_add<rows, 1>(from, a_row, a_col, b + first * head_dim + d, head_dim, last - first,
                                  out + m * out_row + d, out_row, false);
    });
}

struct Span {
    int64_t first, last;  // last: one behind
};

// A tile's queries and, for each chunk of them, the keys of a block that some query of it sees.
struct DocumentTile {
    int64_t first_query, num_queries, window;

    int64_t num_chunks() const { return (num_queries + chunk_lanes - 1) / chunk_lanes; }
    int64_t chunk_queries(int64_t chunk) const {
        const int64_t left = num_queries - chunk * chunk_lanes;
        return left < chunk_lanes ? left : chunk_lanes;
    }
    int64_t oldest_key() const { return first_query - window + 1 > 0 ? first_query - window + 1 : 0; }
    // Counted from the block's first key
    Span keys(int64_t chunk, int64_t block) const {
        const int64_t query = first_query + chunk * chunk_lanes;
        const int64_t first = query - window + 1 - block, last = query + chunk_queries(chunk) - block;
        return {first > 0 ? first : 0, last < document_tile ? last : document_tile};
    }
    // Chunks that see any of the keys begin…end - 1
    Span chunks(int64_t block, int64_t begin, int64_t end) const {
        Span seen{num_chunks(), 0};
        for (int64_t chunk = 0; chunk < num_chunks(); ++chunk) {
            const Span span = keys(chunk, block);
            if (span.first >= end || span.last <= begin) continue;
            if (chunk < seen.first) seen.first = chunk;
            seen.last = chunk + 1;
        }
        return seen;
    }
    bool sees_all(int64_t chunk, int64_t key) const {
        const int64_t query = first_query + chunk * chunk_lanes;
        return key <= query && query + chunk_lanes - 1 - key < window && chunk_queries(chunk) == chunk_lanes;
    }
};

// Two Vecs of a chunk with `hidden` where the lane's query does not see the key.
inline void hide(const DocumentTile& tile, int64_t chunk, int64_t key, float hidden, Vec (&values)[2]) {
    const int64_t offset = key - (tile.first_query + chunk * chunk_lanes);  // of the key from the first query
    const int64_t newest = tile.chunk_queries(chunk) - 1, last = offset + tile.window - 1;
    alignas(64) float lanes[chunk_lanes];
    for (int i = 0; i < chunk_lanes; ++i) lanes[i] = static_cast<float>(i);
    const Vec low = vset1(static_cast<float>(offset)), high = vset1(static_cast<float>(last < newest ? last : newest));
    for (int n = 0; n < 2; ++n) {
        const Vec lane = vload(lanes + n * Vec::width), none = vset1(hidden);
        values[n] = vless(lane, low, none, vless(high, lane, none, values[n]));
    }
}

// Room for one thread. Rows of head_dim floats unless said.
struct DocumentScratch {
    float *q, *qt;        // (64, head_dim) scaled by head_dim^-1/2, and transposed: (head_dim, 64)
    float *grad, *grad_t; // likewise, not scaled
    float *k, *v;         // a block's
    float *out;           // of a tile: its output, or the gradient of its queries
    float *weights, *slopes;  // (64 keys, 64 queries)
    float *largest, *total, *factor;  // of each query

    DocumentScratch(uint8_t* memory, int64_t head_dim) {
        float* next = reinterpret_cast<float*>(memory);
        for (float** rows : {&q, &qt, &grad, &grad_t, &k, &v, &out}) {
            *rows = next;
            next += document_tile * head_dim;
        }
        for (float** square : {&weights, &slopes}) {
            *square = next;
            next += document_tile * document_tile;
        }
        for (float** row : {&largest, &total, &factor}) {
            *row = next;
            next += document_tile;
        }
    }
};

inline void copy_rows(const float* from, int64_t stride, int64_t num_rows, int64_t head_dim, float scale, float* to) {
    for (int64_t row = 0; row < num_rows; ++row)
        for (int64_t d = 0; d < head_dim; d += Vec::width)
            vstore(to + row * head_dim + d, vmul(vload(from + row * stride + d), vset1(scale)));
}

// (rows, head_dim) -> (head_dim, 64); rows that are not there become zeros
inline void transpose_rows(const float* rows, int64_t num_rows, int64_t head_dim, float* to) {
    for (int64_t d = 0; d < head_dim; ++d) {
        for (int64_t row = 0; row < num_rows; ++row) to[d * document_tile + row] = rows[row * head_dim + d];
        for (int64_t row = num_rows; row < document_tile; ++row) to[d * document_tile + row] = 0.0f;
    }
}

// out(key, query) = rows(key) · columns(·, query) for the keys of a chunk
inline void multiply_chunk(const Span& keys, int64_t chunk, const float* rows, const float* columns, int64_t head_dim,
                           float* out) {
    in_sixes(keys.first, keys.last, [&](int64_t j, auto count) {
        multiply_add<decltype(count)::value, 2>(rows + j * head_dim, head_dim, 1, columns + chunk * chunk_lanes,
                                                document_tile, head_dim,
                                                out + j * document_tile + chunk * chunk_lanes, document_tile, true);
    });
}

// Scores of a chunk -> e^(score - largest so far); what was summed before is brought to the new largest score.
inline void soften_chunk(const DocumentTile& tile, int64_t chunk, int64_t block, const Span& keys, int64_t head_dim,
                         const DocumentScratch& s) {
    float* const scores = s.weights + chunk * chunk_lanes;
    float* const largest = s.largest + chunk * chunk_lanes;
    float* const total = s.total + chunk * chunk_lanes;
    float* const factor = s.factor + chunk * chunk_lanes;
    Vec most[2] = {vload(largest), vload(largest + Vec::width)};
    for (int64_t j = keys.first; j < keys.last; ++j) {
        float* row = scores + j * document_tile;
        Vec values[2] = {vload(row), vload(row + Vec::width)};
        if (!tile.sees_all(chunk, block + j)) {
            hide(tile, chunk, block + j, hidden_score, values);
            for (int n = 0; n < 2; ++n) vstore(row + n * Vec::width, values[n]);
        }
        for (int n = 0; n < 2; ++n) most[n] = vmax(values[n], most[n]);
    }
    for (int n = 0; n < 2; ++n) {
        const Vec scale = vexp(vsub(vload(largest + n * Vec::width), most[n]));
        vstore(factor + n * Vec::width, scale);
        vstore(largest + n * Vec::width, most[n]);
        Vec sum = vmul(vload(total + n * Vec::width), scale);
        for (int64_t j = keys.first; j < keys.last; ++j) {
            float* at = scores + j * document_tile + n * Vec::width;
            const Vec weight = vexp(vsub(vload(at), most[n]));
            vstore(at, weight);
            sum = vadd(sum, weight);
        }
        vstore(total + n * Vec::width, sum);
    }
    for (int64_t i = 0; i < tile.chunk_queries(chunk); ++i) {
        if (factor[i] == 1.0f) continue;
        float* out = s.out + (chunk * chunk_lanes + i) * head_dim;
        for (int64_t d = 0; d < head_dim; d += Vec::width) vstore(out + d, vmul(vload(out + d), vset1(factor[i])));
    }
}

// Calls body(first key, keys) for every block that a tile sees, with its keys and values in the scratch.
template <class Body>
inline void for_blocks(const DocumentCall<float>& call, const DocumentTile& tile, const DocumentScratch& s, Body&& body) {
    const int64_t last_key = tile.first_query + tile.num_queries;
    for (int64_t block = tile.oldest_key() / document_tile * document_tile; block < last_key; block += document_tile) {
        const int64_t num_keys = last_key - block < document_tile ? last_key - block : document_tile;
        copy_rows(call.k + block * call.kv_stride, call.kv_stride, num_keys, call.head_dim, 1.0f, s.k);
        copy_rows(call.v + block * call.kv_stride, call.kv_stride, num_keys, call.head_dim, 1.0f, s.v);
        body(block, num_keys);
    }
}

// Output and log normaliser of one tile of queries.
inline void document_forward(const DocumentCall<float>& call, int64_t first_query) {
    const int64_t head_dim = call.head_dim, left = call.length - first_query;
    const DocumentTile tile{first_query, left < document_tile ? left : document_tile, call.window};
    const DocumentScratch s(call.scratch, head_dim);
    const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(head_dim));
    copy_rows(call.q + first_query * call.q_stride, call.q_stride, tile.num_queries, head_dim, scale, s.q);
    transpose_rows(s.q, tile.num_queries, head_dim, s.qt);
    for (int64_t i = 0; i < document_tile * head_dim; ++i) s.out[i] = 0.0f;
    for (int64_t i = 0; i < document_tile; ++i) {
        s.largest[i] = hidden_score;
        s.total[i] = 0.0f;
    }
    for_blocks(call, tile, s, [&](int64_t block, int64_t) {
        for (int64_t chunk = 0; chunk < tile.num_chunks(); ++chunk) {
            const Span keys = tile.keys(chunk, block);
            if (keys.first >= keys.last) continue;
            multiply_chunk(keys, chunk, s.k, s.qt, head_dim, s.weights);
            soften_chunk(tile, chunk, block, keys, head_dim, s);
            const int64_t query = chunk * chunk_lanes;
            add_products(query, query + tile.chunk_queries(chunk), s.weights, 1, document_tile, s.v, head_dim, s.out,
                         head_dim, [&](int64_t, int64_t) { return keys; });
        }
    });
    for (int64_t i = 0; i < tile.num_queries; ++i) {
        float* out = call.out + (first_query + i) * call.q_stride;
        const Vec inverse = vset1(1.0f / s.total[i]);
        for (int64_t d = 0; d < head_dim; d += Vec::width)
            vstore(out + d, vmul(vload(s.out + i * head_dim + d), inverse));
        call.lse[first_query + i] = s.largest[i] + __builtin_logf(s.total[i]);
    }
}

// Scores and products of the gradient with the values -> weights and the gradient of the scores, for one chunk.
inline void slope_chunk(const DocumentTile& tile, int64_t chunk, int64_t block, const Span& keys, const float* lse,
                        const float* shift, const DocumentScratch& s) {
    const int64_t lanes = chunk * chunk_lanes;
    const Vec zero = vset1(0.0f);
    for (int64_t j = 0; j < document_tile; ++j) {
        float* weights = s.weights + j * document_tile + lanes;
        float* slopes = s.slopes + j * document_tile + lanes;
        if (j < keys.first || j >= keys.last) {  // other chunks of the tile may see the key
            for (int n = 0; n < 2; ++n) {
                vstore(weights + n * Vec::width, zero);
                vstore(slopes + n * Vec::width, zero);
            }
            continue;
        }
        Vec scores[2] = {vload(weights), vload(weights + Vec::width)};
        if (!tile.sees_all(chunk, block + j)) hide(tile, chunk, block + j, hidden_score, scores);
        for (int n = 0; n < 2; ++n) {
            const int64_t i = lanes + n * Vec::width;
            const Vec weight = vexp(vsub(scores[n], vload(lse + i)));
            vstore(weights + n * Vec::width, weight);
            vstore(slopes + n * Vec::width, vmul(weight, vsub(vload(slopes + n * Vec::width), vload(shift + i))));
        }
    }
}

// Gradients of a whole document's queries, and of its keys and values as far as this head reads them.
inline void document_backward(const DocumentGradientCall<float>& gradient) {
    const DocumentCall<float>& call = gradient.call;
    const int64_t head_dim = call.head_dim;
    const DocumentScratch s(call.scratch, head_dim);
    const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(head_dim));
    for (int64_t first_query = 0; first_query < call.length; first_query += document_tile) {
        const int64_t left = call.length - first_query, start = first_query * call.q_stride;
        const DocumentTile tile{first_query, left < document_tile ? left : document_tile, call.window};
        copy_rows(call.q + start, call.q_stride, tile.num_queries, head_dim, scale, s.q);
        transpose_rows(s.q, tile.num_queries, head_dim, s.qt);
        copy_rows(gradient.grad + start, call.q_stride, tile.num_queries, head_dim, 1.0f, s.grad);
        transpose_rows(s.grad, tile.num_queries, head_dim, s.grad_t);
        for (int64_t i = 0; i < document_tile * head_dim; ++i) s.out[i] = 0.0f;
        for (int64_t i = 0; i < document_tile; ++i) s.largest[i] = s.total[i] = 0.0f;
        float *const lse = s.largest, *const shift = s.total;
        for (int64_t i = 0; i < tile.num_queries; ++i) {
            // sum over keys of weight * d weight, which the softmax subtracts from each row
            Vec sum = vset1(0.0f);
            for (int64_t d = 0; d < head_dim; d += Vec::width)
                sum = vfma(vload(s.grad + i * head_dim + d), vload(call.out + start + i * call.q_stride + d), sum);
            shift[i] = vsum(sum);
            lse[i] = call.lse[first_query + i];
        }
        for_blocks(call, tile, s, [&](int64_t block, int64_t num_keys) {
            for (int64_t chunk = 0; chunk < tile.num_chunks(); ++chunk) {
                const Span keys = tile.keys(chunk, block);
                if (keys.first < keys.last) {
                    multiply_chunk(keys, chunk, s.k, s.qt, head_dim, s.weights);
                    multiply_chunk(keys, chunk, s.v, s.grad_t, head_dim, s.slopes);
                }
                slope_chunk(tile, chunk, block, keys, lse, shift, s);
                const int64_t query = chunk * chunk_lanes;
                add_products(query, query + tile.chunk_queries(chunk), s.slopes, 1, document_tile, s.k, head_dim, s.out,
                             head_dim, [&](int64_t, int64_t) { return keys; });
            }
            const auto queries = [&](int64_t key, int64_t count) {
                const Span chunks = tile.chunks(block, key, key + count);
                const int64_t last = chunks.last * chunk_lanes;
                return Span{chunks.first * chunk_lanes, last < tile.num_queries ? last : tile.num_queries};
            };
            add_products(0, num_keys, s.weights, document_tile, 1, s.grad, head_dim, gradient.grad_v + block * head_dim,
                         head_dim, queries);
            add_products(0, num_keys, s.slopes, document_tile, 1, s.q, head_dim, gradient.grad_k + block * head_dim,
                         head_dim, queries);
        });
        copy_rows(s.out, head_dim, tile.num_queries, head_dim, scale, s.q);
        for (int64_t i = 0; i < tile.num_queries; ++i)
            __builtin_memcpy(gradient.grad_q + start + i * call.q_stride, s.q + i * head_dim,
                             static_cast<size_t>(head_dim) * sizeof(float));
    }
}

inline void add_document_attention(Kernels& table) {
    table.document_forward = document_forward;
    table.document_backward = document_backward;
}

}  // namespace
}  // namespace tramontane
