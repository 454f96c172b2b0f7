// Holds every kernel of every instruction set of this processor against sums in double, within the bounds that
// tests/ops names, and rows against the same rows in other company, bit for bit. Prints a line per set and exits with 1
// if anything is off. Arguments name the sets; none: all. KERNEL_CHECK_THREADS: one, unless set. Runs under an emulator
// too, so that sets of other processors are proved before they are used.
#include <cstdlib>
#include <stdexcept>

#include "check.h"
#include "cpu_features.h"
#include "dequantize.h"
#include "half.h"
#include "layers.h"
#include "low_rank.h"
#include "matmul.h"
#include "pack.h"
#include "packed_attention.h"
#include "quantize.h"
#include "thread_pool.h"

using namespace tramontane;

namespace {

struct NamedFormat {
    WeightFormat format;
    const char* name;
};
constexpr NamedFormat formats[] = {{WeightFormat::f32, "f32"},   {WeightFormat::bf16, "bf16"},
                                   {WeightFormat::f16, "f16"},   {WeightFormat::q8_0, "q8_0"},
                                   {WeightFormat::q4_0, "q4_0"}, {WeightFormat::q4_k, "q4_k"},
                                   {WeightFormat::q5_k, "q5_k"}, {WeightFormat::q6_k, "q6_k"}};
constexpr int64_t rows_tried[] = {1, 3, 5, 33};
constexpr float infinity = __builtin_inff();
constexpr float nan_value = __builtin_nanf("");

// ---- products ----

// Whether bf16 weights are multiplied with activations rounded to bf16.
bool multiplies_bf16() {
    return instruction_set() == InstructionSet::avx512_bf16 || instruction_set() == InstructionSet::avx512_amx;
}

struct WeightCase {
    WeightFormat format;
    int64_t out_features, in_features;
    std::vector<uint8_t> panels;
    Floats values;  // (out_features, in_features), what the blocks stand for

