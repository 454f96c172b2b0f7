// Uninitialised memory on a cache line boundary.
#pragma once
#include <cstddef>
#include <cstdint>
#include <new>

namespace tramontane {

class AlignedBuffer {
   public:
    AlignedBuffer() = default;
    ~AlignedBuffer() { release(); }
    AlignedBuffer(const AlignedBuffer&) = delete;
    AlignedBuffer& operator=(const AlignedBuffer&) = delete;

    // At least `size` bytes; what was there is lost when it must grow.
    void allocate(size_t size) {
        if (size <= size_) return;
        release();
        data_ = static_cast<uint8_t*>(::operator new(size, std::align_val_t{64}));
        size_ = size;
    }
    uint8_t* data() const { return data_; }
    size_t size() const { return size_; }

   private:
    void release() {
        if (data_) ::operator delete(data_, std::align_val_t{64});
        data_ = nullptr;
        size_ = 0;
    }

    uint8_t* data_ = nullptr;
    size_t size_ = 0;
};

}  // namespace tramontane
