"""Eight adapters in one batch beside the bare base: decoding steps of one engine each, alternating.

The weights are random; rank 16 on every linear, as `tramontane finetune` makes them. Every sequence has its own
adapter, the worst case: nothing of an adapter is read twice in a step. What is compared is said again, bit for bit,
by tests/engine/test_trials.py.

    python -m benchmarks.adapters [--stored Q4_0] [--shape small|large] [--threads N]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from tests.engine.trials import fill, random_adapter

from benchmarks._results import record, spread
from tramontane.engine.engine import Engine
from tramontane.engine.engine_config import EngineConfig
from tramontane.engine.sampling import SamplingParams
from tramontane.loading import named_shape
from tramontane.model.adapter import Adapter
from tramontane.ops import _cpu

NUM_SEQUENCES, RANK, PROMPT_LEN = 8, 16, 64
STEPS, REPETITIONS = 16, 7
SHAPES = {
    "small": named_shape("mini-16m", max_seq_len=2048, rope_theta=1e4),
    "large": named_shape(  # 0.3 B weights, whose products no cache holds
        "mini-16m",
        dim=2048,
        n_layers=6,
        n_heads=16,
        n_kv_heads=4,
        head_dim=128,
        hidden_dim=5632,
        max_seq_len=2048,
        rope_theta=1e4,
    ),
}


class Decoding:
    """Eight sequences that go on for ever."""

    def __init__(self, model: torch.nn.Module, adapters: Sequence[Adapter | None]) -> None:
        config = EngineConfig(max_draft_tokens=0, prefix_cache=False, kv_cache_bytes=2**28)
        self.engine = Engine(model, config)  # type: ignore[arg-type]
        for place, adapter in enumerate(adapters):
            prompt = [(place * 31 + i * 7) % 8192 for i in range(PROMPT_LEN)]
            self.engine.add(prompt, SamplingParams(max_tokens=1500, ignore_eos=True), adapter=adapter)
        for _ in range(4):
            self.engine.step()

    def tokens_per_second(self) -> float:
        started = time.perf_counter()
        for _ in range(STEPS):
            self.engine.step()
        return STEPS * NUM_SEQUENCES / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stored", default="Q4_0", help="type of the base's weights")
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    config = SHAPES[options.shape]
    model = fill(config, options.stored)
    _cpu.set_num_threads(options.threads)
    adapters = [random_adapter(model, seed, rank=RANK) for seed in range(NUM_SEQUENCES)]
    bare, adapted = Decoding(model, [None] * NUM_SEQUENCES), Decoding(model, adapters)
    rates: dict[str, list[float]] = {"bare": [], "adapted": []}
    for _ in range(REPETITIONS):
        rates["bare"].append(bare.tokens_per_second())
        rates["adapted"].append(adapted.tokens_per_second())
    row = {
        "shape": options.shape,
        "weights": config.num_parameters(),
        "stored": options.stored,
        "sequences": NUM_SEQUENCES,
        "rank": RANK,
        "adapter_bytes": adapters[0].num_bytes,
        "bare_tokens_per_s": spread(rates["bare"]),
        "adapted_tokens_per_s": spread(rates["adapted"]),
        "ratio": spread([a / b for a, b in zip(rates["adapted"], rates["bare"], strict=True)]),
    }
    record("adapters", [row])


if __name__ == "__main__":
    main()