    WeightCase(WeightFormat f, int64_t out, int64_t in, std::vector<uint8_t> blocks)
        : format(f), out_features(out), in_features(in), values(static_cast<size_t>(out * in)) {
        panels.resize(static_cast<size_t>(num_panels(out)) * panel_bytes(f, in));
        pack_rows(f, blocks.data(), out, in, panels.data());
        dequantize(f, blocks.data(), out * in, values.data());
    }
    Weight weight() const { return {format, panels.data(), out_features, in_features}; }
    Floats times(const Floats& x) const {
        const int64_t num_rows = static_cast<int64_t>(x.size()) / in_features;
        Floats out(static_cast<size_t>(num_rows * out_features), 12345.0f);
        matmul(x.data(), in_features, num_rows, {{weight(), out.data(), out_features}});
        return out;
    }
};

size_t block_bytes(WeightFormat format) { return row_bytes(format, block_size(format)); }

// The float16 scales of a block: q6_k holds one at its end, the others one or two at their beginning.
template <class Scale>
void set_scales(WeightFormat format, std::vector<uint8_t>& blocks, Scale&& scale) {
    const size_t size = block_bytes(format), first = format == WeightFormat::q6_k ? 208 : 0;
    const size_t count = format == WeightFormat::q4_k || format == WeightFormat::q5_k ? 2 : 1;
    for (size_t at = 0; at < blocks.size(); at += size)
        for (size_t i = 0; i < count; ++i) {
            const uint16_t half = f32_to_f16(scale());
            std::memcpy(blocks.data() + at + first + 2 * i, &half, 2);
        }
}

// Every bit pattern of the quantised values and inner scales may occur; the float16 scales are moderate.
WeightCase random_weight(WeightFormat format, int64_t out, int64_t in, uint32_t seed) {
    Random random(seed);
    std::vector<uint8_t> blocks(static_cast<size_t>(out) * row_bytes(format, in));
    if (block_size(format) > 1) {
        for (uint8_t& byte : blocks) byte = random.byte();
        set_scales(format, blocks, [&] { return static_cast<float>(random.uniform() * 0.02 + 0.001); });
    } else {
        const Floats values = random.normals(out * in);
        for (size_t i = 0; i < values.size(); ++i) {
            const uint16_t half = format == WeightFormat::f16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
            if (format == WeightFormat::f32)
                std::memcpy(blocks.data() + 4 * i, &values[i], 4);
            else
                std::memcpy(blocks.data() + 2 * i, &half, 2);
        }
    }
    return WeightCase(format, out, in, std::move(blocks));
}

// The bound of tests/ops/weight_cases.py: half a step of its block's 8-bit scale for every activation (of bf16's mantissa
// where bf16 weights multiply such), and a rounding of float32 per term. A row that holds what is not finite gives
// nothing finite.
void check_product(Check& check, const std::string& what, const WeightCase& w, const Floats& x) {
    const int64_t in = w.in_features, size = block_size(w.format);
    const Floats out = w.times(x);
    for (int64_t row = 0; row < static_cast<int64_t>(x.size()) / in; ++row) {
        const float* xr = x.data() + row * in;
        bool is_finite = true;
        std::vector<double> half_step(static_cast<size_t>(in), 0.0);
        for (int64_t b = 0; b < in; b += size) {
            double largest = 0.0;
            for (int64_t k = b; k < b + size; ++k) {
                is_finite = is_finite && std::isfinite(xr[k]);
                largest = std::fmax(largest, std::fabs(xr[k]));
            }
            for (int64_t k = b; k < b + size && size > 1; ++k) half_step[static_cast<size_t>(k)] = largest / 254.0;
        }
        for (int64_t o = 0; o < w.out_features; ++o) {
            const float* wo = w.values.data() + o * in;
            double exact = 0.0, magnitude = 0.0, steps = 0.0;
            for (int64_t k = 0; k < in; ++k) {
                exact += static_cast<double>(xr[k]) * wo[k];
                magnitude += std::fabs(static_cast<double>(xr[k]) * wo[k]);
                steps += half_step[static_cast<size_t>(k)] * std::fabs(wo[k]);
            }
            const float got = out[static_cast<size_t>(row * w.out_features + o)];
            double rounding = magnitude * 0x1p-24 * static_cast<double>(in + 4);
            if (w.format == WeightFormat::bf16 && multiplies_bf16())
                rounding += magnitude * 0x1.02p-8;
            if (is_finite)
                check.near(what, got, exact, (size > 1 ? steps * 1.001 + 2 * rounding : rounding) + 1e-37);
            else
                check.that(what + ": what is not finite shows", !std::isfinite(got));
        }
    }
}

void check_products(Check& check) {
    for (const NamedFormat& f : formats) {
        const std::string name = std::string("product ") + f.name;
        const int64_t size = block_size(f.format);
        const std::vector<std::pair<int64_t, int64_t>> shapes =
            size == 1    ? std::vector<std::pair<int64_t, int64_t>>{{1, 1}, {5, 37}, {33, 131}, {50, 300}, {150, 131}}
            : size == 32 ? std::vector<std::pair<int64_t, int64_t>>{{1, 32}, {5, 96}, {33, 288}, {50, 800}}
                         : std::vector<std::pair<int64_t, int64_t>>{{1, 256}, {33, 512}, {50, 1280}};
        for (const auto& [out, in] : shapes) {
            const WeightCase w = random_weight(f.format, out, in, 1);
            for (const int64_t rows : rows_tried) check_product(check, name, w, Random(2).normals(rows * in));
        }

        const WeightCase w = random_weight(f.format, 20, 512, 3);
        Floats x = Random(4).normals(9 * 512);
        for (size_t k = 0; k < 512; ++k) {
            x[k] = 0.0f;
            x[512 + k] *= 1e30f;
            x[2 * 512 + k] *= 1e-20f;
            if (k > 0) x[3 * 512 + k] = 0.0f;
            if (k % 7 == 0) x[4 * 512 + k] *= 1e4f;
            x[5 * 512 + k] = k % 2 ? -127.0f : 127.0f;
            x[6 * 512 + k] = 1e-42f;
        }
        const Floats finite = w.times(x);
        x[7 * 512 + 300] = nan_value;
        x[8 * 512 + 11] = -infinity;
        check_product(check, name + " of extreme values", w, x);
        const Floats with_nan = w.times(x);
        check.same(name + ": rows beside one that is not finite", Floats(with_nan.begin(), with_nan.begin() + 7 * 20),
                   Floats(finite.begin(), finite.begin() + 7 * 20));

        if (size > 1) {
            for (const int byte : {0xff, 0x00, 0x80, 0x7f}) {  // the largest integer sums
                std::vector<uint8_t> blocks(16 * row_bytes(f.format, 512), static_cast<uint8_t>(byte));
                set_scales(f.format, blocks, [] { return 0.001f; });
                const WeightCase filled(f.format, 16, 512, blocks);
                for (const float value : {3.0f, -3.0f})
                    check_product(check, name + " of largest sums", filled, Floats(5 * 512, value));
            }
        }

        const int64_t in = size == 1 ? 131 : size * 3;
        const WeightCase many = random_weight(f.format, 40, in, 5);
        const Floats rows = Random(6).normals(140 * in);
        ThreadPool::instance().set_num_threads(2);
        const Floats together = many.times(rows);
        ThreadPool::instance().set_num_threads(1);
        for (const int64_t count : {1, 2, 3, 4, 6, 7, 9, 17, 25}) {
            for (const int64_t first : {0, 41}) {
                const Floats part = many.times(Floats(rows.begin() + first * in, rows.begin() + (first + count) * in));
                check.same(name + ": rows in other company", part,
                           Floats(together.begin() + first * 40, together.begin() + (first + count) * 40));
            }
        }
    }
}

// ---- between the products ----

void check_norm(Check& check) {
    for (const int64_t dim : {1, 7, 16, 100, 384}) {
        const Floats weight = Random(1).normals(dim);
        for (const double scale : {1e-12, 1.0, 1e12}) {
            const Floats x = Random(2).normals(3 * dim, scale);
            Floats out(x.size());
            rms_norm(x.data(), weight.data(), 1e-5f, 3, dim, out.data());
            for (int64_t row = 0; row < 3; ++row) {
                double sum = 0.0;
                for (int64_t i = 0; i < dim; ++i) sum += std::pow(x[static_cast<size_t>(row * dim + i)], 2.0);
                const double factor = 1.0 / std::sqrt(sum / static_cast<double>(dim) + static_cast<double>(1e-5f));
                for (int64_t i = 0; i < dim; ++i) {
                    const size_t at = static_cast<size_t>(row * dim + i);
                    const double exact = x[at] * factor * weight[static_cast<size_t>(i)];
                    check.near("rms_norm", out[at], exact, 1e-5 * std::fabs(exact));
                }
            }
        }
    }
}

void check_rotate(Check& check) {
    for (const int64_t head_dim : {2, 8, 30, 64, 128}) {
        const int64_t pairs = head_dim / 2;
        const Floats x = Random(1).normals(5 * 3 * head_dim), cosine = Random(2).normals(5 * pairs),
                     sine = Random(3).normals(5 * pairs);
        Floats out(x.size()), expected(x.size());
        rotate({x.data(), cosine.data(), sine.data(), 5, 3, head_dim, 3 * head_dim, 3 * head_dim, out.data()});
        for (size_t i = 0; i < x.size(); i += 2) {
            const size_t row = i / static_cast<size_t>(3 * head_dim), pair = i % static_cast<size_t>(head_dim) / 2;
            const float c = cosine[row * static_cast<size_t>(pairs) + pair], s = sine[row * static_cast<size_t>(pairs) + pair];
            expected[i] = x[i] * c + x[i + 1] * -s;
            expected[i + 1] = x[i + 1] * c + x[i] * s;
        }
        check.same("rotate", out, expected);
    }
}

void check_swiglu_and_sums(Check& check) {
    for (const int64_t count : {1, 9, 64, 1001}) {
        const Floats up = Random(1).normals(count);
        Floats out(up.size());
        for (const double scale : {0.1, 3.0, 30.0}) {
            const Floats gate = Random(2).normals(count, scale);
            swiglu(gate.data(), up.data(), 1, count, out.data());
            for (size_t i = 0; i < out.size(); ++i) {
                const double g = gate[i], exact = g / (1.0 + std::exp(-g)) * up[i];
                check.near("swiglu", out[i], exact, 2e-6 * std::fabs(exact) + 1e-35);
            }
        }
        const Floats other = Random(3).normals(count);
        Floats sum(up.size()), expected(up.size()), scaled = other, expected_scaled = other;
        add(up.data(), other.data(), count, sum.data());
        kernels().add_scaled_row(up.data(), 0.3f, count, scaled.data());
        for (size_t i = 0; i < sum.size(); ++i) {
            expected[i] = up[i] + other[i];
            expected_scaled[i] += up[i] * 0.3f;
        }
        check.same("add", sum, expected);
        check.same("add_scaled_row", scaled, expected_scaled);
    }
    const Floats extreme{0.0f, -100.0f, 100.0f, 3e38f, infinity, nan_value}, ones(6, 1.0f);
    Floats out(6);
    swiglu(extreme.data(), ones.data(), 1, 6, out.data());
    check.that("swiglu of extreme values", out[0] == 0.0f && std::fabs(out[1]) < 1e-35f && out[2] == 100.0f &&
                                               out[3] == 3e38f && out[4] == infinity && out[5] != out[5]);
}

void check_low_rank(Check& check) {
    const int64_t cases[][3] = {{1, 1, 1}, {7, 100, 3}, {384, 130, 16}};  // in_features, out_features, rank
    for (const auto& [in, out_features, rank] : cases) {
        for (const bool is_half : {false, true}) {
            const int64_t panels = (out_features + low_rank_panel - 1) / low_rank_panel;
            Floats a = Random(1).normals(rank * in), b = Random(2).normals(panels * rank * low_rank_panel);
            std::vector<uint16_t> a16, b16;
            if (is_half) {
                for (float& v : a) a16.push_back(f32_to_f16(v)), v = f16_to_f32(a16.back());
                for (float& v : b) b16.push_back(f32_to_f16(v)), v = f16_to_f32(b16.back());
            }
            const Floats x = Random(3).normals(in), before = Random(4).normals(out_features);
            Floats out = before;
            const LowRank weights{is_half ? static_cast<const void*>(a16.data()) : a.data(),
                                  is_half ? static_cast<const void*>(b16.data()) : b.data(),
                                  is_half, 0.3f, in, out_features, rank};
            add_low_rank({{&weights, x.data(), out.data()}});
            for (int64_t o = 0; o < out_features; ++o) {
                double exact = before[static_cast<size_t>(o)];
                for (int64_t r = 0; r < rank; ++r) {
                    double hidden = 0.0;
                    for (int64_t i = 0; i < in; ++i)
                        hidden += static_cast<double>(a[static_cast<size_t>(r * in + i)]) * x[static_cast<size_t>(i)];
                    const int64_t at = (o / low_rank_panel * rank + r) * low_rank_panel + o % low_rank_panel;
                    exact += static_cast<double>(0.3f) * hidden * b[static_cast<size_t>(at)];
                }
                check.near("low_rank", out[static_cast<size_t>(o)], exact, 1e-4 + 1e-4 * std::fabs(exact));
            }
        }
    }
}

void check_quantize(Check& check) {
    Floats x = Random(1).normals(12 * 256, 0.02);
    for (size_t k = 0; k < 256; ++k) {
        x[k] = 0.0f;
        x[256 + k] = -0.5f;
        x[512 + k] *= 1e25f;
        x[768 + k] *= 1e-30f;
        x[1024 + k] = std::fabs(x[1024 + k]);
        if (k % 31 == 0) x[1280 + k] *= 100.0f;
    }
    std::vector<BlockQ4_K> blocks(12);
    quantize(WeightFormat::q4_k, x.data(), 12 * 256, blocks.data());
    for (size_t i = 0; i < blocks.size(); ++i) {
        BlockQ4_K expected;
        kernels_scalar().quantize_q4_k(x.data() + i * 256, expected);
        check.same("quantize_q4_k", &blocks[i], &expected, sizeof expected);
    }
}

// ---- pages ----

struct NamedPageType {
    PageType type;
    const char* name;
};
constexpr NamedPageType page_types[] = {{PageType::f32, "f32"},
                                        {PageType::bf16, "bf16"},
                                        {PageType::f16, "f16"},
                                        {PageType::q8_0, "q8_0"}};

BlockQ8_0 exact_block(const float* x) {  // ops/page_types.py, value by value
    float largest = 0.0f;
    bool is_finite = true;
    for (int k = 0; k < 32; ++k) {
        is_finite = is_finite && std::isfinite(x[k]);
        largest = std::fmax(largest, std::fabs(x[k]));
    }
    BlockQ8_0 block{f32_to_f16(largest / 127.0f), {}};
    if (f16_to_f32(block.d) < largest / 127.0f) ++block.d;
    if (!is_finite || !std::isfinite(f16_to_f32(block.d))) block.d = 0x7e00;
    const float step = f16_to_f32(block.d);
    for (int k = 0; k < 32 && step > 0.0f; ++k) block.q[k] = static_cast<int8_t>(std::nearbyint(x[k] * (1.0f / step)));
    return block;
}

// What comes back of rows that were stored in pages, and how far a q8_0 block may be off: half its scale.
Floats stored(Check& check, PageType type, Floats x) {
    for (size_t i = 0; i < x.size() && type == PageType::q8_0; i += 32) {
        const BlockQ8_0 block = exact_block(x.data() + i);
        const double step = f16_to_f32(block.d);
        for (size_t k = 0; k < 32; ++k) {
            const float value = f16_to_f32(block.d) * block.q[k];
            check.near("q8_0 page", value, x[i + k], step / 2 * (1 + 1e-6));
            x[i + k] = value;
        }
    }
    for (float& v : x) {
        if (type == PageType::bf16) v = bf16_to_f32(f32_to_bf16(v));
        if (type == PageType::f16) v = f16_to_f32(f32_to_f16(v));
    }
    return x;
}

void check_to_page(Check& check) {
    Floats x = Random(1).normals(37, 1e-3);
    x[0] = infinity, x[1] = -0.0f, x[2] = 1e30f, x[3] = 3.1e-41f, x[4] = 65519.0f, x[5] = 65520.0f, x[6] = 1e-7f;
    x[7] = bits_float(0x7fffffffu), x[8] = bits_float(0xff800001u);  // rounding must not turn a NaN into a number
    for (const NamedPageType& page : page_types) {
        if (page.type == PageType::q8_0) continue;  // whole blocks: below
        std::vector<uint8_t> out(37 * 4 + 8, 7), expected = out;
        kernels().to_page(x.data(), 37, page.type, out.data());
        for (size_t i = 0; i < 37; ++i) {
            const uint16_t half = page.type == PageType::bf16 ? f32_to_bf16(x[i]) : f32_to_f16(x[i]);
            if (page.type == PageType::f32)
                std::memcpy(expected.data() + 4 * i, &x[i], 4);
            else
                std::memcpy(expected.data() + 2 * i, &half, 2);
        }
        check.same(std::string("to_page ") + page.name, out.data(), expected.data(), out.size());
    }
    Floats blocks = Random(2).normals(10 * 32);
    for (size_t k = 0; k < 32; ++k) {
        blocks[k] = 0.0f;
        blocks[32 + k] *= 1e-6f;
        blocks[64 + k] *= 1e-42f;
        blocks[96 + k] *= 1e5f;
        blocks[128 + k] *= 1e9f;  // beyond the scales there are
        blocks[160 + k] = k % 2 ? -127.0f : 127.0f;
    }
    blocks[192 + 3] = nan_value, blocks[224 + 31] = -infinity, blocks[256 + 7] = 1e3f;
    std::vector<BlockQ8_0> out(11, BlockQ8_0{7, {7}}), expected = out;
    kernels().to_page(blocks.data(), 10 * 32, PageType::q8_0, out.data());
    for (size_t b = 0; b < 10; ++b) expected[b] = exact_block(blocks.data() + b * 32);
    check.same("to_page q8_0", out.data(), expected.data(), out.size() * sizeof out[0]);
}

struct AttentionCase {
    int64_t num_heads, num_kv_heads, head_dim, num_keys, num_queries, window;  // window 0: none
};

// One sequence in pages of 4, rows of a slot or of a head together; every slot that must not be read holds NaN.
Floats attend(const AttentionCase& c, PageType type, const Floats& q, const Floats& k, const Floats& v,
              int64_t first_query, int64_t num_queries, bool by_head) {
    const int64_t page_size = 4, num_pages = (c.num_keys + page_size - 1) / page_size, width = c.num_kv_heads * c.head_dim;
    const size_t bytes = static_cast<size_t>(num_pages * page_size * c.num_kv_heads * page_row_bytes(type, c.head_dim));
    std::vector<uint8_t> k_pages(bytes, 0xff), v_pages(bytes, 0xff);
    const int64_t row = page_row_bytes(type, c.head_dim), page = page_size * c.num_kv_heads * row;
    const int64_t slot_stride = by_head ? row : c.num_kv_heads * row, head_stride = by_head ? page_size * row : row;
    const Pages pages{k_pages.data(), v_pages.data(), type, num_pages, page_size, c.num_kv_heads, c.head_dim,
                      page, slot_stride, head_stride};
    const int32_t first = static_cast<int32_t>(c.num_keys - c.num_queries + first_query);
    const int64_t oldest = c.window > 0 && first - c.window + 1 > 0 ? first - c.window + 1 : 0;
    std::vector<int32_t> table;
    std::vector<int64_t> slots;
    for (int64_t p = 0; p < num_pages; ++p) table.push_back(static_cast<int32_t>(num_pages - 1 - p));
    for (int64_t i = oldest; i < first + num_queries; ++i)
        slots.push_back(table[static_cast<size_t>(i / page_size)] * page_size + i % page_size);
    store_kv(k.data() + oldest * width, v.data() + oldest * width, static_cast<int64_t>(slots.size()), width, width,
             slots.data(), pages);
    const int32_t starts[] = {0, static_cast<int32_t>(num_queries)}, offset = 0;
    Floats out(static_cast<size_t>(num_queries * c.num_heads * c.head_dim));
    paged_attention(q.data() + first_query * c.num_heads * c.head_dim, num_queries, c.num_heads * c.head_dim, c.num_heads,
                    pages, {1, starts, &first, table.data(), num_pages, &offset}, c.window, out.data());
    return out;
}

void check_attention(Check& check) {
    const AttentionCase cases[] = {{6, 2, 8, 9, 2, 0},    {6, 2, 8, 40, 40, 6},  {3, 3, 20, 70, 33, 40}, {1, 1, 2, 5, 5, 1},
                                   {12, 1, 64, 40, 1, 0}, {4, 2, 256, 35, 3, 0}, {8, 2, 32, 100, 5, 64}, {2, 1, 96, 33, 4, 20},
                                   {8, 2, 128, 70, 7, 0}, {5, 1, 64, 90, 9, 0}};
    for (const AttentionCase& c : cases) {
        const int64_t width = c.num_heads * c.head_dim, kv_width = c.num_kv_heads * c.head_dim;
        const Floats q = Random(1).normals(c.num_queries * width), k = Random(2).normals(c.num_keys * kv_width),
                     v = Random(3).normals(c.num_keys * kv_width);
        for (const NamedPageType& page : page_types) {
            if (page.type == PageType::q8_0 && c.head_dim % 32 != 0) continue;
            const std::string name = std::string("attention ") + page.name;
            const Floats stored_k = stored(check, page.type, k), stored_v = stored(check, page.type, v);
            const Floats out = attend(c, page.type, q, k, v, 0, c.num_queries, true);
            for (int64_t t = 0; t < c.num_queries; ++t) {
                const int64_t position = c.num_keys - c.num_queries + t;
                const int64_t oldest = c.window > 0 && position - c.window + 1 > 0 ? position - c.window + 1 : 0;
                for (int64_t h = 0; h < c.num_heads; ++h) {
                    const int64_t kv = h / (c.num_heads / c.num_kv_heads) * c.head_dim;
                    const auto at = [&](const Floats& from, int64_t s, int64_t d) {
                        return static_cast<double>(from[static_cast<size_t>(s * kv_width + kv + d)]);
                    };
                    std::vector<double> exact(static_cast<size_t>(c.head_dim), 0.0);
                    double total = 0.0;
                    for (int64_t s = oldest; s <= position; ++s) {
                        double score = 0.0;
                        for (int64_t d = 0; d < c.head_dim; ++d)
                            score += q[static_cast<size_t>(t * width + h * c.head_dim + d)] * at(stored_k, s, d);
                        const double weight = std::exp(score / std::sqrt(static_cast<double>(c.head_dim)));
                        total += weight;
                        for (int64_t d = 0; d < c.head_dim; ++d) exact[static_cast<size_t>(d)] += weight * at(stored_v, s, d);
                    }
                    for (int64_t d = 0; d < c.head_dim; ++d)
                        check.near(name, out[static_cast<size_t>(t * width + h * c.head_dim + d)],
                                   exact[static_cast<size_t>(d)] / total, 3e-6);
                }
            }
            const int64_t last = c.num_queries - 1;
            const Floats alone = attend(c, page.type, q, k, v, last, 1, false);
            check.same(name + ": a query alone, pages by slot", alone, Floats(out.begin() + last * width, out.end()));
        }
    }
}

struct PackedCase {
    std::vector<int64_t> lens;
    int64_t num_heads, num_kv_heads, head_dim, window;
};

// Output, gradients and log normalisers of documents, by their definitions in double.
struct ExactPacked {
    std::vector<double> out, lse, grad_q, grad_k, grad_v;  // grad_k, grad_v: (heads, rows, head_dim)

