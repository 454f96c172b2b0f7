"""DraftModel: a small model of the same vocabulary guesses what the large one says next.

It follows each sequence in a cache of its own. What it guessed is not kept there: the next time it begins at the last
token that is certain, so that nothing has to be taken back where a window has moved on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as SequenceOf
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from tramontane.engine.draw import draw, uniform
from tramontane.engine.engine_config import EngineConfig
from tramontane.engine.kv_cache import DEFAULT_CPU_BYTES, KvCache, model_kv_dtype, resolve_num_pages
from tramontane.engine.page_allocator import PageAllocator
from tramontane.engine.request import Sequence
from tramontane.engine.runner import Runner
from tramontane.engine.speculation import Acceptance, PromptLookup
from tramontane.engine.step_plan import Chunk, StepPlan
from tramontane.model.transformer import Transformer

KV_SHARE = 4  # its keys and values may take this part of what those of the large model may
# of the n-th guess in a row, by bucket of n
AFTER_GUESSES = (0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7)


class Follower:
    """The draft model's view of one sequence."""

    def __init__(self, target: Sequence) -> None:
        self.shadow = Sequence(target.request, target.index)  # with pages of the draft model's cache
        self.acceptance = Acceptance(AFTER_GUESSES)


class DraftModel:
    """A Drafter: what the text itself foretells comes first, then the model's guesses."""

    def __init__(self, model: Transformer, config: EngineConfig, lookup: PromptLookup) -> None:
        """Raises CapacityError if its KV cache does not fit."""
        self.lookup = lookup
        self.model = model
        self.max_chunk = config.max_batch_tokens
        kv_dtype = model_kv_dtype("auto", model)
        kv_cache_bytes = (config.kv_cache_bytes or DEFAULT_CPU_BYTES) // KV_SHARE
        sizes = replace(config, num_pages=None, kv_cache_bytes=kv_cache_bytes)
        num_pages = resolve_num_pages(model.config, sizes, kv_dtype, model.device)
        self.allocator = PageAllocator(config.page_size, model.config.windows, num_pages, prefix_cache=False)
        self.runner = Runner(model, KvCache(model.config, num_pages, config.page_size, kv_dtype, model.device))
        self._followers: dict[Sequence, Follower] = {}
        self._guessed: set[Sequence] = set()  # whose last draft was the model's
        self._guess_s: float | None = None  # of one more guess, a mean that forgets

    def draft(self, sequences: SequenceOf[Sequence], limits: SequenceOf[int]) -> list[list[int]]:
        drafts = self.lookup.draft(sequences, limits)
        self._release_finished()
        self._guessed = set()
        lens = [0 if draft else self._wanted(s, n) for s, n, draft in zip(sequences, limits, drafts, strict=True)]
        wanted = {sequence: length for sequence, length in zip(sequences, lens, strict=True) if length}
        if wanted:
            with torch.inference_mode():
                guesses = self._guess(wanted)
            self._guessed = {sequence for sequence, guess in guesses.items() if guess}
            drafts = [draft or guesses.get(s, []) for s, draft in zip(sequences, drafts, strict=True)]
        return drafts

    def verified(self, sequence: Sequence, num_drafted: int, num_accepted: int) -> None:
        if sequence in self._guessed:
            self._followers[sequence].acceptance.count(1, num_drafted, num_accepted)
            self.lookup.num_drafted_tokens += num_drafted
            self.lookup.num_accepted_tokens += num_accepted
        else:
            self.lookup.verified(sequence, num_drafted, num_accepted)

    def _wanted(self, sequence: Sequence, limit: int) -> int:
        """How many guesses are worth the time of both models."""
        follower = self._followers.get(sequence)
        if follower is None:
            follower = self._followers[sequence] = Follower(sequence)
            self.allocator.start(follower.shadow, [])
        limit = min(limit, self.lookup.max_draft_tokens, self.model.config.max_seq_len - len(sequence.token_ids))
        cost = self.lookup.costs.per_row(1)
        if self._guess_s is not None and self.lookup.costs.mean_s:
            cost += self._guess_s / self.lookup.costs.mean_s
        length = follower.acceptance.best_len(1, limit, cost)
        if length == 0:
            follower.acceptance.skip(1)
        return length

    def _guess(self, wanted: dict[Sequence, int]) -> dict[Sequence, list[int]]:
        """Guesses for each sequence, one after the other for all of them at once."""
        guesses: dict[Sequence, list[int]] = {sequence: [] for sequence in wanted}
        budget = self.max_chunk
        chunks: dict[Sequence, Chunk] = {}
        for sequence in wanted:
            chunk = self._catch_up(sequence, budget)
            if chunk is not None:
                chunks[sequence] = chunk
                budget -= chunk.end - chunk.start
        while chunks:
            started = time.perf_counter()
            self._compute(chunks, guesses)
            if all(guesses[sequence] for sequence in chunks):
                self._observe((time.perf_counter() - started) / len(chunks))
            going_on = [s for s in chunks if 0 < len(guesses[s]) < wanted[s]]
            chunks = {s: chunk for s in going_on if (chunk := self._go_on(s, guesses[s][-1])) is not None}
        for sequence in wanted:
            self.allocator.trim(self._followers[sequence].shadow)
        return guesses

    def _catch_up(self, sequence: Sequence, budget: int) -> Chunk | None:
        """Tokens that are certain and not computed yet, as far as the budget and the pages reach."""
        shadow = self._followers[sequence].shadow
        start = shadow.num_computed_tokens
        shadow.token_ids[start:] = sequence.token_ids[start:]
        end = self.allocator.reach(shadow, min(len(shadow.token_ids), start + budget))
        if end == start:
            return None
        self.allocator.extend(shadow, end)
        return Chunk(shadow, start, end, samples=(shadow,) if end == len(shadow.token_ids) else ())

    def _go_on(self, sequence: Sequence, guess: int) -> Chunk | None:
        """The guess as the next token; its keys are forgotten after this draft."""
        shadow = self._followers[sequence].shadow
        start = len(shadow.token_ids)
        if self.allocator.reach(shadow, start + 1) <= start:
            return None
        self.allocator.extend(shadow, start + 1)
        shadow.token_ids.append(guess)
        return Chunk(shadow, start, start + 1, samples=(shadow,))

    def _compute(self, chunks: dict[Sequence, Chunk], guesses: dict[Sequence, list[int]]) -> None:
        hidden_ND = self.runner.run(StepPlan(tuple(chunks.values())))
        sampled = [sequence for sequence, chunk in chunks.items() if chunk.samples]
        for sequence, chunk in chunks.items():
            if chunk.end <= len(sequence.token_ids):
                self.allocator.advance(chunk.sequence, chunk.end)
        if sampled:
            for sequence, logits_V in zip(sampled, self.model.logits(hidden_ND).cpu().numpy(), strict=True):
                guesses[sequence].append(self._draw(self._followers[sequence].shadow, logits_V))

    def _draw(self, shadow: Sequence, logits_V: NDArray[np.float32]) -> int:
        """With the number that the sampler will draw with: the same token where both models see alike."""
        request = shadow.request
        number = uniform(request.seed, shadow.index, len(shadow.token_ids))
        return draw(logits_V, request.params, number) if np.isfinite(logits_V.max()) else 0

    def _observe(self, seconds: float) -> None:
        self._guess_s = seconds if self._guess_s is None else 0.9 * self._guess_s + 0.1 * seconds

    def _release_finished(self) -> None:
        for sequence in [sequence for sequence in self._followers if sequence.is_finished]:
            self.allocator.release(self._followers.pop(sequence).shadow)
