// The operations between the products, for Python.
#include "bindings.h"

namespace tramontane {

void bind_layers(nb::module_& m) {
    m.attr("max_head_dim") = max_head_dim;
    m.attr("max_heads_per_kv") = attention_tile_rows;
    m.def(
        "rms_norm",
        [](uintptr_t x, uintptr_t weight, float eps, int64_t num_rows, int64_t dim, uintptr_t out) {
            rms_norm(pointer<const float>(x), pointer<const float>(weight), eps, num_rows, dim, pointer<float>(out));
        },
        nb::arg("x"), nb::arg("weight"), nb::arg("eps"), nb::arg("num_rows"), nb::arg("dim"), nb::arg("out"),
        nb::call_guard<nb::gil_scoped_release>());
    m.def(
        "rotate",
        [](uintptr_t x, uintptr_t cosine, uintptr_t sine, int64_t num_rows, int64_t num_heads, int64_t head_dim,
           uintptr_t out) {
            if (head_dim < 2 || head_dim % 2 != 0 || head_dim > max_head_dim)
                throw std::invalid_argument("rotary heads must be even and at most " + std::to_string(max_head_dim) + " wide");
            rotate({pointer<const float>(x), pointer<const float>(cosine), pointer<const float>(sine), num_rows, num_heads,
                    head_dim, num_heads * head_dim, num_heads * head_dim, pointer<float>(out)});
        },
        nb::arg("x"), nb::arg("cosine"), nb::arg("sine"), nb::arg("num_rows"), nb::arg("num_heads"),
        nb::arg("head_dim"), nb::arg("out"), nb::call_guard<nb::gil_scoped_release>());
    m.attr("max_rank") = max_rank;
    m.attr("low_rank_panel") = low_rank_panel;
    m.def(
        "add_low_rank",
        [](uintptr_t x, int64_t in_features, int64_t num_rows, uintptr_t out, int64_t out_features,
           const std::vector<LowRankTuple>& adapters, uintptr_t adapter_of_row) {
            std::vector<LowRank> weights;
            for (const LowRankTuple& adapter : adapters) {
                weights.push_back(parse_low_rank(adapter));
                const LowRank& w = weights.back();
                if (w.rank < 0 || w.rank > max_rank) throw std::invalid_argument("rank " + std::to_string(w.rank));
                if (w.rank > 0 && (w.in_features != in_features || w.out_features != out_features))
                    throw std::invalid_argument("an adapter of " + std::to_string(in_features) + " to " +
                                                std::to_string(out_features) + " features is needed");
            }
            const nb::gil_scoped_release release;
            std::vector<LowRankTask> tasks;
            for (int64_t row = 0; row < num_rows; ++row) {
                const int32_t adapter = pointer<const int32_t>(adapter_of_row)[row];
                if (adapter >= static_cast<int32_t>(weights.size())) throw std::out_of_range("adapter of a row");
                if (adapter >= 0 && weights[static_cast<size_t>(adapter)].rank > 0)
                    tasks.push_back({&weights[static_cast<size_t>(adapter)],
                                     pointer<const float>(x) + row * in_features,
                                     pointer<float>(out) + row * out_features});
            }
            add_low_rank(tasks);
        },
        nb::arg("x"), nb::arg("in_features"), nb::arg("num_rows"), nb::arg("out"), nb::arg("out_features"),
        nb::arg("adapters"), nb::arg("adapter_of_row"));
    m.def(
        "swiglu",
        [](uintptr_t gate, uintptr_t up, int64_t num_rows, int64_t hidden_dim, uintptr_t out) {
            swiglu(pointer<const float>(gate), pointer<const float>(up), num_rows, hidden_dim, pointer<float>(out));
        },
        nb::arg("gate"), nb::arg("up"), nb::arg("num_rows"), nb::arg("hidden_dim"), nb::arg("out"),
        nb::call_guard<nb::gil_scoped_release>());
    m.def(
        "route",
        [](uintptr_t logits, int64_t num_rows, int64_t num_experts, int64_t num_active, uintptr_t weights,
           uintptr_t experts) {
            if (num_active < 1 || num_active > num_experts) throw std::invalid_argument("active experts");
            route(pointer<const float>(logits), num_rows, num_experts, num_active, pointer<float>(weights),
                  pointer<int64_t>(experts));
        },
        nb::arg("logits"), nb::arg("num_rows"), nb::arg("num_experts"), nb::arg("num_active"), nb::arg("weights"),
        nb::arg("experts"), nb::call_guard<nb::gil_scoped_release>());
    m.def(
        "store_kv",
        [](uintptr_t k, uintptr_t v, int64_t num_rows, uintptr_t slots, const PagesTuple& pages) {
            const Pages to = parse_pages(pages);
            const int64_t width = to.num_kv_heads * to.head_dim;
            const nb::gil_scoped_release release;
            store_kv(pointer<const float>(k), pointer<const float>(v), num_rows, width, width,
                     pointer<const int64_t>(slots), to);
        },
        nb::arg("k"), nb::arg("v"), nb::arg("num_rows"), nb::arg("slots"), nb::arg("pages"));
    m.def(
        "paged_attention",
        [](uintptr_t q, int64_t num_rows, int64_t num_heads, const PagesTuple& pages, const SequencesTuple& sequences,
           int64_t window, uintptr_t out) {
            const Pages from = parse_pages(pages);
            const PagedSequences batch = parse_sequences(sequences);
            const nb::gil_scoped_release release;
            paged_attention(pointer<const float>(q), num_rows, num_heads * from.head_dim, num_heads, from, batch, window,
                            pointer<float>(out));
        },
        nb::arg("q"), nb::arg("num_rows"), nb::arg("num_heads"), nb::arg("pages"), nb::arg("sequences"),
        nb::arg("window"), nb::arg("out"));
}

}  // namespace tramontane
