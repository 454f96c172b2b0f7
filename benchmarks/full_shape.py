"""Full-size models on this machine: what loading and generating take beyond the weights themselves.

Writes synthetic checkpoints (bfloat16, Hugging Face layout) into a folder that is removed at the end: 14.5 GB of disk,
and as much memory. Each model is loaded in a process of its own, whose peak resident memory is measured.

    python -m benchmarks.full_shape [FOLDER]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._results import peak_rss_bytes, record

MODELS = (("mistral-7b", None), ("mixtral-8x7b", 2))  # shape, layers (None: all of them)
ANSWER_TOKENS = 8


def load_and_generate(path: str) -> dict[str, Any]:
    """In the child: peak memory beyond the weights, seconds to load, tokens per second."""
    started = time.perf_counter()
    from tramontane import LLM, SamplingParams

    llm = LLM(path)
    loaded_s = time.perf_counter() - started
    started = time.perf_counter()
    completion = llm.generate("The tramontane is", SamplingParams(max_tokens=ANSWER_TOKENS, ignore_eos=True))[0]
    weights_bytes = llm.engine.model.weights_bytes
    return {
        "weights_gb": weights_bytes / 1e9,
        "peak_beyond_weights_gib": (peak_rss_bytes() - weights_bytes) / 2**30,
        "load_s": loaded_s,
        "tokens": len(completion.token_ids),
        "generate_s": time.perf_counter() - started,
    }


def measure(shape: str, n_layers: int | None, folder: Path) -> dict[str, Any]:
    from tramontane.cli.main import run

    path = folder / shape
    layers = [] if n_layers is None else ["--n-layers", str(n_layers)]
    if run(["synth", shape, str(path), "--stored", "BF16", *layers]):
        raise SystemExit(f"{shape} could not be written to {folder}")
    child = [sys.executable, "-m", "benchmarks.full_shape", "--load", str(path)]
    done = subprocess.run(child, capture_output=True, text=True, check=True)
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"what": shape if n_layers is None else f"{shape}, {n_layers} layers", **facts}


def main() -> None:
    if sys.argv[1:2] == ["--load"]:
        print(json.dumps(load_and_generate(sys.argv[2])))
        return
    parent = sys.argv[1] if len(sys.argv) > 1 else None
    rows = []
    for shape, n_layers in MODELS:
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            rows.append(measure(shape, n_layers, Path(folder)))
    record("full_shape", rows)


if __name__ == "__main__":
    main()
