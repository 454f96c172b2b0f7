#include "packed_attention.h"

#include <algorithm>
#include <numeric>
#include <type_traits>

#include "aligned_buffer.h"
#include "thread_pool.h"

namespace tramontane {
namespace {

struct Document {
    int64_t start, length;
};

std::vector<Document> split(const std::vector<int64_t>& lens) {
    std::vector<Document> documents;
    int64_t start = 0;
    for (const int64_t length : lens) {
        if (length > 0) documents.push_back({start, length});
        start += length;
    }
    return documents;
}

template <class T>
DocumentCall<T> document_call(const PackedDocuments<T>& all, const Document& document, int64_t head,
                              uint8_t* scratch) {
    const int64_t q_stride = all.num_heads * all.head_dim, kv_stride = all.num_kv_heads * all.head_dim;
    const int64_t from = document.start * q_stride + head * all.head_dim;
    const int64_t kv_from = document.start * kv_stride + head / (all.num_heads / all.num_kv_heads) * all.head_dim;
    const int64_t rows = std::accumulate(all.lens.begin(), all.lens.end(), int64_t{0});
    return {all.q + from,
            all.k + kv_from,
            all.v + kv_from,
            all.out + from,
            all.lse + head * rows + document.start,
            q_stride,
            kv_stride,
            document.length,
            all.head_dim,
            all.window > 0 ? all.window : document.length,
            scratch};
}

// body(index, scratch of the thread) for every index below count
template <class Body>
void for_all(int64_t count, int64_t head_dim, Body&& body) {
    static thread_local AlignedBuffer workspace;
    ThreadPool& pool = ThreadPool::instance();
    const size_t bytes = document_scratch_bytes(head_dim);
    workspace.allocate(static_cast<size_t>(pool.num_threads()) * bytes);
    uint8_t* const scratch = workspace.data();
    pool.parallel_for(count, [&](int64_t i, int thread) { body(i, scratch + static_cast<size_t>(thread) * bytes); });
}

template <class T>
constexpr bool is_bf16 = std::is_same_v<T, uint16_t>;

}  // namespace

bool computes_bf16_documents() { return kernels().document_forward_bf16 != nullptr; }

template <class T>
void packed_attention_forward(const PackedDocuments<T>& all) {
    struct Tile {
        Document document;
        int64_t first_query;
    };
    std::vector<Tile> tiles;
    for (const Document& document : split(all.lens))
        for (int64_t query = 0; query < document.length; query += document_tile) tiles.push_back({document, query});
    for_all(static_cast<int64_t>(tiles.size()) * all.num_heads, all.head_dim, [&](int64_t i, uint8_t* scratch) {
        const Tile& tile = tiles[static_cast<size_t>(i / all.num_heads)];
        const DocumentCall<T> call = document_call(all, tile.document, i % all.num_heads, scratch);
        if constexpr (is_bf16<T>)
            kernels().document_forward_bf16(call, tile.first_query);
        else
            kernels().document_forward(call, tile.first_query);
    });
}

template <class T>
void packed_attention_backward(const PackedDocuments<T>& all, const T* grad, T* grad_q, float* grad_k,
                               float* grad_v) {
    std::vector<Document> documents = split(all.lens);
    // the longest first: the others fill what is left of the threads' time
    std::stable_sort(documents.begin(), documents.end(),
                     [](const Document& a, const Document& b) { return a.length > b.length; });
    const int64_t rows = std::accumulate(all.lens.begin(), all.lens.end(), int64_t{0});
    for_all(static_cast<int64_t>(documents.size()) * all.num_heads, all.head_dim, [&](int64_t i, uint8_t* scratch) {
        const Document& document = documents[static_cast<size_t>(i / all.num_heads)];
        const int64_t head = i % all.num_heads;
        const DocumentCall<T> call = document_call(all, document, head, scratch);
        const int64_t offset = call.q - all.q, kv_offset = (head * rows + document.start) * all.head_dim;
        const DocumentGradientCall<T> gradient{call, grad + offset, grad_q + offset, grad_k + kv_offset, grad_v + kv_offset};
        if constexpr (is_bf16<T>)
            kernels().document_backward_bf16(gradient);
        else
            kernels().document_backward(gradient);
    });
}

template void packed_attention_forward(const PackedDocuments<float>&);
template void packed_attention_forward(const PackedDocuments<uint16_t>&);
template void packed_attention_backward(const PackedDocuments<float>&, const float*, float*, float*, float*);
template void packed_attention_backward(const PackedDocuments<uint16_t>&, const uint16_t*, uint16_t*, float*, float*);

}  // namespace tramontane
