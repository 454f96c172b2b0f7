// tramontane.ops._cpu: the native part, one extension for every instruction set.
#include "bindings.h"
#include "cpu_features.h"
#include "thread_pool.h"

namespace nb = nanobind;
using namespace tramontane;

NB_MODULE(_cpu, m) {
    m.doc() = "Native CPU kernels of Tramontane.";

    m.def("instruction_sets", &instruction_sets);
    m.def("best_instruction_set", &best_instruction_set);
    m.def("instruction_set", &instruction_set_name);
    m.def("set_instruction_set", &set_instruction_set, nb::arg("name"));
    m.def("num_threads", [] { return ThreadPool::instance().num_threads(); });
    m.def(
        "set_num_threads",
        [](int num_threads) {
            if (num_threads < 1) throw std::invalid_argument("threads must be at least 1");
            ThreadPool::instance().set_num_threads(num_threads);
        },
        nb::arg("num_threads"), nb::call_guard<nb::gil_scoped_release>());
    bind_weights(m);
    bind_layers(m);
    bind_decoder(m);
    bind_training(m);
}
