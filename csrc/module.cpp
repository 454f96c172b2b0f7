// tramontane.ops._cpu: the native part, one extension for every instruction set.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "cpu_features.h"

NB_MODULE(_cpu, m) {
    m.doc() = "Native CPU kernels of Tramontane.";
    m.def("best_instruction_set", &tramontane::best_instruction_set,
          "Widest instruction set this processor supports: 'avx512', 'avx2', 'neon' or 'scalar'.");
}
