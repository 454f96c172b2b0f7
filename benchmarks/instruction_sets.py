"""The kernels of every instruction set of this processor beside each other, taking turns on the same numbers: products
with packed weights by rows, in GFLOP/s, and attention of training in bfloat16, forward and backward, in milliseconds.

    python -m benchmarks.instruction_sets [--size 4096] [--rounds 9] [FORMAT ...]

Products are of a square matrix of --size; attention is of 8 heads of 32 over 2 of keys and values, window 256.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks._results import record, spread
from tramontane.ops import _cpu
from tramontane.ops.packed_native import packed_attention_backward, packed_attention_forward
from tramontane.ops.packed_weight import PackedWeight, linear

ROWS = (1, 8, 32, 128, 512)
DOCUMENTS = {"4 of 2,048": [2048] * 4, "64 of 128": [128] * 64}
HEADS, KV_HEADS, HEAD_DIM, WINDOW = 8, 2, 32, 256
SLOW = ("scalar",)  # takes minutes


def in_turns(run: Callable[[], Any], rounds: int) -> dict[str, list[float]]:
    """Seconds of each instruction set, fastest sets last; the first round warms."""
    sets = [name for name in _cpu.instruction_sets() if name not in SLOW]
    seconds: dict[str, list[float]] = {name: [] for name in sets}
    for number in range(rounds + 1):
        for name in sets:
            _cpu.set_instruction_set(name)
            started = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def products(format: Any, size: int, rounds: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    weight = PackedWeight.from_tensor(torch.randn(size, size, generator=generator), format)
    rows = []
    for num_rows in ROWS:
        x = torch.randn(num_rows, size, generator=generator)
        for name, seconds in in_turns(lambda x=x: linear(x, weight), rounds).items():  # type: ignore[misc]
            gflops = [2e-9 * num_rows * size * size / each for each in seconds]
            rows.append({"work": f"product {format}", "rows": num_rows, "set": name, "gflops": spread(gflops)})
    return rows


def attention(rounds: int) -> list[dict[str, Any]]:
    rows = []
    for what, lens in DOCUMENTS.items():
        generator = torch.Generator().manual_seed(0)
        q, k, v, grad = (
            torch.randn(sum(lens), heads, HEAD_DIM, generator=generator).bfloat16()
            for heads in (HEADS, KV_HEADS, KV_HEADS, HEADS)
        )

        def run(lens: list[int] = lens, q: Any = q, k: Any = k, v: Any = v, grad: Any = grad) -> None:
            out, lse = packed_attention_forward(q, k, v, lens, WINDOW)
            packed_attention_backward(grad, q, k, v, out, lse, lens, WINDOW)

        for name, seconds in in_turns(run, rounds).items():
            milliseconds = spread([1e3 * each for each in seconds])
            rows.append({"work": "attention of training", "documents": what, "set": name, "ms": milliseconds})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", metavar="FORMAT", default=["bf16", "q8_0", "q4_0", "q4_k"])
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    _cpu.set_num_threads(torch.get_num_threads())
    rows = [row for format in options.formats for row in products(format, options.size, options.rounds)]
    record("instruction_sets", rows + attention(options.rounds))


if __name__ == "__main__":
    main()
