// Attention over documents laid end to end, forward and backward, spread over the thread pool.
#pragma once
#include <vector>

#include "kernels.h"

namespace tramontane {

struct PackedDocuments {
    const std::vector<int64_t>& lens;  // of each document; they follow one another
    int64_t num_heads, num_kv_heads, head_dim;
    int64_t window;                    // keys a query sees, itself included; 0: all before it
    const float *q, *k, *v;            // (rows, heads, head_dim), (rows, kv heads, head_dim)
    float* out;                        // likewise
    float* lse;                        // (heads, rows)
};

void packed_attention_forward(const PackedDocuments& documents);

// grad: of out. grad_q: (rows, heads, head_dim). grad_k and grad_v: (heads, rows, head_dim), zeros before; what the query
// heads of one kv head add lies apart, so that any number of threads sums in the same order.
void packed_attention_backward(const PackedDocuments& documents, const float* grad, float* grad_q, float* grad_k,
                               float* grad_v);

}  // namespace tramontane
