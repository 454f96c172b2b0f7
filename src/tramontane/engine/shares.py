"""Shares: what each owner has been served, so that whoever has had least goes next.

Virtual token counters (Sheng et al., Fairness in Serving Large Language Models, OSDI 2024): tokens are charged as they
are computed, prompts and answers, since how long an answer gets is not known before. An owner who got all that was
asked for saves nothing up: the counter is lifted to the least of those who want more than they get, and a newcomer's
begins there.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

ANSWER_WEIGHT = 2.0
"""A token of an answer costs this many of a prompt, which are computed more together."""


@dataclass(frozen=True, slots=True)
class TokenCost:
    """What tokens cost, in units of a prompt's first token. Attending to `context_tokens` earlier ones takes as long as
    all else about a token; no layer looks further back than `window`."""

    context_tokens: float = math.inf
    window: int | None = None

    def each(self, position: int, num_prompt_tokens: int) -> float:
        seen = position if self.window is None else min(position, self.window)
        return (1.0 if position < num_prompt_tokens else ANSWER_WEIGHT) + seen / self.context_tokens

    def of(self, start: int, end: int, num_prompt_tokens: int) -> float:
        """Of positions start … end - 1."""
        num_prompt = max(0, min(end, num_prompt_tokens) - start)
        middle = (start + end - 1) / 2
        seen = middle if self.window is None else min(middle, self.window)
        num_tokens = end - start
        return num_prompt + ANSWER_WEIGHT * (num_tokens - num_prompt) + num_tokens * seen / self.context_tokens


class Shares:
    """Counts while service is shared: as soon as two owners have requests, and for SHARED_STEPS after, since whoever
    asks now and then should not find steps as large as one owner alone may have."""

    SHARED_STEPS = 1024
    QUANTUM = 2048.0
    """Owners whose counters lie in the same multiple of it have been served alike, where places are given out: places
    change hands that often, and not with every request."""

    def __init__(self) -> None:
        self._num_requests: Counter[str] = Counter()  # not over yet
        self._served: dict[str, float] = {}
        self._floor = 0.0
        self._shared_until = 0

    def join(self, owner: str, step: int) -> None:
        """A request has come."""
        self._num_requests[owner] += 1
        if step >= self._shared_until:
            self._served.clear()
            self._floor = 0.0

    def leave(self, owner: str) -> None:
        """A request is over."""
        self._num_requests[owner] -= 1
        if not self._num_requests[owner]:
            del self._num_requests[owner]

    def are_kept(self, step: int) -> bool:
        if len(self._num_requests) > 1:
            self._shared_until = step + self.SHARED_STEPS
        return step < self._shared_until

    def served(self, owner: str) -> float:
        return max(self._served.get(owner, 0.0), self._floor)

    def level(self, owner: str) -> float:
        return self.served(owner) // self.QUANTUM

    def charge(self, owner: str, cost: float) -> None:
        self._served[owner] = self.served(owner) + cost

    def settle(self, wanting: Collection[str]) -> None:
        """After a step: `wanting` are the owners who want more than they got."""
        counters = [self.served(owner) for owner in wanting]
        self._floor = max(self._floor, min(counters) if counters else max(self._served.values(), default=0.0))
        self._served = {owner: served for owner, served in self._served.items() if served > self._floor}
