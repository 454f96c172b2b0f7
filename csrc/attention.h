// Attention of some queries over the pages of their sequence, over Vec.
//
// Keys are visited in blocks of 32 positions that start at multiples of 32 of the sequence, oldest visible block first,
// with an online softmax (arXiv:1805.02867). Which blocks a query visits, and every operation on its numbers, depend on
// its position and window alone: not on the chunk, the page size, the thread or the other queries of the tile. Keys that
// a query must not see never enter its sums, not even times zero.
#pragma once
#include "elementwise.h"

namespace tramontane {
namespace {

constexpr int key_block = 32;

// Rows of `width` floats (head_dim rounded up to whole Vecs), one after another.
struct AttentionScratch {
    int64_t width;
    float* k;         // (key_block, width), zero where no query of the tile sees the key
    float* v;
    float* q;         // (tile rows, width), scaled by head_dim^-1/2
    float* out;
    float* weights;   // (tile rows, key_block)
    float* largest;   // (tile rows)
    float* total;

    AttentionScratch(uint8_t* memory, int64_t head_dim)
        : width((head_dim + Vec::width - 1) / Vec::width * Vec::width),
          k(reinterpret_cast<float*>(memory)),
          v(k + key_block * width),
          q(v + key_block * width),
          out(q + attention_tile_rows * width),
          weights(out + attention_tile_rows * width),
          largest(weights + attention_tile_rows * key_block),
          total(largest + attention_tile_rows) {}
};

inline const uint8_t* page_row(const AttentionCall& call, const uint8_t* pages, int64_t position, int64_t row_bytes) {
    const int64_t page = call.page_table[position / call.page_size - call.page_offset];
    const int64_t slot = page * call.page_size + position % call.page_size;
    return pages + (slot * call.num_kv_heads + call.kv_head) * row_bytes;
}

inline void read_q8_0_row(const uint8_t* row, int64_t head_dim, float* out) {
    for (int64_t i = 0; i < head_dim; i += 32, row += sizeof(BlockQ8_0)) {
        uint16_t d;
        __builtin_memcpy(&d, row, sizeof d);
        const Vec scale = vset1_f16(d);
        const int8_t* q = reinterpret_cast<const int8_t*>(row + sizeof d);
        for (int j = 0; j < 32; j += Vec::width) vstore(out + i + j, vmul(vload_i8(q + j), scale));
    }
}

inline void read_page_row(const uint8_t* row, PageType type, int64_t head_dim, float* out) {
    if (type == PageType::q8_0) return read_q8_0_row(row, head_dim, out);
    for (int64_t i = 0; i < head_dim; i += Vec::width) {
        const int64_t left = head_dim - i;
        if (type == PageType::f32) {
            vstore(out + i, load_part(reinterpret_cast<const float*>(row) + i, left));
        } else {
            const uint16_t* from = reinterpret_cast<const uint16_t*>(row) + i;
            alignas(64) uint16_t lanes[Vec::width] = {};
            if (left < Vec::width) {
                __builtin_memcpy(lanes, from, static_cast<size_t>(left) * sizeof(uint16_t));
                from = lanes;
            }
            vstore(out + i, type == PageType::bf16 ? vload_bf16(from) : vload_f16(from));
        }
    }
}

// Keys and values of positions begin…end - 1 of the block that starts at `block`; k rows outside become zero.
inline void read_block(const AttentionCall& call, int64_t block, int64_t begin, int64_t end,
                       const AttentionScratch& s) {
    const int64_t row_bytes = page_row_bytes(call.page_type, call.head_dim);
    for (int64_t position = block; position < block + key_block; ++position) {
        float* k = s.k + (position - block) * s.width;
        if (position < begin || position >= end) {
            for (int64_t i = 0; i < s.width; i += Vec::width) vstore(k + i, vset1(0.0f));
            continue;
        }
        const int64_t ahead = position + key_block;
        if (ahead < call.num_positions) {  // rows of one head lie apart: no hardware stream covers them
            const uint8_t* next_k = page_row(call, call.k_pages, ahead, row_bytes);
            const uint8_t* next_v = page_row(call, call.v_pages, ahead, row_bytes);
            for (int64_t i = 0; i < row_bytes; i += 64) {
                __builtin_prefetch(next_k + i);
                __builtin_prefetch(next_v + i);
            }
        }
        read_page_row(page_row(call, call.k_pages, position, row_bytes), call.page_type, call.head_dim, k);
        read_page_row(page_row(call, call.v_pages, position, row_bytes), call.page_type, call.head_dim,
                      s.v + (position - block) * s.width);
    }
}

// Scores of one row against keys first…last - 1 of the block (rounded outwards to whole Vecs), unseen ones -infinity.
inline void score_row(int row, int first, int last, const AttentionScratch& s) {
    const Vec hidden = vset1(-__builtin_inff());
    for (int j = 0; j < key_block; j += Vec::width) {
        Vec scores = hidden;
        if (j < last && j + Vec::width > first) {
            Vec sums[Vec::width];
            for (int i = 0; i < Vec::width; ++i) sums[i] = vset1(0.0f);
            for (int64_t d = 0; d < s.width; d += Vec::width) {
                const Vec q = vload(s.q + row * s.width + d);
#pragma GCC unroll 16
                for (int i = 0; i < Vec::width; ++i) sums[i] = vfma(q, vload(s.k + (j + i) * s.width + d), sums[i]);
            }
            scores = vfirst(last - j, vfirst(first - j, hidden, vsum_each(sums)), hidden);
        }
        vstore(s.weights + row * key_block + j, scores);
    }
}

// Scores -> weights e^(score - largest so far); earlier sums are brought to the new largest score.
inline void soften_row(int row, const AttentionScratch& s) {
    float* weights = s.weights + row * key_block;
    float* out = s.out + row * s.width;
    Vec most = vload(weights);
    for (int j = Vec::width; j < key_block; j += Vec::width) most = vmax(most, vload(weights + j));
    const float block_largest = vhmax(most);
    const float largest = block_largest > s.largest[row] ? block_largest : s.largest[row];
    const Vec shift = vset1(largest);
    Vec sum = vset1(0.0f);
    for (int j = 0; j < key_block; j += Vec::width) {
        const Vec weight = vexp(vsub(vload(weights + j), shift));
        vstore(weights + j, weight);
        sum = vadd(sum, weight);
    }
    if (largest != s.largest[row]) {
        alignas(64) float lanes[Vec::width];
        vstore(lanes, vexp(vset1(s.largest[row] - largest)));
        const Vec factor = vset1(lanes[0]);
        s.total[row] *= lanes[0];
        for (int64_t d = 0; d < s.width; d += Vec::width) vstore(out + d, vmul(vload(out + d), factor));
        s.largest[row] = largest;
    }
    s.total[row] += vsum(sum);
}

// out += weight * value for keys first…last - 1, for NR rows and NV Vecs of channels from d on
template <int NR, int NV>
inline void add_values(int row, int64_t d, int first, int last, const AttentionScratch& s) {
    Vec out[NR][NV];
    for (int r = 0; r < NR; ++r)
        for (int v = 0; v < NV; ++v) out[r][v] = vload(s.out + (row + r) * s.width + d + v * Vec::width);
    for (int j = first; j < last; ++j) {
        Vec value[NV];
        for (int v = 0; v < NV; ++v) value[v] = vload(s.v + j * s.width + d + v * Vec::width);
        for (int r = 0; r < NR; ++r) {
            const Vec weight = vset1(s.weights[(row + r) * key_block + j]);
            for (int v = 0; v < NV; ++v) out[r][v] = vfma(weight, value[v], out[r][v]);
        }
    }
    for (int r = 0; r < NR; ++r)
        for (int v = 0; v < NV; ++v) vstore(s.out + (row + r) * s.width + d + v * Vec::width, out[r][v]);
}

template <int NR>
inline void add_values_rows(int row, int first, int last, const AttentionScratch& s) {
    int64_t d = 0;
    for (; d + 4 * Vec::width <= s.width; d += 4 * Vec::width) add_values<NR, 4>(row, d, first, last, s);
    for (; d < s.width; d += Vec::width) add_values<NR, 1>(row, d, first, last, s);
}

inline void attention(const AttentionCall& call) {
    const AttentionScratch s(call.scratch, call.head_dim);
    const int rows_per_query = static_cast<int>(call.heads_per_kv);
    const int num_rows = static_cast<int>(call.num_queries) * rows_per_query;
    const Vec scale = vset1(1.0f / __builtin_sqrtf(static_cast<float>(call.head_dim)));
    for (int row = 0; row < num_rows; ++row) {
        const float* q = call.q + row / rows_per_query * call.q_stride + row % rows_per_query * call.head_dim;
        for (int64_t d = 0; d < s.width; d += Vec::width) {
            vstore(s.q + row * s.width + d, vmul(load_part(q + d, call.head_dim - d), scale));
            vstore(s.out + row * s.width + d, vset1(0.0f));
        }
        s.largest[row] = -__builtin_inff();
        s.total[row] = 0.0f;
    }
    const auto oldest = [&](int64_t position) {
        return position - call.window + 1 > 0 ? position - call.window + 1 : int64_t{0};
    };
    const int64_t tile_begin = oldest(call.first_position), tile_end = call.first_position + call.num_queries;
    for (int64_t block = tile_begin / key_block * key_block; block < tile_end; block += key_block) {
        const int64_t end = block + key_block < tile_end ? block + key_block : tile_end;
        read_block(call, block, tile_begin > block ? tile_begin : block, end, s);
        for (int64_t query = 0; query < call.num_queries; ++query) {
            const int64_t position = call.first_position + query;
            const int first = static_cast<int>(oldest(position) > block ? oldest(position) - block : 0);
            const int last = static_cast<int>(position + 1 < end ? position + 1 - block : end - block);
            if (first >= last) continue;
            const int row = static_cast<int>(query) * rows_per_query;
            for (int r = row; r < row + rows_per_query; ++r) {
                score_row(r, first, last, s);
                soften_row(r, s);
            }
            int r = row;
            for (; r + 2 <= row + rows_per_query; r += 2) add_values_rows<2>(r, first, last, s);
            if (r < row + rows_per_query) add_values_rows<1>(r, first, last, s);
        }
    }
    for (int row = 0; row < num_rows; ++row) {
        float* out = call.out + row / rows_per_query * call.out_stride + row % rows_per_query * call.head_dim;
        const Vec total = vset1(s.total[row]);
        for (int64_t d = 0; d < call.head_dim; d += Vec::width)
            store_part(out + d, call.head_dim - d, vdiv(vload(s.out + row * s.width + d), total));
    }
}

inline void add_elementwise(Kernels& table) {
    table.rms_norm = rms_norm;
    table.swiglu = swiglu;
    table.add = add;
    table.add_scaled_row = add_scaled_row;
    table.low_rank = low_rank;
    table.rotate = rotate;
    table.to_page = to_page;
    table.attention = attention;
}

}  // namespace
}  // namespace tramontane
