// A whole forward pass over packed weights in one call: what model/transformer.py computes operation by operation, with
// the same kernels in the same order, hence the same bits, without a Python step in between.
#pragma once
#include <mutex>
#include <vector>

#include "aligned_buffer.h"
#include "layers.h"
#include "low_rank.h"
#include "matmul.h"

namespace tramontane {

struct FeedForwardWeights {
    Weight w1, w2, w3;  // gate, down, up
};

struct DecoderLayer {
    const float *attention_norm, *ffn_norm;  // (dim)
    Weight wq, wk, wv, wo;
    std::vector<FeedForwardWeights> experts;  // one: a plain feed-forward network
    Weight router;                            // (experts, dim), only with several
    int64_t num_active;
};

struct DecoderConfig {
    int64_t dim, num_heads, num_kv_heads, head_dim;
    float norm_eps;
};

// One window group of a step: which slots its rows are stored to, and what its sequences see.
struct StepGroup {
    const int64_t* slots;  // (num_rows)
    PagedSequences sequences;
    int64_t window;  // 0: none
};

struct DecoderStep {
    int64_t num_rows;
    const int64_t* token_ids;     // (num_rows)
    const float *cosine, *sine;   // (num_rows, head_dim / 2)
    const std::vector<Pages>* pages;             // one per layer
    const std::vector<int64_t>* group_of_layer;  // one per layer
    const std::vector<StepGroup>* groups;
    float* hidden;  // (num_rows, dim), out: after the final norm
    RowAdapters row_adapters;
};

class Decoder {
   public:
    // Throws std::invalid_argument if the shapes of the weights do not fit together. The memory belongs to the caller.
    Decoder(const DecoderConfig& config, Weight embeddings, std::vector<DecoderLayer> layers, const float* norm);

    // Throws std::invalid_argument if the adapter is one for weights of other shapes.
    void check_adapter(const Adapter& adapter) const;

    // Throws std::out_of_range, before anything is stored, for token ids, slots, pages or adapters that do not exist.
    void forward(const DecoderStep& step);

   private:
    void attend(size_t layer, const DecoderStep& step);
    void feed_forward(size_t layer, const DecoderStep& step);
    void feed_one(size_t layer, size_t expert, const float* x, int64_t num_rows, const RowAdapters& rows, float* out);
    void mix_experts(size_t layer, const DecoderStep& step);

    // Calls add(layer of the row's adapter, row) for every row that has one, then computes the tasks it added.
    template <class Add>
    void adapt(const RowAdapters& rows, int64_t num_rows, size_t layer, Add&& add) {
        if (rows.adapters == nullptr) return;
        tasks_.clear();
        for (int64_t row = 0; row < num_rows; ++row)
            if (const int32_t adapter = rows.adapter_of_row[row]; adapter >= 0)
                add((*(*rows.adapters)[static_cast<size_t>(adapter)])[layer], row);
        add_low_rank(tasks_);
    }
    void add_task(const LowRank& weights, const float* x, float* out, int64_t row) {
        if (weights.rank != 0)
            tasks_.push_back({&weights, x + row * weights.in_features, out + row * weights.out_features});
    }

    DecoderConfig config_;
    Weight embeddings_;
    std::vector<DecoderLayer> layers_;
    const float* norm_;

    std::mutex busy_;  // held during forward: the buffers below are shared
    AlignedBuffer x_, normed_, q_, k_, v_, heads_, update_, gate_, up_, rows_, logits_, weights_, experts_, adapters_;
    std::vector<LowRankTask> tasks_;
};

}  // namespace tramontane
