// The kernel tables of NEON: float kernels are written once over Vec, integer products have their own files.
#include "vec_neon.h"

#include "attention.h"
#include "document_attention.h"
#include "matmul_float.h"
#include "quantize_q4_k.h"

namespace tramontane {

void add_int_products_neon(Kernels& table);
void add_int_products_neon_dotprod(Kernels& table);

namespace {

Kernels make_table(void (*add_int_products)(Kernels&)) {
    Kernels table{};
    add_float_products(table);
    add_elementwise(table);
    add_document_attention(table);
    table.quantize_q4_k = quantize_q4_k;
    add_int_products(table);
    return table;
}

}  // namespace

const Kernels& kernels_neon() {
    static const Kernels table = make_table(add_int_products_neon);
    return table;
}

const Kernels& kernels_neon_dotprod() {
    static const Kernels table = make_table(add_int_products_neon_dotprod);
    return table;
}

}  // namespace tramontane
