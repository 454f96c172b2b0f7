"""Guard: what a request must look like before any route sees it. Plain ASGI around the whole app.

Host: a web page whose name is made to resolve to this machine (DNS rebinding) sends that name. Origin: a page of
another site that posts to us sends its own. Both are refused, with or without cookies or keys. Sizes are counted as
bytes arrive, whatever the headers claim.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tramontane.server.errors import ApiError

HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:(?P<port>[0-9]{1,5}))?\Z")
LOCAL_NAMES = frozenset(("localhost", "127.0.0.1", "[::1]"))
MIB = 2**20
MULTIPART_BYTES = MIB
"""Room for what a form holds besides its file."""
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
MAX_PATH_BYTES = 4096
HEADERS = "tramontane.headers"
"""Where a dependency leaves headers of the answer, whatever answer it will be: a dict in the scope."""
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
        cors: list[tuple[bytes, bytes]] = []

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in scope.get(HEADERS, {}).items()]
                given = {name for name, _ in message["headers"]}
                extra = [pair for pair in (*cors, *own, *SECURITY_HEADERS) if pair[0] not in given]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        limit = self.policy.max_bytes(scope["path"])
        try:
            origin = self._check(scope, limit)
        except ApiError as error:
            await error.response()(scope, receive, guarded)
            return
        if origin is not None:
            cors += _cors_headers(origin)
            if scope["method"] == "OPTIONS" and _header(scope, b"access-control-request-method") is not None:
                await guarded({"type": "http.response.start", "status": 204, "headers": []})
                await guarded({"type": "http.response.body", "body": b""})
                return
        await self.app(scope, _counted(receive, limit), guarded)

    def _check(self, scope: Scope, limit: int) -> str | None:
        """The foreign origin that is allowed to call, if it is one. Raises ApiError."""
        if scope["method"] not in METHODS:
            raise ApiError(405, "method not allowed", headers={"allow": ", ".join(sorted(METHODS))})
        if len(scope.get("raw_path") or b"") > MAX_PATH_BYTES:
            raise ApiError(414, f"the path is longer than {MAX_PATH_BYTES} bytes")
        authority = self._check_host(scope)
        origin = self._check_origin(scope, authority)
        length = _header(scope, b"content-length")
        if length is not None and not (length.isascii() and length.isdigit()):
            raise ApiError(400, "Content-Length is not a number")
        if length is not None and (len(length) > 18 or int(length) > limit):
            raise _too_large(limit)
        return origin

    def _check_host(self, scope: Scope) -> str:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        match = HOST.match(hosts[0].decode("latin-1")) if len(hosts) == 1 else None
        if match is None or int(match["port"] or 0) >= 2**16:
            raise ApiError(400, "give one Host header, a name or address with an optional port")
        name = match["name"].lower()
        if not _is_allowed(name, self.policy.hosts):
            raise ApiError(403, "this server does not go by that Host; --allowed-host adds a name", code="host")
        return match[0].lower()

    def _check_origin(self, scope: Scope, authority: str) -> str | None:
        origins = [value.decode("latin-1") for name, value in scope["headers"] if name == b"origin"]
        if len(origins) > 1:
            raise ApiError(400, "more than one Origin header")
        if not origins:
            site, mode = _header(scope, b"sec-fetch-site"), _header(scope, b"sec-fetch-mode")
            is_link = mode == "navigate" and scope["method"] in ("GET", "HEAD")
            if site in ("cross-site", "same-site") and not is_link:
                raise ApiError(403, "pages of other sites may not call this server", code="origin")
            return None
        origin: str = origins[0]
        if origin.lower() in (f"http://{authority}", f"https://{authority}"):
            return None
        if "*" in self.policy.origins or origin in self.policy.origins:
            return origin
        raise ApiError(403, "pages of that Origin may not call this server; --cors-origin lets one", code="origin")


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


def _cors_headers(origin: str) -> list[tuple[bytes, bytes]]:
    """Without credentials: a page must hold a key of its own, never a cookie."""
    return [
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE"),
        (b"access-control-allow-headers", b"authorization, content-type"),
        (b"access-control-max-age", b"600"),
        (b"cross-origin-resource-policy", b"cross-origin"),
        (b"vary", b"origin"),
    ]


def _is_allowed(name: str, hosts: Collection[str] | None) -> bool:
    if hosts is None or name in hosts:
        return True
    try:  # all of 127.0.0.0/8 is this machine, in its one canonical spelling
        return "127.0.0.1" in hosts and ipaddress.IPv4Address(name).is_loopback
    except ValueError:
        return False


def _header(scope: Scope, wanted: bytes) -> str | None:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == wanted), None)
