"""What a tenant feels while another works against it, seen from a process of its own: the gaps between the tokens of
its streams, the time to /health, to GET /v1/models with its key, and to a chat about a document of 11 bytes.

Moments are those of `time.monotonic`, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import TracebackType

SPANS = ("gaps", "first_tokens", "health", "models", "documents")
Span = tuple[float, float]
"""From when to when something was waited for."""

HEALTH_EVERY_S = 0.02
MODELS_EVERY_S = 0.05
DOCUMENTS_EVERY_S = 0.25
ANSWER_TOKENS = 1500
DOCUMENT = {"type": "document_url", "document_url": "data:text/plain;base64,RWxldmVuIGJ5dGU="}
SMALL_DOCUMENT = json.dumps(
    {"model": "default", "messages": [{"role": "user", "content": [DOCUMENT]}], "max_tokens": 1}
).encode()
PATIENCE_S = 30.0
"""How long `take` waits for what is not answered; after that, the wait counts as long as it has been."""


@dataclass
class Felt:
    """Waits by what was waited for; a wait belongs to a window that it overlaps."""

    gaps: list[Span] = field(default_factory=list)
    first_tokens: list[Span] = field(default_factory=list)
    health: list[Span] = field(default_factory=list)
    models: list[Span] = field(default_factory=list)
    documents: list[Span] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    is_stuck: bool = False  # something was not answered

    def within(self, start: float, end: float) -> dict[str, list[float]]:
        """Seconds."""
        return {
            name: [until - since for since, until in getattr(self, name) if until >= start and since <= end]
            for name in SPANS
        }


class Probes:
    """Runs while it is entered; `take` gives what was felt since the last time, once nothing is waited for that began
    before."""

    def __init__(self, url: str, token: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_run, args=(url, token, other), daemon=True)

    def __enter__(self) -> Probes:
        self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.join()

    def take(self) -> Felt:
        self._pipe.send(None)
        felt: Felt = self._pipe.recv()
        return felt


def _run(url: str, token: str, pipe: Connection) -> None:
    asyncio.run(_probe(url, token, pipe))


async def _probe(url: str, token: str, pipe: Connection) -> None:
    felt = Felt()
    waiting: dict[str, float] = {}  # since when, by the name of the list that the wait will be in

    async def answer() -> None:
        while True:
            while not pipe.poll():
                await asyncio.sleep(0.05)
            pipe.recv()
            asked = time.monotonic()
            while any(since < asked for since in waiting.values()) and time.monotonic() - asked < PATIENCE_S:
                await asyncio.sleep(0.01)
            for name, since in waiting.items():
                if since < asked:
                    getattr(felt, name).append((since, time.monotonic()))
                    felt.is_stuck = True
            pipe.send(felt)
            for name in (*SPANS, "failures"):
                getattr(felt, name).clear()

    host, port = url.removeprefix("http://").split(":")
    head = f"Host: {host}:{port}\r\nAuthorization: Bearer {token}\r\n"

    async def ask(path: str, name: str, content: bytes = b"") -> None:
        lines = f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n" if content else ""
        reader, writer = await asyncio.open_connection(host, int(port))
        with contextlib.closing(writer):
            waiting[name] = time.monotonic()
            start = f"{'POST' if content else 'GET'} {path} HTTP/1.1\r\n{head}{lines}Connection: close\r\n\r\n"
            writer.write(start.encode() + content)
            answer = await reader.read()
            getattr(felt, name).append((waiting.pop(name), time.monotonic()))
        if b" 200 " not in answer[:16]:
            felt.failures.append(f"{path}: {answer[:40]!r}")

    async def stream() -> None:
        body = {"model": "default", "prompt": f"{time.monotonic()} once upon a time", "max_tokens": ANSWER_TOKENS,
                "min_tokens": ANSWER_TOKENS, "temperature": 0.7, "stream": True}  # fmt: skip
        content = json.dumps(body).encode()
        reader, writer = await asyncio.open_connection(host, int(port), limit=2**20)
        with contextlib.closing(writer):
            name = "first_tokens"
            waiting[name] = time.monotonic()
            lines = f"Content-Type: application/json\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
            writer.write(f"POST /v1/completions HTTP/1.1\r\n{head}{lines}".encode() + content)
            while line := await reader.readline():
                if line.startswith(b"HTTP/1.1 ") and b" 200 " not in line:
                    felt.failures.append(f"stream: {line[:40]!r}")
                if line.startswith(b"data: {"):
                    now = time.monotonic()
                    getattr(felt, name).append((waiting.pop(name), now))
                    name = "gaps"
                    waiting[name] = now
            waiting.pop(name, None)

    await asyncio.gather(
        answer(),
        _forever(stream, 0.0, felt),
        _forever(lambda: ask("/health", "health"), HEALTH_EVERY_S, felt),
        _forever(lambda: ask("/v1/models", "models"), MODELS_EVERY_S, felt),
        _forever(lambda: ask("/v1/chat/completions", "documents", SMALL_DOCUMENT), DOCUMENTS_EVERY_S, felt),
    )


async def _forever(ask: Callable[[], Awaitable[None]], every_s: float, felt: Felt) -> None:
    while True:
        try:
            await ask()
        except (OSError, asyncio.IncompleteReadError) as error:
            felt.failures.append(repr(error))
            await asyncio.sleep(0.1)
        await asyncio.sleep(every_s)
