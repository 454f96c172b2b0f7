"""Logits processors: one that leaves only the tokens a grammar allows, and one that forbids single tokens."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import torch
from llguidance import LLMatcher
from numpy.typing import NDArray

from tramontane.server.structured.mask_threads import THREADS, GrammarUse

TOO_COMPLEX = "the format asked for became too complex to follow"
MAX_SHARED = 128
"""Masks that a request's answers share, where they have said the same so far."""

Mask = NDArray[np.int32]
Tokens = tuple[int, ...]


@dataclass(slots=True, eq=False)
class _Shared:
    """What the answers of one request have in common."""

    vocab_size: int
    trigger: int | None
    use: GrammarUse = field(default_factory=GrammarUse)
    masks: dict[Tokens, Mask] = field(default_factory=dict)  # of what the grammar has seen, the latest last

    lock: threading.Lock = field(default_factory=threading.Lock)  # guards `masks`

    def keep(self, tokens: Tokens, mask: Mask) -> None:
        with self.lock:
            self.masks[tokens] = mask
            if len(self.masks) > MAX_SHARED:
                del self.masks[next(iter(self.masks))]


class GrammarProcessor:
    """Holds an answer to a grammar, from its first token on or from the first token `trigger` on.

    Masks that may take long are made ahead, on `mask_threads`. It follows whatever it is shown, also where the last
    tokens are taken back again, as a verified draft may be.
    """

    def __init__(
        self, matcher: LLMatcher, vocab_size: int, trigger: int | None = None, first_mask: Mask | None = None
    ) -> None:
        """`first_mask`: of the grammar's beginning, where it is known."""
        self._matcher = matcher
        self._shared = _Shared(vocab_size, trigger)
        if first_mask is not None:
            self._shared.keep((), first_mask)
        self._consumed: Tokens = ()
        self._prepared: Tokens = ()  # with the draft
        self._masks: dict[int, Mask] = {}  # for the draws after so many of them

    def clone(self) -> GrammarProcessor:
        """For another answer to the same prompt; only before the first token."""
        clone = GrammarProcessor(self._matcher.deep_copy(), self._shared.vocab_size, self._shared.trigger)
        clone._shared = self._shared
        return clone

    def prepare(self, generated_token_ids: Sequence[int], draft: Sequence[int]) -> Future[None] | None:
        """Masks for the draw after these tokens and after each guess; None where they are there already, or come as
        quickly when they are needed."""
        seen = self._seen([*generated_token_ids, *draft])
        if seen is None or self._shared.use.is_swift:
            return None
        first = max(0, len(seen) - len(draft))
        if self._prepared[:first] != seen[:first] or self._prepared[first : len(seen)] != seen[first:]:
            self._prepared, self._masks = seen, {}
        self._masks |= {
            place: mask
            for place in range(first, len(seen) + 1)
            if place not in self._masks and (mask := self._shared.masks.get(seen[:place])) is not None
        }
        if all(place in self._masks for place in range(first, len(seen) + 1)):
            return None
        return THREADS.submit(self._shared.use, lambda: self._make_masks(first))

    def __call__(self, generated_token_ids: Sequence[int], logits_V: torch.Tensor) -> torch.Tensor:
        """Raises RequestError where the grammar turns out to be too complex to follow."""
        seen = self._seen(generated_token_ids)
        if seen is None:
            return logits_V
        if seen != self._prepared[: len(seen)] or len(seen) not in self._masks:
            self._prepared, self._masks = seen, {}
            self._make_masks(len(seen))
        mask = self._masks[len(seen)]
        allowed_V = np.unpackbits(mask.view(np.uint8), count=len(logits_V), bitorder="little").view(np.bool_)
        np.copyto(logits_V.numpy(), -np.inf, where=~allowed_V)
        return logits_V

    def forced_token_ids(self, generated_token_ids: Sequence[int]) -> list[int]:
        """Tokens that the grammar leaves no choice but, such as the keys of a JSON object."""
        seen = self._seen(generated_token_ids)
        if not seen or not self._shared.use.is_quick:
            return []
        self._follow(seen)
        return [] if self._matcher.is_error() else self._matcher.compute_ff_tokens()

    def _seen(self, token_ids: Sequence[int]) -> Tokens | None:
        """What of an answer the grammar sees; None where that has not begun."""
        trigger = self._shared.trigger
        if trigger is None:
            return tuple(token_ids)
        return tuple(token_ids[list(token_ids).index(trigger) :]) if trigger in token_ids else None

    def _make_masks(self, first: int) -> None:
        """Of what is prepared, from `first` tokens on, as far as the grammar allows it to come to that."""
        seen, masks = self._prepared, self._masks
        for place in range(first, len(seen) + 1):
            mask = masks.get(place)
            if mask is None:
                mask = self._shared.masks.get(seen[:place])
            if mask is None:
                mask = self._mask(seen[:place])
                self._shared.keep(seen[:place], mask)
            masks[place] = mask
            if place < len(seen) and not mask[seen[place] // 32] >> (seen[place] % 32) & 1:
                return

    def _mask(self, tokens: Tokens) -> Mask:
        use = self._shared.use
        if use.fault is not None:
            raise use.fault
        started = time.thread_time()
        mask = np.zeros((self._shared.vocab_size + 31) // 32, np.int32)
        self._follow(tokens)
        self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if self._matcher.is_error():
            raise use.fail(TOO_COMPLEX)
        use.charge(time.thread_time() - started)
        return mask

    def _follow(self, tokens: Tokens) -> None:
        common = len(self._consumed)
        if self._consumed != tokens[:common]:
            pairs = zip(self._consumed, [*tokens, None], strict=False)
            common = next(place for place, (before, now) in enumerate(pairs) if before != now)
            self._matcher.rollback(len(self._consumed) - common)
        for token_id in tokens[common:]:
            self._matcher.consume_token(token_id)  # one by one: other threads stand still meanwhile
        self._consumed = tokens


class ForbiddenTokens:
    """Takes single tokens out of the draw."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._token_ids = np.array(token_ids, np.intp)

    def __call__(self, generated_token_ids: Sequence[int], logits_V: torch.Tensor) -> torch.Tensor:
        logits_V.numpy()[self._token_ids] = -np.inf
        return logits_V
