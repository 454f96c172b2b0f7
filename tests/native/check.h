// Random values that are the same everywhere, and comparisons that count.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

using Floats = std::vector<float>;

// The distributions of the standard library differ between its versions; the generator does not.
class Random {
   public:
    explicit Random(uint32_t seed) : bits_(seed) {}
    uint8_t byte() { return static_cast<uint8_t>(bits_() >> 24); }
    double uniform() { return (bits_() + 0.5) * 0x1p-32; }
    float normal() {  // near enough: a sum of twelve
        double sum = -6.0;
        for (int i = 0; i < 12; ++i) sum += uniform();
        return static_cast<float>(sum);
    }
    Floats normals(int64_t count, double scale = 1.0) {
        Floats out(static_cast<size_t>(count));
        for (float& x : out) x = static_cast<float>(normal() * scale);
        return out;
    }

   private:
    std::mt19937 bits_;
};

class Check {
   public:
    // |got - exact| <= bound; NaN only where NaN is due
    void near(const std::string& what, float got, double exact, double bound) {
        ++count_;
        digest(&got, 1);
        const bool fits = exact != exact ? got != got : std::fabs(static_cast<double>(got) - exact) <= bound;
        if (!fits) fail(what, "is " + std::to_string(got) + ", not " + std::to_string(exact) + " within " + text(bound));
    }
    void same(const std::string& what, const void* got, const void* expected, size_t num_bytes) {
        ++count_;
        if (std::memcmp(got, expected, num_bytes) != 0) fail(what, "differs in its bits");
    }
    void same(const std::string& what, const Floats& got, const Floats& expected) {
        digest(got.data(), got.size());
        same(what, got.data(), expected.data(), expected.size() * sizeof(float));
    }
    void that(const std::string& what, bool holds) {
        ++count_;
        if (!holds) fail(what, "does not hold");
    }

    long count() const { return count_; }
    long failures() const { return failures_; }
    // Of all floats compared since the last call: equal on two processors if every one is, NaN standing for any NaN.
    uint64_t take_digest() {
        const uint64_t value = digest_;
        digest_ = start;
        return value;
    }

   private:
    static std::string text(double x) {
        char buffer[32];
        std::snprintf(buffer, sizeof buffer, "%.3g", x);
        return buffer;
    }
    void fail(const std::string& what, const std::string& how) {
        if (++failures_ <= 20) std::printf("FAILED %s %s\n", what.c_str(), how.c_str());
    }
    void digest(const float* values, size_t count) {  // FNV-1a
        for (size_t i = 0; i < count; ++i) {
            uint32_t bits;
            std::memcpy(&bits, values + i, sizeof bits);
            if (values[i] != values[i]) bits = 0x7fc00000u;
            digest_ = (digest_ ^ bits) * 0x100000001b3u;
        }
    }

    static constexpr uint64_t start = 0xcbf29ce484222325u;
    long count_ = 0, failures_ = 0;
    uint64_t digest_ = start;
};
