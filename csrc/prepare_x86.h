// Activations -> prepared activations with 256-bit integer operations; used by the AVX2 and the AVX-512 file.
#pragma once
#include <immintrin.h>

#include "prepare.h"

namespace tramontane {
namespace {

inline int horizontal_max(__m256i v) {
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
    return _mm_cvtsi128_si32(m);
}

// The bits of the largest magnitude of n floats (a multiple of 8): magnitudes compare like their bits, NaN above all.
inline int largest_magnitude(const float* x, int n) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i largest = _mm256_setzero_si256();
    for (int i = 0; i < n; i += 8)
        largest = _mm256_max_epi32(largest, _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x + i)), magnitude));
    return horizontal_max(largest);
}

// 32 floats -> 32 int8 in order. With inverse == 0 (zero or not finite) the result is zero, never an overflow.
inline __m256i quantise_32(const float* x, float inverse) {
    if (inverse == 0.0f) return _mm256_setzero_si256();
    const __m256 scale = _mm256_set1_ps(inverse);
    const __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), scale));
    const __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8), scale));
    const __m256i c = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 16), scale));
    const __m256i d = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 24), scale));
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
    return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

// Per four values, the int16 sums of the first and of the last two.
inline __m256i pair_sums(__m256i q) { return _mm256_maddubs_epi16(_mm256_set1_epi8(1), q); }

inline int fold_epi16(__m128i sums) {  // four lanes of two int16 -> one
    sums = _mm_add_epi16(sums, _mm_shuffle_epi32(sums, 0x4e));
    sums = _mm_add_epi16(sums, _mm_shuffle_epi32(sums, 0xb1));
    return _mm_cvtsi128_si32(sums);
}

// Integer sums start from `offset`: per lane two int16 (AVX2) or one int32 (AVX-512).
struct OffsetPairs {
    static int32_t make(int pair, int zero_point) {
        const int low = static_cast<int16_t>(pair & 0xffff) * -zero_point;
        const int high = static_cast<int16_t>(static_cast<unsigned>(pair) >> 16) * -zero_point;
        return static_cast<int32_t>((static_cast<unsigned>(low) & 0xffffu) | static_cast<unsigned>(high) << 16);
    }
};
struct OffsetTotal {
    static int32_t make(int pair, int zero_point) {
        return (static_cast<int16_t>(pair & 0xffff) + static_cast<int16_t>(static_cast<unsigned>(pair) >> 16)) *
               -zero_point;
    }
};

// Where 32 values of a row go in a chunk of its tile: by fours beside those of the other rows (AVX2), or each row's for
// itself (AVX-512, which loads four values to all lanes from anywhere).
struct Interleaved {
    static void store(__m256i q, uint8_t* tile, int block, int row, int num_rows) {
        alignas(32) uint32_t groups[8];
        _mm256_store_si256(reinterpret_cast<__m256i*>(groups), q);
        for (int g = 0; g < 8; ++g) __builtin_memcpy(tile + ((block * 8 + g) * num_rows + row) * 4, &groups[g], 4);
    }
};
struct ByRow {
    static void store(__m256i q, uint8_t* tile, int block, int row, int) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(tile + row * chunk_k + block * 32), q);
    }
};

template <class Offset, class Layout, int row_tile>
void prepare_q8_32(const PrepareCall& call) {
    const Prepared prepared(call.prepared, ActivationForm::q8_32, call.in_features, call.num_rows);
    for_each_row_chunk(call, row_tile, num_chunks(prepared.form, call.in_features),
                       [&](int64_t chunk, int64_t tile, int rows, int r, int64_t row) {
        const Rows to = prepared.at(chunk, tile);
        const float* x = call.x + row * call.x_stride + chunk * 256;
        const int blocks = static_cast<int>(at_most(call.in_features - chunk * 256, 256) / 32);
        for (int b = 0; b < blocks; ++b, x += 32) {
            const BlockScale scale = block_scale(largest_magnitude(x, 32));
            const __m256i q = quantise_32(x, scale.inverse);
            const __m256i sums = pair_sums(q);
            const int pair = fold_epi16(_mm_add_epi16(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1)));
            Layout::store(q, const_cast<uint8_t*>(to.q), b, r, rows);
            const_cast<float*>(to.d)[b * rows + r] = scale.d;
            const_cast<int32_t*>(to.offset)[b * rows + r] = Offset::make(pair, 8);
        }
    });
}

template <class Offset, class Layout, int row_tile>
void prepare_q8_256(const PrepareCall& call) {
    const Prepared prepared(call.prepared, ActivationForm::q8_256, call.in_features, call.num_rows);
    for_each_row_chunk(call, row_tile, num_chunks(prepared.form, call.in_features),
                       [&](int64_t chunk, int64_t tile, int rows, int r, int64_t row) {
        const Rows to = prepared.at(chunk, tile);
        const float* x = call.x + row * call.x_stride + chunk * 256;
        const BlockScale scale = block_scale(largest_magnitude(x, 256));
        const_cast<float*>(to.d)[r] = scale.d;
        for (int s = 0; s < 8; ++s) {
            const __m256i q = quantise_32(x + s * 32, scale.inverse);
            Layout::store(q, const_cast<uint8_t*>(to.q), s, r, rows);
            const __m256i sums = pair_sums(q);
            const int first = fold_epi16(_mm256_castsi256_si128(sums));
            const int second = fold_epi16(_mm256_extracti128_si256(sums, 1));
            const_cast<int32_t*>(to.offset)[s * 2 * rows + r] = Offset::make(first, 32);
            const_cast<int32_t*>(to.offset)[(s * 2 + 1) * rows + r] = Offset::make(second, 32);
            const int sum = OffsetTotal::make(first, -1) + OffsetTotal::make(second, -1);
            const int shift = s % 2 * 16;
            uint32_t& word = reinterpret_cast<uint32_t*>(const_cast<int32_t*>(to.sums))[s / 2 * rows + r];
            const uint32_t bits = (static_cast<uint32_t>(sum) & 0xffffu) << shift;
            word = s % 2 ? word | bits : bits;
        }
    });
}

}  // namespace
}  // namespace tramontane
