// Operations of training, for Python.
#include <type_traits>

#include "bindings.h"
#include "cpu_features.h"
#include "packed_attention.h"

namespace tramontane {
namespace {

// (heads, kv heads, head dim, window or 0)
using HeadsTuple = std::tuple<int64_t, int64_t, int64_t, int64_t>;

template <class T>
PackedDocuments<T> parse_documents(const std::vector<int64_t>& lens, const HeadsTuple& heads, uintptr_t q, uintptr_t k,
                                   uintptr_t v, uintptr_t out, uintptr_t lse) {
    constexpr int64_t lanes = std::is_same_v<T, float> ? document_lanes : document_lanes_bf16;
    if (!std::is_same_v<T, float> && !computes_bf16_documents())
        throw std::invalid_argument(instruction_set_name() + " does not compute attention in bfloat16");
    const auto [num_heads, num_kv_heads, head_dim, window] = heads;
    if (head_dim < lanes || head_dim % lanes != 0 || head_dim > max_head_dim)
        throw std::invalid_argument("heads of " + std::to_string(head_dim) + " numbers");
    if (num_kv_heads < 1 || num_heads < 1 || num_heads % num_kv_heads != 0)
        throw std::invalid_argument(std::to_string(num_heads) + " heads over " + std::to_string(num_kv_heads));
    for (const int64_t length : lens)
        if (length < 0) throw std::invalid_argument("a document of " + std::to_string(length) + " tokens");
    return {lens,
            num_heads,
            num_kv_heads,
            head_dim,
            window,
            pointer<const T>(q),
            pointer<const T>(k),
            pointer<const T>(v),
            pointer<T>(out),
            pointer<float>(lse)};
}

template <class T>
void bind_documents(nb::module_& m, const char* forward, const char* backward) {
    m.def(
        forward,
        [](const std::vector<int64_t>& document_lens, const HeadsTuple& heads, uintptr_t q, uintptr_t k, uintptr_t v,
           uintptr_t out, uintptr_t lse) {
            const PackedDocuments<T> documents = parse_documents<T>(document_lens, heads, q, k, v, out, lse);
            const nb::gil_scoped_release release;
            packed_attention_forward(documents);
        },
        nb::arg("document_lens"), nb::arg("heads"), nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("out"),
        nb::arg("lse"));
    m.def(
        backward,
        [](const std::vector<int64_t>& document_lens, const HeadsTuple& heads, uintptr_t q, uintptr_t k, uintptr_t v,
           uintptr_t out, uintptr_t lse, uintptr_t grad, uintptr_t grad_q, uintptr_t grad_k, uintptr_t grad_v) {
            const PackedDocuments<T> documents = parse_documents<T>(document_lens, heads, q, k, v, out, lse);
            const nb::gil_scoped_release release;
            packed_attention_backward(documents, pointer<const T>(grad), pointer<T>(grad_q), pointer<float>(grad_k),
                                      pointer<float>(grad_v));
        },
        nb::arg("document_lens"), nb::arg("heads"), nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("out"),
        nb::arg("lse"), nb::arg("grad"), nb::arg("grad_q"), nb::arg("grad_k"), nb::arg("grad_v"));
}

}  // namespace

void bind_training(nb::module_& m) {
    m.attr("document_lanes") = document_lanes;
    m.attr("document_lanes_bf16") = document_lanes_bf16;
    m.def("computes_bf16_documents", computes_bf16_documents);
    bind_documents<float>(m, "packed_attention_forward", "packed_attention_backward");
    bind_documents<uint16_t>(m, "packed_attention_forward_bf16", "packed_attention_backward_bf16");
}

}  // namespace tramontane
