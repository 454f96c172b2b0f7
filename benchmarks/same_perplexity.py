"""One model through our engine, transformers and llama.cpp: the same perplexity, within what each format rounds away.

The model is exported as a Hugging Face folder for transformers and as GGUF (F32, F16, Q8_0) for llama.cpp; our engine
reads the model itself, the folder and the same GGUF files. Texts are cut into windows no longer than the model's
sliding window, which llama.cpp does not apply; a second pass with windows four times as long leaves llama.cpp out.

    python -m benchmarks.same_perplexity MODEL TEXT [--tokens 8000]
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tests.parity.llama_cpp import llama_cpp_logits
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks._results import record
from benchmarks.quantisation import windows
from tramontane import LLM
from tramontane.loading.save import convert

BOUNDS = {"F32": 1e-5, "F16": 1e-4, "Q8_0": 2e-3}  # of nats a token, relative to float32 by our engine

Logits = Callable[[list[int]], Tensor]


def nats(logits: Logits, texts: list[list[int]]) -> float:
    """Mean negative log-likelihood of a token, the first of each text given."""
    total = 0.0
    for token_ids in texts:
        found = torch.log_softmax(logits(token_ids)[:-1].double(), dim=-1)
        total -= found[torch.arange(len(token_ids) - 1), torch.tensor(token_ids[1:])].sum().item()
    return total / sum(len(token_ids) - 1 for token_ids in texts)


def engines(model: str, folder: Path) -> dict[tuple[str, str], Logits]:
    """By (format, engine): what gives the logits (T, V) of a sequence. Float32 by our engine comes first."""
    ours = LLM(model, weight_format="f32")
    found: dict[tuple[str, str], Logits] = {("F32", "ours"): ours.logits}
    convert(ours.checkpoint, folder / "hf", layout="hf", stored="F32")
    theirs: Any = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype=torch.float32).eval()

    @torch.inference_mode()
    def transformers_logits(token_ids: list[int]) -> Tensor:
        logits: Tensor = theirs(input_ids=torch.tensor([token_ids])).logits[0]
        return logits

    found["F32", "transformers"] = transformers_logits
    for stored in BOUNDS:
        path = folder / f"{stored}.gguf"
        convert(ours.checkpoint, path, layout="gguf", stored=stored)
        found[stored, "ours, GGUF"] = LLM(str(path), weight_format=stored.lower()).logits
        found[stored, "llama.cpp"] = lambda token_ids, path=path: llama_cpp_logits(path, token_ids)  # type: ignore[misc]
    return found


def measure(model: str, text: str, num_tokens: int, folder: Path) -> list[dict[str, Any]]:
    sides = engines(model, folder)
    llm = LLM(model)
    window = min(filter(None, llm.checkpoint.config.sliding_windows), default=512)
    rows: list[dict[str, Any]] = []
    for length in (min(window, 512) - 1, 4 * window - 1):  # and the beginning-of-sequence token
        texts = windows(llm, text, num_tokens, min(length, llm.max_seq_len - 1))
        reference = nats(sides["F32", "ours"], texts)
        for (stored, engine), logits in sides.items():
            if engine == "llama.cpp" and length >= window:
                continue
            found = nats(logits, texts)
            row: dict[str, Any] = {"model": model, "tokens": sum(map(len, texts)) - len(texts), "window": length + 1}
            row |= {"format": stored, "engine": engine, "perplexity": math.exp(found)}
            rows.append(row | {"difference": abs(found / reference - 1), "bound": BOUNDS[stored]})
    return rows


def main() -> None:
    if len(sys.argv) == 1:  # as `make bench` calls it
        print(__doc__)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokens", type=int, default=8_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ["TRAMONTANE_HOME"] = name
        rows = measure(options.model, options.text.read_text("utf-8"), options.tokens, Path(name))
    record("same_perplexity", rows)
    beyond = [row for row in rows if row["difference"] > row["bound"]]
    if beyond:
        sys.exit(f"beyond the bound: {', '.join(row['format'] + ' by ' + row['engine'] for row in beyond)}")


if __name__ == "__main__":
    main()