    ExactPacked(const PackedCase& c, int64_t rows, const Floats& q, const Floats& k, const Floats& v, const Floats& grad)
        : out(q.size()), lse(static_cast<size_t>(c.num_heads * rows)), grad_q(q.size()), grad_k(q.size()), grad_v(q.size()) {
        const double scale = 1.0 / std::sqrt(static_cast<double>(c.head_dim));
        int64_t start = 0;
        for (const int64_t length : c.lens) {
            for (int64_t t = start; t < start + length; ++t)
                for (int64_t h = 0; h < c.num_heads; ++h) {
                    const int64_t kv = h / (c.num_heads / c.num_kv_heads), dim = c.head_dim;
                    const auto query = [&](int64_t d) { return static_cast<size_t>((t * c.num_heads + h) * dim + d); };
                    const auto key = [&](int64_t s, int64_t d) {
                        return static_cast<size_t>((s * c.num_kv_heads + kv) * dim + d);
                    };
                    const int64_t oldest = c.window > 0 && t - c.window + 1 > start ? t - c.window + 1 : start;
                    std::vector<double> weights, slopes;
                    double total = 0.0, shift = 0.0;
                    for (int64_t s = oldest; s <= t; ++s) {
                        double score = 0.0, slope = 0.0;
                        for (int64_t d = 0; d < dim; ++d) {
                            score += static_cast<double>(q[query(d)]) * static_cast<double>(k[key(s, d)]) * scale;
                            slope += static_cast<double>(grad[query(d)]) * static_cast<double>(v[key(s, d)]);
                        }
                        weights.push_back(std::exp(score));
                        slopes.push_back(slope);
                        total += weights.back();
                    }
                    for (size_t i = 0; i < weights.size(); ++i) shift += (weights[i] /= total) * slopes[i];
                    lse[static_cast<size_t>(h * rows + t)] = std::log(total);
                    for (size_t i = 0; i < weights.size(); ++i) {
                        const int64_t s = oldest + static_cast<int64_t>(i);
                        const double slope = weights[i] * (slopes[i] - shift) * scale;
                        for (int64_t d = 0; d < dim; ++d) {
                            const size_t by_head = static_cast<size_t>((h * rows + s) * dim + d);
                            out[query(d)] += weights[i] * static_cast<double>(v[key(s, d)]);
                            grad_q[query(d)] += slope * static_cast<double>(k[key(s, d)]);
                            grad_k[by_head] += slope * static_cast<double>(q[query(d)]);
                            grad_v[by_head] += weights[i] * static_cast<double>(grad[query(d)]);
                        }
                    }
                }
            start += length;
        }
    }
};

// What this instruction set computes of a case, whose numbers T holds exactly.
template <class T>
struct ComputedPacked {
    std::vector<T> out, grad_q;
    Floats lse, grad_k, grad_v;

