// Attention over documents laid end to end, forward and backward, spread over the thread pool.
#pragma once
#include <vector>

#include "kernels.h"

namespace tramontane {

template <class T>  // float or, where computes_bf16_documents(), bf16
struct PackedDocuments {
    const std::vector<int64_t>& lens;  // of each document; they follow one another
    int64_t num_heads, num_kv_heads, head_dim;
    int64_t window;                    // keys a query sees, itself included; 0: all before it
    const T *q, *k, *v;                // (rows, heads, head_dim), (rows, kv heads, head_dim)
    T* out;                            // likewise
    float* lse;                        // (heads, rows)
};

// Whether the instruction set in use multiplies bf16, in heads of a multiple of document_lanes_bf16.
bool computes_bf16_documents();

template <class T>
void packed_attention_forward(const PackedDocuments<T>& documents);

// grad: of out. grad_q: (rows, heads, head_dim). grad_k and grad_v: (heads, rows, head_dim), zeros before; what the query
// heads of one kv head add lies apart, so that any number of threads sums in the same order.
template <class T>
void packed_attention_backward(const PackedDocuments<T>& documents, const T* grad, T* grad_q, float* grad_k,
                               float* grad_v);

}  // namespace tramontane
