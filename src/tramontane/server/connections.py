"""Connections: how many there may be and how long each may keep the server waiting.

Three things can be waited for: a head, a body, and that a reader takes what is there for it. A head has so many seconds
from its first byte (the first one: from the connection's beginning). Bodies and readers have an Allowance: they may
pause, and on the whole must keep a least rate, so that slow but honest ones come through. Over a cap, the connection
that has longest had no request makes room, of the address that has most; one that is being answered never does.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
ROUND = 256
"""Connections looked at before others have a turn."""
WARN_EVERY_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """`proxies` are the addresses, besides this machine's own, that `max_per_address` does not hold for."""

    max_connections: int = 2048
    max_per_address: int = 512
    proxies: Collection[str] = ()
    head_s: float = 20.0
    body_stall_s: float = 20.0
    read_stall_s: float = 120.0
    min_bytes_per_s: float = 1024.0

    @property
    def watch_s(self) -> float:
        """How often to look, so that a limit is exceeded by no more than a quarter."""
        return min(1.0, self.head_s / 4, self.body_stall_s / 4, self.read_stall_s / 4)


class Allowance:
    """Seconds that are left to wait for the other end. Each byte that moves earns its time at the least rate, up to
    `stall_s`: pauses of that length are allowed, and a rate below the least is not for long."""

    def __init__(self, stall_s: float, min_bytes_per_s: float) -> None:
        self._stall_s = self._left_s = stall_s
        self._s_per_byte = 1 / min_bytes_per_s

    def renew(self) -> None:
        self._left_s = self._stall_s

    def earn(self, num_bytes: int) -> None:
        self._left_s = min(self._stall_s, self._left_s + num_bytes * self._s_per_byte)

    def spend(self, waited_s: float) -> bool:
        """Whether there is none left."""
        self._left_s -= waited_s
        return self._left_s <= 0


class Connection(Protocol):
    """`address` is that of the other end as `address_of` has it."""

    @property
    def address(self) -> str: ...
    def check(self, now: float, waited_s: float) -> None: ...
    def drop(self) -> None: ...


class Connections:
    """All of a server's. Of one event loop."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._all: set[Connection] = set()
        self._count: dict[str, int] = {}
        self._idle: dict[str, dict[Connection, None]] = {}  # by address; who has longest been idle comes first
        # behind a reverse proxy, as a rule, all clients come from its one address
        self._free = {LOOPBACK, *map(address_of, limits.proxies)}
        self._warned = float("-inf")

    def __len__(self) -> int:
        return len(self._all)

    def add(self, connection: Connection) -> bool:
        """Whether there is a place for it: one that is idle loses its own otherwise."""
        address = connection.address
        has_place = True
        if address not in self._free and self._count.get(address, 0) >= self.limits.max_per_address:
            has_place = self._drop_idle(address)
        elif len(self._all) >= self.limits.max_connections:
            fullest = max(self._idle, key=lambda other: self._count.get(other, 0), default=None)
            has_place = fullest is not None and self._drop_idle(fullest)
        self._all.add(connection)
        self._count[address] = self._count.get(address, 0) + 1
        if has_place:
            self.idle(connection)
        return has_place

    def remove(self, connection: Connection) -> None:
        if connection not in self._all:
            return
        self._all.remove(connection)
        self.busy(connection)
        address = connection.address
        self._count[address] -= 1
        if not self._count[address]:
            del self._count[address]

    def idle(self, connection: Connection) -> None:
        """It has no request now."""
        if connection in self._all:
            self._idle.setdefault(connection.address, {})[connection] = None

    def busy(self, connection: Connection) -> None:
        """Its request has begun."""
        idle = self._idle.get(connection.address)
        if idle is not None:
            idle.pop(connection, None)
            if not idle:
                del self._idle[connection.address]

    async def watch(self) -> None:
        """Look after all of them, for good."""
        before = time.monotonic()
        while True:
            await asyncio.sleep(self.limits.watch_s)
            now = time.monotonic()
            waited_s = min(now - before, 2 * self.limits.watch_s)  # a loop that was held up is nobody else's fault
            before = now
            for number, connection in enumerate(list(self._all)):
                if number % ROUND == ROUND - 1:
                    await asyncio.sleep(0)
                if connection in self._all:
                    connection.check(now, waited_s)

    def _drop_idle(self, address: str) -> bool:
        victim = next(iter(self._idle.get(address, ())), None)
        now = time.monotonic()
        if now - self._warned > WARN_EVERY_S:
            self._warned = now
            what = "idle ones are closed" if victim else "new ones are refused"
            log.warning("%d connections, %d of them from %s: %s", len(self._all), self._count[address], address, what)
        if victim is None:
            return False
        self.remove(victim)
        victim.drop()
        return True


def address_of(host: str) -> str:
    """The address itself, or of IPv6 the network that one subscriber has, /64; one for all of this machine's. What is
    no address stays as it is."""
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return host
    found = getattr(found, "ipv4_mapped", None) or found
    if found.is_loopback:
        return LOOPBACK
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(ipaddress.ip_network((int(found) >> 64 << 64, 64)))
