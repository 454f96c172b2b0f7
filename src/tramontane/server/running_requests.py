"""RunningRequests: how many requests of a key are being answered; per server process, in memory."""

from __future__ import annotations

from collections import Counter

from starlette.types import Scope

from tramontane.server.errors import RETRY_AFTER_S, ApiError
from tramontane.server.guard import at_end
from tramontane.server.store.tables import Key


class RunningRequests:
    """`most` holds for keys that say nothing themselves; None: no limit."""

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._running: Counter[str] = Counter()

    def enter(self, key: Key, scope: Scope) -> None:
        """The request of `scope` counts until it is over. Raises ApiError 429."""
        most = self._most if key.max_concurrent_requests is None else key.max_concurrent_requests
        running = self._running[key.id]
        if most is not None and running >= most:
            raise ApiError(
                429,
                f"this key has {running} of {most} requests running; wait until some have ended, or have the operator "
                "raise it (tramontane keys limit)",
                code="quota_exceeded",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )
        self._running[key.id] += 1
        at_end(scope, lambda: self._leave(key.id))

    def _leave(self, key_id: str) -> None:
        self._running[key_id] -= 1
        if not self._running[key_id]:
            del self._running[key_id]
