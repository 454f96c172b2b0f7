"""Our side of the measurements beside other engines: whole steps of the engine, and what bounds them."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from tramontane.engine.engine import Engine
from tramontane.engine.engine_config import EngineConfig
from tramontane.engine.sampling import SamplingParams
from tramontane.loading import load_model, open_checkpoint, resolve_weight_format

PROMPT = 512  # tokens of a prefill
SHORT = 32  # tokens of context where decoding starts
PAUSE_S = 0.1  # lets the threads of one side fall asleep before the next begins


def read_bandwidth(buffer: torch.Tensor) -> float:
    """Bytes per second of reading `buffer` with all threads, the best of three."""
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        buffer.amax()
        seconds.append(time.perf_counter() - started)
    return buffer.numel() * buffer.element_size() / min(seconds)


class EngineSide:
    """The engine, its guesses and its prefix cache switched off. `step_bytes`: weights read for one token."""

    def __init__(self, path: Path, weight_format: str = "auto") -> None:
        checkpoint = open_checkpoint(path)
        config = checkpoint.config
        resolved = resolve_weight_format(weight_format, dtype="auto", device=torch.device("cpu"), config=config)
        model = load_model(checkpoint, weight_format=resolved)
        self.vocab_size = config.vocab_size
        embeddings = model.tok_embeddings.packed
        read_by_row = 0 if embeddings is None or config.tied_embeddings else embeddings.storage.nbytes
        resting = 1 - config.num_parameters(active=True) / config.num_parameters()  # experts not chosen
        self.step_bytes = round(model.weights_bytes * (1 - resting)) - read_by_row
        self.engine = Engine(model, EngineConfig(prefix_cache=False, max_draft_tokens=0))

    def prefill(self, token_ids: list[int]) -> float:
        self.engine.add(token_ids, SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True))
        started = time.perf_counter()
        while self.engine.has_work:
            self.engine.step()
        return time.perf_counter() - started

    def decode(self, prompts: list[list[int]], num_tokens: int) -> float:
        for prompt in prompts:
            self.engine.add(prompt, SamplingParams(max_tokens=num_tokens + 1, temperature=0.0, ignore_eos=True))
        self.engine.step()
        started = time.perf_counter()
        while self.engine.has_work:
            self.engine.step()
        return time.perf_counter() - started
