// Products with quantised weights by AVX-512 VNNI.
#include "matmul_int_avx512.h"

namespace tramontane {

void add_int_products_avx512(Kernels& table) {
    using Q4_0 = Format32<AccessQ4_0>;
    constexpr int row_tile = Q4_0::row_tile;
    table.row_tile[static_cast<int>(ActivationForm::q8_32)] = row_tile;
    table.row_tile[static_cast<int>(ActivationForm::q8_256)] = row_tile;
    table.prepare[static_cast<int>(ActivationForm::q8_32)] = prepare_q8_32<OffsetTotal, ByRow, row_tile>;
    table.prepare[static_cast<int>(ActivationForm::q8_256)] = prepare_q8_256<OffsetTotal, ByRow, row_tile>;
    table.matmul[static_cast<int>(WeightFormat::q8_0)] = matmul<Format32<AccessQ8_0>>;
    table.matmul[static_cast<int>(WeightFormat::q4_0)] = matmul<Q4_0>;
    table.matmul[static_cast<int>(WeightFormat::q4_k)] = matmul<KFormat<QuantQ4_K>>;
    table.matmul[static_cast<int>(WeightFormat::q5_k)] = matmul<KFormat<QuantQ5_K>>;
    table.matmul[static_cast<int>(WeightFormat::q6_k)] = matmul<KFormat<QuantQ6_K>>;
}

}  // namespace tramontane
