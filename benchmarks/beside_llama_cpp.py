"""Decoding and prefill beside llama.cpp on the same GGUF files, taking turns in one process, and beside the machine.

What is timed is the engine's whole step, drawing included. Beside each round the bandwidth of reading memory with all
threads is measured: one stream decoded reads every weight once per token.

    python -m benchmarks.beside_llama_cpp [--shape mistral-7b] [--layers 4] [--folder FOLDER] [--rounds 5]
                                          [--work decode] [TYPE ...]
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks._engine import PAUSE_S, PROMPT, SHORT, EngineSide, read_bandwidth
from benchmarks._llama_cpp import LlamaCpp
from benchmarks._results import record, spread
from tramontane.loading import named_shape, synthesise

STREAMS = 8
TYPES = ("Q4_0", "Q4_K", "Q8_0")


class Theirs:
    def __init__(self, path: Path, threads: int) -> None:
        self.llama = LlamaCpp(path, threads=threads, max_tokens=2048, max_sequences=STREAMS)

    def prefill(self, token_ids: list[int]) -> float:
        self.llama.clear()
        started = time.perf_counter()
        self.llama.prefill(token_ids)
        return time.perf_counter() - started

    def decode(self, prompts: list[list[int]], num_tokens: int) -> float:
        self.llama.clear()
        token_ids = [self.llama.prefill(prompt, sequence) for sequence, prompt in enumerate(prompts)]
        started = time.perf_counter()
        for i in range(num_tokens):
            token_ids = self.llama.step(token_ids, len(prompts[0]) + i)
        return time.perf_counter() - started


def measure(path: Path, what: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    threads, num_tokens = torch.get_num_threads(), options.tokens
    ours, theirs = EngineSide(path), Theirs(path, threads)
    buffer = torch.ones(2**28)
    rng = random.Random(0)

    def prompt(length: int) -> list[int]:
        return [rng.randrange(10, ours.vocab_size) for _ in range(length)]

    works: dict[str, tuple[int, Callable[[EngineSide | Theirs], float]]] = {
        "decode": (num_tokens, lambda side: side.decode([prompt(SHORT)], num_tokens)),
        f"decode of {STREAMS} streams": (
            num_tokens * STREAMS,
            lambda side: side.decode([prompt(SHORT) for _ in range(STREAMS)], num_tokens),
        ),
        f"prefill of {PROMPT}": (PROMPT, lambda side: side.prefill(prompt(PROMPT))),
    }
    rows = []
    for name, (tokens, work) in works.items():
        if options.work is not None and not name.startswith(options.work):
            continue
        speeds: dict[str, list[float]] = {"ours": [], "llama_cpp": []}
        bandwidths = []
        for turn in range(options.rounds + 1):
            bandwidths.append(read_bandwidth(buffer))
            for side, key in ((ours, "ours"), (theirs, "llama_cpp")):
                time.sleep(PAUSE_S)
                seconds = work(side)
                if turn:  # the first round warms both
                    speeds[key].append(tokens / seconds)
        row: dict[str, Any] = {
            "model": what,
            "work": name,
            "tokens_per_s": spread(speeds["ours"]),
            "llama_cpp_tokens_per_s": spread(speeds["llama_cpp"]),
            "ratio": statistics.median(a / b for a, b in zip(*speeds.values(), strict=True)),
        }
        if name == "decode":
            bandwidth = statistics.median(bandwidths[1:])
            row |= {
                "read_gb_per_s": bandwidth / 1e9,
                "share_of_bandwidth": statistics.median(speeds["ours"]) * ours.step_bytes / bandwidth,
                "llama_cpp_share": statistics.median(speeds["llama_cpp"]) * ours.step_bytes / bandwidth,
            }
        rows.append(row)
    theirs.llama.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", default=TYPES, metavar="TYPE", help="of GGUF, such as Q4_0")
    parser.add_argument("--shape", default="mistral-7b")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="keeps the files for the next run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", help="only works whose name begins so, such as 'decode of'")
    parser.add_argument("--tokens", type=int, default=16, help="decoded per stream")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        os.environ["TRAMONTANE_HOME"] = str(folder / "home")
        for stored in options.types:
            path = folder / f"{options.shape}-{options.layers}-{stored}.gguf"
            if not path.exists():
                synthesise(path, named_shape(options.shape, n_layers=options.layers), layout="gguf", stored=stored)
            what = f"{options.shape}, {options.layers} layers, {stored}"
            record("beside_llama_cpp", measure(path, what, options))
            if options.folder is None:
                path.unlink()


if __name__ == "__main__":
    main()
