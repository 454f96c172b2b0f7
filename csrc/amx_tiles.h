// The tiles of AMX, for its files.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace tramontane {
namespace {

// Gives a thread its eight tiles: `rows` rows of 64 bytes in the first five, which hold sums and what is on the left of a
// product, 16 in the last three. Released at the end: a thread that holds tiles is slower to switch.
class Tiles {
   public:
    explicit Tiles(int rows = 16) {
        struct alignas(64) {
            uint8_t palette, start_row, reserved[14];
            uint16_t row_bytes[16];
            uint8_t rows[16];
        } config{};
        config.palette = 1;
        for (int tile = 0; tile < 8; ++tile) {
            config.row_bytes[tile] = 64;
            config.rows[tile] = static_cast<uint8_t>(tile < 5 ? rows : 16);
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
