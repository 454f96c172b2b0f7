"""Decoding and prefill beside transformers on the same weights, taking turns in one process, and beside the machine.

transformers runs in float32 and in bfloat16, with its own cache but without its generation: the bare model, token by
token.

    python -m benchmarks.beside_transformers [--shape mistral-7b] [--layers 4] [--rounds 5] [FORMAT ...]
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from benchmarks._engine import PAUSE_S, PROMPT, SHORT, EngineSide, read_bandwidth
from benchmarks._results import record, spread
from tramontane.loading import named_shape, synthesise


class TransformersSide:
    def __init__(self, path: Path, dtype: torch.dtype) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()

    @torch.inference_mode()
    def prefill(self, token_ids: list[int]) -> float:
        started = time.perf_counter()
        self.model(input_ids=torch.tensor([token_ids]), logits_to_keep=1, use_cache=True)
        return time.perf_counter() - started

    @torch.inference_mode()
    def decode(self, prompts: list[list[int]], num_tokens: int) -> float:
        output = self.model(input_ids=torch.tensor(prompts), logits_to_keep=1, use_cache=True)
        started = time.perf_counter()
        for _ in range(num_tokens):
            likeliest = output.logits[:, -1:].argmax(-1)
            output = self.model(input_ids=likeliest, past_key_values=output.past_key_values, use_cache=True)
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", default=["bf16"], metavar="FORMAT", help="of our weights, such as q8_0")
    parser.add_argument("--shape", default="mistral-7b")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=16, help="decoded")
    options = parser.parse_args()
    config = named_shape(options.shape, **({"n_layers": options.layers} if options.layers else {}))
    what = f"{options.shape}, {config.n_layers} layers"
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRAMONTANE_HOME"] = str(Path(folder) / "home")
        path = Path(folder) / "model"
        synthesise(path, config, layout="hf", stored="BF16")
        sides: dict[str, EngineSide | TransformersSide] = {name: EngineSide(path, name) for name in options.formats}
        sides |= {
            f"transformers {name}": TransformersSide(path, dtype)
            for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
        }
        rng = random.Random(0)
        buffer = torch.ones(2**28)
        for work in ("decode", f"prefill of {PROMPT}"):
            speeds: dict[str, list[float]] = {name: [] for name in sides}
            bandwidths = []
            for turn in range(options.rounds + 1):
                bandwidths.append(read_bandwidth(buffer))
                prompt = [rng.randrange(10, config.vocab_size) for _ in range(SHORT if work == "decode" else PROMPT)]
                for name, side in sides.items():
                    time.sleep(PAUSE_S)
                    if work == "decode":
                        speed = options.tokens / side.decode([prompt], options.tokens)
                    else:
                        speed = PROMPT / side.prefill(prompt)
                    if turn:  # the first round warms all
                        speeds[name].append(speed)
            best = max(statistics.median(speeds[name]) for name in sides if name.startswith("transformers"))
            for name, side in sides.items():
                median = statistics.median(speeds[name])
                row: dict[str, Any] = {"model": what, "work": work, "side": name, "tokens_per_s": spread(speeds[name])}
                if isinstance(side, EngineSide):
                    row["beside_best_transformers"] = median / best
                    if work == "decode":
                        row["share_of_bandwidth"] = median * side.step_bytes / statistics.median(bandwidths[1:])
                rows.append(row)
    record("beside_transformers", rows)


if __name__ == "__main__":
    main()
