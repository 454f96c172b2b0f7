"""Requests of many kinds whose clients leave at any moment, and what engines and usage then say of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tramontane.engine.engine import Engine
from tramontane.server.auth import OWNER
from tramontane.server.endpoint import ENDPOINTS, Call
from tramontane.server.request_record import RequestRecord
from tramontane.server.schema.base import validate
from tramontane.server.services import Services

WORDS = ["wind", "rain", "sea", "cold", "north", "hill", "snow", "cloud", "bird", "stone"]


def text(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices(WORDS, k=count))


def random_request(rng: random.Random) -> tuple[str, dict[str, Any]]:
    message = {"role": "user", "content": text(rng, rng.choice([3, 30, 200]))}
    chat = {"model": "chat", "messages": [message], "max_tokens": rng.choice([1, 5, 60]), "stream": rng.random() < 0.5}
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("/v1/chat/completions", chat),
        ("/v1/chat/completions", {**chat, "n": 3}),
        ("/v1/chat/completions", {**chat, "stop": ["a", "e"], "temperature": 1.0}),
        ("/v1/chat/completions", {**chat, "prediction": {"type": "content", "content": text(rng, 30)}}),
        ("/v1/chat/completions", {**chat, "messages": [{"role": "user", "content": text(rng, 5000)}]}),  # too long
        ("/v1/completions", {"model": "chat", "prompt": [text(rng, 9), text(rng, 5)], "max_tokens": 20, "best_of": 2}),
        ("/v1/completions", {"model": "chat", "prompt": text(rng, 9), "max_tokens": 40, "stream": True}),
        ("/v1/embeddings", {"model": "chat", "input": [text(rng, 20) for _ in range(5)]}),
        ("/v1/moderations", {"model": "chat", "input": text(rng, 9)}),
        ("/v1/responses", {"model": "chat", "input": text(rng, 9), "max_output_tokens": 20, "store": False}),
    ]
    return rng.choice(kinds)


async def follow(services: Services, endpoint: str, body: Mapping[str, Any], seen: list[Call]) -> None:
    """As a connection does; cancelled, as a connection that is closed."""
    call = Call(services, OWNER, endpoint, "openai")
    seen.append(call)
    known = ENDPOINTS[endpoint]
    try:
        parsed = validate(known.body, body)
        if not body.get("stream"):
            await known.answer(call, parsed)
            return
        assert known.stream is not None
        events = await known.stream(call, parsed)
        try:
            async for _ in events:
                pass
        finally:
            await events.aclose()
    finally:
        await call.end(200)


async def leave_at_random(services: Services, rng: random.Random, count: int) -> list[Call]:
    seen: list[Call] = []
    tasks: list[asyncio.Task[None]] = []
    for _ in range(count):
        tasks.append(asyncio.create_task(follow(services, *random_request(rng), seen)))
        if rng.random() < 0.5:
            await asyncio.sleep(rng.choice([0.0, 0.001, 0.02]))
        if rng.random() < 0.8:
            rng.choice(tasks[-20:]).cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return seen


@dataclass(frozen=True)
class Tally:
    """What the engine says it computed, beside the sums over all records of requests."""

    num_records: int
    engine_prompt_tokens: int
    charged_prompt_tokens: int
    engine_answer_tokens: int  # without what was made after a stop string
    charged_answer_tokens: int


async def tally(services: Services, rng: random.Random, count: int) -> Tally:
    """Of `count` requests to the model `chat`, which nobody else uses meanwhile."""
    records: list[RequestRecord] = []
    observers = services.observers
    services.observers = (*observers, records.append)
    engine = services.registry.resolve("chat", "local").llm.engine
    try:
        before = await engine.inspect(Engine.stats)
        seen = await leave_at_random(services, rng, count)
        after = await engine.inspect(Engine.stats)
    finally:
        services.observers = observers
    assert after.num_running == after.num_waiting == 0
    unwanted = sum(usage.num_unwanted_tokens for call in seen for usage in call.requests)
    return Tally(
        len(records),
        after.num_prompt_tokens - before.num_prompt_tokens,
        sum(record.prompt_tokens for record in records),
        after.num_generated_tokens - before.num_generated_tokens - unwanted,
        sum(record.completion_tokens for record in records),
    )
