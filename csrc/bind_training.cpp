// Operations of training, for Python.
#include "bindings.h"
#include "packed_attention.h"

namespace tramontane {
namespace {

// (heads, kv heads, head dim, window or 0)
using HeadsTuple = std::tuple<int64_t, int64_t, int64_t, int64_t>;

PackedDocuments parse_documents(const std::vector<int64_t>& lens, const HeadsTuple& heads, uintptr_t q, uintptr_t k,
                                uintptr_t v, uintptr_t out, uintptr_t lse) {
    const auto [num_heads, num_kv_heads, head_dim, window] = heads;
    if (head_dim < document_lanes || head_dim % document_lanes != 0 || head_dim > max_head_dim)
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
            pointer<const float>(q),
            pointer<const float>(k),
            pointer<const float>(v),
            pointer<float>(out),
            pointer<float>(lse)};
}

}  // namespace

void bind_training(nb::module_& m) {
    m.attr("document_lanes") = document_lanes;
    m.def(
        "packed_attention_forward",
        [](const std::vector<int64_t>& document_lens, const HeadsTuple& heads, uintptr_t q, uintptr_t k, uintptr_t v,
           uintptr_t out, uintptr_t lse) {
            const PackedDocuments documents = parse_documents(document_lens, heads, q, k, v, out, lse);
            const nb::gil_scoped_release release;
            packed_attention_forward(documents);
        },
        nb::arg("document_lens"), nb::arg("heads"), nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("out"),
        nb::arg("lse"));
    m.def(
        "packed_attention_backward",
        [](const std::vector<int64_t>& document_lens, const HeadsTuple& heads, uintptr_t q, uintptr_t k, uintptr_t v,
           uintptr_t out, uintptr_t lse, uintptr_t grad, uintptr_t grad_q, uintptr_t grad_k, uintptr_t grad_v) {
            const PackedDocuments documents = parse_documents(document_lens, heads, q, k, v, out, lse);
            const nb::gil_scoped_release release;
            packed_attention_backward(documents, pointer<const float>(grad), pointer<float>(grad_q),
                                      pointer<float>(grad_k), pointer<float>(grad_v));
        },
        nb::arg("document_lens"), nb::arg("heads"), nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("out"),
        nb::arg("lse"), nb::arg("grad"), nb::arg("grad_q"), nb::arg("grad_k"), nb::arg("grad_v"));
}

}  // namespace tramontane
