#include "matmul.h"

#include <algorithm>

#include "aligned_buffer.h"
#include "cpu_features.h"
#include "thread_pool.h"

namespace tramontane {

const Kernels& kernels() {
    switch (instruction_set()) {
#if defined(__x86_64__)
        case InstructionSet::avx512_amx: return kernels_avx512_amx();
        case InstructionSet::avx512_bf16: return kernels_avx512_bf16();
        case InstructionSet::avx512: return kernels_avx512();
        case InstructionSet::avx2: return kernels_avx2();
#elif defined(__aarch64__)
        case InstructionSet::neon_dotprod: return kernels_neon_dotprod();
        case InstructionSet::neon: return kernels_neon();
#endif
        default: return kernels_scalar();
    }
}

namespace {

// Weight bytes times rows below which a second thread costs more (about 2 us to enter a region) than it brings.
constexpr int64_t smallest_shared_work = 1 << 16;
// Panels are handed out in pieces: enough of them to balance threads that run at different speeds.
constexpr int64_t pieces_per_thread = 8;

struct Piece {
    int product;
    int64_t panel_begin, panel_end, row_begin, row_end;
};

// Kept between calls: a decoding step makes dozens of products, and fresh memory costs page faults.
struct Workspace {
    AlignedBuffer prepared[num_activation_forms], scratch;
    std::vector<Piece> pieces;
};

}  // namespace

void matmul(const float* x, int64_t x_stride, int64_t num_rows, const std::vector<Product>& products) {
    if (num_rows <= 0 || products.empty()) return;
    const Kernels& table = kernels();
    ThreadPool& pool = ThreadPool::instance();
    const int64_t in_features = products[0].weight.in_features;

    static thread_local Workspace workspace;
    bool is_used[num_activation_forms] = {};
    int64_t weight_bytes = 0;
    for (const Product& product : products) {
        const ActivationForm form = activation_form(product.weight.format);
        is_used[static_cast<int>(form)] = true;
        workspace.prepared[static_cast<int>(form)].allocate(prepared_bytes(form, in_features, num_rows));
        weight_bytes += num_panels(product.weight.out_features) *
                        static_cast<int64_t>(panel_bytes(product.weight.format, in_features));
    }
    const bool is_shared = weight_bytes * num_rows >= smallest_shared_work && pool.num_threads() > 1;
    const int threads = is_shared ? pool.num_threads() : 1;
    const auto run = [&](int64_t count, auto&& body) {
        if (is_shared)
            pool.parallel_for(count, body);
        else
            for (int64_t i = 0; i < count; ++i) body(i, 0);
    };

    constexpr int64_t rows_per_piece = 48;  // a multiple of every row tile, so that no two pieces share one
    for (int form = 0; form < num_activation_forms; ++form) {
        if (!is_used[form]) continue;
        uint8_t* to = workspace.prepared[form].data();
        const auto prepare = [&](int64_t i, int) {
            const int64_t end = std::min(num_rows, (i + 1) * rows_per_piece);
            table.prepare[form]({x, x_stride, in_features, num_rows, i * rows_per_piece, end, to});
        };
        const int64_t pieces = (num_rows + rows_per_piece - 1) / rows_per_piece;
        if (pieces > 1)
            run(pieces, prepare);
        else
            prepare(0, 0);
    }

    std::vector<Piece>& pieces = workspace.pieces;
    pieces.clear();
    for (size_t i = 0; i < products.size(); ++i) {
        const int64_t panels = num_panels(products[i].weight.out_features);
        const int64_t row_blocks = (num_rows + max_rows_per_call - 1) / max_rows_per_call;
        int64_t step = std::max<int64_t>(1, panels * row_blocks / (threads * pieces_per_thread));
        step = (step + panels_per_group - 1) / panels_per_group * panels_per_group;
        // For a single row balance counts more than whole groups.
        if (num_rows == 1) step = std::min(step, std::max<int64_t>(1, panels / threads));
        // Equal blocks of rows, each a multiple of the row tile.
        const int64_t tile = table.row_tile[static_cast<int>(activation_form(products[i].weight.format))];
        const int64_t rows = (num_rows + row_blocks * tile - 1) / (row_blocks * tile) * tile;
        const int64_t block_rows = std::min<int64_t>(rows, max_rows_per_call / tile * tile);
        for (int64_t row = 0; row < num_rows; row += block_rows)
            for (int64_t panel = 0; panel < panels; panel += step)
                pieces.push_back({static_cast<int>(i), panel, std::min(panels, panel + step), row,
                                  std::min(num_rows, row + block_rows)});
    }
    workspace.scratch.allocate(static_cast<size_t>(threads) * matmul_scratch_bytes);
    // The bodies run on other threads, where `workspace` would name another object.
    uint8_t* const scratch = workspace.scratch.data();
    const uint8_t* prepared[num_activation_forms];
    for (int form = 0; form < num_activation_forms; ++form) prepared[form] = workspace.prepared[form].data();
    run(static_cast<int64_t>(pieces.size()), [&](int64_t i, int thread) {
        const Piece& piece = pieces[static_cast<size_t>(i)];
        const Product& product = products[static_cast<size_t>(piece.product)];
        const Weight& weight = product.weight;
        MatmulCall call{};
        call.panels = weight.panels;
        call.in_features = in_features;
        call.out_features = weight.out_features;
        call.x = prepared[static_cast<int>(activation_form(weight.format))];
        call.num_rows = num_rows;
        call.out = product.out;
        call.out_stride = product.out_stride;
        call.panel_begin = piece.panel_begin;
        call.panel_end = piece.panel_end;
        call.row_begin = piece.row_begin;
        call.row_end = piece.row_end;
        call.scratch = scratch + static_cast<size_t>(thread) * matmul_scratch_bytes;
        table.matmul[static_cast<int>(weight.format)](call);
    });
}

}  // namespace tramontane
