"""What a request must look like before any route sees it. Plain ASGI around the whole app.

Guard, the outermost. Host: a web page whose name is made to resolve to this machine (DNS rebinding) sends that name.
Origin: a page of another site that posts to us sends its own. Both are refused, with or without cookies or keys.
BodyLimit, inside of what tells browsers which pages may read answers: sizes are counted as bytes arrive, whatever the
headers claim.
"""

from __future__ import annotations

import ipaddress
import re
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tramontane.server.errors import ApiError

HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:(?P<port>[0-9]{1,5}))?\Z")
LOCAL_NAMES = frozenset(("localhost", "127.0.0.1", "[::1]"))
MIB = 2**20
MULTIPART_BYTES = MIB
"""Room for what a form holds besides its file."""
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
MAX_PATH_BYTES = 4096
MAX_PARAMETERS = 100
"""Of a query: each is taken apart on the event loop, before any route is asked."""
HEADERS = "tramontane.headers"
"""Where a dependency leaves headers of the answer, whatever answer it will be: a dict in the scope."""
BOUNDS = "tramontane.body_bounds"
"""Where the bounds of the request's body are in the scope."""
REQUEST_ID = "tramontane.request_id"
"""Where the request's id is in the scope: every answer carries it, and what is logged of a failure."""
AT_END = "tramontane.at_end"
"""Where the scope has what `at_end` was given."""
KEY_HEADER = "idempotency-key"
KEY_HONOURED = "tramontane.key_honoured"
"""In the scope of requests whose Idempotency-Key has an effect; others are told that theirs has none."""
CONTENT_DIGEST = "tramontane.content_digest"
"""In the scope of requests with an Idempotency-Key whose body was read: bytes that stand for it."""
KEY_IGNORED = (b"x-ignored-headers", KEY_HEADER.encode())
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


@dataclass(frozen=True, slots=True)
class GuardPolicy:
    """`hosts` are the names this server answers to; None allows every name, for servers that keys protect. `origins`
    are the sites whose pages may call it, such as https://chat.example; "*" is any. `uploads` are the paths whose
    bodies may have `max_upload_bytes`."""

    hosts: frozenset[str] | None = LOCAL_NAMES
    origins: frozenset[str] = frozenset()
    max_body_bytes: int = 32 * MIB
    max_upload_bytes: int = 512 * MIB
    uploads: frozenset[str] = frozenset(("/v1/files",))

    def max_bytes(self, path: str) -> int:
        return self.max_upload_bytes + MULTIPART_BYTES if path in self.uploads else self.max_body_bytes


def at_end(scope: Scope, work: Callable[[], None]) -> None:
    """`work` is called when the request is over, however it ends."""
    scope.setdefault(AT_END, []).append(work)


class Guard:
    def __init__(self, app: ASGIApp, policy: GuardPolicy) -> None:
        self.app = app
        self.policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            raise RuntimeError(f"no {scope['type']} is served")

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[REQUEST_ID] = request_id = uuid.uuid4().hex

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in scope.get(HEADERS, {}).items()]
                ids = [(name, request_id.encode()) for name in (b"mistral-correlation-id", b"x-request-id")]
                if KEY_HONOURED not in scope and _header(scope, KEY_HEADER.encode()) is not None:
                    ids.append(KEY_IGNORED)
                given = {name for name, _ in message["headers"]}
                extra = [pair for pair in (*own, *ids, *SECURITY_HEADERS) if pair[0] not in given]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        try:
            self._check(scope)
        except ApiError as error:
            await error.response()(scope, receive, guarded)
            return
        try:
            await self.app(scope, receive, guarded)
        finally:
            for work in scope.get(AT_END, ()):
                work()

    def _check(self, scope: Scope) -> None:
        """Raises ApiError."""
        if scope["method"] not in METHODS:
            raise ApiError(405, "method not allowed", headers={"allow": ", ".join(sorted(METHODS))})
        if len(scope.get("raw_path") or b"") > MAX_PATH_BYTES:
            raise ApiError(414, f"the path is longer than {MAX_PATH_BYTES} bytes")
        if scope["query_string"].count(b"&") >= MAX_PARAMETERS:
            raise ApiError(414, f"the query has more than {MAX_PARAMETERS} parameters")
        self._check_origin(scope, self._check_host(scope))

    def _check_host(self, scope: Scope) -> str:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        match = HOST.match(hosts[0].decode("latin-1")) if len(hosts) == 1 else None
        if match is None or int(match["port"] or 0) >= 2**16:
            raise ApiError(400, "give one Host header, a name or address with an optional port")
        name = match["name"].lower()
        if not _is_allowed(name, self.policy.hosts):
            raise ApiError(403, "this server does not go by that Host; --allowed-host adds a name", code="host")
        return match[0].lower()

    def _check_origin(self, scope: Scope, authority: str) -> None:
        origins = [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]
        if len(origins) > 1:
            raise ApiError(400, "more than one Origin header")
        if not origins:
            site, mode = _header(scope, b"sec-fetch-site"), _header(scope, b"sec-fetch-mode")
            is_link = mode == "navigate" and scope["method"] in ("GET", "HEAD")
            if site in ("cross-site", "same-site") and not is_link:
                raise ApiError(403, "pages of other sites may not call this server", code="origin")
            return
        if origins[0].lower() in (f"http://{authority}", f"https://{authority}"):
            return
        if "*" not in self.policy.origins and origins[0] not in self.policy.origins:
            raise ApiError(403, "pages of that Origin may not call this server; --cors-origin lets one", code="origin")


class Bounds(Protocol):
    """How much the body of a request may hold."""

    @property
    def max_bytes(self) -> int: ...


class BodyLimit:
    """`bounds_of` tells them by the path."""

    def __init__(self, app: ASGIApp, bounds_of: Callable[[str], Bounds]) -> None:
        self.app = app
        self.bounds_of = bounds_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope[BOUNDS] = bounds = self.bounds_of(scope["path"])
        limit = bounds.max_bytes
        length = _header(scope, b"content-length")
        if length is not None and not (length.isascii() and length.isdigit()):
            await ApiError(400, "Content-Length is not a number").response()(scope, receive, send)
        elif length is not None and (len(length) > 18 or int(length) > limit):
            await _too_large(limit).response()(scope, receive, send)
        else:
            await self.app(scope, _counted(receive, limit), send)


def _counted(receive: Receive, limit: int) -> Receive:
    num_bytes = 0

    async def counted() -> Message:
        nonlocal num_bytes
        message = await receive()
        num_bytes += len(message.get("body", b""))
        if num_bytes > limit:
            raise _too_large(limit)
        return message

    return counted


def _too_large(limit: int) -> ApiError:
    close = {"connection": "close"}  # what is left of the body is not read
    return ApiError(413, f"the body is larger than {limit} bytes", code="too_large", headers=close)


def _is_allowed(name: str, hosts: Collection[str] | None) -> bool:
    if hosts is None or name in hosts:
        return True
    try:  # all of 127.0.0.0/8 is this machine, in its one canonical spelling
        return "127.0.0.1" in hosts and ipaddress.IPv4Address(name).is_loopback
    except ValueError:
        return False


def _header(scope: Scope, wanted: bytes) -> str | None:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == wanted), None)
