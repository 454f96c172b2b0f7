"""Streams of every kind from a server whose engine stands still: how long nothing comes."""

from __future__ import annotations

import asyncio
import base64
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from tests.server.in_process import HELLO

TEXT = "The tramontane is a cold wind from the north. " * 20
DOCUMENT = "data:text/plain;base64," + base64.b64encode(TEXT.encode()).decode()
READ = {"role": "user", "content": [{"type": "text", "text": "?"}, {"type": "document_url", "document_url": DOCUMENT}]}
FEW = {"max_tokens": 4, "stream": True}


def bodies(model: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Path and body of a stream, by what it is."""
    streams: dict[str, tuple[str, dict[str, Any]]] = {
        "chat": ("/v1/chat/completions", {"messages": HELLO, **FEW}),
        "chat with a document": ("/v1/chat/completions", {"messages": [READ], **FEW}),
        "completion": ("/v1/completions", {"prompt": "The wind", **FEW}),
        "several prompts": ("/v1/completions", {"prompt": ["The wind", "The sea"], **FEW}),
        "fim": ("/v1/fim/completions", {"prompt": "def f(", **FEW}),
        "response": ("/v1/responses", {"input": "The wind", "max_output_tokens": 16, "stream": True}),
        "summary": ("/api/documents/summary", {"text": TEXT, "stream": True}),
        "answer from a document": ("/api/documents/answer", {"text": TEXT, "question": "Which wind?", "stream": True}),
    }
    return {name: (path, {"model": model, **body}) for name, (path, body) in streams.items()}


@dataclass
class Silence:
    status: int
    longest_s: float  # without a byte, from the request on, while the engine stood still
    num_comments: int
    is_whole: bool  # it went on when the engine did, without an error


async def listen(
    url: str, model: str, seconds: float, let_go: Callable[[], None], names: tuple[str, ...] = ()
) -> dict[str, Silence]:
    """All streams at once, for `seconds` of standstill; then `let_go` makes the engine move, and they are read to their
    ends."""
    ends = time.monotonic() + seconds
    chosen = {name: stream for name, stream in bodies(model).items() if not names or name in names}
    async with httpx.AsyncClient(base_url=url, timeout=300) as client:
        reading = [asyncio.create_task(_read(client, path, body, ends)) for path, body in chosen.values()]
        await asyncio.sleep(seconds)
        let_go()
        return dict(zip(chosen, await asyncio.gather(*reading), strict=True))


async def _read(client: httpx.AsyncClient, path: str, body: dict[str, Any], ends: float) -> Silence:
    last, longest, text = time.monotonic(), 0.0, b""
    async with client.stream("POST", path, json=body) as answer:
        longest, last = time.monotonic() - last, time.monotonic()  # the head has come
        async for data in answer.aiter_raw():
            now = min(time.monotonic(), ends)
            longest, last = max(longest, now - last), now
            text += data
    is_whole = answer.status_code == 200 and re.search(rb'"error": ?[^n ]', text) is None
    return Silence(answer.status_code, longest, text.count(b"\n:") + text.startswith(b":"), is_whole)
