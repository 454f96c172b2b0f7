// The kernel table of AMX: that of AVX512_BF16, with products and attention of training on tiles.
#include "kernels.h"

namespace tramontane {

void add_document_attention_amx(Kernels& table);
void add_bf16_products_amx(Kernels& table);
void add_int_products_amx(Kernels& table);

namespace {

Kernels make_table() {
    Kernels table = kernels_avx512_bf16();
    add_bf16_products_amx(table);
    add_int_products_amx(table);
    add_document_attention_amx(table);
    return table;
}

}  // namespace

const Kernels& kernels_avx512_amx() {
    static const Kernels table = make_table();
    return table;
}

}  // namespace tramontane
