#include "low_rank.h"

#include "thread_pool.h"

namespace tramontane {
namespace {

constexpr int64_t smallest_shared_count = 1 << 15;  // multiply-adds, as in layers.cpp

}  // namespace

void add_low_rank(const std::vector<LowRankTask>& tasks) {
    const auto low_rank = kernels().low_rank;
    const auto body = [&](int64_t i, int) {
        const LowRankTask& task = tasks[static_cast<size_t>(i)];
        const LowRank& w = *task.weights;
        low_rank({task.x, w.a, w.b, w.is_half, w.scale, w.in_features, w.out_features, w.rank, task.out});
    };
    int64_t work = 0;
    for (const LowRankTask& task : tasks)
        work += task.weights->rank * (task.weights->in_features + task.weights->out_features);
    const int64_t count = static_cast<int64_t>(tasks.size());
    if (work < smallest_shared_count || count == 1)
        for (int64_t i = 0; i < count; ++i) body(i, 0);
    else
        ThreadPool::instance().parallel_for(count, body);
}

}  // namespace tramontane
