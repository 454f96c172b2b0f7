// Packing, quantisation and products for Python.
#include "bindings.h"
#include "dequantize.h"
#include "pack.h"
#include "quantize.h"
#include "thread_pool.h"

namespace tramontane {
namespace {

constexpr const char* format_names[num_weight_formats] = {"f32", "bf16", "f16", "q8_0", "q4_0", "q4_k", "q5_k", "q6_k"};

WeightFormat parse_format(const std::string& name) {
    for (int i = 0; i < num_weight_formats; ++i)
        if (name == format_names[i]) return static_cast<WeightFormat>(i);
    throw std::invalid_argument("weight format " + name + " is unknown");
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

}  // namespace

void bind_weights(nb::module_& m) {
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
}

}  // namespace tramontane
