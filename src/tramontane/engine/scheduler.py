"""Scheduler: which tokens of which sequences the next step computes. Pure Python: it never sees a tensor.

One total order, `Sequence.order`, decides who is admitted first and who loses pages last: a request of priority p is
placed as if it had arrived p * aging_steps steps later than it did; ties go first come, first served. So lower
priorities are served first, yet whoever has waited aging_steps for each unit of priority goes ahead of any newcomer:
nobody starves. A sequence takes pages only from those behind it, and the first in the order always advances by at least
a token in each step; that is why every request ends.

Where several owners have requests, the order holds within each of them, and between them all goes in turns: places and
pages (engine/turns.py) and the tokens of a step (engine/shared_step.py), which is kept short. The first of all in the
order keeps its rights: it is admitted next, advances in each step and gives way to nobody.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence as SequenceOf
from operator import attrgetter

from tramontane.engine.engine_config import EngineConfig
from tramontane.engine.page_allocator import PageAllocator, PageCopy
from tramontane.engine.prefix_cache import PrefixNode
from tramontane.engine.request import FinishReason, Request, Sequence, SequenceStatus
from tramontane.engine.shared_step import SharedStep
from tramontane.engine.shares import Shares, TokenCost
from tramontane.engine.speculation import Drafter
from tramontane.engine.step_plan import Chunk, StepPlan
from tramontane.engine.turns import (
    gives_up_pages,
    next_in_turn,
    num_freed,
    owners_in_turn,
    yields_pages,
    yields_place,
)
from tramontane.errors import CapacityError, RequestError

MAX_PRIORITY = 1000  # bounds the wait of the least urgent request

_order = attrgetter("order")


class Scheduler:
    """`plan()`, then compute, then `commit()`; in between nothing else may be called but `cancel()`."""

    def __init__(
        self,
        config: EngineConfig,
        allocator: PageAllocator,
        drafter: Drafter | None = None,
        token_cost: TokenCost | None = None,
    ) -> None:
        self.config = config
        self.allocator = allocator
        self.drafter = drafter
        self.token_cost = token_cost or TokenCost()
        self.shares = Shares()
        self.waiting: list[Sequence] = []  # in order; hold no pages
        self.running: list[Sequence] = []  # in order; hold pages
        self.plan_in_flight: StepPlan | None = None
        self.num_steps = 0
        self.num_preemptions = 0
        self.num_prompt_tokens = 0
        self.num_cached_tokens = 0
        self._num_arrivals = 0
        self._chunks: dict[Sequence, Chunk] = {}
        self._is_sharing = False  # between owners, in the step being planned
        self._is_short_of_pages = False
        self._refused: tuple[Sequence, tuple[int, ...]] | None = None  # who did not fit, and the pages there were

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, request: Request) -> None:
        """Queue a request. Raises RequestError if it can never fit, CapacityError if the queue or its owner's share of
        it is full."""
        if abs(request.priority) > MAX_PRIORITY:
            raise RequestError(f"priority={request.priority} must lie between -{MAX_PRIORITY} and {MAX_PRIORITY}")
        max_tokens = self.allocator.max_tokens
        if max_tokens is not None and request.max_total_tokens > max_tokens:
            raise RequestError(
                f"a prompt of {len(request.prompt_token_ids)} tokens with an answer up to {request.max_total_tokens} "
                f"tokens in all can never fit the KV cache, which holds {max_tokens}; shorten it or enlarge the cache"
            )
        if len(self.waiting) >= self.config.max_waiting:
            raise CapacityError(
                f"{len(self.waiting)} requests are waiting already (max_waiting={self.config.max_waiting}); retry later"
            )
        self._require_share_of_queue(request.owner)
        self._num_arrivals += 1
        self.shares.join(request.owner, self.num_steps)
        arrival_step = self.num_steps + request.priority * self.config.aging_steps
        [sequence] = request.sequences
        sequence.order = (arrival_step, self._num_arrivals, sequence.index)
        insort(self.waiting, sequence, key=_order)

    def plan(self) -> StepPlan:
        """Decide the next step and take its pages: decodes first, then admissions, then prefill chunks; guesses where
        there is nothing but decodes. Where owners share, admissions first, then each owner's part."""
        self._chunks = {}
        self._is_short_of_pages = False
        self._is_sharing = self.shares.are_kept(self.num_steps)
        if self._is_sharing:
            prefilling = self._plan_shared()
        else:
            for sequence in tuple(self.running):
                if sequence.is_pending:
                    continue  # its last token is computed when the next one can be drawn
                if sequence.num_remaining_tokens == 1 and sequence.status is SequenceStatus.RUNNING:
                    self._schedule(sequence, 1)
            prefilling = [sequence for sequence in self.running if sequence.num_remaining_tokens > 1]
            if self.waiting and not self._is_short_of_pages:
                self._admit(prefilling)
            self._prefill(prefilling, self.config.max_batch_tokens - len(self._chunks))
        for sequence, chunk in self._chunks.items():
            if chunk.end == len(sequence.token_ids):
                chunk.samples = _samples(sequence)
        if self.drafter is not None and not prefilling:
            self._add_drafts(self.drafter)
        self.plan_in_flight = StepPlan(tuple(self._chunks.values()))
        return self.plan_in_flight

    def commit(self, plan: StepPlan, token_ids: SequenceOf[SequenceOf[int | None]]) -> None:
        """The plan was computed. For each of `plan.samples`, `token_ids` holds what was drawn (None: no token could
        be): one, or where guesses were right these and the draw after them; none where the draw has to wait for what
        the sequence's logits processors are at."""
        self.plan_in_flight = None
        self.num_steps += 1
        drawn = iter(token_ids)
        if self._is_sharing:
            self._charge(plan)
        for chunk in plan.chunks:
            tokens = [next(drawn) for _ in chunk.samples]
            if not all(tokens):
                self._put_off(chunk)
            elif chunk.draft:
                self._verify(chunk, tokens[0])
                continue
            else:
                self.allocator.advance(chunk.sequence, chunk.end)
            if chunk.end == len(chunk.sequence.token_ids) and not chunk.samples:
                self.end(chunk.sequence.request, "length")  # nothing but the prompt was to be computed
                continue
            for fork in chunk.samples[1:]:
                self._adopt(fork, chunk.sequence)
            for sequence, drawn_ids in zip(chunk.samples, tokens, strict=True):
                for token_id in drawn_ids:
                    self._append(sequence, token_id)

    def cancel(self) -> None:
        """The plan in flight was not computed. Its sequences give up their pages, which may hold half-written keys,
        and are computed again."""
        if self.plan_in_flight is None:
            return
        for chunk in self.plan_in_flight.chunks:
            for _ in chunk.samples[1:]:
                chunk.sequence.request.sequences.pop()
            if chunk.sequence.status is SequenceStatus.RUNNING:
                self._preempt(chunk.sequence)
        self.plan_in_flight = None

    def end(self, request: Request, reason: FinishReason) -> None:
        """End every answer that is still going on; those not forked yet too."""
        if not request.is_forked:
            request.fork()
        for sequence in request.sequences:
            self.finish(sequence, reason)

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """End one answer and return its pages. Does nothing if it is over."""
        if sequence.is_finished:
            return
        if sequence.status is SequenceStatus.RUNNING:
            self.running.remove(sequence)
            self.allocator.release(sequence)
        elif sequence in self.waiting:  # a fork made this moment is in no queue yet
            self.waiting.remove(sequence)
        sequence.status = SequenceStatus.FINISHED
        sequence.finish_reason = reason
        if sequence.request.is_finished:
            self.shares.leave(sequence.request.owner)

    def _require_share_of_queue(self, owner: str) -> None:
        """Raises CapacityError if the owner has as many waiting as one may."""
        share = self.config.max_waiting_per_owner
        if share is None:
            share = self.config.max_waiting - len(self.waiting)
        if not owner or len(self.waiting) < share:
            return
        num_waiting = sum(sequence.request.owner == owner for sequence in self.waiting)
        if num_waiting >= share:
            raise CapacityError(
                f"{num_waiting} of your requests are waiting already, which is your share of the queue; retry later"
            )

    def _plan_shared(self) -> list[Sequence]:
        """Admissions, then what `SharedStep` gives each owner. Returns the sequences that are prefilling."""
        prefilling = [sequence for sequence in self.running if sequence.num_remaining_tokens > 1]
        if self.waiting:
            self._admit(prefilling)
        if self.running:
            step = SharedStep(self._chunks, self._schedule, self.token_cost, self.config.max_batch_tokens)
            step.plan(self.running[0], owners_in_turn(self.running, self.shares), self.config.max_shared_cost)
        return prefilling

    def _prefill(self, prefilling: list[Sequence], budget: int) -> None:
        if prefilling:
            for sequence, share in _divided(prefilling, budget):
                if share and sequence.status is SequenceStatus.RUNNING:
                    self._schedule(sequence, share)

    def _charge(self, plan: StepPlan) -> None:
        """Each owner is charged what the step computed, but for what is computed again after a preemption."""
        for chunk in plan.chunks:
            sequence = chunk.sequence
            sequence.last_step = self.num_steps
            start, end = max(chunk.start, sequence.num_charged_tokens), chunk.end - len(chunk.draft)
            if start < end:
                self.shares.charge(sequence.request.owner, self.token_cost.of(start, end, sequence.num_prompt_tokens))
                sequence.num_charged_tokens = end
        planned = {chunk.sequence: chunk.end for chunk in plan.chunks}
        wanting = {s.request.owner for s in self.running if planned.get(s, 0) < len(s.token_ids) and not s.is_pending}
        self.shares.settle(wanting.union(sequence.request.owner for sequence in self.waiting))

    def _schedule(self, sequence: Sequence, num_tokens: int) -> None:
        """Plan up to `num_tokens` tokens, as far as pages reach. Where not even one fits, sequences behind this one
        give theirs up; if there are none, it stands still for this step."""
        start = sequence.num_computed_tokens
        end = start + num_tokens
        copies: tuple[PageCopy, ...] = ()
        if num_tokens > 1 or sequence.may_share_page or start % self.config.page_size == 0:
            while (reach := self.allocator.reach(sequence, end)) == start:
                self._is_short_of_pages = True
                victim = gives_up_pages(self.running, sequence) if self._is_sharing else self.running[-1]
                if victim is sequence:
                    return
                self._preempt(victim)
            end = reach
            planned = self._chunks.get(sequence)
            copies = (*(planned.copies if planned else ()), *self.allocator.extend(sequence, end))
        self._chunks[sequence] = Chunk(sequence, start, end, copies)

    def _add_drafts(self, drafter: Drafter) -> None:
        """Let decodes go on with guesses, within the step's tokens and the pages that nobody uses."""
        # not those about to be forked, nor those whose logits processors often come late as it is
        chunks = [
            chunk
            for chunk in self._chunks.values()
            if len(chunk.samples) == 1 and 8 * chunk.sequence.num_late_steps <= chunk.sequence.num_generated_tokens
        ]
        budget = self.config.max_batch_tokens - len(self._chunks)
        if self._is_sharing:
            budget = min(budget, self.config.max_shared_cost - len(self._chunks))
        # a guess of the last token an answer may have would be verified for nothing
        limits = [c.sequence.request.max_total_tokens - len(c.sequence.token_ids) - 1 for c in chunks]
        drafts = drafter.draft([chunk.sequence for chunk in chunks], [min(limit, budget) for limit in limits])
        for chunk, draft in zip(chunks, drafts, strict=True):
            end = self.allocator.reach(chunk.sequence, chunk.end + min(len(draft), budget)) if draft else chunk.end
            if end > chunk.end:
                self.allocator.extend(chunk.sequence, end)
                chunk.draft = draft[: end - chunk.end]
                chunk.end = end
                budget -= len(chunk.draft)

    def _verify(self, chunk: Chunk, token_ids: SequenceOf[int | None]) -> None:
        """All but the last of `token_ids` are guesses that were drawn; their keys are stored already."""
        sequence, num_accepted = chunk.sequence, len(token_ids) - 1
        sequence.token_ids += chunk.draft[:num_accepted]
        self.allocator.advance(sequence, len(sequence.token_ids))
        self.allocator.trim(sequence)
        if self.drafter is not None:
            self.drafter.verified(sequence, len(chunk.draft), num_accepted)
        self._append(sequence, token_ids[-1])

    def _put_off(self, chunk: Chunk) -> None:
        """The token before the draw that has to wait is computed again then, to have its scores."""
        sequence = chunk.sequence
        self.allocator.advance(sequence, chunk.end - len(chunk.draft) - 1)
        self.allocator.trim(sequence)
        sequence.num_late_steps += 1

    def _preempt(self, sequence: Sequence) -> None:
        """Back to the queue, at its old place, without pages; its tokens are kept and computed again."""
        self._chunks.pop(sequence, None)
        self.running.remove(sequence)
        self.allocator.release(sequence)
        sequence.status = SequenceStatus.WAITING
        insort(self.waiting, sequence, key=_order)
        self.num_preemptions += 1

    def _admit(self, prefilling: list[Sequence]) -> None:
        """Let sequences in, strictly in order or in turns, while there is room for all that each has to compute."""
        while self.waiting:
            sequence = self._next()
            yielding: list[Sequence] = []
            if len(self.running) >= self.config.max_sequences:
                other = yields_place(sequence, self.running) if self._is_sharing else None
                if other is None:
                    return
                yielding.append(other)
            available = self.allocator.available()
            if self.running and self._refused == (sequence, available):
                return
            path = self.allocator.match(sequence)
            if self.running and not self._fits(sequence, path, prefilling, available, yielding):
                self._refused = (sequence, available)
                return
            for other in yielding:
                self._preempt(other)
                if other in prefilling:
                    prefilling.remove(other)
            if yielding:  # pages of the path may be among those that were given up
                path = self.allocator.match(sequence)
            self.waiting.remove(sequence)
            self.allocator.start(sequence, path)
            if sequence.num_cached_tokens is None:
                sequence.num_cached_tokens = sequence.num_computed_tokens
                self.num_cached_tokens += sequence.num_computed_tokens
                if sequence is sequence.request.sequences[0]:
                    self.num_prompt_tokens += sequence.num_prompt_tokens
            sequence.status = SequenceStatus.RUNNING
            insort(self.running, sequence, key=_order)
            insort(prefilling, sequence, key=_order)

    def _next(self) -> Sequence:
        if not self._is_sharing:
            return self.waiting[0]
        return next_in_turn(self.waiting, self.running, self.shares, self.num_steps, self.config.aging_steps)

    def _fits(
        self,
        sequence: Sequence,
        path: list[PrefixNode],
        prefilling: list[Sequence],
        available: tuple[int, ...],
        yielding: list[Sequence],
    ) -> bool:
        """Whether there are pages for all that a waiting sequence has to compute, once those `yielding` have given
        theirs up; where owners share, others are added to them until there are."""
        # what running prefills have still to take is spoken for, and a page for each sequence to go on with
        chunk = self.config.max_batch_tokens
        own = self.allocator.admission_cost(sequence, path, chunk)
        while True:
            needs = [self.allocator.outstanding(other, chunk) for other in prefilling if other not in yielding]
            reserve = len(self.running) - len(yielding)
            pages = [a + f for a, f in zip(available, num_freed(yielding, self.allocator), strict=True)]
            lacking = [g for g, need in enumerate(zip(*needs, own, strict=True)) if sum(need) + reserve > pages[g]]
            if not lacking:
                return True
            group = lacking[0]
            other = yields_pages(sequence, own[group], group, self.running, yielding) if self._is_sharing else None
            if other is None:
                return False
            yielding.append(other)

    def _adopt(self, fork: Sequence, parent: Sequence) -> None:
        """A new answer shares its parent's pages, or waits in the queue where max_sequences is reached."""
        if len(self.running) < self.config.max_sequences:
            self.allocator.fork(parent, fork)
            fork.status = SequenceStatus.RUNNING
            insort(self.running, fork, key=_order)
        else:
            insort(self.waiting, fork, key=_order)

    def _append(self, sequence: Sequence, token_id: int | None) -> None:
        if token_id is None:
            self.finish(sequence, "error")
            return
        sequence.token_ids.append(token_id)
        if token_id in sequence.request.stop_token_ids:
            self.finish(sequence, "stop")
        elif len(sequence.token_ids) >= sequence.request.max_total_tokens:
            self.finish(sequence, "length")


def _samples(sequence: Sequence) -> tuple[Sequence, ...]:
    """Whom to draw a token for, now that the last token of `sequence` is computed."""
    request = sequence.request
    if len(sequence.token_ids) >= request.max_total_tokens:
        return ()
    return (sequence,) if request.is_forked else (sequence, *request.fork())


def _divided(prefilling: SequenceOf[Sequence], budget: int) -> list[tuple[Sequence, int]]:
    """Divide the step's prefill tokens, so that a long prompt neither starves the others nor is starved by them.

    The first in order may count on half of the budget; the others follow by priority and then shortest first; the
    first takes what is left. Example, budget 100, remaining 500, 80, 30: shares 50, 20, 30.
    """
    first, *others = prefilling
    guaranteed = min(first.num_remaining_tokens, -(-budget // 2))
    left = budget - guaranteed
    shares = []
    for sequence in sorted(others, key=lambda other: (other.request.priority, other.num_remaining_tokens)):
        share = min(sequence.num_remaining_tokens, left)
        left -= share
        shares.append((sequence, share))
    return [(first, min(first.num_remaining_tokens, guaranteed + left)), *shares]