    ComputedPacked(const PackedCase& c, int64_t rows, const std::vector<T>& q, const std::vector<T>& k,
                   const std::vector<T>& v, const std::vector<T>& grad)
        : out(q.size()), grad_q(q.size()), lse(static_cast<size_t>(rows * c.num_heads)), grad_k(q.size()), grad_v(q.size()) {
        const PackedDocuments<T> documents{c.lens,   c.num_heads, c.num_kv_heads, c.head_dim, c.window, q.data(),
                                           k.data(), v.data(),    out.data(),     lse.data()};
        packed_attention_forward(documents);
        packed_attention_backward(documents, grad.data(), grad_q.data(), grad_k.data(), grad_v.data());
    }
};

// The nearest bf16 of each, and each made that.
std::vector<uint16_t> narrow(Floats& values) {
    std::vector<uint16_t> narrowed;
    for (float& x : values) {
        narrowed.push_back(f32_to_bf16(x));
        x = bf16_to_f32(narrowed.back());
    }
    return narrowed;
}

Floats widened(const std::vector<uint16_t>& values) {
    Floats wide;
    for (const uint16_t x : values) wide.push_back(bf16_to_f32(x));
    return wide;
}

void check_packed_attention(Check& check) {
    const PackedCase cases[] = {{{5, 0, 70, 1}, 4, 2, 16, 0}, {{130, 64, 65}, 2, 1, 32, 40}, {{100}, 3, 3, 48, 1},
                                {{7, 200}, 2, 2, 64, 64},     {{33, 90}, 1, 1, 128, 65},     {{66}, 2, 1, 256, 0}};
    for (const PackedCase& c : cases) {
        int64_t rows = 0;
        for (const int64_t length : c.lens) rows += length;
        const int64_t width = rows * c.num_heads * c.head_dim, kv_width = rows * c.num_kv_heads * c.head_dim;
        Floats q = Random(1).normals(width), k = Random(2).normals(kv_width), v = Random(3).normals(kv_width),
               grad = Random(4).normals(width);
        const auto near = [&](const char* name, const Floats& ours, const std::vector<double>& theirs, double bound) {
            for (size_t i = 0; i < ours.size(); ++i) check.near(name, ours[i], theirs[i], bound);
        };
        {
            const ExactPacked exact(c, rows, q, k, v, grad);
            const ComputedPacked<float> ours(c, rows, q, k, v, grad);
            near("packed attention", ours.out, exact.out, 3e-6);
            near("packed attention: log normaliser", ours.lse, exact.lse, 3e-6);
            near("packed attention: gradient of q", ours.grad_q, exact.grad_q, 1e-5);
            near("packed attention: gradient of k", ours.grad_k, exact.grad_k, 1e-5);
            near("packed attention: gradient of v", ours.grad_v, exact.grad_v, 1e-5);
        }
        if (!computes_bf16_documents() || c.head_dim % document_lanes_bf16 != 0) continue;
        const std::vector<uint16_t> q16 = narrow(q), k16 = narrow(k), v16 = narrow(v), grad16 = narrow(grad);
        const ExactPacked exact(c, rows, q, k, v, grad);
        const ComputedPacked<uint16_t> ours(c, rows, q16, k16, v16, grad16);
        // Weights and slopes are rounded to bf16, 2^-9 of each at most; a key too many or too few is more than that.
        const auto alike = [&](const char* name, const Floats& ours, const std::vector<double>& theirs) {
            double difference = 0.0, size = 0.0;
            for (size_t i = 0; i < ours.size(); ++i) {
                difference += (ours[i] - theirs[i]) * (ours[i] - theirs[i]);
                size += theirs[i] * theirs[i];
            }
            check.near(name, static_cast<float>(std::sqrt(difference / size)), 0.0, 0x1p-8);
        };
        near("packed attention, bf16: log normaliser", ours.lse, exact.lse, 1e-5);
        alike("packed attention, bf16", widened(ours.out), exact.out);
        alike("packed attention, bf16: gradient of q", widened(ours.grad_q), exact.grad_q);
        alike("packed attention, bf16: gradient of k", ours.grad_k, exact.grad_k);
        alike("packed attention, bf16: gradient of v", ours.grad_v, exact.grad_v);
    }
}

}  // namespace

int main(int argc, char** argv) {
    Check check;
    const char* const num_threads = std::getenv("KERNEL_CHECK_THREADS");
    ThreadPool::instance().set_num_threads(num_threads ? std::atoi(num_threads) : 1);
    for (const std::string& set : argc > 1 ? std::vector<std::string>(argv + 1, argv + argc) : instruction_sets()) {
        try {
            set_instruction_set(set);
        } catch (const std::invalid_argument& error) {
            std::printf("%s\n", error.what());
            return 2;
        }
        const long before = check.count(), failed = check.failures();
        check_products(check);
        check_norm(check);
        check_rotate(check);
        check_swiglu_and_sums(check);
        check_low_rank(check);
        check_quantize(check);
        check_to_page(check);
        check_attention(check);
        check_packed_attention(check);
        std::printf("%s comparisons=%ld failed=%ld digest=%016llx\n", set.c_str(), check.count() - before,
                    check.failures() - failed, static_cast<unsigned long long>(check.take_digest()));
    }
    return check.failures() == 0 ? 0 : 1;
}
