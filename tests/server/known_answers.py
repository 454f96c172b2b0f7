"""Answers whose text is known: each prompt asked alone first, then all of them at once, in any order and many times,
while some readers leave. An answer that differs in a letter holds something of another."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from dataclasses import dataclass
from typing import Any

import httpx

WORDS = ("wind", "rain", "sea", "cold", "north", "hill", "snow", "cloud", "bird", "stone")
LEAVES_EVERY = 6


@dataclass
class Seen:
    num_whole: int = 0
    num_left: int = 0
    num_wrong: int = 0


def known_bodies(model: str, count: int) -> list[dict[str, Any]]:
    """Requests that begin alike in groups, so that they share cached pages, and end with a nonce each. Their answers
    have 32 to 96 tokens: where pages are few, more begin than can end."""
    draw = random.Random(3)
    beginnings = [" ".join(draw.choices(WORDS, k=draw.randrange(20, 90))) for _ in range(max(1, count // 8))]
    return [
        {"model": model, "prompt": f"{draw.choice(beginnings)} nonce-{draw.getrandbits(64):016x} is",
         "min_tokens": 32, "max_tokens": draw.randrange(32, 96), "seed": n, "temperature": (0, 0.8)[n % 2],
         "stream": True}
        for n in range(count)
    ]  # fmt: skip


def ask_known(
    url: str, model: str, count: int, *, num_readers: int, num_prompts: int = 120, seconds: float = math.inf
) -> Seen:
    """`count` answers by `num_readers` readers at once, or as many as are begun in `seconds`, each compared to what the
    prompt is answered alone."""
    return asyncio.run(_ask_known(url, known_bodies(model, num_prompts), count, num_readers, seconds))


async def _ask_known(url: str, bodies: list[dict[str, Any]], count: int, num_readers: int, seconds: float) -> Seen:
    seen = Seen()
    draw = random.Random(4)
    orders = [(draw.randrange(len(bodies)), draw.randrange(6)) for _ in range(count)]
    left = iter(enumerate(orders))
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=httpx.Limits(max_connections=None)) as client:
        alone = [await read(client, body) for body in bodies]
        started = time.monotonic()

        async def reader() -> None:
            for number, (place, num_events) in left:
                if time.monotonic() - started > seconds:
                    return
                if number % LEAVES_EVERY == 0:
                    await read(client, bodies[place], leave_after=num_events)
                    seen.num_left += 1
                    continue
                seen.num_whole += 1
                seen.num_wrong += await read(client, bodies[place]) != alone[place]

        await asyncio.gather(*(reader() for _ in range(num_readers)))
    return seen


async def read(client: httpx.AsyncClient, body: dict[str, Any], *, leave_after: int | None = None) -> str:
    """The text of a streamed completion. Raises AssertionError if it was refused or broke off."""
    text, num_events, is_over = "", 0, False
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        assert answer.status_code == 200, (await answer.aread()).decode()
        async for line in answer.aiter_lines():
            if num_events == leave_after:
                return text
            num_events += line.startswith("data:")
            is_over = is_over or line == "data: [DONE]"
            if line.startswith("data: {"):
                event = json.loads(line[6:])
                assert "error" not in event, line
                text += "".join(choice["text"] for choice in event["choices"])
    assert is_over
    return text
