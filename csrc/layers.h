// The operations between the products, spread over the thread pool.
#pragma once
#include "kernels.h"

namespace tramontane {

void rms_norm(const float* x, const float* weight, float eps, int64_t num_rows, int64_t dim, float* out);
void rotate(const RotateCall& call);
void swiglu(const float* gate, const float* up, int64_t num_rows, int64_t hidden_dim, float* out);
void add(const float* a, const float* b, int64_t count, float* out);

// The num_active experts with the largest logits, the largest first (of equal ones the first), and their softmax.
void route(const float* logits, int64_t num_rows, int64_t num_experts, int64_t num_active, float* weights,
           int64_t* experts);

// Where the keys and values of a layer lie: a row of head_dim values for each slot of a page and kv head.
struct Pages {
    uint8_t *k, *v;
    PageType type;
    int64_t num_pages, page_size, num_kv_heads, head_dim;
    int64_t page_stride, slot_stride, head_stride;  // bytes
};

// Sequences of one step, seen by one window group (PagedBatch of ops/paged.py).
struct PagedSequences {
    int64_t num_sequences;
    const int32_t* query_starts;     // (num_sequences + 1)
    const int32_t* first_positions;  // (num_sequences)
    const int32_t* page_table;       // (num_sequences, table_width)
    int64_t table_width;
    const int32_t* page_offsets;     // (num_sequences)
};

// Row t of k and v -> slot slots[t]. Throws std::out_of_range before anything is written if a slot is not in the pages.
void store_kv(const float* k, const float* v, int64_t num_rows, int64_t k_stride, int64_t v_stride,
              const int64_t* slots, const Pages& pages);

// q and out: rows of num_heads * head_dim floats. window <= 0: none. Throws std::out_of_range before anything is read if
// the batch names rows, positions or pages that do not exist.
void paged_attention(const float* q, int64_t num_rows, int64_t q_stride, int64_t num_heads, const Pages& pages,
                     const PagedSequences& batch, int64_t window, float* out);

}  // namespace tramontane
