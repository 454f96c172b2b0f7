// A whole forward pass over packed weights in one call: what model/transformer.py computes operation by operation, with
// the same kernels in the same order, hence the same bits, without a Python step in between.
#pragma once
#include <mutex>
#include <vector>

#include "aligned_buffer.h"
#include "layers.h"
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
};

class Decoder {
   public:
    // Throws std::invalid_argument if the shapes of the weights do not fit together. The memory belongs to the caller.
    Decoder(const DecoderConfig& config, Weight embeddings, std::vector<DecoderLayer> layers, const float* norm);

    // Throws std::out_of_range, before anything is stored, for token ids, slots or pages that do not exist.
    void forward(const DecoderStep& step);

   private:
    void attend(const DecoderLayer& layer, const DecoderStep& step, const Pages& pages, const StepGroup& group);
    void feed_forward(const DecoderLayer& layer, int64_t num_rows);
    void feed_one(const FeedForwardWeights& weights, const float* x, int64_t num_rows, float* out);
    void mix_experts(const DecoderLayer& layer, int64_t num_rows);

    DecoderConfig config_;
    Weight embeddings_;
    std::vector<DecoderLayer> layers_;
    const float* norm_;

    std::mutex busy_;  // held during forward: the buffers below are shared
    AlignedBuffer x_, normed_, q_, k_, v_, heads_, update_, gate_, up_, rows_, logits_, weights_, experts_;
};

}  // namespace tramontane
