#include "decoder.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "pack.h"
#include "thread_pool.h"

namespace tramontane {
namespace {

float* floats(AlignedBuffer& buffer, int64_t count) {
    buffer.allocate(static_cast<size_t>(count) * sizeof(float));
    return reinterpret_cast<float*>(buffer.data());
}

void check(const Weight& weight, int64_t out_features, int64_t in_features, const char* name) {
    if (weight.out_features != out_features || weight.in_features != in_features)
        throw std::invalid_argument(std::string(name) + " is " + std::to_string(weight.out_features) + " x " +
                                    std::to_string(weight.in_features) + ", not " + std::to_string(out_features) + " x " +
                                    std::to_string(in_features));
}

}  // namespace

Decoder::Decoder(const DecoderConfig& config, Weight embeddings, std::vector<DecoderLayer> layers, const float* norm)
    : config_(config), embeddings_(embeddings), layers_(std::move(layers)), norm_(norm) {
    const int64_t width = config.num_heads * config.head_dim, kv_width = config.num_kv_heads * config.head_dim;
    if (config.num_kv_heads < 1 || config.num_heads % config.num_kv_heads != 0 || config.head_dim % 2 != 0 ||
        config.head_dim > max_head_dim || config.num_heads / config.num_kv_heads > attention_tile_rows)
        throw std::invalid_argument("attention heads of a shape the kernels do not cover");
    check(embeddings, embeddings.out_features, config.dim, "tok_embeddings");
    for (const DecoderLayer& layer : layers_) {
        check(layer.wq, width, config.dim, "wq");
        check(layer.wk, kv_width, config.dim, "wk");
        check(layer.wv, kv_width, config.dim, "wv");
        check(layer.wo, config.dim, width, "wo");
        if (layer.experts.empty()) throw std::invalid_argument("a layer without a feed-forward network");
        const int64_t num_experts = static_cast<int64_t>(layer.experts.size());
        const int64_t hidden_dim = layer.experts[0].w1.out_features;
        for (const FeedForwardWeights& expert : layer.experts) {
            check(expert.w1, hidden_dim, config.dim, "w1");
            check(expert.w2, config.dim, hidden_dim, "w2");
            check(expert.w3, hidden_dim, config.dim, "w3");
        }
        if (num_experts > 1) {
            check(layer.router, num_experts, config.dim, "router");
            if (layer.num_active < 1 || layer.num_active > num_experts) throw std::invalid_argument("active experts");
        }
    }
}

void Decoder::forward(const DecoderStep& step) {
    const std::lock_guard<std::mutex> lock(busy_);
    if (step.pages->size() != layers_.size() || step.group_of_layer->size() != layers_.size())
        throw std::invalid_argument("pages of as many layers as the model has");
    for (size_t i = 0; i < layers_.size(); ++i) {
        const int64_t group = (*step.group_of_layer)[i];
        const Pages& pages = (*step.pages)[i];
        if (group < 0 || group >= static_cast<int64_t>(step.groups->size())) throw std::out_of_range("window group");
        if (pages.num_kv_heads != config_.num_kv_heads || pages.head_dim != config_.head_dim)
            throw std::invalid_argument("pages of other heads than the model's");
    }
    for (int64_t row = 0; row < step.num_rows; ++row)
        if (step.token_ids[row] < 0 || step.token_ids[row] >= embeddings_.out_features)
            throw std::out_of_range("token id " + std::to_string(step.token_ids[row]) + " of a vocabulary of " +
                                    std::to_string(embeddings_.out_features));
    if (step.row_adapters.adapters != nullptr) {
        const int64_t count = static_cast<int64_t>(step.row_adapters.adapters->size());
        for (int64_t row = 0; row < step.num_rows; ++row)
            if (step.row_adapters.adapter_of_row[row] >= count) throw std::out_of_range("adapter of a row");
    }
    const int64_t num_rows = step.num_rows, dim = config_.dim;
    float* x = floats(x_, num_rows * dim);
    const auto embed = [&](int64_t row, int) {
        read_packed_row(embeddings_.format, embeddings_.panels, step.token_ids[row], dim, x + row * dim);
    };
    if (num_rows == 1)
        embed(0, 0);
    else
        ThreadPool::instance().parallel_for(num_rows, embed);
    float* normed = floats(normed_, num_rows * dim);
    float* update = floats(update_, num_rows * dim);
    for (size_t i = 0; i < layers_.size(); ++i) {
        const DecoderLayer& layer = layers_[i];
        rms_norm(x, layer.attention_norm, config_.norm_eps, num_rows, dim, normed);
        attend(i, step);
        add(x, update, num_rows * dim, x);
        rms_norm(x, layer.ffn_norm, config_.norm_eps, num_rows, dim, normed);
        feed_forward(i, step);
        add(x, update, num_rows * dim, x);
    }
    rms_norm(x, norm_, config_.norm_eps, num_rows, dim, step.hidden);
}

void Decoder::check_adapter(const Adapter& adapter) const {
    const auto require = [](const LowRank& low_rank, const Weight& weight) {
        if (low_rank.rank == 0) return;
        if (low_rank.rank < 0 || low_rank.rank > max_rank || low_rank.in_features != weight.in_features ||
            low_rank.out_features != weight.out_features)
            throw std::invalid_argument("an adapter of rank 1 to " + std::to_string(max_rank) + " for " +
                                        std::to_string(weight.out_features) + " x " +
                                        std::to_string(weight.in_features) + " weights is needed");
    };
    if (adapter.size() != layers_.size()) throw std::invalid_argument("an adapter of as many layers as the model has");
    for (size_t i = 0; i < layers_.size(); ++i) {
        const DecoderLayer& layer = layers_[i];
        require(adapter[i].wq, layer.wq);
        require(adapter[i].wk, layer.wk);
        require(adapter[i].wv, layer.wv);
        require(adapter[i].wo, layer.wo);
        if (adapter[i].experts.size() != layer.experts.size()) throw std::invalid_argument("experts of an adapter");
        for (size_t e = 0; e < layer.experts.size(); ++e) {
            require(adapter[i].experts[e].w1, layer.experts[e].w1);
            require(adapter[i].experts[e].w2, layer.experts[e].w2);
            require(adapter[i].experts[e].w3, layer.experts[e].w3);
        }
    }
}

// normed_ -> update_
void Decoder::attend(size_t index, const DecoderStep& step) {
    const DecoderLayer& layer = layers_[index];
    const Pages& pages = (*step.pages)[index];
    const StepGroup& group = (*step.groups)[static_cast<size_t>((*step.group_of_layer)[index])];
    const int64_t num_rows = step.num_rows, head_dim = config_.head_dim;
    const int64_t width = config_.num_heads * head_dim, kv_width = config_.num_kv_heads * head_dim;
    float* q = floats(q_, num_rows * width);
    float* k = floats(k_, num_rows * kv_width);
    float* v = floats(v_, num_rows * kv_width);
    const float* normed = floats(normed_, num_rows * config_.dim);
    matmul(normed, config_.dim, num_rows, {{layer.wq, q, width}, {layer.wk, k, kv_width}, {layer.wv, v, kv_width}});
    adapt(step.row_adapters, num_rows, index, [&](const LayerAdapter& adapter, int64_t row) {
        add_task(adapter.wq, normed, q, row);
        add_task(adapter.wk, normed, k, row);
        add_task(adapter.wv, normed, v, row);
    });
    rotate({q, step.cosine, step.sine, num_rows, config_.num_heads, head_dim, width, width, q});
    rotate({k, step.cosine, step.sine, num_rows, config_.num_kv_heads, head_dim, kv_width, kv_width, k});
    store_kv(k, v, num_rows, kv_width, kv_width, group.slots, pages);
    float* heads = floats(heads_, num_rows * width);
    paged_attention(q, num_rows, width, config_.num_heads, pages, group.sequences, group.window, heads);
    float* update = floats(update_, num_rows * config_.dim);
    matmul(heads, width, num_rows, {{layer.wo, update, config_.dim}});
    adapt(step.row_adapters, num_rows, index,
          [&](const LayerAdapter& adapter, int64_t row) { add_task(adapter.wo, heads, update, row); });
}

// normed_ -> update_
void Decoder::feed_forward(size_t index, const DecoderStep& step) {
    const int64_t count = step.num_rows * config_.dim;
    if (layers_[index].experts.size() > 1)
        mix_experts(index, step);
    else
        feed_one(index, 0, floats(normed_, count), step.num_rows, step.row_adapters, floats(update_, count));
}

void Decoder::feed_one(size_t index, size_t expert, const float* x, int64_t num_rows, const RowAdapters& rows,
                       float* out) {
    const FeedForwardWeights& weights = layers_[index].experts[expert];
    const int64_t hidden_dim = weights.w1.out_features;
    float* gate = floats(gate_, num_rows * hidden_dim);
    float* up = floats(up_, num_rows * hidden_dim);
    matmul(x, config_.dim, num_rows, {{weights.w1, gate, hidden_dim}, {weights.w3, up, hidden_dim}});
    adapt(rows, num_rows, index, [&](const LayerAdapter& adapter, int64_t row) {
        add_task(adapter.experts[expert].w1, x, gate, row);
        add_task(adapter.experts[expert].w3, x, up, row);
    });
    swiglu(gate, up, num_rows, hidden_dim, gate);
    matmul(gate, hidden_dim, num_rows, {{weights.w2, out, config_.dim}});
    adapt(rows, num_rows, index, [&](const LayerAdapter& adapter, int64_t row) {
        add_task(adapter.experts[expert].w2, gate, out, row);
    });
}

// Rows are grouped by expert, experts in ascending order: a row's sum is formed in the same order in any company.
void Decoder::mix_experts(size_t index, const DecoderStep& step) {
    const DecoderLayer& layer = layers_[index];
    const int64_t num_rows = step.num_rows;
    const int64_t dim = config_.dim, num_experts = static_cast<int64_t>(layer.experts.size());
    const float* x = floats(normed_, num_rows * dim);
    float* logits = floats(logits_, num_rows * num_experts);
    matmul(x, dim, num_rows, {{layer.router, logits, num_experts}});
    const int64_t num_chosen = num_rows * layer.num_active;
    float* weights = floats(weights_, num_chosen);
    experts_.allocate(static_cast<size_t>(num_chosen) * sizeof(int64_t));
    int64_t* experts = reinterpret_cast<int64_t*>(experts_.data());
    route(logits, num_rows, num_experts, layer.num_active, weights, experts);
    float* out = floats(update_, num_rows * dim);
    std::fill(out, out + num_rows * dim, 0.0f);
    float* gathered = floats(rows_, 2 * num_rows * dim);
    float* results = gathered + num_rows * dim;
    RowAdapters rows = step.row_adapters;
    int32_t* adapter_of_row = nullptr;  // of the gathered rows
    if (rows.adapters != nullptr) {
        adapters_.allocate(static_cast<size_t>(num_rows) * sizeof(int32_t));
        rows.adapter_of_row = adapter_of_row = reinterpret_cast<int32_t*>(adapters_.data());
    }
    const auto add_scaled_row = kernels().add_scaled_row;
    for (int64_t expert = 0; expert < num_experts; ++expert) {
        int64_t count = 0;
        for (int64_t i = 0; i < num_chosen; ++i)
            if (experts[i] == expert) {
                const int64_t row = i / layer.num_active;
                if (adapter_of_row != nullptr) adapter_of_row[count] = step.row_adapters.adapter_of_row[row];
                std::memcpy(gathered + count++ * dim, x + row * dim, static_cast<size_t>(dim) * sizeof(float));
            }
        if (count == 0) continue;
        feed_one(index, static_cast<size_t>(expert), gathered, count, rows, results);
        count = 0;
        for (int64_t i = 0; i < num_chosen; ++i)
            if (experts[i] == expert)
                add_scaled_row(results + count++ * dim, weights[i], dim, out + i / layer.num_active * dim);
    }
}

}  // namespace tramontane
