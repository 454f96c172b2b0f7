// tramontane.ops._cpu: the native part, one extension for every instruction set.
//
// Memory comes and goes as addresses: the callers (ops/packed_weight.py, ops/cpu.py) prove shape, dtype and contiguity
// of their tensors, which costs a tenth of an array exchange per argument.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "cpu_features.h"
#include "dequantize.h"
#include "layers.h"
#include "matmul.h"
#include "pack.h"
#include "quantize.h"
#include "thread_pool.h"

namespace nb = nanobind;
using namespace tramontane;

namespace {

constexpr const char* format_names[num_weight_formats] = {"f32", "bf16", "f16", "q8_0", "q4_0", "q4_k", "q5_k", "q6_k"};

WeightFormat parse_format(const std::string& name) {
    for (int i = 0; i < num_weight_formats; ++i)
        if (name == format_names[i]) return static_cast<WeightFormat>(i);
    throw std::invalid_argument("weight format " + name + " is unknown");
}

template <class T>
T* pointer(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

void check_shape(WeightFormat format, int64_t out_features, int64_t in_features) {
    // 2^40 elements at most: every product of sizes stays far inside 64 bits.
    constexpr int64_t limit = int64_t{1} << 40;
    if (out_features < 1 || in_features < 1 || out_features > limit / in_features)
        throw std::invalid_argument("a weight of " + std::to_string(out_features) + " x " + std::to_string(in_features) +
                                    " cannot be packed");
    if (in_features % block_size(format) != 0)
        throw std::invalid_argument(std::string(format_names[static_cast<int>(format)]) + " weights need a multiple of " +
                                    std::to_string(block_size(format)) + " inputs, not " + std::to_string(in_features));
}

size_t packed_bytes(const std::string& format_name, int64_t out_features, int64_t in_features) {
    const WeightFormat format = parse_format(format_name);
    check_shape(format, out_features, in_features);
    return static_cast<size_t>(num_panels(out_features)) * panel_bytes(format, in_features);
}

PageType parse_page_type(const std::string& name) {
    if (name == "f32") return PageType::f32;
    if (name == "bf16") return PageType::bf16;
    if (name == "f16") return PageType::f16;
    throw std::invalid_argument("KV pages of type " + name + " are unknown");
}

// (k address, v address, type, pages, page size, kv heads, head dim)
using PagesTuple = std::tuple<uintptr_t, uintptr_t, std::string, int64_t, int64_t, int64_t, int64_t>;
Pages parse_pages(const PagesTuple& t) {
    return {pointer<uint8_t>(std::get<0>(t)), pointer<uint8_t>(std::get<1>(t)), parse_page_type(std::get<2>(t)),
            std::get<3>(t), std::get<4>(t), std::get<5>(t), std::get<6>(t)};
}

// (sequences, query_starts, first_positions, page_table, table width, page_offsets)
using SequencesTuple = std::tuple<int64_t, uintptr_t, uintptr_t, uintptr_t, int64_t, uintptr_t>;
PagedSequences parse_sequences(const SequencesTuple& t) {
    return {std::get<0>(t), pointer<const int32_t>(std::get<1>(t)), pointer<const int32_t>(std::get<2>(t)),
            pointer<const int32_t>(std::get<3>(t)), std::get<4>(t), pointer<const int32_t>(std::get<5>(t))};
}

struct PackedMatrix {
    Weight weight;
    nb::object owner;  // keeps the panels alive
};

}  // namespace

NB_MODULE(_cpu, m) {
    m.doc() = "Native CPU kernels of Tramontane.";

    m.def("instruction_sets", &instruction_sets);
    m.def("best_instruction_set", &best_instruction_set);
    m.def("instruction_set", &instruction_set_name);
    m.def("set_instruction_set", &set_instruction_set, nb::arg("name"));
    m.def("num_threads", [] { return ThreadPool::instance().num_threads(); });
    m.def(
        "set_num_threads",
        [](int num_threads) {
            if (num_threads < 1) throw std::invalid_argument("threads must be at least 1");
            ThreadPool::instance().set_num_threads(num_threads);
        },
        nb::arg("num_threads"), nb::call_guard<nb::gil_scoped_release>());

    m.def("packed_bytes", &packed_bytes, nb::arg("format"), nb::arg("out_features"), nb::arg("in_features"));
    m.def(
        "row_bytes",
        [](const std::string& name, int64_t in_features) {
            const WeightFormat format = parse_format(name);
            check_shape(format, 1, in_features);
            return row_bytes(format, in_features);
        },
        nb::arg("format"), nb::arg("in_features"));
    m.def(
        "pack",
        [](const std::string& name, uintptr_t rows, int64_t out_features, int64_t in_features, uintptr_t panels) {
            const WeightFormat format = parse_format(name);
            check_shape(format, out_features, in_features);
            pack_rows(format, pointer<const void>(rows), out_features, in_features, pointer<void>(panels));
        },
        nb::arg("format"), nb::arg("rows"), nb::arg("out_features"), nb::arg("in_features"), nb::arg("panels"),
        nb::call_guard<nb::gil_scoped_release>());
    m.def(
        "dequantize",
        [](const std::string& name, uintptr_t blocks, int64_t num_values, uintptr_t out) {
            const WeightFormat format = parse_format(name);
            check_shape(format, 1, num_values);
            dequantize(format, pointer<const void>(blocks), num_values, pointer<float>(out));
        },
        nb::arg("format"), nb::arg("blocks"), nb::arg("num_values"), nb::arg("out"),
        nb::call_guard<nb::gil_scoped_release>());
    m.def(
        "quantize",
        [](const std::string& name, uintptr_t x, int64_t num_values, uintptr_t blocks) {
            const WeightFormat format = parse_format(name);
            check_shape(format, 1, num_values);
            quantize(format, pointer<const float>(x), num_values, pointer<void>(blocks));
        },
        nb::arg("format"), nb::arg("x"), nb::arg("num_values"), nb::arg("blocks"),
        nb::call_guard<nb::gil_scoped_release>());

    nb::class_<PackedMatrix>(m, "PackedMatrix")
        .def(
            "__init__",
            [](PackedMatrix* self, const std::string& format, uintptr_t panels, int64_t out_features,
               int64_t in_features, nb::object owner) {
                packed_bytes(format, out_features, in_features);
                new (self) PackedMatrix{
                    {parse_format(format), pointer<const uint8_t>(panels), out_features, in_features}, std::move(owner)};
            },
            nb::arg("format"), nb::arg("panels"), nb::arg("out_features"), nb::arg("in_features"), nb::arg("owner"))
        .def(
            "read_rows",
            [](const PackedMatrix& self, uintptr_t rows, int64_t num_rows, uintptr_t out) {
                const int64_t* row = pointer<const int64_t>(rows);
                const Weight& weight = self.weight;
                for (int64_t i = 0; i < num_rows; ++i)
                    if (row[i] < 0 || row[i] >= weight.out_features)
                        throw std::out_of_range("row " + std::to_string(row[i]) + " of " +
                                                std::to_string(weight.out_features));
                const nb::gil_scoped_release release;
                ThreadPool::instance().parallel_for(num_rows, [&](int64_t i, int) {
                    read_packed_row(weight.format, weight.panels, row[i], weight.in_features,
                                    pointer<float>(out) + i * weight.in_features);
                });
            },
            nb::arg("rows"), nb::arg("num_rows"), nb::arg("out"));

    m.def(
        "linear",
        [](uintptr_t x, int64_t num_rows, const PackedMatrix& matrix, uintptr_t out) {
            const Weight& weight = matrix.weight;
            const nb::gil_scoped_release release;
            matmul(pointer<const float>(x), weight.in_features, num_rows, {{weight, pointer<float>(out), weight.out_features}});
        },
        nb::arg("x"), nb::arg("num_rows"), nb::arg("matrix"), nb::arg("out"));
    m.def(
        "linears",
        [](uintptr_t x, int64_t num_rows, const std::vector<const PackedMatrix*>& matrices,
           const std::vector<uintptr_t>& outs) {
            if (matrices.empty() || matrices.size() != outs.size())
                throw std::invalid_argument("as many outputs as weights, and at least one");
            std::vector<Product> products;
            for (size_t i = 0; i < matrices.size(); ++i) {
                const Weight& weight = matrices[i]->weight;
                if (weight.in_features != matrices[0]->weight.in_features)
                    throw std::invalid_argument("weights that share an input need the same in_features");
                products.push_back({weight, pointer<float>(outs[i]), weight.out_features});
            }
            const nb::gil_scoped_release release;
            matmul(pointer<const float>(x), products[0].weight.in_features, num_rows, products);
        },
        nb::arg("x"), nb::arg("num_rows"), nb::arg("matrices"), nb::arg("outs"));

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
