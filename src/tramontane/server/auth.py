"""Who is calling, and what they may do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request

from tramontane.server.errors import ApiError


@dataclass(frozen=True, slots=True)
class Caller:
    """`salt` separates the prompt cache of one caller from that of others; `scopes` are what the key allows."""

    key_id: str
    salt: str
    scopes: frozenset[str]


SCOPES = frozenset(("inference", "files", "batch", "fine_tuning", "admin"))
OWNER = Caller(key_id="owner", salt="owner", scopes=SCOPES)
"""Whoever sits at this machine, while no key is configured."""

LOOPBACK = ("127.0.0.1", "::1")


def authorize(scope: str) -> Callable[[Request], Caller]:
    """A dependency for the routes of `scope`. Without configured keys, every caller on this machine is the owner."""
    if scope not in SCOPES:
        raise ValueError(f"unknown scope {scope!r}")

    def caller(request: Request) -> Caller:
        if request.client is None or request.client.host not in LOOPBACK:
            raise ApiError(401, "Unauthorized: no key is configured, so only callers on this machine are served")
        return OWNER

    return caller
