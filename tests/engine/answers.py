"""Running an engine and gathering what it says; the answer a request must get, from first principles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

import torch

from tests.model.tiny import tiny_config
from tramontane.engine.engine import Engine
from tramontane.engine.request import FinishReason, Output, SequenceId, TokenLogprobs
from tramontane.model.init import initialise
from tramontane.model.packed import pack
from tramontane.model.packed_attention import packed_input
from tramontane.model.transformer import Transformer
from tramontane.ops.cpu import CpuOps

# Largest difference of a log-probability between the engine and one pass over a whole text with torch's attention.
# Between two ways of the engine there is none.
TOLERANCE = 1e-5

VOCAB_SIZE = 101


@cache
def model(windows: tuple[int | None, ...] = (None, None, None)) -> Transformer:
    """On the native kernels, in float32. Weights large enough that answers vary, small enough that rounding stays well
    below TOLERANCE."""
    transformer = Transformer(tiny_config(sliding_windows=windows), CpuOps(threads=1))
    initialise(transformer, seed=1, std=0.12)
    transformer.requires_grad_(False)
    pack(transformer, "f32")
    return transformer


@dataclass
class Answer:
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    finish_reason: FinishReason | None = None
    num_cached_tokens: int = 0
    error: str | None = None


@dataclass
class Answers:
    """Everything an engine has said so far, by sequence."""

    of_sequence: dict[SequenceId, Answer] = field(default_factory=dict)

    def read(self, outputs: Sequence[Output]) -> None:
        for output in outputs:
            answer = self.of_sequence.setdefault(output.sequence_id, Answer())
            assert answer.finish_reason is None, "an Output after the final one"
            answer.token_ids += output.token_ids
            answer.logprobs += output.logprobs or ()
            answer.prompt_logprobs = output.prompt_logprobs or answer.prompt_logprobs
            answer.finish_reason = output.finish_reason
            answer.num_cached_tokens = output.num_cached_tokens
            answer.error = output.error

    def of(self, request_id: int, index: int = 0) -> Answer:
        return self.of_sequence[SequenceId(request_id, index)]


def run(engine: Engine, between_steps: Callable[[], None] | None = None, answers: Answers | None = None) -> Answers:
    """Step until nothing is left, with the books checked at each step; in the end nothing may be left behind."""
    answers = answers or Answers()
    while engine.has_work:
        answers.read(engine.step())
        engine.check_integrity()
        if between_steps:
            between_steps()
    assert all(answer.finish_reason for answer in answers.of_sequence.values())
    assert all(group.num_held == 0 for group in engine.stats().groups)
    assert not engine._requests
    assert not engine.sampler._adjustments
    return answers


def raw_logprobs(transformer: Transformer, token_ids: Sequence[int]) -> torch.Tensor:
    """(T, V) log-probabilities after each token, in one pass without any cache."""
    with torch.no_grad():
        hidden = transformer(packed_input(transformer, torch.tensor(token_ids), [len(token_ids)]))
        return transformer.logits(hidden).double().log_softmax(-1)
