// The kernel table of AVX512: float kernels are written once over Vec, integer products have their own file.
#include "vec_avx512.h"

#include "attention.h"
#include "document_attention.h"
#include "matmul_float.h"

namespace tramontane {

void add_int_products_avx512(Kernels& table);

namespace {

Kernels make_table() {
    Kernels table{};
    add_float_products(table);
    add_elementwise(table);
    add_document_attention(table);
    table.quantize_q4_k = kernels_avx2().quantize_q4_k;
    add_int_products_avx512(table);
    return table;
}

}  // namespace

const Kernels& kernels_avx512() {
    static const Kernels table = make_table();
    return table;
}

}  // namespace tramontane
