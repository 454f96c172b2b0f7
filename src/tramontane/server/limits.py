"""RateLimits: how many requests and tokens a key may use a minute, as buckets that fill steadily."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from tramontane.server.errors import ApiError
from tramontane.server.store.tables import Key

PERIOD_S = 60.0


@dataclass(slots=True)
class Bucket:
    """Holds up to `size`, filling in PERIOD_S from empty. How many tokens a request takes is not known before, so the
    level may fall below zero; the next request then waits longer."""

    size: int
    level: float
    updated: float

    def fill(self, now: float) -> None:
        self.level = min(self.size, self.level + (now - self.updated) * self.size / PERIOD_S)
        self.updated = now

    def wait_s(self) -> float:
        """Until one more can be taken."""
        return max(0.0, (1 - self.level) * PERIOD_S / self.size)


class RateLimits:
    """Per server process, in memory: a restart gives full buckets."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str], Bucket] = {}

    def admit(self, key: Key) -> dict[str, str]:
        """Take one request; returns the headers that say what is left. Raises ApiError 429 with Retry-After."""
        now = self._clock()
        requests = self._bucket(key.id, "requests", key.requests_per_minute, now)
        tokens = self._bucket(key.id, "tokens", key.tokens_per_minute, now)
        wait_s = max(bucket.wait_s() if bucket else 0.0 for bucket in (requests, tokens))
        if requests is not None and not wait_s:
            requests.level -= 1
        headers = {}
        for name, bucket in (("requests", requests), ("tokens", tokens)):
            if bucket is not None:
                remaining = str(max(0, math.floor(bucket.level)))
                headers[f"x-ratelimit-limit-{name}"] = str(bucket.size)
                headers[f"x-ratelimit-remaining-{name}"] = remaining
                headers[f"x-ratelimit-reset-{name}"] = f"{bucket.wait_s():.0f}s"
                headers.setdefault("x-ratelimit-limit", str(bucket.size))
                headers.setdefault("x-ratelimit-remaining", remaining)
        if wait_s:
            headers["retry-after"] = str(math.ceil(wait_s))
            raise ApiError(429, "Rate limit exceeded", kind="rate_limited", code="1300", headers=headers)
        return headers

    def charge(self, key_id: str, num_tokens: int) -> None:
        """Take tokens: of a prompt when it is queued, of an answer as they are made; below 0, give back."""
        bucket = self._buckets.get((key_id, "tokens"))
        if bucket is not None:
            bucket.fill(self._clock())
            bucket.level -= num_tokens

    def _bucket(self, key_id: str, kind: str, size: int | None, now: float) -> Bucket | None:
        if size is None:
            return None
        bucket = self._buckets.setdefault((key_id, kind), Bucket(size, size, now))
        bucket.size = size
        bucket.fill(now)
        return bucket
