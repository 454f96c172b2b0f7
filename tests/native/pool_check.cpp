// The thread pool under strain: callers on several threads, regions of every size, a number of threads that changes all
// the while, and a fork. Every index must be reached once, by a thread of the pool's. Prints the number of regions.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "thread_pool.h"

using tramontane::ThreadPool;

namespace {

constexpr int num_callers = 4, most_threads = 5;
std::atomic<int> num_wrong{0};

// Calls `num_regions` times. What the body writes is no atomic: the pool has to make it safe to read afterwards.
void call(int caller, int num_regions) {
    std::vector<int64_t> reached;
    for (int region = 0; region < num_regions; ++region) {
        const int64_t count = (region * 37 + caller * 11) % 67;
        reached.assign(static_cast<size_t>(count), 0);
        int64_t* const out = reached.data();
        ThreadPool::instance().parallel_for(count, [&](int64_t index, int thread) {
            if (thread < 0 || thread >= most_threads) num_wrong.fetch_add(1);
            out[index] += index + 1;
        });
        for (int64_t index = 0; index < count; ++index)
            if (reached[static_cast<size_t>(index)] != index + 1) num_wrong.fetch_add(1);
    }
}

void strain(int num_regions) {
    std::vector<std::thread> callers;
    for (int caller = 0; caller < num_callers; ++caller) callers.emplace_back(call, caller, num_regions);
    for (int change = 0; change < num_regions / 20; ++change) {
        ThreadPool::instance().set_num_threads(1 + change % most_threads);
        std::this_thread::yield();
    }
    for (std::thread& caller : callers) caller.join();
}

}  // namespace

int main(int argc, char** argv) {
    const int num_regions = argc > 1 ? std::atoi(argv[1]) : 2000;
    ThreadPool::instance().set_num_threads(3);
    strain(num_regions);
    // idle workers fall asleep and are woken
    for (int i = 0; i < 20; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(3));
        call(i, 2);
    }
    ThreadPool::instance().set_num_threads(3);
    call(0, 10);
    const pid_t child = fork();
    if (child == 0) {  // which has one thread, and a pool of its own
        call(0, 50);
        _exit(num_wrong.load() == 0 ? 0 : 1);
    }
    int status = 1;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0) num_wrong.fetch_add(1);
    call(1, 50);
    std::printf("regions=%d wrong=%d\n", num_callers * num_regions + 150, num_wrong.load());
    return num_wrong.load() == 0 ? 0 : 1;
}
