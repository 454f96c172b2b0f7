// The tiles of AMX, for its files.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace tramontane {
namespace {

// Gives a thread its eight tiles: 0…3 for sums, `rows` rows of 16; 4 for what is on the left of a product, `rows` rows of
// `depth` bytes of k; the others for what is on its right, `depth` / 4 rows of 16 times four bytes. Those of 16 rows and 64
// bytes are all alike. Released at the end: a thread that holds tiles is slower to switch.
class Tiles {
   public:
    explicit Tiles(int rows = 16, int depth = 64) {
        struct alignas(64) {
            uint8_t palette, start_row, reserved[14];
            uint16_t row_bytes[16];
            uint8_t rows[16];
        } config{};
        config.palette = 1;
        for (int tile = 0; tile < 8; ++tile) {
            config.row_bytes[tile] = static_cast<uint16_t>(tile == 4 ? depth : 64);
            config.rows[tile] = static_cast<uint8_t>(tile < 5 ? rows : depth / 4);
        }
        _tile_loadconfig(&config);
        __asm__ volatile("" ::: "memory");  // loads of tiles do not tell the compiler that they read memory
    }
    ~Tiles() { _tile_release(); }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;
};

}  // namespace
}  // namespace tramontane
