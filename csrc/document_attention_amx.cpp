// Attention of training by AMX, on tiles of 16 rows of 64 bytes.
#include "amx_tiles.h"
#include "document_attention_bf16.h"

namespace tramontane {
namespace {

struct TileProducts {
    using Scope = Tiles;

    template <bool adds>
    static void multiply(const bf16* a, int64_t a_stride, const uint32_t* b, int64_t b_stride, int64_t num_k, float* c,
                         int64_t c_stride, int64_t rows, int64_t columns) {
        __asm__ volatile("" ::: "memory");  // what was stored is there before a tile is loaded
        const Product product{a, b, c, 2 * a_stride, 4 * b_stride, 4 * c_stride, num_k};
        for (int64_t row = 0; row < rows; row += 32)
            for (int64_t column = 0; column < columns; column += 32) {
                const bool two_rows = row + 16 < rows, two_columns = column + 16 < columns;
                if (two_rows && two_columns)
                    product.square<adds, 2, 2>(row, column);
                else if (two_rows)
                    product.square<adds, 2, 1>(row, column);
                else if (two_columns)
                    product.square<adds, 1, 2>(row, column);
                else
                    product.square<adds, 1, 1>(row, column);
            }
    }

   private:
    struct Product {
        const bf16* a;
        const uint32_t* b;
        float* c;
        int64_t a_bytes, b_bytes, c_bytes;  // from row to row
        int64_t num_k;

        // Tiles 0…3 hold sums, 4 and 5 rows of a, 6 and 7 columns of b.
        template <bool adds, int NM, int NN>
        void square(int64_t row, int64_t column) const {
            const uint8_t* a_at = reinterpret_cast<const uint8_t*>(a) + row * a_bytes;
            const uint8_t* b_at = reinterpret_cast<const uint8_t*>(b + column);
            uint8_t* const c_at = reinterpret_cast<uint8_t*>(c + column) + row * c_bytes;
            if constexpr (adds) {
                _tile_loadd(0, c_at, c_bytes);
                if constexpr (NN == 2) _tile_loadd(1, c_at + 64, c_bytes);
                if constexpr (NM == 2) _tile_loadd(2, c_at + 16 * c_bytes, c_bytes);
                if constexpr (NM == 2 && NN == 2) _tile_loadd(3, c_at + 16 * c_bytes + 64, c_bytes);
            } else {
                _tile_zero(0);
                if constexpr (NN == 2) _tile_zero(1);
                if constexpr (NM == 2) _tile_zero(2);
                if constexpr (NM == 2 && NN == 2) _tile_zero(3);
            }
            for (int64_t k = 0; k < num_k; k += 32, a_at += 64, b_at += 16 * b_bytes) {
                _tile_loadd(4, a_at, a_bytes);
                _tile_loadd(6, b_at, b_bytes);
                _tile_dpbf16ps(0, 4, 6);
                if constexpr (NN == 2) {
                    _tile_loadd(7, b_at + 64, b_bytes);
                    _tile_dpbf16ps(1, 4, 7);
                }
                if constexpr (NM == 2) {
                    _tile_loadd(5, a_at + 16 * a_bytes, a_bytes);
                    _tile_dpbf16ps(2, 5, 6);
                }
                if constexpr (NM == 2 && NN == 2) _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(0, c_at, c_bytes);
            if constexpr (NN == 2) _tile_stored(1, c_at + 64, c_bytes);
            if constexpr (NM == 2) _tile_stored(2, c_at + 16 * c_bytes, c_bytes);
            if constexpr (NM == 2 && NN == 2) _tile_stored(3, c_at + 16 * c_bytes + 64, c_bytes);
        }
    };
};

}  // namespace

void add_document_attention_amx(Kernels& table) { add_document_attention_bf16<TileProducts>(table); }

}  // namespace tramontane
