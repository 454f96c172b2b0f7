"""The scheduler with a model that is no model: pages hold fingerprints of what they should hold.

The key of position p carries the fingerprint of salt and tokens 0 … p. Whenever a token is computed, every key its
query may see is compared with the fingerprint it must have: a page reused too early, copied too late, shared wrongly or
taken from another prompt shows at once.
"""

from __future__ import annotations

import random
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field

from tramontane.engine.engine_config import EngineConfig
from tramontane.engine.integrity import check_integrity
from tramontane.engine.page_allocator import PageAllocator
from tramontane.engine.pages import max_pages_for
from tramontane.engine.request import Request, Sequence
from tramontane.engine.sampling import SamplingParams
from tramontane.engine.scheduler import Scheduler
from tramontane.engine.shares import TokenCost
from tramontane.engine.step_plan import Chunk, StepPlan

VOCAB_SIZE = 6  # few tokens, so that prompts share beginnings by chance as well
STOP_TOKEN_ID = 0


@dataclass
class Simulation:
    config: EngineConfig
    windows: tuple[int | None, ...]
    num_pages: tuple[int, ...]
    guesses_right: float | None = None  # share of drafted tokens that are; None: no drafts
    token_cost: TokenCost | None = None
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.allocator = PageAllocator(
            self.config.page_size, self.windows, self.num_pages, prefix_cache=self.config.prefix_cache
        )
        drafter = None if self.guesses_right is None else Guesser(self, self.guesses_right)
        self.scheduler = Scheduler(self.config, self.allocator, drafter, self.token_cost)
        self.memory: list[list[int | None]] = [[None] * (pages * self.config.page_size) for pages in self.num_pages]
        self.fingerprints: dict[Sequence, list[int]] = {}

    def add(
        self,
        prompt: list[int],
        max_tokens: int,
        *,
        n: int = 1,
        priority: int = 0,
        owner: str = "",
        salt: str | None = None,
        can_stop: bool = True,
    ) -> Request:
        request = Request(
            request_id=len(self.requests),
            prompt_token_ids=prompt,
            params=SamplingParams(max_tokens=max_tokens, n=n),
            seed=0,
            stop_token_ids=frozenset([STOP_TOKEN_ID] if can_stop else []),
            max_total_tokens=len(prompt) + max_tokens,
            priority=priority,
            owner=owner,
            salt=salt,
        )
        self.scheduler.add(request)
        self.requests.append(request)
        return request

    def step(self, *, cancel: bool = False) -> StepPlan:
        """One step with everything checked before, during and after it."""
        check_integrity(self.scheduler)
        plan = self.scheduler.plan()
        check_integrity(self.scheduler)
        if cancel:
            self.scheduler.cancel()
        else:
            assert plan.chunks, "a step without work while requests wait"
            assert plan.num_tokens <= self.config.max_batch_tokens
            # what every promise that a request ends rests on
            assert self.scheduler.running[0] in [chunk.sequence for chunk in plan.chunks], "the first in order waits"
            self.compute(plan)
            drawn = [self._draw(chunk, sequence) for chunk in plan.chunks for sequence in chunk.samples]
            self.scheduler.commit(plan, drawn)
        check_integrity(self.scheduler)
        return plan

    def run(self, max_steps: int) -> None:
        """Step until nothing is left, then see that every page has come back and every answer is right."""
        for _ in range(max_steps):
            if not self.scheduler.has_work:
                break
            self.step()
        assert not self.scheduler.has_work, f"still busy after {max_steps} steps"
        assert self.allocator.available() == self.num_pages
        for request in self.requests:
            assert request.is_finished
            for sequence in request.sequences:
                self._check_answer(sequence)

    def compute(self, plan: StepPlan) -> None:
        """Write and check the fingerprints of one step."""
        size = self.config.page_size
        for copy in plan.copies:
            memory = self.memory[copy.group]
            memory[copy.target * size : (copy.target + 1) * size] = memory[
                copy.source * size : (copy.source + 1) * size
            ]
        for chunk in plan.chunks:
            fingerprints = self._planned_fingerprints(chunk)
            for group in range(len(self.windows)):
                for position in range(chunk.start, chunk.end):
                    self.memory[group][self._slot(chunk.sequence, group, position)] = fingerprints[position]
        for chunk in plan.chunks:
            fingerprints = self._planned_fingerprints(chunk)
            for group, window in enumerate(self.windows):
                oldest = 0 if window is None else max(0, chunk.start - window + 1)
                for position in range(oldest, chunk.end):
                    found = self.memory[group][self._slot(chunk.sequence, group, position)]
                    assert found == fingerprints[position], f"{chunk.sequence}: wrong key at {position} in {group}"

    def _slot(self, sequence: Sequence, group: int, position: int) -> int:
        table = sequence.tables[group]
        page = int(table.page_ids[position // self.config.page_size - table.first_page])
        return page * self.config.page_size + position % self.config.page_size

    def _fingerprints(self, sequence: Sequence) -> list[int]:
        known = self.fingerprints.setdefault(sequence, [])
        for token_id in sequence.token_ids[len(known) :]:
            known.append(hash((known[-1] if known else hash(sequence.request.salt), token_id)))
        return known

    def _planned_fingerprints(self, chunk: Chunk) -> list[int]:
        """Those of the sequence's tokens and of the guesses after them."""
        fingerprints = list(self._fingerprints(chunk.sequence))
        for token_id in chunk.draft:
            fingerprints.append(hash((fingerprints[-1], token_id)))
        return fingerprints

    def _draw(self, chunk: Chunk, sequence: Sequence) -> list[int]:
        """The next token, and those after it as long as the draft had them right."""
        num_tokens = len(sequence.token_ids)
        drawn = [self._next_token(sequence)]
        for guess in chunk.draft:
            if drawn[-1] != guess or guess in sequence.request.stop_token_ids:
                break
            sequence.token_ids.append(guess)
            drawn.append(self._next_token(sequence))
        del sequence.token_ids[num_tokens:]
        return drawn

    def _next_token(self, sequence: Sequence) -> int:
        fingerprint = self._fingerprints(sequence)[-1]
        del self.fingerprints[sequence][sequence.num_computed_tokens :]  # guesses may be among them
        return next_token(fingerprint, sequence.index)

    def _check_answer(self, sequence: Sequence) -> None:
        expected = list(sequence.request.prompt_token_ids)
        fingerprint = hash(sequence.request.salt)
        for token_id in expected:
            fingerprint = hash((fingerprint, token_id))
        while len(expected) < len(sequence.token_ids):
            expected.append(next_token(fingerprint, sequence.index))
            fingerprint = hash((fingerprint, expected[-1]))
        assert sequence.token_ids == expected
        is_full = len(expected) == sequence.request.max_total_tokens
        if sequence.finish_reason == "stop":
            assert expected[-1] == STOP_TOKEN_ID
        else:
            assert sequence.finish_reason in ("length", "abort")
            assert is_full or sequence.finish_reason == "abort"


@dataclass
class Guesser:
    """Drafts of random length whose tokens are right with a certain chance, each on its own."""

    simulation: Simulation
    share_right: float
    num_drafted: int = 0
    num_accepted: int = 0

    def __post_init__(self) -> None:
        self.rng = random.Random(0)

    def draft(self, sequences: SequenceOf[Sequence], limits: SequenceOf[int]) -> list[list[int]]:
        return [self._guess(sequence, limit) for sequence, limit in zip(sequences, limits, strict=True)]

    def verified(self, sequence: Sequence, num_drafted: int, num_accepted: int) -> None:
        assert 0 <= num_accepted <= num_drafted
        self.num_drafted += num_drafted
        self.num_accepted += num_accepted

    def _guess(self, sequence: Sequence, limit: int) -> list[int]:
        fingerprint = self.simulation._fingerprints(sequence)[-1]
        guesses = []
        for _ in range(self.rng.randint(0, max(0, limit))):
            token_id = next_token(fingerprint, sequence.index)
            if self.rng.random() > self.share_right:
                token_id = (token_id + 1) % VOCAB_SIZE
            guesses.append(token_id)
            fingerprint = hash((fingerprint, token_id))
        return guesses


def next_token(fingerprint: int, index: int) -> int:
    return random.Random(fingerprint + index).randrange(VOCAB_SIZE)


def pages_to_fit(num_tokens: int, page_size: int, windows: SequenceOf[int | None]) -> tuple[int, ...]:
    """The fewest pages of each group in which a sequence of `num_tokens` tokens can run alone."""
    full = -(-num_tokens // page_size)
    return tuple(full if window is None else min(full, max_pages_for(window, page_size)) for window in windows)
