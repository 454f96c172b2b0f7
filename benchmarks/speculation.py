"""Guessing and verifying several tokens at once: what it gains where text is copied, and costs where it is not.

The weights are random and the answers real: a logits processor has the model say a given text, which costs both sides
the same, so that what can be guessed is what that text really repeats. Documents are modules of Python's standard
library and the licence of this project. Plain decoding and guessing take turns.

    python -m benchmarks.speculation [FOLDER]
    python -m benchmarks.speculation --model MODEL    # what a trained model answers, greedy and sampled
"""

from __future__ import annotations

import heapq
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks._results import record, spread
from tramontane import LLM, SamplingParams
from tramontane.engine.engine import Engine
from tramontane.engine.engine_config import EngineConfig
from tramontane.loading import named_shape, synthesise

ROUNDS = 5
MAX_TOKENS = 256
LAYERS = 4

LICENCE = Path(__file__).parents[1] / "LICENSE"


class Say:
    """Leaves one token at each place: that of a given text."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self.token_ids = token_ids

    def __call__(self, generated_token_ids: Sequence[int], logits_V: torch.Tensor) -> torch.Tensor:
        logits_V.fill_(float("-inf"))
        logits_V[self.token_ids[len(generated_token_ids)]] = 0.0
        return logits_V


def cases() -> dict[str, tuple[str, str, str]]:
    """name -> (prompt, answer, prediction)"""
    code = Path(textwrap.__file__).read_text()
    edited = code.replace("chunks", "pieces").replace("self.width", "self.max_width")
    heap = Path(heapq.__file__).read_text()
    prose = heap[heap.index("Heaps are arrays") : heap.index("__all__")]  # an essay of three pages
    middle = len(prose) // 3
    sentences = [s.strip() for s in LICENCE.read_text().replace("\n", " ").split(". ") if len(s) > 80]
    passages = ". ".join(" ".join(sentence.split()) for sentence in sentences[6:18:3])
    return {
        "prose, nothing to copy": (prose[:middle], prose[middle:], ""),
        "code edited": (f"Rename chunks to pieces:\n{code}", edited[1500:], ""),
        "code edited, predicted": ("Rename chunks to pieces:\n", edited[1500:], code[1500:]),
        "passages quoted": (f"{LICENCE.read_text()}\nQuote what matters:\n", passages, ""),
    }


def measure(engine: Engine, prompt: list[int], params: SamplingParams) -> tuple[float, list[int]]:
    """Seconds of decoding, the prompt being computed already, and the answer."""
    engine.add(prompt, params)
    token_ids: list[int] = []
    while not token_ids:
        token_ids += [token_id for output in engine.step() for token_id in output.token_ids]
    started = time.perf_counter()
    while engine.has_work:
        token_ids += [token_id for output in engine.step() for token_id in output.token_ids]
    return time.perf_counter() - started, token_ids


def compare(llm: LLM, name: str, prompt: str, params: SamplingParams) -> dict[str, Any]:
    """Plain decoding and guessing in turns; ends the program if their answers differ."""
    prompt_ids = llm.tokenizer.encode(prompt, bos=True)[: llm.max_seq_len - MAX_TOKENS - 1]
    plain, guessing = (Engine(llm.engine.model, EngineConfig(max_draft_tokens=n)) for n in (0, 16))
    ratios = []
    for _ in range(ROUNDS):
        plain_s, expected = measure(plain, prompt_ids, params)
        guessing_s, found = measure(guessing, prompt_ids, params)
        if expected != found:
            raise SystemExit(f"{name}: guessing changed the answer")
        ratios.append(plain_s / guessing_s)
    stats = guessing.stats()
    return {
        "case": name,
        "speed_up": spread(ratios),
        "plain_tokens_per_s": (len(expected) - 1) / plain_s,
        "tokens": len(expected),
        "guessed_per_answer": stats.num_drafted_tokens / ROUNDS,
        "right_per_answer": stats.num_accepted_tokens / ROUNDS,
        "row_cost": guessing.lookup.costs.per_row(1) if guessing.lookup else None,
    }


def said(llm: LLM) -> list[dict[str, Any]]:
    """Given texts, said by a model of random weights."""
    rows = []
    for name, (prompt, answer, prediction) in cases().items():
        answer_ids = llm.tokenizer.encode(answer)[:MAX_TOKENS]
        params = SamplingParams(
            max_tokens=len(answer_ids),
            ignore_eos=True,
            logits_processors=(Say(answer_ids),),
            prediction=tuple(llm.tokenizer.encode(prediction)) if prediction else (),
        )
        rows.append(compare(llm, name, prompt, params))
    return rows


def written(llm: LLM) -> list[dict[str, Any]]:
    """What a trained model has to say to the same prompts."""
    rows = []
    for name, (prompt, _, _) in cases().items():
        for temperature in (0.0, 0.7):
            params = SamplingParams(max_tokens=MAX_TOKENS, ignore_eos=True, temperature=temperature, seed=1)
            rows.append(compare(llm, f"{name}, temperature {temperature}", prompt, params))
    return rows


def main() -> None:
    if sys.argv[1:2] == ["--model"]:
        rows = written(LLM(sys.argv[2]))
        record("speculation", [{"model": Path(sys.argv[2]).name} | row for row in rows])
        return
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        path = Path(folder) / "model.gguf"
        synthesise(path, named_shape("mistral-7b", n_layers=LAYERS), layout="gguf", stored="Q4_0")
        record("speculation", said(LLM(str(path))))


if __name__ == "__main__":
    main()
