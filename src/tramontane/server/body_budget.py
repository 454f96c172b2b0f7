"""BodyBudget: how many bytes of bodies are held at once, by all tenants together and by one, whichever keys it has."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tramontane.loading.memory import available_bytes
from tramontane.runtime import give_back_freed_memory
from tramontane.server.errors import RETRY_AFTER_S, ApiError
from tramontane.server.guard import MIB
from tramontane.server.settings import ServerSettings

SHARE = 16
"""Of the memory that is free at the start: a body and what is made of it take several times its bytes."""
LEAST_BYTES, MOST_BYTES = 160 * MIB, 1024 * MIB
OWNER_SHARE = 4
FREED_BYTES = 4 * MIB
FREED_AFTER_S = 1.0
"""Once so many bytes of bodies are no longer held, memory goes back to the system, so much later: the C library would
keep several times as much."""


def body_budget(settings: ServerSettings) -> BodyBudget:
    """As the settings say; else by the memory of this machine."""
    total = (available_bytes(torch.device("cpu")) or 0) // SHARE
    total_bytes = min(max(total, LEAST_BYTES), MOST_BYTES)
    if settings.max_bodies_mib is not None:
        total_bytes = settings.max_bodies_mib * MIB
    owner_mib = settings.max_bodies_per_owner_mib
    return BodyBudget(
        total_bytes=total_bytes, owner_bytes=total_bytes // OWNER_SHARE if owner_mib is None else owner_mib * MIB
    )


class BodyBudget:
    """Used from the event loop only. Bytes are taken before they are read, and given back once the request no longer
    holds its body."""

    def __init__(self, *, total_bytes: int, owner_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.owner_bytes = owner_bytes
        self.held_bytes = 0
        self._held_by: Counter[str] = Counter()
        self._freed_bytes = 0

    @contextmanager
    def held(self, owner: str) -> Iterator[BodyShare]:
        """What one request takes; all of it is given back at the end."""
        share = BodyShare(self, owner)
        try:
            yield share
        finally:
            share.release()

    def take(self, owner: str, num_bytes: int) -> None:
        """Raises ApiError 429 where there is no room. A caller that holds nothing may take any body, so that none is
        refused for ever."""
        of_owner = self._held_by[owner]
        if of_owner and of_owner + num_bytes > self.owner_bytes:
            raise _full(f"your requests hold {of_owner:,} bytes of bodies, of {self.owner_bytes:,} that they may")
        if self.held_bytes and self.held_bytes + num_bytes > self.total_bytes:
            raise _full("the server holds as many bytes of bodies as it may")
        self.held_bytes += num_bytes
        self._held_by[owner] += num_bytes

    def give_back(self, owner: str, num_bytes: int) -> None:
        self.held_bytes -= num_bytes
        self._held_by[owner] -= num_bytes
        if not self._held_by[owner]:
            del self._held_by[owner]
        is_due = self._freed_bytes >= FREED_BYTES
        self._freed_bytes += num_bytes
        if self._freed_bytes >= FREED_BYTES and not is_due:
            asyncio.get_running_loop().call_later(FREED_AFTER_S, self._trim)

    def _trim(self) -> None:
        self._freed_bytes = 0
        asyncio.get_running_loop().run_in_executor(None, give_back_freed_memory)


class BodyShare:
    """Of one request."""

    def __init__(self, budget: BodyBudget, owner: str) -> None:
        self._budget = budget
        self._owner = owner
        self.num_bytes = 0

    def grow_to(self, num_bytes: int) -> None:
        """Raises ApiError 429."""
        if num_bytes > self.num_bytes:
            self._budget.take(self._owner, num_bytes - self.num_bytes)
            self.num_bytes = num_bytes

    def release(self) -> None:
        if self.num_bytes:
            self._budget.give_back(self._owner, self.num_bytes)
            self.num_bytes = 0


def _full(message: str) -> ApiError:
    return ApiError(
        429,
        f"{message}; send this one again once others are answered",
        kind="rate_limited",
        code="1300",
        headers={"retry-after": str(RETRY_AFTER_S), "connection": "close"},  # the body is not read
    )
