#include "thread_pool.h"

#include <chrono>
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tramontane {
namespace {

// How long a worker looks for the next region before it sleeps. At first without pause: longer than the gap between two
// kernels of one forward pass. Then giving way to any thread that wants the core: longer than the gap between two steps
// of a small model, since to wake a sleeping thread costs tens of microseconds; far shorter than between two requests.
constexpr std::chrono::microseconds spin_time{50}, yield_time{1000};

std::atomic<ThreadPool*> the_pool{nullptr};

void relax() {
#if defined(__x86_64__)
    _mm_pause();
#else
    std::this_thread::yield();
#endif
}

}  // namespace

ThreadPool& ThreadPool::instance() {
    ThreadPool* pool = the_pool.load(std::memory_order_acquire);
    if (pool) return *pool;
    static std::mutex making;
    const std::lock_guard<std::mutex> lock(making);
    pool = the_pool.load(std::memory_order_acquire);
    if (!pool) {
        // Never deleted: workers may still sleep on it while the process ends, and threads do not survive a fork.
        pool = new ThreadPool();
        the_pool.store(pool, std::memory_order_release);
#if defined(__unix__) || defined(__APPLE__)
        static const int registered = pthread_atfork(nullptr, nullptr, [] { the_pool.store(nullptr); });
        (void)registered;
#endif
    }
    return *pool;
}

void ThreadPool::set_num_threads(int num_threads) {
    const std::lock_guard<std::mutex> lock(turn_);
    if (num_threads == num_threads_.load()) return;
    stop_workers();
    num_threads_.store(num_threads);
}

void ThreadPool::start_workers() {
    stopping_.store(false);
    shares_ = std::vector<Share>(static_cast<size_t>(num_threads_.load()));
    const uint64_t seen = generation_.load();
    for (int thread = 1; thread < num_threads_.load(); ++thread)
        workers_.emplace_back([this, thread, seen] { work(thread, seen); });
}

void ThreadPool::stop_workers() {
    {
        const std::lock_guard<std::mutex> lock(sleep_);
        stopping_.store(true);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
    workers_.clear();
}

void ThreadPool::run(int64_t count, Call call, void* context) {
    if (count <= 0) return;
    const std::lock_guard<std::mutex> lock(turn_);
    if (count == 1 || num_threads_.load(std::memory_order_relaxed) == 1) {
        for (int64_t index = 0; index < count; ++index) call(context, index, 0);
        return;
    }
    if (workers_.empty()) start_workers();
    while (inside_.load() != 0) relax();  // a late worker looking at the closed door
    call_ = call;
    context_ = context;
    count_ = count;
    const int64_t num_shares = static_cast<int64_t>(shares_.size());
    for (int64_t i = 0; i < num_shares; ++i) shares_[i].next.store(count * i / num_shares, std::memory_order_relaxed);
    open_.store(true);
    generation_.fetch_add(1);
    if (num_asleep_.load() != 0) {
        { const std::lock_guard<std::mutex> sleep_lock(sleep_); }
        wake_.notify_all();
    }
    take_part(0);
    open_.store(false);
    for (int spins = 0; inside_.load() != 0; ++spins) {
        if (spins < 10000)
            relax();
        else
            std::this_thread::yield();
    }
}

void ThreadPool::take_part(int thread) {
    const Call call = call_;
    void* const context = context_;
    const int64_t count = count_, num_shares = static_cast<int64_t>(shares_.size());
    for (int64_t i = 0; i < num_shares; ++i) {
        const int64_t share = (thread + i) % num_shares, end = count * (share + 1) / num_shares;
        std::atomic<int64_t>& next = shares_[static_cast<size_t>(share)].next;
        if (next.load(std::memory_order_relaxed) >= end) continue;  // nothing left: no need to take the line
        for (int64_t index; (index = next.fetch_add(1)) < end;) call(context, index, thread);
    }
}

bool ThreadPool::wait_for_region(uint64_t seen) {
    const auto started = std::chrono::steady_clock::now();
    for (auto now = started; now < started + yield_time; now = std::chrono::steady_clock::now()) {
        for (int i = 0; i < 64; ++i) {
            if (generation_.load(std::memory_order_acquire) != seen || stopping_.load(std::memory_order_relaxed))
                return !stopping_.load();
            relax();
        }
        if (now > started + spin_time) std::this_thread::yield();
    }
    std::unique_lock<std::mutex> lock(sleep_);
    num_asleep_.fetch_add(1);
    wake_.wait(lock, [&] { return generation_.load() != seen || stopping_.load(); });
    num_asleep_.fetch_sub(1);
    return !stopping_.load();
}

void ThreadPool::work(int thread, uint64_t seen) {
    while (wait_for_region(seen)) {
        seen = generation_.load();
        inside_.fetch_add(1);
        if (open_.load()) take_part(thread);
        inside_.fetch_sub(1);
    }
}

}  // namespace tramontane
