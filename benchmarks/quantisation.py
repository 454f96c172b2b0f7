"""What quantising a trained model costs: divergence and perplexity against its float weights, ours beside llama.cpp's.

Both quantise the same weights and both results are computed by our kernels, so that nothing but the quantised weights
differs. llama.cpp is told `pure`, one type for every tensor; beside 4-bit weights ours keeps the output matrix in q8_0,
so look at the bits per weight as well. The divergence is KL(float || quantised) of the next token, in nats, the mean
over every place of the text.

    python -m benchmarks.quantisation MODEL TEXT [--tokens 20000] [--formats q8_0,q4_0,q4_k]

q4_k holds rows of a multiple of 256 weights alone.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tests.parity.llama_cpp import quantise_with_llama_cpp
from torch import Tensor

from benchmarks._results import record
from tramontane import LLM
from tramontane.loading.save import convert

WINDOW = 512
FILE_TYPES = {"q8_0": "Q8_0", "q4_0": "Q4_0", "q4_k": "Q4_K_S"}  # by weight format


@dataclass(frozen=True, slots=True)
class Loss:
    nats: float  # of the text, a token
    divergence: float  # KL(reference || this), a token
    top_agreement: float  # how often the likeliest token is the reference's

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats)


def windows(llm: LLM, text: str, num_tokens: int, window: int = WINDOW) -> list[list[int]]:
    """The beginning of a text in parts of `window` tokens, each after the beginning-of-sequence token."""
    token_ids = llm.tokenizer.encode(text)[:num_tokens]
    bos = llm.tokenizer.encode("", bos=True)
    return [bos + token_ids[start : start + window] for start in range(0, len(token_ids) - window + 1, window)]


def log_probabilities(llm: LLM, texts: list[list[int]]) -> Iterator[Tensor]:
    for token_ids in texts:
        yield torch.log_softmax(llm.logits(token_ids)[:-1].double(), dim=-1)


def loss(llm: LLM, texts: list[list[int]], reference: list[Tensor]) -> Loss:
    nats = divergence = agreement = 0.0
    num_tokens = 0
    for token_ids, found, expected in zip(texts, log_probabilities(llm, texts), reference, strict=True):
        targets = torch.tensor(token_ids[1:])
        nats -= found[torch.arange(len(targets)), targets].sum().item()
        divergence += (expected.exp() * (expected - found)).sum().item()
        agreement += (found.argmax(-1) == expected.argmax(-1)).sum().item()
        num_tokens += len(targets)
    return Loss(nats / num_tokens, divergence / num_tokens, agreement / num_tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text", type=Path, help="a text file that the model was not trained on")
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--formats", default=",".join(FILE_TYPES))
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRAMONTANE_HOME"] = folder
        original = LLM(options.model, weight_format="f32")
        source = Path(folder) / "f32.gguf"
        convert(original.checkpoint, source, layout="gguf", stored="F32")
        texts = windows(original, options.text.read_text("utf-8"), options.tokens)
        reference = list(log_probabilities(original, texts))
        sides = {"f32": {"": original}, "bf16": {"ours": LLM(str(source), weight_format="bf16")}} | {
            name: {
                "ours": LLM(str(source), weight_format=name),
                "llama.cpp": LLM(str(quantise_with_llama_cpp(source, Path(folder) / f"{name}.gguf", kind, pure=True))),
            }
            for name, kind in ((name, FILE_TYPES[name]) for name in options.formats.split(","))
        }
        for name, quantisers in sides.items():
            for quantiser, llm in quantisers.items():
                result = loss(llm, texts, reference)
                rows.append(
                    {
                        "model": Path(options.model).name,
                        "text": options.text.name,
                        "tokens": sum(len(token_ids) - 1 for token_ids in texts),
                        "format": name,
                        "quantiser": quantiser,
                        "bits_per_weight": 8 * llm.engine.model.weights_bytes / llm.checkpoint.config.num_parameters(),
                        "perplexity": result.perplexity,
                        "divergence": result.divergence,
                        "top_agreement": result.top_agreement,
                    }
                )
    record("quantisation", rows)


if __name__ == "__main__":
    main()
