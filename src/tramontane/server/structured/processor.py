"""Logits processors: one that leaves only the tokens a grammar allows, and one that forbids single tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from llguidance import LLMatcher


class GrammarProcessor:
    """Holds an answer to a grammar, from its first token on or from the first token `trigger` on.

    It follows whatever it is shown, also where the last tokens are taken back again, as a verified draft may be.
    """

    def __init__(self, matcher: LLMatcher, vocab_size: int, trigger: int | None = None) -> None:
        self._matcher = matcher
        self._trigger = trigger
        self._vocab_size = vocab_size
        self._mask = np.zeros((vocab_size + 31) // 32, np.int32)
        self._consumed: list[int] = []
        self._start: int | None = 0 if trigger is None else None  # place of the grammar's first token in the answer

    def clone(self) -> GrammarProcessor:
        """For another answer to the same prompt; only before the first token."""
        return GrammarProcessor(self._matcher.deep_copy(), self._vocab_size, self._trigger)

    def __call__(self, generated_token_ids: Sequence[int], logits_V: torch.Tensor) -> torch.Tensor:
        """Raises RuntimeError where the grammar turns out to be too complex to follow."""
        if self._start is None:
            if self._trigger is None or self._trigger not in generated_token_ids:
                return logits_V
            self._start = list(generated_token_ids).index(self._trigger)
        self._follow(list(generated_token_ids[self._start :]))
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        if self._matcher.is_error():
            raise RuntimeError("the answer's format became too complex to follow")
        allowed_V = np.unpackbits(self._mask.view(np.uint8), count=len(logits_V), bitorder="little").view(np.bool_)
        np.copyto(logits_V.numpy(), -np.inf, where=~allowed_V)
        return logits_V

    def forced_token_ids(self, generated_token_ids: Sequence[int]) -> list[int]:
        """Tokens that the grammar leaves no choice but, such as the keys of a JSON object."""
        if self._start is None or len(generated_token_ids) <= self._start:
            return []
        self._follow(list(generated_token_ids[self._start :]))
        return [] if self._matcher.is_error() else self._matcher.compute_ff_tokens()

    def _follow(self, token_ids: list[int]) -> None:
        common = len(self._consumed)
        if self._consumed != token_ids[:common]:
            pairs = zip(self._consumed, [*token_ids, None], strict=False)
            common = next(place for place, (before, now) in enumerate(pairs) if before != now)
            self._matcher.rollback(len(self._consumed) - common)
        self._matcher.consume_tokens(token_ids[common:])
        self._consumed = token_ids


class ForbiddenTokens:
    """Takes single tokens out of the draw."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._token_ids = np.array(token_ids, np.intp)

    def __call__(self, generated_token_ids: Sequence[int], logits_V: torch.Tensor) -> torch.Tensor:
        logits_V.numpy()[self._token_ids] = -np.inf
        return logits_V
