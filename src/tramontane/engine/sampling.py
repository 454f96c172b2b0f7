"""SamplingParams: how the next token is drawn, and when a sequence ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tramontane.errors import RequestError

if TYPE_CHECKING:
    import torch

LogitsProcessor = Callable[[Sequence[int], "torch.Tensor"], "torch.Tensor"]
"""Hook `(generated_token_ids, logits_V) -> logits_V`, float32 in and out, run before penalties and temperature.
It must depend on nothing but its arguments and its own state for this sequence. A processor with a `clone()`
method is cloned for each of the `n` answers. One with a method `forced_token_ids(generated_token_ids)` may say which
tokens it will leave no choice but to draw next; they are computed together, which is much faster. One with a method
`prepare(generated_token_ids, draft) -> Future[None] | None` works ahead on a thread of its own, while the model
computes: for the draw after these tokens and after each guess of `draft`. An answer whose future is not done when its
step ends has its token drawn in a later one; the other answers of the step go on. A RequestError raised by a processor
or its future refuses the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """Order: logits processors, logit_bias, min_tokens, penalties, temperature, top_k, top_p, min_p, draw.

    temperature 0 is greedy. `seed` fixes the draw: each draw depends only on (seed, answer index, position), never
    on company. `stop` strings are matched by the text layer (`llm.py`), which ends the sequence through
    `Engine.finish`; the engine itself sees only token ids. `logprobs=k` asks for the chosen token and the k most
    likely at each place; `prompt_logprobs=k` the same over the prompt. Log-probabilities are of the raw model
    distribution (before processors, penalties and temperature). Raises RequestError for an impossible value.
    """

    max_tokens: int | None = None  # None: until a stop token, default_max_tokens or the end of the context
    default_max_tokens: int | None = None  # where max_tokens is None; the context may end before it
    min_tokens: int = 0
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0  # over prompt and generated tokens (arXiv:1909.05858)
    presence_penalty: float = 0.0  # over generated tokens only
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()  # in addition to the model's own end of sequence
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logits_processors: tuple[LogitsProcessor, ...] = ()
    prediction: tuple[int, ...] = ()  # token ids that the answer is likely to hold; makes it faster, never different

    def __post_init__(self) -> None:
        def require(ok: bool, name: str, rule: str) -> None:
            if not ok:
                raise RequestError(f"{name}={getattr(self, name)!r} {rule}")

        def whole(value: object, low: int, high: int = 2**63 - 1) -> bool:
            return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

        def real(value: object, low: float, high: float) -> bool:
            return isinstance(value, int | float) and math.isfinite(value) and low <= value <= high

        require(self.max_tokens is None or whole(self.max_tokens, 0), "max_tokens", "must be at least 0")
        default = self.default_max_tokens
        require(default is None or whole(default, 1), "default_max_tokens", "must be at least 1")
        require(whole(self.min_tokens, 0), "min_tokens", "must be at least 0")
        require(
            self.max_tokens is None or self.min_tokens <= self.max_tokens,
            "min_tokens",
            f"must not exceed max_tokens={self.max_tokens}",
        )
        require(real(self.temperature, 0, 100), "temperature", "must lie between 0 and 100")
        require(self.top_k is None or whole(self.top_k, 1), "top_k", "must be at least 1 (None: no limit)")
        require(real(self.top_p, 0, 1) and self.top_p > 0, "top_p", "must be above 0 and at most 1")
        require(real(self.min_p, 0, 1), "min_p", "must lie between 0 and 1")
        require(
            real(self.repetition_penalty, 0, 100) and self.repetition_penalty > 0,
            "repetition_penalty",
            "must be above 0 and at most 100",
        )
        require(real(self.presence_penalty, -2, 2), "presence_penalty", "must lie between -2 and 2")
        require(real(self.frequency_penalty, -2, 2), "frequency_penalty", "must lie between -2 and 2")
        for token_id, bias in self.logit_bias.items():
            if not whole(token_id, 0, 2**31 - 1) or not real(bias, -100, 100):
                raise RequestError(f"logit_bias={{{token_id!r}: {bias!r}}} must map a token id to a value in -100..100")
        require(self.seed is None or whole(self.seed, 0), "seed", "must be a whole number from 0 to 2^63 - 1")
        require(whole(self.n, 1, 1024), "n", "must lie between 1 and 1024")
        require(
            isinstance(self.stop, tuple) and all(isinstance(s, str) and s for s in self.stop),
            "stop",
            "must be a tuple of non-empty strings",
        )
        require(all(whole(t, 0, 2**31 - 1) for t in self.stop_token_ids), "stop_token_ids", "must be token ids")
        require(all(whole(t, 0, 2**31 - 1) for t in self.prediction), "prediction", "must be token ids")
        require(self.logprobs is None or whole(self.logprobs, 0, 1024), "logprobs", "must lie between 0 and 1024")
        require(
            self.prompt_logprobs is None or whole(self.prompt_logprobs, 0, 1024),
            "prompt_logprobs",
            "must lie between 0 and 1024",
        )

    @property
    def has_penalties(self) -> bool:
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0

    @property
    def adjusts_logits(self) -> bool:
        """Whether anything is done to the scores before temperature."""
        return bool(self.logits_processors or self.logit_bias or self.min_tokens or self.has_penalties)

    @property
    def is_plain_greedy(self) -> bool:
        """The likeliest token, and nothing to be said about it."""
        return self.temperature == 0 and self.logprobs is None and not self.adjusts_logits
