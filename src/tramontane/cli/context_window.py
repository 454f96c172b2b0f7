"""ContextWindow: what of a conversation a model reads, once not all of it fits."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tramontane.errors import RequestError

Messages = Sequence[dict[str, Any]]

ANSWER_TOKENS = 1024
"""Room for an answer that nothing limits, but never more than a quarter of the context."""

KEPT_SHARE = 0.75
"""What may stay once turns had to go: the next answers then need no further ones to go, their prompts begin alike, and
the engine finds them in its cache."""


@dataclass
class ContextWindow:
    """The system prompt and the newest turns, a turn being a question and its answer. The oldest go first."""

    size: int  # tokens that the model reads at once, its answer included
    count: Callable[[Messages], int]  # tokens of messages as a prompt
    max_tokens: int | None = None  # of an answer
    num_left_out: int = 0  # messages, by the last `fit`

    def fit(self, messages: Messages) -> tuple[list[dict[str, Any]], int]:
        """What of `messages`, which end with a question, is to be answered now, and its number of tokens.

        Raises RequestError where the question is too long even alone, with the remedy.
        """
        system = [message for message in messages[:1] if message["role"] == "system"]
        starts = [place for place, message in enumerate(messages) if message["role"] == "user"]
        room = self.size - (self.max_tokens or min(ANSWER_TOKENS, self.size // 4))

        def tokens_from(start: int) -> int:
            return self.count([*system, *messages[start:]])

        as_before = min(len(system) + self.num_left_out, starts[-1])
        start = next((place for place in (len(system), as_before) if tokens_from(place) <= room), None)
        if start is None:
            start = starts[
                bisect_left(starts, True, hi=len(starts) - 1, key=lambda place: tokens_from(place) <= KEPT_SHARE * room)
            ]
        num_tokens = tokens_from(start)
        if num_tokens + (self.max_tokens or 1) > self.size:
            shorten = "shorten it" if self.max_tokens is None else "shorten it or lower --max-tokens"
            raise RequestError(
                f"this message and the system prompt have {num_tokens:,} tokens, and the model reads {self.size:,} at "
                f"once, its answer included; {shorten}, or have a long text read in parts: tramontane ask, summarize"
            )
        self.num_left_out = start - len(system)
        return [*system, *messages[start:]], num_tokens
