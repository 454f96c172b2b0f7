// What no kernel may do, one fault by name: the proof that a sanitizer's job fails where a kernel does it.
#include <climits>
#include <cstring>
#include <thread>

namespace {

volatile int size = 16;  // which the compiler cannot reason about
volatile int largest = INT_MAX;
int shared = 0;

void add_many() {
    for (int i = 0; i < 100000; ++i) ++shared;
}

}  // namespace

extern "C" int fault(const char* kind) {
    if (!std::strcmp(kind, "none")) return 0;
    if (!std::strcmp(kind, "heap-buffer-overflow")) {  // a read behind the last column of a row
        float* row = new float[size]();
        const volatile float behind = row[size];
        (void)behind;
        delete[] row;
    } else if (!std::strcmp(kind, "heap-use-after-free")) {
        float* row = new float[size]();
        delete[] row;
        row[size / 2] = 1.0f;
    } else if (!std::strcmp(kind, "signed integer overflow")) {
        const volatile int sum = largest + size;
        (void)sum;
    } else if (!std::strcmp(kind, "misaligned address")) {
        alignas(8) char bytes[16] = {};
        volatile int offset = 1;
        const volatile double value = *reinterpret_cast<double*>(bytes + offset);
        (void)value;
    } else if (!std::strcmp(kind, "detected memory leaks")) {
        char* volatile lost = new char[100];
        lost = nullptr;
    } else if (!std::strcmp(kind, "data race")) {
        std::thread other(add_many);
        add_many();
        other.join();
    }
    return 0;  // also where the kind is not known: a sanitizer's test expects another code
}

int main(int argc, char** argv) { return argc == 2 ? fault(argv[1]) : 2; }
