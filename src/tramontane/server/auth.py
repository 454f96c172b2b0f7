"""Who is calling, and what they may do: every route states its policy, and one that states none is never served."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from tramontane.errors import ConfigError
from tramontane.server.errors import ApiError
from tramontane.server.guard import HEADERS
from tramontane.server.keys import SCOPES, find_key, get_valid_key, has_keys
from tramontane.server.limits import RateLimits
from tramontane.server.running_requests import RunningRequests
from tramontane.server.store.database import Database
from tramontane.server.store.tables import Key
from tramontane.server.threads import in_pool

LOOPBACK = ("127.0.0.1", "::1", "localhost")
PROXIED = frozenset(
    b"forwarded via x-real-ip client-ip true-client-ip x-client-ip x-cluster-client-ip x-remote-ip x-remote-addr "
    b"x-proxyuser-ip proxy-client-ip wl-proxy-client-ip x-appengine-user-ip x-azure-clientip x-azure-socketip "
    b"fastly-client-ip fly-client-ip x-varnish x-nf-client-connection-ip cdn-loop x-amzn-trace-id x-proxy-id "
    b"x-cloud-trace-context x-scheme x-host x-originating-ip".split()
)
PROXIED_PREFIXES = (b"x-forwarded", b"x-original-", b"x-envoy-", b"x-amz-cf-", b"cf-", b"cloudfront-", b"tailscale-")
"""Headers by which proxies, tunnels and content networks say whom they speak for, or give themselves away."""
REMEMBERED_S = 1.0
"""How long a key is taken for good without another look into the database: a revoked one works no longer than that."""
NUM_REMEMBERED = 4096
SCOPE = "tramontane_scope"
PUBLIC = "public"


@dataclass(frozen=True, slots=True)
class Caller:
    """`owner` is whose files and jobs are seen; `salt` separates the prompt cache of one caller from that of others;
    `scopes` are what the key allows."""

    key_id: str
    salt: str
    scopes: frozenset[str]
    owner: str


OWNER = Caller(key_id="local", salt="local", scopes=SCOPES, owner="local")
"""Whoever sits at this machine, while no key is configured."""


def caller_of(key: Key) -> Caller:
    return Caller(key_id=key.id, salt=key.id, scopes=frozenset(key.scopes), owner=key.owner)


class Gate:
    """Tells callers by their keys."""

    def __init__(self, database: Database, limits: RateLimits, running: RunningRequests | None = None) -> None:
        self.database = database
        self.limits = limits
        self.running = running or RunningRequests()
        self._remembered: OrderedDict[bytes, tuple[float, Key | None]] = OrderedDict()
        self._has_keys = (0.0, False)

    async def admit(self, request: Request, scope: str) -> Caller:
        """Raises ApiError 401 for a caller who is not known, 403 for a key without `scope`, 429 over its limits."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not token and not await self.requires_keys():
            return _local(request)
        key = await self._find(token.strip()) if scheme.lower() == "bearer" and len(token) <= 256 else None
        if key is None:
            if not await self.requires_keys():  # clients cannot be told to send no key; any will do
                return _local(request)
            raise unauthorized("give a valid key as 'Authorization: Bearer ...'; tramontane keys create makes one")
        if scope not in key.scopes:
            raise ApiError(403, f"this key lacks the scope {scope!r}", code="missing_scope")
        request.scope[HEADERS] = self.limits.admit(key)
        self.running.enter(key, request.scope)
        return caller_of(key)

    async def requires_keys(self) -> bool:
        checked, found = self._has_keys
        if not found and time.monotonic() - checked > REMEMBERED_S:  # once there are keys, there always are
            found = await in_pool("keys", has_keys, self.database)
            self._has_keys = (time.monotonic(), found)
        return found

    async def readmit(self, key_id: str) -> Caller:
        """For work that goes on without its request: the caller it was begun for. Raises ApiError 401 if the key was
        revoked or has expired since, 429 while it is over its limits."""
        if key_id == OWNER.key_id:
            return OWNER
        key = await self._remember(key_id.encode(), lambda: get_valid_key(self.database, key_id))
        if key is None:
            raise ApiError(401, f"the key {key_id} that this was begun with was revoked or has expired")
        self.limits.admit(key)
        return caller_of(key)

    async def _find(self, token: str) -> Key | None:
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()  # tokens themselves are not kept
        return await self._remember(digest, lambda: find_key(self.database, token))

    async def _remember(self, name: bytes, look_up: Callable[[], Key | None]) -> Key | None:
        now = time.monotonic()
        until, key = self._remembered.get(name, (0.0, None))
        if now >= until:
            key = await in_pool("keys", look_up)
            self._remembered[name] = (now + REMEMBERED_S, key)
            if len(self._remembered) > NUM_REMEMBERED:
                self._remembered.popitem(last=False)
        return key


def _local(request: Request) -> Caller:
    is_local = request.client is not None and request.client.host in LOOPBACK
    if not is_local or _is_proxied(request.scope["headers"]):  # a proxy makes the world look local
        raise unauthorized("no key is configured, so only this machine is served; tramontane keys create makes one")
    return OWNER


def _is_proxied(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(name in PROXIED or name.startswith(PROXIED_PREFIXES) for name, _ in headers)


def unauthorized(message: str) -> ApiError:
    return ApiError(401, f"Unauthorized: {message}", headers={"www-authenticate": "Bearer"})


def authorize(scope: str) -> Callable[[Request], Awaitable[Caller]]:
    """The policy of routes that need `scope`: a dependency that gives the Caller."""
    if scope not in SCOPES:
        raise ValueError(f"unknown scope {scope!r}")

    async def caller(request: Request) -> Caller:
        gate: Gate = request.app.state.services.gate
        return await gate.admit(request, scope)

    setattr(caller, SCOPE, scope)
    return caller


async def public() -> None:
    """The policy of routes that anyone may call: a dependency that asks for nothing."""


setattr(public, SCOPE, PUBLIC)


def policies_of(route: APIRoute) -> set[str]:
    """The scopes a route asks for, its routers' included; {"public"} for one that is open on purpose."""

    def walk(dependant: Dependant) -> Iterator[str]:
        scope = getattr(dependant.call, SCOPE, None)
        if scope is not None:
            yield scope
        for child in dependant.dependencies:
            yield from walk(child)

    return set(walk(route.dependant))


def is_public(route: APIRoute) -> bool:
    return policies_of(route) == {PUBLIC}


def require_policies(routers: Iterable[APIRouter]) -> None:
    """Raises RuntimeError for a route without a policy: deny by default, decided before the first request."""
    for router in routers:
        for route in router.routes:
            policies = policies_of(route) if isinstance(route, APIRoute) else set()
            if len(policies) != 1:
                path = getattr(route, "path", repr(route))
                raise RuntimeError(f"{path} has {len(policies)} policies; give it authorize(scope) or public")


def require_safe_address(host: str, database: Database) -> None:
    """Raises ConfigError where a server without keys would be reachable from other machines."""
    if host not in LOOPBACK and not has_keys(database):
        raise ConfigError(
            f"host={host} is reachable from other machines and no key is configured; run: tramontane keys create NAME"
        )
