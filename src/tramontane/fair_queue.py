"""FairQueue: what many owners wait for, taken in turns, so that nobody's share depends on how much others ask for.

Deficit round robin (Shreedhar and Varghese, Efficient Fair Queuing Using Deficit Round Robin, 1996): each turn an
owner may spend `quantum` more; what its next item costs beyond that waits for its later turns. In the long run each
owner with something waiting gets the same cost served, whatever sizes its items have, and an owner who has nothing
waiting saves nothing up.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(slots=True)
class _Turn(Generic[Item]):
    """What one owner waits for, first come first served, and what it may still spend."""

    waiting: deque[tuple[Item, float]] = field(default_factory=deque)
    credit: float = 0.0

    @property
    def lacks(self) -> float:
        return self.waiting[0][1] - self.credit


class FairQueue(Generic[Item]):
    def __init__(self, quantum: float = 1.0) -> None:
        """`quantum`: what a turn is worth, in the unit of costs; about what an ordinary item costs."""
        self.quantum = quantum
        self._turns: OrderedDict[str, _Turn[Item]] = OrderedDict()  # of owners with something waiting; first is next

    def push(self, owner: str, item: Item, cost: float = 1.0) -> None:
        """`cost` lies above 0. A new owner's turn comes after those of all who wait."""
        self._turns.setdefault(owner, _Turn()).waiting.append((item, cost))

    def pop(self, is_ready: Callable[[str], bool] = lambda _: True) -> Item | None:
        """The next item, of an owner who is ready; None where there is none. Owners who are not keep their place."""
        ready = [owner for owner in self._turns if is_ready(owner)]
        if not ready:
            return None
        # whole rounds in which nobody could afford anything, at once
        rounds = min(max(0, math.ceil(self._turns[owner].lacks / self.quantum) - 1) for owner in ready)
        for owner in ready:
            self._turns[owner].credit += rounds * self.quantum
        for owner in ready:
            turn = self._turns[owner]
            if turn.lacks > 0:
                turn.credit += self.quantum
            if turn.lacks <= 0:
                break
            self._turns.move_to_end(owner)
        item, cost = turn.waiting.popleft()
        turn.credit -= cost
        if not turn.waiting:
            del self._turns[owner]
        elif turn.lacks > 0:
            self._turns.move_to_end(owner)
        return item

    def remove(self, owner: str, item: Item) -> bool:
        """Whether it was waiting; it does not any more."""
        turn = self._turns.get(owner)
        found = next((entry for entry in turn.waiting if entry[0] is item), None) if turn else None
        if turn is None or found is None:
            return False
        turn.waiting.remove(found)
        if not turn.waiting:
            del self._turns[owner]
        return True

    def num_waiting(self, owner: str) -> int:
        turn = self._turns.get(owner)
        return len(turn.waiting) if turn else 0

    def owners(self) -> Iterator[str]:
        """Those with something waiting, the next first."""
        return iter(tuple(self._turns))

    def __len__(self) -> int:
        return sum(len(turn.waiting) for turn in self._turns.values())
