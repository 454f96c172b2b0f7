// Attention of some queries over the pages of their sequence, over Vec.
//
// Keys are visited in blocks of 32 positions that start at multiples of 32 of the sequence, oldest visible block first,
// with an online softmax (arXiv:1805.02867). Which blocks a query visits, and every operation on its numbers, depend on
// its position and window alone: not on the chunk, the page size, the thread or the other queries of the tile. Keys that
// a query must not see never enter its sums, not even times zero.
#pragma once
#include <type_traits>

#include "elementwise.h"

namespace tramontane {
namespace {

constexpr int key_block = 32;

// Rows of `width` floats (head_dim rounded up to whole Vecs), one after another.
struct AttentionScratch {
    int64_t width;
    float* kv;        // (key_block, width): the keys of a block, then its values
    float* q;         // (tile rows, width), scaled by head_dim^-1/2
    float* out;
    float* weights;   // (tile rows, key_block)
    float* largest;   // (tile rows)
    float* total;

    AttentionScratch(uint8_t* memory, int64_t head_dim)
        : width((head_dim + Vec::width - 1) / Vec::width * Vec::width),
          kv(reinterpret_cast<float*>(memory)),
          q(kv + key_block * width),
          out(q + attention_tile_rows * width),
          weights(out + attention_tile_rows * width),
          largest(weights + attention_tile_rows * key_block),
          total(largest + attention_tile_rows) {}
};

// Where the rows of a block's keys lie, first…last - 1 being all that any query of the tile sees.
struct BlockRows {
    int first, last;
    int64_t offsets[key_block];  // bytes, from k_pages and from v_pages; of unseen keys those of a seen one

