"""EventStream: a response of server-sent events that notices when its reader has gone."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

import pydantic_core
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

KEEP_ALIVE_S = 10.0
"""A comment line after so long without an event: proxies cut connections that are silent for 60 seconds or less."""
DONE = b"data: [DONE]\n\n"
HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no"}


LINE_ENDS = {character.encode(): f"\\u{ord(character):04x}".encode() for character in "\u0085\u2028\u2029"}
"""Those that JSON lets stand: an event stream ends lines at none of them, but many a small reader of one does."""


def event(data: Mapping[str, object]) -> bytes:
    text = pydantic_core.to_json(data)
    for character, escaped in LINE_ENDS.items():
        text = text.replace(character, escaped)
    return b"data: " + text + b"\n\n"


def typed_event(data: Mapping[str, object]) -> bytes:
    """An event that carries its `type` in the line before as well."""
    return b"event: %s\n" % str(data["type"]).encode() + event(data)


def comment(text: str) -> bytes:
    """A line that readers of events pass over."""
    return b": %s\n\n" % text.encode("ascii", "replace").replace(b"\n", b" ")


KEEP_ALIVE = comment("keep-alive")


def failure_event(request_id: str, model: str, error: Mapping[str, object]) -> bytes:
    """Of a request that fails before its kind of answer has begun, in one that every client reads as a failure: the
    last chunk of a chat to Mistral's, `error` to OpenAI's, an event of that type to readers of Responses."""
    choice = {"index": 0, "delta": {"content": ""}, "text": "", "finish_reason": "error"}
    chunk = {"id": request_id, "object": "chat.completion.chunk", "model": model, "choices": [choice]}
    return typed_event({**chunk, **error, "type": "error", "error": error, "sequence_number": 0})


class EventStream(Response):
    """Sends `events` as they come and closes them when the reader goes, which frees what they hold once they have
    begun. `on_end` is called once, with whether the reader saw the end."""

    def __init__(
        self,
        events: AsyncGenerator[bytes],
        on_end: Callable[[bool], Awaitable[None]],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(headers={**HEADERS, **(headers or {})})
        del self.headers["content-length"]
        self.events = events
        self.on_end = on_end
        self._last_sent = time.monotonic()
        self._is_sending = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_whole = False
        pump = asyncio.ensure_future(self._pump(send))
        others = [asyncio.ensure_future(_disconnected(receive)), asyncio.ensure_future(self._comment(send))]
        try:
            await asyncio.wait([pump, *others], return_when=asyncio.FIRST_COMPLETED)
            with contextlib.suppress(OSError):  # what a send to a closed connection raises
                is_whole = pump.done() and pump.result()
        finally:
            for task in (pump, *others):
                task.cancel()
            await asyncio.gather(pump, *others, return_exceptions=True)
            await self.events.aclose()
            await self.on_end(is_whole)

    async def _pump(self, send: Send) -> bool:
        """Whether the reader took everything."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for data in self.events:
            await self._send(send, data)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return True

    async def _send(self, send: Send, data: bytes) -> None:
        self._is_sending = True
        await send({"type": "http.response.body", "body": data, "more_body": True})
        self._is_sending = False
        self._last_sent = time.monotonic()

    async def _comment(self, send: Send) -> None:
        """For good, in silence. A reader that takes nothing is disconnected by the server's connections."""
        while True:
            await asyncio.sleep(max(0.1, self._last_sent + KEEP_ALIVE_S - time.monotonic()))
            if not self._is_sending and time.monotonic() - self._last_sent >= KEEP_ALIVE_S:
                await self._send(send, KEEP_ALIVE)


async def _disconnected(receive: Receive) -> None:
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            return
