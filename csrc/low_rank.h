// What adapters add to the products of a step: each row by itself, so that its bits do not depend on its company.
#pragma once
#include <vector>

#include "kernels.h"

namespace tramontane {

// An adapter's share of one weight; the memory belongs to the caller. Rank 0: none.
struct LowRank {
    const void *a = nullptr, *b = nullptr;  // as in LowRankCall
    bool is_half = false;
    float scale = 0.0f;
    int64_t in_features = 0, out_features = 0, rank = 0;
};

// One row of one product.
struct LowRankTask {
    const LowRank* weights;
    const float* x;
    float* out;
};

void add_low_rank(const std::vector<LowRankTask>& tasks);

struct FeedForwardAdapter {
    LowRank w1, w2, w3;
};

struct LayerAdapter {
    LowRank wq, wk, wv, wo;
    std::vector<FeedForwardAdapter> experts;  // as many as the layer has
};

using Adapter = std::vector<LayerAdapter>;  // one per layer

// Which adapter each row of a step has.
struct RowAdapters {
    const std::vector<const Adapter*>* adapters = nullptr;  // null: no row has one
    const int32_t* adapter_of_row = nullptr;                // index into `adapters`; negative: none
};

}  // namespace tramontane
