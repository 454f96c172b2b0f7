"""Streams over a real socket: readers that go, dawdle or wait, and a server that keeps its memory and its word."""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import time
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from starlette.types import Message

from tests.server.live import LiveServer
from tramontane.server import stream as stream_module
from tramontane.server.stream import KEEP_ALIVE, EventStream

LONG: dict[str, Any] = {
    "model": "chat", "messages": [{"role": "user", "content": "wind " * 200}], "max_tokens": 1500,
    "logit_bias": {"2": -100}, "temperature": 1.0,
}  # fmt: skip


def held_pages(http: httpx.Client) -> float:
    found = re.findall(r"tramontane_engine_held_pages\{[^}]*\} (\S+)", http.get("/metrics").text)
    return sum(map(float, found))


def wait_until_free(http: httpx.Client) -> None:
    until = time.monotonic() + 10
    while held_pages(http):
        assert time.monotonic() < until, "pages are still held"
        time.sleep(0.02)


@pytest.mark.parametrize("stream", [True, False])
def test_a_reader_that_goes_frees_its_pages(server: LiveServer, http: httpx.Client, stream: bool) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps({**LONG, "stream": stream}).encode()
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:%s\r\nContent-Type: application/json\r\n"
        % port.encode()
    )
    sockets = []
    for _ in range(20):
        connection = socket.create_connection((host, int(port)))
        connection.sendall(request + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        sockets.append(connection)
    until = time.monotonic() + 10
    while not held_pages(http):
        assert time.monotonic() < until, "nothing was begun"
    for connection in sockets:
        connection.close()
    wait_until_free(http)
    assert http.get("/health").json()["status"] == "ok"


def test_streams_that_are_cut_do_not_touch_those_that_go_on(server: LiveServer, http: httpx.Client) -> None:
    async def ask() -> tuple[str, list[str]]:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:

            async def read(limit: int | None) -> str:
                body = {**LONG, "max_tokens": 60, "seed": 11, "stream": True}
                text = ""
                async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                    async for line in answer.aiter_lines():
                        if line.startswith("data: {"):
                            text += json.loads(line[6:])["choices"][0]["delta"].get("content", "")
                        if limit is not None and len(text) > limit:
                            break
                return text

            alone = await read(None)
            texts = await asyncio.gather(*(read(None if i % 3 else 5 * i) for i in range(24)))
        return alone, [text for i, text in enumerate(texts) if i % 3]

    alone, others = asyncio.run(ask())
    assert set(others) == {alone}
    wait_until_free(http)


def test_a_slow_reader_gets_everything(server: LiveServer, http: httpx.Client) -> None:
    with http.stream("POST", "/v1/chat/completions", json={**LONG, "max_tokens": 200, "stream": True}) as answer:
        lines: list[str] = []
        for line in answer.iter_lines():
            if len(lines) < 5:
                time.sleep(0.2)
            lines.append(line)
    assert lines[-2] == "data: [DONE]"
    assert json.loads(lines[-4].removeprefix("data: "))["usage"]["completion_tokens"] == 200


class Reader:
    """The far end of an ASGI connection."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.gone = asyncio.Event()

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            self.sent.append(message["body"])


async def play(events: AsyncGenerator[bytes], reader: Reader) -> list[bool]:
    ends: list[bool] = []

    async def end(is_whole: bool) -> None:
        ends.append(is_whole)

    await EventStream(events, end)({"type": "http"}, reader.receive, reader.send)
    return ends


def test_silence_is_filled_with_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "KEEP_ALIVE_S", 0.15)

    async def events() -> AsyncGenerator[bytes]:
        await asyncio.sleep(0.5)
        yield b"data: x\n\n"

    reader = Reader()
    assert asyncio.run(play(events(), reader)) == [True]
    assert 2 <= reader.sent.count(KEEP_ALIVE) <= 4
    assert reader.sent[-2:] == [b"data: x\n\n", b""]


def test_events_are_closed_when_the_reader_goes() -> None:
    closed = []

    async def events() -> AsyncGenerator[bytes]:
        try:
            while True:
                yield b"data: x\n\n"
                await asyncio.sleep(0.01)
        finally:
            closed.append(True)

    async def run() -> list[bool]:
        reader = Reader()
        asyncio.get_running_loop().call_later(0.1, reader.gone.set)
        return await play(events(), reader)

    assert asyncio.run(run()) == [False]
    assert closed == [True]


def test_no_answer_depends_on_or_holds_anything_of_another(server: LiveServer, http: httpx.Client) -> None:
    """Sixty prompts alone, then all at once, with every fourth given up midway: not a token differs."""
    draw = random.Random(5)
    words = ("wind", "rain", "sea", "cold", "north", "hill", "snow", "cloud")
    bodies = [
        {"model": "chat", "prompt": f"{n:x} " + " ".join(draw.choices(words, k=draw.randrange(5, 150))),
         "max_tokens": draw.randrange(5, 40), "seed": n, "temperature": (0, 0.7)[n % 2]}
        for n in range(60)
    ]  # fmt: skip
    alone = [http.post("/v1/completions", json=body).json()["choices"][0]["text"] for body in bodies]

    async def ask() -> list[str | None]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits) as client:

            async def one(number: int) -> str | None:
                patience = 0.02 * (number % 5 + 1) if number % 4 == 0 else None
                try:
                    answer = await asyncio.wait_for(client.post("/v1/completions", json=bodies[number]), patience)
                except TimeoutError:
                    return None
                return str(answer.json()["choices"][0]["text"])

            return await asyncio.gather(*map(one, range(len(bodies))))

    together = asyncio.run(ask())
    assert sum(text is not None for text in together) >= 45
    assert [text for text in together if text is not None] == [
        text for text, got in zip(alone, together, strict=True) if got is not None
    ]
    wait_until_free(http)


def test_events_are_whole_for_readers_that_split_lines_at_any_line_end(http: httpx.Client) -> None:
    ends = "one\u2028two\u0085three\u2029four"
    body = {"model": "chat", "messages": [{"role": "user", "content": "x"}], "max_tokens": 60, "stream": True,
            "response_format": {"type": "regex", "regex": ends}}  # fmt: skip
    with http.stream("POST", "/v1/chat/completions", json=body) as answer:
        text = "".join(
            choice["delta"].get("content") or ""
            for line in answer.read().decode().splitlines()
            if line.startswith("data: {")
            for choice in json.loads(line[6:])["choices"]
        )
    assert text == ends
    typed = stream_module.typed_event({"type": "x", "text": ends})
    assert len(typed.decode().splitlines()) == 3
    assert json.loads(typed.splitlines()[1][6:])["text"] == ends
