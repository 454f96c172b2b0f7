#include "layers.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "aligned_buffer.h"
#include "thread_pool.h"

namespace tramontane {
namespace {

// Elements below which a second thread costs more (about 2 us to enter a region) than it brings.
constexpr int64_t smallest_shared_count = 1 << 15;

// body(first row, rows after the last) over pieces of about equal size.
template <class Body>
void for_row_ranges(int64_t num_rows, int64_t row_size, Body&& body) {
    ThreadPool& pool = ThreadPool::instance();
    const int64_t total = num_rows * row_size;
    if (num_rows <= 0) return;
    if (total < smallest_shared_count || pool.num_threads() == 1) {
        body(int64_t{0}, num_rows);
        return;
    }
    const int64_t pieces = std::min(num_rows, std::max<int64_t>(1, std::min<int64_t>(total / 8192, pool.num_threads() * 4)));
    const int64_t step = (num_rows + pieces - 1) / pieces;
    pool.parallel_for((num_rows + step - 1) / step,
                      [&](int64_t i, int) { body(i * step, std::min(num_rows, (i + 1) * step)); });
}

}  // namespace

void rms_norm(const float* x, const float* weight, float eps, int64_t num_rows, int64_t dim, float* out) {
    for_row_ranges(num_rows, dim, [&](int64_t begin, int64_t end) {
        kernels().rms_norm({x + begin * dim, weight, eps, end - begin, dim, out + begin * dim});
    });
}

void rotate(const RotateCall& call) {
    for_row_ranges(call.num_rows, call.num_heads * call.head_dim, [&](int64_t begin, int64_t end) {
        RotateCall part = call;
        part.x += begin * call.x_stride;
        part.out += begin * call.out_stride;
        part.cosine += begin * (call.head_dim / 2);
        part.sine += begin * (call.head_dim / 2);
        part.num_rows = end - begin;
        kernels().rotate(part);
    });
}

void swiglu(const float* gate, const float* up, int64_t num_rows, int64_t hidden_dim, float* out) {
    for_row_ranges(num_rows, hidden_dim, [&](int64_t begin, int64_t end) {
        const int64_t first = begin * hidden_dim;
        kernels().swiglu(gate + first, up + first, (end - begin) * hidden_dim, out + first);
    });
}

void add(const float* a, const float* b, int64_t count, float* out) {
    constexpr int64_t piece = 4096;
    for_row_ranges((count + piece - 1) / piece, piece, [&](int64_t begin, int64_t end) {
        const int64_t first = begin * piece;
        kernels().add(a + first, b + first, std::min(count, end * piece) - first, out + first);
    });
}

void route(const float* logits, int64_t num_rows, int64_t num_experts, int64_t num_active, float* weights,
           int64_t* experts) {
    std::vector<int64_t> order(static_cast<size_t>(num_experts));
    for (int64_t row = 0; row < num_rows; ++row) {
        const float* x = logits + row * num_experts;
        float* weight = weights + row * num_active;
        for (int64_t e = 0; e < num_experts; ++e) order[static_cast<size_t>(e)] = e;
        // NaN counts as the largest, so that it shows in the weights.
        const auto before = [&](int64_t a, int64_t b) {
            const bool a_nan = x[a] != x[a], b_nan = x[b] != x[b];
            if (a_nan || b_nan) return a_nan && (!b_nan || a < b);
            return x[a] > x[b] || (x[a] == x[b] && a < b);
        };
        std::partial_sort(order.begin(), order.begin() + num_active, order.end(), before);
        float total = 0.0f;
        for (int64_t i = 0; i < num_active; ++i) {
            const int64_t expert = order[static_cast<size_t>(i)];
            experts[row * num_active + i] = expert;
            weight[i] = std::exp(x[expert] - x[order[0]]);
            total += weight[i];
        }
        for (int64_t i = 0; i < num_active; ++i) weight[i] /= total;
    }
}

void store_kv(const float* k, const float* v, int64_t num_rows, int64_t k_stride, int64_t v_stride,
              const int64_t* slots, const Pages& pages) {
    for (int64_t row = 0; row < num_rows; ++row)
        if (slots[row] < 0 || slots[row] >= pages.num_pages * pages.page_size)
            throw std::out_of_range("slot " + std::to_string(slots[row]) + " is not in the KV cache");
    const int64_t head_dim = pages.head_dim;
    for_row_ranges(num_rows, pages.num_kv_heads * head_dim, [&](int64_t begin, int64_t end) {
        const auto to_page = kernels().to_page;
        for (int64_t row = begin; row < end; ++row) {
            const int64_t page = slots[row] / pages.page_size, slot = slots[row] % pages.page_size;
            int64_t to = page * pages.page_stride + slot * pages.slot_stride;
            for (int64_t head = 0; head < pages.num_kv_heads; ++head, to += pages.head_stride) {
                to_page(k + row * k_stride + head * head_dim, head_dim, pages.type, pages.k + to);
                to_page(v + row * v_stride + head * head_dim, head_dim, pages.type, pages.v + to);
            }
        }
    });
}

void paged_attention(const float* q, int64_t num_rows, int64_t q_stride, int64_t num_heads, const Pages& pages,
                     const PagedSequences& batch, int64_t window, float* out) {
    const int64_t heads_per_kv = num_heads / pages.num_kv_heads;
    if (num_heads % pages.num_kv_heads != 0 || heads_per_kv > attention_tile_rows || pages.head_dim > max_head_dim)
        throw std::invalid_argument("attention heads of a shape the kernels do not cover");
    struct Tile {
        int64_t sequence, first_query, num_queries;
    };
    std::vector<Tile> tiles;
    const int64_t tile_queries = std::max<int64_t>(1, attention_tile_rows / 2 / heads_per_kv);
    for (int64_t n = 0; n < batch.num_sequences; ++n) {
        const int64_t start = batch.query_starts[n], end = batch.query_starts[n + 1];
        const int64_t first = batch.first_positions[n], last = first + end - start;
        if (start < 0 || end < start || end > num_rows || first < 0) throw std::out_of_range("rows of a sequence");
        if (start == end) continue;
        const int64_t oldest = window > 0 ? std::max<int64_t>(0, first - window + 1) : 0;
        const int64_t offset = batch.page_offsets[n];
        const int64_t first_entry = oldest / pages.page_size - offset, last_entry = (last - 1) / pages.page_size - offset;
        if (first_entry < 0 || last_entry >= batch.table_width) throw std::out_of_range("page table of a sequence");
        for (int64_t j = first_entry; j <= last_entry; ++j) {
            const int64_t page = batch.page_table[n * batch.table_width + j];
            if (page < 0 || page >= pages.num_pages)
                throw std::out_of_range("page " + std::to_string(page) + " is not in the KV cache");
        }
        for (int64_t query = 0; query < end - start; query += tile_queries)
            tiles.push_back({n, query, std::min(tile_queries, end - start - query)});
    }
    static thread_local AlignedBuffer workspace;
    ThreadPool& pool = ThreadPool::instance();
    workspace.allocate(static_cast<size_t>(pool.num_threads()) * attention_scratch_bytes);
    uint8_t* const scratch = workspace.data();
    const int64_t num_tiles = static_cast<int64_t>(tiles.size());
    const auto body = [&](int64_t i, int thread) {
        // The last tiles see the most keys: they go first.
        const Tile& tile = tiles[static_cast<size_t>(num_tiles - 1 - i / pages.num_kv_heads)];
        const int64_t kv_head = i % pages.num_kv_heads, n = tile.sequence;
        const int64_t row = batch.query_starts[n] + tile.first_query;
        const int64_t head = kv_head * heads_per_kv * pages.head_dim;
        AttentionCall call{};
        call.q = q + row * q_stride + head;
        call.out = out + row * num_heads * pages.head_dim + head;
        call.q_stride = q_stride;
        call.out_stride = num_heads * pages.head_dim;
        call.num_queries = tile.num_queries;
        call.heads_per_kv = heads_per_kv;
        call.head_dim = pages.head_dim;
        call.first_position = batch.first_positions[n] + tile.first_query;
        call.window = window > 0 ? window : call.first_position + tile.num_queries;
        call.k_pages = pages.k + kv_head * pages.head_stride;
        call.v_pages = pages.v + kv_head * pages.head_stride;
        call.page_type = pages.type;
        call.page_size = pages.page_size;
        call.page_stride = pages.page_stride;
        call.slot_stride = pages.slot_stride;
        call.page_table = batch.page_table + n * batch.table_width;
        call.page_offset = batch.page_offsets[n];
        call.scratch = scratch + static_cast<size_t>(thread) * attention_scratch_bytes;
        kernels().attention(call);
    };
    int64_t work = 0;
    for (const Tile& tile : tiles) work += tile.num_queries * (batch.first_positions[tile.sequence] + tile.first_query + 1);
    if (work * num_heads * pages.head_dim < smallest_shared_count)
        for (int64_t i = 0; i < num_tiles * pages.num_kv_heads; ++i) body(i, 0);
    else
        pool.parallel_for(num_tiles * pages.num_kv_heads, body);
}

}  // namespace tramontane
