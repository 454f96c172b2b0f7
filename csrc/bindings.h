// What the files that bind C++ to Python share. Memory comes and goes as addresses: the callers (ops/*.py) prove shape,
// dtype and contiguity of their tensors, which costs a tenth of an array exchange per argument.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <tuple>

#include "layers.h"
#include "low_rank.h"
#include "matmul.h"

namespace tramontane {

namespace nb = nanobind;

template <class T>
T* pointer(uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

struct PackedMatrix {
    Weight weight;
    nb::object owner;  // keeps the panels alive
};

inline PageType parse_page_type(const std::string& name) {
    if (name == "f32") return PageType::f32;
    if (name == "bf16") return PageType::bf16;
    if (name == "f16") return PageType::f16;
    if (name == "q8_0") return PageType::q8_0;
    throw std::invalid_argument("KV pages of type " + name + " are unknown");
}

// (k address, v address, type, pages, page size, kv heads, head dim, bytes from page to page, slot to slot, head to head)
using PagesTuple = std::tuple<uintptr_t, uintptr_t, std::string, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                              int64_t>;
inline Pages parse_pages(const PagesTuple& t) {
    return {pointer<uint8_t>(std::get<0>(t)), pointer<uint8_t>(std::get<1>(t)), parse_page_type(std::get<2>(t)),
            std::get<3>(t), std::get<4>(t), std::get<5>(t), std::get<6>(t), std::get<7>(t), std::get<8>(t),
            std::get<9>(t)};
}

// (sequences, query_starts, first_positions, page_table, table width, page_offsets)
using SequencesTuple = std::tuple<int64_t, uintptr_t, uintptr_t, uintptr_t, int64_t, uintptr_t>;
inline PagedSequences parse_sequences(const SequencesTuple& t) {
    return {std::get<0>(t), pointer<const int32_t>(std::get<1>(t)), pointer<const int32_t>(std::get<2>(t)),
            pointer<const int32_t>(std::get<3>(t)), std::get<4>(t), pointer<const int32_t>(std::get<5>(t))};
}

// (a, b, float16, scale, in_features, out_features, rank)
using LowRankTuple = std::tuple<uintptr_t, uintptr_t, bool, float, int64_t, int64_t, int64_t>;
inline LowRank parse_low_rank(const LowRankTuple& t) {
    return {pointer<const void>(std::get<0>(t)), pointer<const void>(std::get<1>(t)), std::get<2>(t), std::get<3>(t),
            std::get<4>(t), std::get<5>(t), std::get<6>(t)};
}

void bind_weights(nb::module_& m);  // packing, quantisation, products
void bind_layers(nb::module_& m);   // what lies between the products
void bind_decoder(nb::module_& m);  // whole forward passes
void bind_training(nb::module_& m);

}  // namespace tramontane
