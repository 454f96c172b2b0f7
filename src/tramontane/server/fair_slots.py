"""FairSlots: places for work that takes long, of which nobody can hold all, and which are given out in turns."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

from tramontane.fair_queue import FairQueue


class FairSlots:
    """Used from one event loop. `num_slots` in all; `per_owner` is the most one owner holds at a time, however many
    are free: where work lasts for minutes, a free place is what others wait for."""

    def __init__(self, num_slots: int, *, per_owner: int | None = None) -> None:
        self.num_slots = num_slots
        self.per_owner = num_slots if per_owner is None else per_owner
        self._held: Counter[str] = Counter()
        self._waiting: FairQueue[tuple[str, asyncio.Future[None]]] = FairQueue()

    @contextlib.asynccontextmanager
    async def slot(self, owner: str, cost: float = 1.0) -> AsyncIterator[None]:
        """Held for the length of the block; waits its turn first. `cost`: what it takes of the owner's share."""
        await self.acquire(owner, cost)
        try:
            yield
        finally:
            self.release(owner)

    async def acquire(self, owner: str, cost: float = 1.0) -> None:
        entry = (owner, asyncio.get_running_loop().create_future())
        self._waiting.push(owner, entry, cost)
        self._give_out()
        try:
            await entry[1]
        except asyncio.CancelledError:
            if not self._waiting.remove(owner, entry):  # it was given out in the same moment
                self.release(owner)
            raise

    def release(self, owner: str) -> None:
        self._held[owner] -= 1
        self._held += Counter()  # owners without any are forgotten
        self._give_out()

    def num_waiting(self, owner: str) -> int:
        return self._waiting.num_waiting(owner)

    def _give_out(self) -> None:
        while self._held.total() < self.num_slots:
            entry = self._waiting.pop(lambda owner: self._held[owner] < self.per_owner)
            if entry is None:
                return
            owner, turn = entry
            self._held[owner] += 1
            if turn.cancelled():  # its task is about to give it back
                continue
            turn.set_result(None)
