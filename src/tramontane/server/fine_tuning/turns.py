"""Turns: whose job is trained next, and whose gives way, so that no owner keeps another from ever beginning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from tramontane.server.store.tables import FineTuningJob

SLICE_S = 600.0
"""How long a job is trained at least before it gives way to another owner's; it goes on later where it was."""
SHORT_SLICE_S = 60.0
"""The same where its owner has several in training."""


class Turns:
    """Remembers who had the last turns."""

    def __init__(self) -> None:
        self._num_turns = 0
        self._last_turn: dict[str, int] = {}

    def choose(
        self, waiting: Sequence[FineTuningJob], active: Sequence[FineTuningJob], num_free: int, *, per_owner: int = 1000
    ) -> set[str]:
        """Ids of up to `num_free` of the `waiting` jobs, the oldest first, that begin now beside the `active` ones: one
        after the other of the owner who has the fewest active, of equals of the one whose last turn lies longest
        back; each has at most `per_owner`."""
        num_active = Counter(job.owner for job in active)
        left, chosen = list(waiting), set[str]()
        while len(chosen) < num_free:
            ready = [job for job in left if num_active[job.owner] < per_owner]
            if not ready:
                break
            job = min(ready, key=lambda job: (num_active[job.owner], self._last_turn.get(job.owner, 0)))
            left.remove(job)
            chosen.add(job.id)
            num_active[job.owner] += 1
            self._num_turns += 1
            self._last_turn[job.owner] = self._num_turns
        return chosen


def gives_way(
    waiting: Sequence[FineTuningJob],
    active: Sequence[FineTuningJob],
    seconds: Mapping[str, float],
    asked: Collection[str],
) -> FineTuningJob | None:
    """Where all places are taken: the job that makes room for a waiting owner who has none active, if one has been
    active for long enough (`seconds`, by id) and none is on its way out (`asked`): of the owner with the most."""
    num_active = Counter(job.owner for job in active)
    if all(job.owner in num_active for job in waiting) or any(job.id in asked for job in active):
        return None
    ready = [
        job for job in active if seconds.get(job.id, 0.0) >= (SLICE_S if num_active[job.owner] == 1 else SHORT_SLICE_S)
    ]
    return max(ready, key=lambda job: (num_active[job.owner], seconds[job.id]), default=None)
