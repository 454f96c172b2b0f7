// Rows of a file <-> panels of 16 interleaved rows. Bytes move, values never change.
#pragma once
#include "weight_formats.h"

namespace tramontane {

// rows: out_features rows of row_bytes(format, in_features); panels: num_panels(out_features) * panel_bytes(...).
void pack_rows(WeightFormat format, const void* rows, int64_t out_features, int64_t in_features, void* panels);

// One row of a packed weight, as float32.
void read_packed_row(WeightFormat format, const void* panels, int64_t row, int64_t in_features, float* out);

}  // namespace tramontane
