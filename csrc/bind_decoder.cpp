// Whole forward passes for Python.
#include "bindings.h"
#include "decoder.h"

namespace tramontane {
namespace {

// (w1, w2, w3)
using FeedForwardTuple = std::tuple<const PackedMatrix*, const PackedMatrix*, const PackedMatrix*>;
// (attention_norm, ffn_norm, wq, wk, wv, wo, experts, router or None, active experts)
using LayerTuple = std::tuple<uintptr_t, uintptr_t, const PackedMatrix*, const PackedMatrix*, const PackedMatrix*,
                              const PackedMatrix*, std::vector<FeedForwardTuple>, nb::object, int64_t>;
// (slots, sequences, window or 0)
using GroupTuple = std::tuple<uintptr_t, SequencesTuple, int64_t>;

DecoderLayer parse_layer(const LayerTuple& t) {
    DecoderLayer layer{pointer<const float>(std::get<0>(t)),
                       pointer<const float>(std::get<1>(t)),
                       std::get<2>(t)->weight,
                       std::get<3>(t)->weight,
                       std::get<4>(t)->weight,
                       std::get<5>(t)->weight,
                       {},
                       {},
                       std::get<8>(t)};
    for (const FeedForwardTuple& expert : std::get<6>(t))
        layer.experts.push_back(
            {std::get<0>(expert)->weight, std::get<1>(expert)->weight, std::get<2>(expert)->weight});
    if (!std::get<7>(t).is_none()) layer.router = nb::cast<const PackedMatrix*>(std::get<7>(t))->weight;
    return layer;
}

// (wq, wk, wv, wo, [(w1, w2, w3) of each expert])
using LayerAdapterTuple = std::tuple<LowRankTuple, LowRankTuple, LowRankTuple, LowRankTuple,
                                     std::vector<std::tuple<LowRankTuple, LowRankTuple, LowRankTuple>>>;

LayerAdapter parse_layer_adapter(const LayerAdapterTuple& t) {
    LayerAdapter layer{parse_low_rank(std::get<0>(t)), parse_low_rank(std::get<1>(t)), parse_low_rank(std::get<2>(t)),
                       parse_low_rank(std::get<3>(t)), {}};
    for (const auto& [w1, w2, w3] : std::get<4>(t))
        layer.experts.push_back({parse_low_rank(w1), parse_low_rank(w2), parse_low_rank(w3)});
    return layer;
}

struct BoundAdapter {
    Adapter layers;
    nb::object owner;  // keeps the weights alive
};

struct PagePool {
    std::vector<Pages> pages;
    std::vector<int64_t> group_of_layer;
    nb::object owner;
};

struct BoundDecoder {
    Decoder decoder;
    nb::object owner;  // keeps norms and weights alive
};

}  // namespace

void bind_decoder(nb::module_& m) {
    nb::class_<PagePool>(m, "PagePool")
        .def(
            "__init__",
            [](PagePool* self, const std::vector<PagesTuple>& layers, std::vector<int64_t> group_of_layer,
               nb::object owner) {
                std::vector<Pages> pages;
                for (const PagesTuple& layer : layers) pages.push_back(parse_pages(layer));
                new (self) PagePool{std::move(pages), std::move(group_of_layer), std::move(owner)};
            },
            nb::arg("layers"), nb::arg("group_of_layer"), nb::arg("owner"));
    nb::class_<BoundAdapter>(m, "Adapter");
    nb::class_<BoundDecoder>(m, "Decoder")
        .def(
            "__init__",
            [](BoundDecoder* self, std::tuple<int64_t, int64_t, int64_t, int64_t, float> config,
               const PackedMatrix& embeddings, const std::vector<LayerTuple>& layers, uintptr_t norm, nb::object owner) {
                std::vector<DecoderLayer> parsed;
                for (const LayerTuple& layer : layers) parsed.push_back(parse_layer(layer));
                const auto [dim, num_heads, num_kv_heads, head_dim, norm_eps] = config;
                new (self) BoundDecoder{Decoder({dim, num_heads, num_kv_heads, head_dim, norm_eps}, embeddings.weight,
                                                std::move(parsed), pointer<const float>(norm)),
                                        std::move(owner)};
            },
            nb::arg("config"), nb::arg("embeddings"), nb::arg("layers"), nb::arg("norm"), nb::arg("owner"))
        .def(
            "adapter",
            [](const BoundDecoder& self, const std::vector<LayerAdapterTuple>& layers, nb::object owner) {
                Adapter parsed;
                for (const LayerAdapterTuple& layer : layers) parsed.push_back(parse_layer_adapter(layer));
                self.decoder.check_adapter(parsed);
                return BoundAdapter{std::move(parsed), std::move(owner)};
            },
            nb::arg("layers"), nb::arg("owner"))
        .def(
            "forward",
            [](BoundDecoder& self, int64_t num_rows, uintptr_t token_ids, uintptr_t cosine, uintptr_t sine,
               const PagePool& pool, const std::vector<GroupTuple>& groups,
               const std::vector<const BoundAdapter*>& adapters, uintptr_t adapter_of_row, uintptr_t hidden) {
                std::vector<const Adapter*> of_index;
                for (const BoundAdapter* adapter : adapters) of_index.push_back(&adapter->layers);
                RowAdapters rows;
                if (!of_index.empty()) rows = {&of_index, pointer<const int32_t>(adapter_of_row)};
                std::vector<StepGroup> parsed;
                for (const GroupTuple& group : groups)
                    parsed.push_back({pointer<const int64_t>(std::get<0>(group)), parse_sequences(std::get<1>(group)),
                                      std::get<2>(group)});
                const nb::gil_scoped_release release;
                self.decoder.forward({num_rows, pointer<const int64_t>(token_ids), pointer<const float>(cosine),
                                      pointer<const float>(sine), &pool.pages, &pool.group_of_layer, &parsed,
                                      pointer<float>(hidden), rows});
            },
            nb::arg("num_rows"), nb::arg("token_ids"), nb::arg("cosine"), nb::arg("sine"), nb::arg("pool"),
            nb::arg("groups"), nb::arg("adapters"), nb::arg("adapter_of_row"), nb::arg("hidden"));
}

}  // namespace tramontane
