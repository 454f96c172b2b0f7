"""Leases that no wall clock has a say in: a holder counts, and whoever watches times the count on a clock of its own.

A row names its holder and how often that has shown itself. Who sees the same count for LEASE_S seconds of its own
monotonic clock takes the holder to be dead, and the row over, if nothing has changed by then. So clocks that jump, or
differ between machines, neither end a lease nor prolong one; a holder that stood still all the while finds that its
lease is lost when it next shows itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

LEASE_S = 10.0
"""A holder that does not show itself for this long is taken to be dead."""
RENEW_S = LEASE_S / 4
"""How often a holder shows itself."""


class LeaseLostError(Exception):
    """Another holder has it now, or what was held is gone."""


class Sight(NamedTuple):
    """What a row says of its lease."""

    row_id: str
    holder: str
    beat: int


class LeaseWatch:
    """One watcher's memory of the leases that others hold. Not for several threads at once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[Sight, float] = {}

    def expired(self, sights: Iterable[Sight]) -> list[Sight]:
        """Those of `sights`, all there are now, that this watcher has seen unchanged for LEASE_S."""
        now = self._clock()
        self._since = {sight: self._since.get(sight, now) for sight in sights}
        return [sight for sight, since in self._since.items() if now - since >= LEASE_S]


class Deadlines:
    """Whether a time of day has come, by a clock that may jump: early is what must not happen.

    A day that lies ahead of the wall clock, or of what this process has counted since it began, has not come. And a
    process that has just begun may have begun with a wrong clock: what should be over by then is given `GRACE_S`, or
    as long as it had in all, before it is.
    """

    GRACE_S = 600.0

    def __init__(self, wall: Callable[[], float] = time.time, clock: Callable[[], float] = time.monotonic) -> None:
        self._wall, self._clock = wall, clock
        self._began_at, self._began = wall(), clock()

    def left_s(self, begins_at: float, ends_at: float) -> float:
        """Seconds until the end of what lasts from `begins_at` to `ends_at`, 0 or less where it is over."""
        up_s = self._clock() - self._began
        now = min(self._wall(), self._began_at + up_s)
        return max(ends_at - now, min(self.GRACE_S, ends_at - begins_at) - up_s)