    BlockRows(const AttentionCall& call, int64_t block, int64_t begin, int64_t end)
        : first(static_cast<int>(begin > block ? begin - block : 0)),
          last(static_cast<int>(end - block < key_block ? end - block : key_block)) {
        if (first >= last) return;
        int64_t page = (block + first) / call.page_size, slot = block + first - page * call.page_size;
        for (int j = first; j < last; ++j) {
            offsets[j] = call.page_table[page - call.page_offset] * call.page_stride + slot * call.slot_stride;
            if (++slot == call.page_size) {
                ++page;
                slot = 0;
            }
        }
        for (int j = 0; j < first; ++j) offsets[j] = offsets[first];
        for (int j = last; j < key_block; ++j) offsets[j] = offsets[first];
    }
};

// Vec i of a row of a page; of a q8_0 row a Vec never crosses a block, and head_dim is a multiple of 32.
template <PageType type>
inline Vec load_row(const uint8_t* row, int64_t i) {
    if (type == PageType::q8_0) {
        const uint8_t* block = row + i / 32 * static_cast<int64_t>(sizeof(BlockQ8_0));
        uint16_t d;
        __builtin_memcpy(&d, block, sizeof d);
        return vmul(vload_i8(reinterpret_cast<const int8_t*>(block + sizeof d) + i % 32), vset1_f16(d));
    }
    if (type == PageType::f32) return vload(reinterpret_cast<const float*>(row) + i);
    const uint16_t* from = reinterpret_cast<const uint16_t*>(row) + i;
    return type == PageType::bf16 ? vload_bf16(from) : vload_f16(from);
}

template <PageType type>
inline void read_row(const uint8_t* row, int64_t head_dim, float* out) {
    int64_t i = 0;
    for (; i + Vec::width <= head_dim; i += Vec::width) vstore(out + i, load_row<type>(row, i));
    if (i == head_dim) return;
    constexpr int64_t size = type == PageType::f32 ? 4 : 2;
    alignas(64) uint8_t lanes[Vec::width * 4] = {};
    __builtin_memcpy(lanes, row + i * size, static_cast<size_t>((head_dim - i) * size));
    vstore(out + i, load_row<type>(lanes, 0));
}

// Where keys or values of a block are taken from: from their pages, or from s.kv, converted for many rows at once.
// `ahead` brings some keys of the next block into the second-level cache, a few at a time between the products of this
// one: the hardware's streams end with every block, and the first level's few pending misses would make it wait. Always
// inline: GCC takes calls of a function that does nothing but prefetch for calls without effect, and drops them.
template <PageType type>
struct PageSource {
    const uint8_t* pages;
    const BlockRows &rows, &next;
    int64_t row_bytes;
    Vec load(int j, int64_t d) const { return load_row<type>(pages + rows.offsets[j], d); }
    __attribute__((always_inline)) void ahead(int begin, int end) const {
        for (int j = begin > next.first ? begin : next.first; j < (end < next.last ? end : next.last); ++j)
            for (int64_t i = 0; i < row_bytes; i += 64) __builtin_prefetch(pages + next.offsets[j] + i, 0, 2);
    }
};
struct ScratchSource {
    const float* rows;
    int64_t width;
    Vec load(int j, int64_t d) const { return vload(rows + j * width + d); }
    void ahead(int, int) const {}
};

// Calls body(first, how many) for `total` keys or Vecs of channels, as many at once as give, with NR rows, about twelve
// sums: enough to hide the latency of a multiply-add, and not more than the registers of AVX2 hold.
template <int NR, class Body>
inline void in_parts(int total, Body&& body) {
    constexpr int most = NR == 4 ? 3 : NR == 2 ? 4 : 8;
    int i = 0;
    for (; total - i >= most && total - i != most + 1; i += most) body(i, std::integral_constant<int, most>());
    for (; total - i >= 2; i += 2) body(i, std::integral_constant<int, 2>());
    for (; i < total; ++i) body(i, std::integral_constant<int, 1>());
}

// Products of NR rows with keys j…j + NK - 1, lane by lane
template <int NR, int NK, class Source>
inline void multiply_keys(int row, int j, const Source& source, const AttentionScratch& s, Vec (&out)[NR][Vec::width]) {
    Vec sums[NR][NK];
#pragma GCC unroll 8
    for (int r = 0; r < NR; ++r)
#pragma GCC unroll 8
        for (int n = 0; n < NK; ++n) sums[r][n] = vset1(0.0f);
    const float* q = s.q + row * s.width;
    for (int64_t d = 0; d < s.width; d += Vec::width) {
        Vec key[NK];
#pragma GCC unroll 8
        for (int n = 0; n < NK; ++n) key[n] = source.load(j + n, d);
#pragma GCC unroll 8
        for (int r = 0; r < NR; ++r) {
            const Vec query = vload(q + r * s.width + d);
#pragma GCC unroll 8
            for (int n = 0; n < NK; ++n) sums[r][n] = vfma(query, key[n], sums[r][n]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < NR; ++r)
#pragma GCC unroll 8
        for (int n = 0; n < NK; ++n) out[r][j % Vec::width + n] = sums[r][n];
}

// Scores of NR rows against keys first…last - 1 of the block, -infinity for the others.
template <int NR, class Source>
inline void score_rows(int row, int first, int last, const Source& source, const AttentionScratch& s) {
    const Vec hidden = vset1(-__builtin_inff());
    for (int j = 0; j < key_block; j += Vec::width) {
        float* weights = s.weights + row * key_block + j;
        if (j >= last || j + Vec::width <= first) {
            for (int r = 0; r < NR; ++r) vstore(weights + r * key_block, hidden);
            continue;
        }
        Vec products[NR][Vec::width];
        in_parts<NR>(Vec::width, [&](int i, auto count) {
            if (row == 0) source.ahead(j + i, j + i + decltype(count)::value);
            multiply_keys<NR, decltype(count)::value>(row, j + i, source, s, products);
        });
        for (int r = 0; r < NR; ++r)
            vstore(weights + r * key_block, vfirst(last - j, vfirst(first - j, hidden, vsum_each(products[r])), hidden));
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
template <int NR, int NV, class Source>
inline void add_values(int row, int64_t d, int first, int last, const Source& source, const AttentionScratch& s) {
    Vec out[NR][NV];
#pragma GCC unroll 8
    for (int r = 0; r < NR; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v) out[r][v] = vload(s.out + (row + r) * s.width + d + v * Vec::width);
    const float* weights = s.weights + row * key_block;
    for (int j = first; j < last; ++j) {
        Vec value[NV];
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v) value[v] = source.load(j, d + v * Vec::width);
#pragma GCC unroll 8
        for (int r = 0; r < NR; ++r) {
            const Vec weight = vset1(weights[r * key_block + j]);
#pragma GCC unroll 8
            for (int v = 0; v < NV; ++v) out[r][v] = vfma(weight, value[v], out[r][v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < NR; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v) vstore(s.out + (row + r) * s.width + d + v * Vec::width, out[r][v]);
}

template <int NR, class Source>
inline void add_values_rows(int row, int first, int last, const Source& source, const AttentionScratch& s) {
    const int vecs = static_cast<int>(s.width / Vec::width);
    in_parts<NR>(vecs, [&](int i, auto count) {
        if (row == 0) source.ahead(i * key_block / vecs, (i + decltype(count)::value) * key_block / vecs);
        add_values<NR, decltype(count)::value>(row, i * Vec::width, first, last, source, s);
    });
}

// Calls body(first row, rows) with four, two or one rows at a time.
template <class Body>
inline void for_row_groups(int begin, int end, Body&& body) {
    int row = begin;
    for (; row + 4 <= end; row += 4) body(row, std::integral_constant<int, 4>());
    if (row + 2 <= end) {
        body(row, std::integral_constant<int, 2>());
        row += 2;
    }
    if (row < end) body(row, std::integral_constant<int, 1>());
}

struct Tile {
    const AttentionCall& call;
    const AttentionScratch& s;
    int num_rows;
    int64_t begin, end;  // keys any query sees
    int64_t oldest(int64_t position) const {
        return position - call.window + 1 > 0 ? position - call.window + 1 : int64_t{0};
    }

    // Calls body(first row, rows, first key, last key + 1) for rows that see the same keys of the block.
    template <class Body>
    void for_rows(int64_t block, Body&& body) const {
        const int64_t first_position = call.first_position;
        if (oldest(end - 1) <= block && block + key_block <= first_position + 1) return body(0, num_rows, 0, key_block);
        const int heads = static_cast<int>(call.heads_per_kv);
        for (int query = 0; query < static_cast<int>(call.num_queries); ++query) {
            const int64_t position = first_position + query, sees = oldest(position);
            const int first = static_cast<int>(sees > block ? sees - block : 0);
            const int last = static_cast<int>(position + 1 - block < key_block ? position + 1 - block : key_block);
            if (first < last) body(query * heads, (query + 1) * heads, first, last);
        }
    }

    template <class Source>
    void score(int64_t block, const Source& keys) const {
        for_rows(block, [&](int from, int to, int first, int last) {
            for_row_groups(from, to, [&](int row, auto count) {
                score_rows<decltype(count)::value>(row, first, last, keys, s);
            });
            for (int row = from; row < to; ++row) soften_row(row, s);
        });
    }
    template <class Source>
    void add(int64_t block, const Source& values) const {
        for_rows(block, [&](int from, int to, int first, int last) {
            for_row_groups(from, to, [&](int row, auto count) {
                add_values_rows<decltype(count)::value>(row, first, last, values, s);
            });
        });
    }

    template <PageType type>
    void read(const PageSource<type>& source) const {
        for (int j = 0; j < key_block; ++j) {
            source.ahead(j, j + 1);
            if (j >= source.rows.first && j < source.rows.last)
                read_row<type>(source.pages + source.rows.offsets[j], call.head_dim, s.kv + j * s.width);
        }
    }

    template <PageType type>
    void run() const {
        // With few rows a converted key would be stored and loaded again for too few products.
        const bool is_direct = num_rows <= 8 && call.head_dim % Vec::width == 0;
        const int64_t row_bytes = page_row_bytes(type, call.head_dim);
        const ScratchSource scratch{s.kv, s.width};
        int64_t block = begin / key_block * key_block;
        BlockRows rows(call, block, begin, end);
        for (; block < end; block += key_block) {
            const BlockRows next(call, block + key_block, begin, end);
            const PageSource<type> keys{call.k_pages, rows, next, row_bytes};
            const PageSource<type> values{call.v_pages, rows, next, row_bytes};
            if (is_direct) {
                score(block, keys);
                add(block, values);
            } else {
                read(keys);
                score(block, scratch);
                read(values);
                add(block, scratch);
            }
            rows = next;
        }
    }
};

inline void attention(const AttentionCall& call) {
    const AttentionScratch s(call.scratch, call.head_dim);
    const int heads = static_cast<int>(call.heads_per_kv), num_rows = static_cast<int>(call.num_queries) * heads;
    const Vec scale = vset1(1.0f / __builtin_sqrtf(static_cast<float>(call.head_dim)));
    for (int row = 0; row < num_rows; ++row) {
        const float* q = call.q + row / heads * call.q_stride + row % heads * call.head_dim;
        for (int64_t d = 0; d < s.width; d += Vec::width) {
            vstore(s.q + row * s.width + d, vmul(load_part(q + d, call.head_dim - d), scale));
            vstore(s.out + row * s.width + d, vset1(0.0f));
        }
        s.largest[row] = -__builtin_inff();
        s.total[row] = 0.0f;
    }
    const int64_t oldest = call.first_position - call.window + 1;
    const Tile tile{call, s, num_rows, oldest > 0 ? oldest : 0, call.first_position + call.num_queries};
    switch (call.page_type) {
        case PageType::f32: tile.run<PageType::f32>(); break;
        case PageType::bf16: tile.run<PageType::bf16>(); break;
        case PageType::f16: tile.run<PageType::f16>(); break;
        case PageType::q8_0: tile.run<PageType::q8_0>(); break;
    }
    for (int row = 0; row < num_rows; ++row) {
        float* out = call.out + row / heads * call.out_stride + row % heads * call.head_dim;
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
