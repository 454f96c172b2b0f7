"""SharedStep: how many tokens of each owner's sequences are computed in a step whose cost is bounded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

from tramontane.engine.request import Sequence, SequenceStatus
from tramontane.engine.shares import TokenCost
from tramontane.engine.step_plan import Chunk


@dataclass(frozen=True, slots=True)
class SharedStep:
    """`schedule` plans the next so many tokens of a sequence in all, as far as pages reach; `chunks` then has them, and
    no longer those of sequences that had to give their pages up."""

    chunks: Mapping[Sequence, Chunk]
    schedule: Callable[[Sequence, int], None]
    token_cost: TokenCost
    max_tokens: int

    def plan(self, first: Sequence, turns: SequenceOf[SequenceOf[Sequence]], max_cost: float) -> None:
        """Spend `max_cost`, of which the last token may take more than is left: an eighth is kept for the `first` of
        all, half of the rest for all owners evenly, and as far as they leave it and for the other half the owner
        who has been served least goes first. `turns`: each owner's sequences, in that order."""
        budget = max_cost - self._spend(first, max_cost / 8)
        kept = budget / (2 * len(turns))
        for num_before, sequences in enumerate(turns, 1):
            budget -= self._spend_on(sequences, budget - kept * (len(turns) - num_before))
        for sequences in turns:
            budget -= self._spend_on(sequences, budget)

    def _spend_on(self, sequences: SequenceOf[Sequence], budget: float) -> float:
        """Schedule what the budget affords of one owner's sequences; returns the cost. Of the answers, those that have
        stood still longest go first; half is for prompts: half of that for the first, then the shortest first."""
        prompts = [sequence for sequence in sequences if sequence.num_remaining_tokens > 1]
        answers = [sequence for sequence in sequences if sequence.num_remaining_tokens == 1]
        left, kept = budget, budget / 2 if prompts and answers else 0.0
        for sequence in sorted(answers, key=lambda answer: answer.last_step):
            if left <= kept:
                break
            left -= self._spend(sequence, left)
        if prompts and left > 0:
            left -= self._spend(prompts[0], left / 2)
            shortest_first = sorted(prompts[1:], key=lambda s: (s.request.priority, s.num_remaining_tokens))
            for sequence in (*shortest_first, prompts[0]):
                if left <= 0:
                    break
                left -= self._spend(sequence, left)
        return budget - left

    def _spend(self, sequence: Sequence, budget: float) -> float:
        """Schedule what the budget affords of a sequence, at least a token, beyond what is scheduled of it already;
        returns the cost."""
        is_putting_off = sequence.is_pending and sequence.num_remaining_tokens == 1  # computed when it can go on
        if is_putting_off or sequence.status is not SequenceStatus.RUNNING:  # or preempted meanwhile
            return 0.0
        planned = self.chunks.get(sequence)
        start = sequence.num_computed_tokens if planned is None else planned.end
        room = self.max_tokens - sum(chunk.end - chunk.start for chunk in self.chunks.values())
        affordable = max(1, int(budget / self.token_cost.each(start, sequence.num_prompt_tokens)))
        num_tokens = min(affordable, room, len(sequence.token_ids) - start)
        if num_tokens <= 0:
            return 0.0
        self.schedule(sequence, start + num_tokens - sequence.num_computed_tokens)
        chunk = self.chunks.get(sequence)
        return 0.0 if chunk is None else self.token_cost.of(start, chunk.end, sequence.num_prompt_tokens)
