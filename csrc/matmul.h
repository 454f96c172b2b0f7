// Matrix products with packed weights, spread over the thread pool.
#pragma once
#include <vector>

#include "kernels.h"

namespace tramontane {

// A packed weight; the memory belongs to the caller.
struct Weight {
    WeightFormat format;
    const uint8_t* panels;
    int64_t out_features, in_features;
};

// out[i] (num_rows, out_features of weight i), rows `out_stride[i]` floats apart = x (num_rows, in_features) times the
// transposed weight i. All weights share x and in_features; those of one activation form share its preparation.
struct Product {
    Weight weight;
    float* out;
    int64_t out_stride;
};
void matmul(const float* x, int64_t x_stride, int64_t num_rows, const std::vector<Product>& products);

}  // namespace tramontane
