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
from tramontane.engine.scheduler import Scheduler, StepPlan

VOCAB_SIZE = 6  # few tokens, so that prompts share beginnings by chance as well
STOP_TOKEN_ID = 0


@dataclass
class Simulation:
    config: EngineConfig
    windows: tuple[int | None, ...]
    num_pages: tuple[int, ...]
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.allocator = PageAllocator(
            self.config.page_size, self.windows, self.num_pages, prefix_cache=self.config.prefix_cache
        )
        self.scheduler = Scheduler(self.config, self.allocator)
        self.memory: list[list[int | None]] = [[None] * (pages * self.config.page_size) for pages in self.num_pages]
        self.fingerprints: dict[Sequence, list[int]] = {}

    def add(
        self,
        prompt: list[int],
        max_tokens: int,
        *,
        n: int = 1,
        priority: int = 0,
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
            self.scheduler.commit(plan, [self._next_token(sequence) for sequence in plan.samples])
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
            fingerprints = self._fingerprints(chunk.sequence)
            for group in range(len(self.windows)):
                for position in range(chunk.start, chunk.end):
                    self.memory[group][self._slot(chunk.sequence, group, position)] = fingerprints[position]
        for chunk in plan.chunks:
            fingerprints = self._fingerprints(chunk.sequence)
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

    def _next_token(self, sequence: Sequence) -> int:
        return random.Random(self._fingerprints(sequence)[-1] + sequence.index).randrange(VOCAB_SIZE)

    def _check_answer(self, sequence: Sequence) -> None:
        expected = list(sequence.request.prompt_token_ids)
        fingerprint = hash(sequence.request.salt)
        for token_id in expected:
            fingerprint = hash((fingerprint, token_id))
        while len(expected) < len(sequence.token_ids):
            expected.append(random.Random(fingerprint + sequence.index).randrange(VOCAB_SIZE))
            fingerprint = hash((fingerprint, expected[-1]))
        assert sequence.token_ids == expected
        is_full = len(expected) == sequence.request.max_total_tokens
        if sequence.finish_reason == "stop":
            assert expected[-1] == STOP_TOKEN_ID
        else:
            assert sequence.finish_reason in ("length", "abort")
            assert is_full or sequence.finish_reason == "abort"


def pages_to_fit(num_tokens: int, page_size: int, windows: SequenceOf[int | None]) -> tuple[int, ...]:
    """The fewest pages of each group in which a sequence of `num_tokens` tokens can run alone."""
    full = -(-num_tokens // page_size)
    return tuple(full if window is None else min(full, max_pages_for(window, page_size)) for window in windows)
