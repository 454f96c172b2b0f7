"""HttpProtocol: uvicorn's, with bounds on what stands before the body, on waiting and on what is read in vain, and
refusals in our own words."""

from __future__ import annotations

import asyncio
import logging
import time
from http import HTTPStatus
from typing import Any

import httptools
from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tramontane.server.connections import Allowance, Connections, address_of
from tramontane.server.errors import ApiError
from tramontane.server.transport import Transport

log = logging.getLogger(__name__)
MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 200
MAX_PIPELINED = 32
"""Requests that may stand behind one that is being answered; the connection is closed after them if there are more."""
LINGER_S = 30.0
LINGER_BYTES = 64 * 2**20
"""What is still read of a request that was answered before its end: clients that send everything before they read
anything see the answer then. Nothing of it is kept."""
MAX_REFUSED = 32
"""Connections beyond the cap that are told so; the others are closed without a word."""


class HttpProtocol(HttpToolsProtocol):
    """What the parser itself would let grow or last without end is cut here: heads and trailers, the time they take,
    bodies that do not come, answers that are not taken, requests behind each other."""

    transport: Transport

    def __init__(self, *arguments: Any, connections: Connections, **options: Any) -> None:
        super().__init__(*arguments, **options)
        limits = connections.limits
        self.address = ""
        self._connections = connections
        self._body_time = Allowance(limits.body_stall_s, limits.min_bytes_per_s)
        self._read_time = Allowance(limits.read_stall_s, limits.min_bytes_per_s)
        self._num_taken = 0
        self._head_since: float | None = time.monotonic()  # None: of the next request nothing has come
        self._head_bytes = 0  # received of a head that is not complete
        self._size = 0  # of the names and values in it
        self._is_in_head = True
        self._is_too_large = False
        self._is_deaf = False  # nothing that comes is read any more
        self._running: RequestResponseCycle | None = None  # the request that is being answered, or was last
        self._unread_bytes = 0  # received of a request since its answer is out
        self._lingers_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Transport(transport, self._is_sending))
        self.address = address_of(self.client[0]) if self.client else ""
        if not self._connections.add(self):
            self._is_deaf = True
            if len(self._connections) > self._connections.limits.max_connections + MAX_REFUSED:
                self.drop()
            else:
                self._refuse(ApiError(503, "too many connections; try again later", headers={"retry-after": "5"}))

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.remove(self)
        super().connection_lost(exc)  # which tells the latest request; those before it stand in the way of its answer
        self.pipeline.clear()
        if self._running is not None:
            self._running.disconnected = True
            self._running.message_event.set()

    def data_received(self, data: bytes) -> None:
        if self._is_deaf or self.transport.is_closing() or self._is_answered:
            self._unread_bytes += len(data)
            if self._unread_bytes > LINGER_BYTES:
                self.drop()
                return
            if self._is_deaf or self.transport.is_closing():
                return
        self._unset_keepalive_if_required()
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._head_since is None:
                self._head_since = time.monotonic()
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._end(self._wrong())
            return
        if self._is_in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._is_too_large = True
            self._end(self._wrong())

    def _feed(self, data: bytes) -> None:
        """To the parser. An upgrade is not offered: what follows is the next request (RFC 9110, 7.8), but for CONNECT,
        behind which anything may come."""
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if self.scope["method"] == "CONNECT":
                    self.cycle.keep_alive = False
                    self._is_deaf = True
                    return
                data = data[upgrade.args[0] :]

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            raise httptools.HttpParserError
        self._is_in_head = True
        self._size = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._size += len(name) + len(value)
        if self._is_in_head:
            super().on_header(name, value)
        # else a trailer, behind the body: no part of the head (RFC 9110, 6.5.1), whatever it is named
        self._is_too_large = self._size > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS
        if self._is_too_large:
            raise httptools.HttpParserError  # ends the parsing

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._head_since = None
        self._head_bytes = self._unread_bytes = 0
        self._body_time.renew()
        self._connections.busy(self)
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        self._body_time.earn(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_in_head = True
        super().on_message_complete()

    def shutdown(self) -> None:
        if self._is_answered:
            self.transport.finish()
        else:
            super().shutdown()

    def check(self, now: float, waited_s: float) -> None:
        """End what has been waited for too long. `waited_s` has passed since the last look."""
        if self.transport.num_waiting:
            num_taken, self._num_taken = self._num_taken, self.transport.num_taken
            self._read_time.earn(self._num_taken - num_taken)
            if self._read_time.spend(waited_s):
                self.drop()
                return
        else:
            self._read_time.renew()
            if self._is_answered:
                self._connections.idle(self)
        if self.transport.is_closing():
            self._lingers_since = self._lingers_since or now
            if now - self._lingers_since > LINGER_S:
                self.drop()
        elif self.flow.read_paused:  # it is the other end that waits
            self._head_since = None if self._head_since is None else now
        elif self._is_in_head:
            if self._head_since is not None and now - self._head_since > self._connections.limits.head_s:
                self._end(ApiError(408, "the head of the request did not come in time") if self._head_bytes else None)
        elif not self.cycle.waiting_for_100_continue and self._body_time.spend(waited_s):
            self._end(ApiError(408, "the body of the request did not come in time, or too slowly"))

    def drop(self) -> None:
        """Close at once, whatever is under way."""
        self.transport.abort()

    @property
    def _is_answered(self) -> bool:
        """There is no request, or the answer to it is out."""
        return self.cycle is None or bool(self.cycle.response_complete)

    def _is_sending(self) -> bool:
        """Whether the other end may be in the middle of a request."""
        return self._is_deaf or not self._is_in_head or self._head_bytes > 0

    def _end(self, error: ApiError | None) -> None:
        """Read nothing more and close, with `error` where that can be said: not into another answer. Those to whole
        requests are given first."""
        self._is_deaf = True
        if not self._is_answered and self._is_in_head:
            self.cycle.keep_alive = False
        elif error is None or (not self._is_in_head and (self.pipeline or self.cycle.response_started)):
            self.drop()
        else:
            self._refuse(error)
            if not self._is_in_head:  # whoever reads the body hears that there is no more
                self.cycle.disconnected = True
                self.cycle.message_event.set()

    def _wrong(self) -> ApiError:
        if self._is_too_large:
            return ApiError(431, f"the headers are too large: at most {MAX_HEADERS} of {MAX_HEAD_BYTES:,} bytes in all")
        return ApiError(400, "this is no valid HTTP request")

    def _refuse(self, error: ApiError) -> None:
        response: Response = error.response()
        lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}".encode(), b"connection: close"]
        lines += [name + b": " + value for name, value in response.raw_headers]
        self.transport.write(b"\r\n".join([*lines, b"", bytes(response.body)]))
        self.transport.close()
