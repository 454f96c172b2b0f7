// Attention of training by AVX512_BF16: one instruction adds two products to each of 16 sums.
#include "document_attention_bf16.h"

namespace tramontane {
namespace {

struct DotProducts {
    struct Scope {};

    template <bool adds>
    static void multiply(const bf16* a, int64_t a_stride, const uint32_t* b, int64_t b_stride, int64_t num_k, float* c,
                         int64_t c_stride, int64_t rows, int64_t columns) {
        for (int64_t column = 0; column < columns; column += 16)
            for (int64_t row = 0; row < rows; row += rows_at_once)
                multiply_rows<adds>(a + row * a_stride, a_stride, b + column, b_stride, num_k / 2,
                                    c + row * c_stride + column, c_stride);
    }

   private:
    static constexpr int rows_at_once = 16;

    template <bool adds>
    static void multiply_rows(const bf16* a, int64_t a_stride, const uint32_t* b, int64_t b_stride, int64_t num_pairs,
                              float* c, int64_t c_stride) {
        __m512 sums[rows_at_once];
#pragma GCC unroll 16
        for (int m = 0; m < rows_at_once; ++m) sums[m] = adds ? _mm512_loadu_ps(c + m * c_stride) : _mm512_setzero_ps();
        for (int64_t pair = 0; pair < num_pairs; ++pair) {
            const __m512bh column = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + pair * b_stride));
#pragma GCC unroll 16
            for (int m = 0; m < rows_at_once; ++m) {
                int32_t element;
                __builtin_memcpy(&element, a + m * a_stride + 2 * pair, sizeof(element));
                sums[m] = _mm512_dpbf16_ps(sums[m], column, reinterpret_cast<__m512bh>(_mm512_set1_epi32(element)));
            }
        }
#pragma GCC unroll 16
        for (int m = 0; m < rows_at_once; ++m) _mm512_storeu_ps(c + m * c_stride, sums[m]);
    }
};

}  // namespace

void add_document_attention_avx512_bf16(Kernels& table) { add_document_attention_bf16<DotProducts>(table); }

}  // namespace tramontane
