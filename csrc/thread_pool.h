// A fixed set of workers for the kernels: regions are entered and left without system calls while work keeps coming,
// and nothing spins when it does not.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace tramontane {

class ThreadPool {
   public:
    // The pool of this process; a child made by fork() gets a fresh one.
    static ThreadPool& instance();

    // Threads that work on a region, the caller included. At least 1.
    int num_threads() const { return num_threads_.load(std::memory_order_relaxed); }
    void set_num_threads(int num_threads);

    // Calls body(index, thread) for every index below count, each once, in any order, thread < num_threads();
    // returns when all are done. A thread takes neighbours in turn, so that what it asks for ahead is its own. Callers from
    // several threads take turns, so the total never exceeds num_threads(). The body must not throw and must not enter
    // another region.
    template <class Body>
    void parallel_for(int64_t count, Body&& body) {
        const auto call = [](void* context, int64_t index, int thread) {
            (*static_cast<std::remove_reference_t<Body>*>(context))(index, thread);
        };
        run(count, call, const_cast<void*>(static_cast<const void*>(&body)));
    }

    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

   private:
    using Call = void (*)(void* context, int64_t index, int thread);

    ThreadPool() = default;
    void run(int64_t count, Call call, void* context);
    void take_part(int thread);
    void start_workers();
    void stop_workers();
    void work(int thread, uint64_t seen);
    bool wait_for_region(uint64_t seen);

    std::mutex turn_;  // held by the caller whose region is running, and while workers start or stop
    std::atomic<int> num_threads_{1};
    std::vector<std::thread> workers_;

    // The region. Written by the caller only while no worker is inside (inside_ == 0) and it is closed.
    Call call_ = nullptr;
    void* context_ = nullptr;
    int64_t count_ = 0;
    // Every thread has an equal share of the indices; when it has done its own, it takes from the shares of others.
    struct alignas(64) Share {
        std::atomic<int64_t> next{0};
    };
    std::vector<Share> shares_;
    // A worker enters by raising inside_ and then reading open_; the caller leaves by clearing open_ and then waiting
    // for inside_ to fall to zero. A worker that slept through a region is therefore never waited for.
    alignas(64) std::atomic<int> inside_{0};
    std::atomic<bool> open_{false};

    alignas(64) std::atomic<uint64_t> generation_{0};
    std::atomic<int> num_asleep_{0};
    std::atomic<bool> stopping_{false};
    std::mutex sleep_;
    std::condition_variable wake_;
};

}  // namespace tramontane
