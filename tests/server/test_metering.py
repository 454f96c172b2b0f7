"""What requests take is charged as it is computed, whoever stays to see it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.server.in_process import serving
from tramontane.engine.engine import Engine
from tramontane.server.auth import OWNER, Caller
from tramontane.server.dispatch import dispatch
from tramontane.server.endpoint import ENDPOINTS, Call
from tramontane.server.keys import KeyOptions, create_key
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
        call.record(200)


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


def test_usage_agrees_with_the_engine_to_the_token_whenever_readers_leave(app_client: TestClient) -> None:
    app: Any = app_client.app
    services: Services = app.state.services
    records: list[RequestRecord] = []
    observers = services.observers
    services.observers = (*observers, records.append)
    portal: Any = app_client.portal
    model = services.registry.resolve("chat", "local")

    async def leave() -> tuple[int, int, int]:
        before = await model.llm.engine.inspect(Engine.stats)
        seen = await leave_at_random(services, random.Random(4), 300)
        after = await model.llm.engine.inspect(Engine.stats)
        assert after.num_running == after.num_waiting == 0
        unwanted = sum(usage.num_unwanted_tokens for call in seen for usage in call.requests)
        return (
            after.num_prompt_tokens - before.num_prompt_tokens,
            after.num_generated_tokens - before.num_generated_tokens,
            unwanted,
        )

    try:
        num_prompt, num_generated, num_unwanted = portal.call(leave)
    finally:
        services.observers = observers
    assert len(records) > 200  # the others were left before they began
    assert num_prompt == sum(record.prompt_tokens for record in records) > 1000
    assert num_generated - num_unwanted == sum(record.completion_tokens for record in records) > 500


def test_what_a_key_is_charged_is_what_its_requests_took(app_client: TestClient) -> None:
    app: Any = app_client.app
    services: Services = app.state.services
    charged: list[int] = []

    class Charged(Call):
        def charge(self, num_tokens: int) -> None:
            charged.append(num_tokens)

    async def leave() -> int:
        rng = random.Random(5)
        total = 0
        for _ in range(40):
            call = Charged(services, OWNER, "/v1/chat/completions", "openai")
            body = {"model": "chat", "messages": [{"role": "user", "content": text(rng, 9)}], "max_tokens": 50}
            endpoint = ENDPOINTS["/v1/chat/completions"]
            task = asyncio.ensure_future(endpoint.answer(call, validate(endpoint.body, body)))
            await asyncio.sleep(rng.choice([0, 0.001, 0.01]))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            total += sum(usage.num_prompt_tokens + usage.num_generated_tokens for usage in call.requests)
        return total

    portal: Any = app_client.portal
    assert portal.call(leave) == sum(charged) > 0


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_prompt_counts_before_its_answer_so_that_leaving_early_saves_nothing(
    checkpoints: dict[str, Path], tmp_path: Path, is_stream: bool
) -> None:
    with serving({"chat": checkpoints["chat"]}, tmp_path) as client:
        app: Any = client.app
        services: Services = app.state.services
        key, token = create_key(services.database, KeyOptions(name="k", tokens_per_minute=500))
        body = {"model": "chat", "prompt": text(random.Random(1), 300), "max_tokens": 200, "stream": is_stream}
        caller = Caller(key.id, key.id, frozenset(key.scopes), key.owner)
        services.gate.limits.admit(key)

        async def leave() -> Call:
            call = Call(services, caller, "/v1/completions", "openai")
            endpoint = ENDPOINTS["/v1/completions"]
            parsed = validate(endpoint.body, body)
            if is_stream:
                assert endpoint.stream is not None
                events = await endpoint.stream(call, parsed)
                await anext(events)
                await events.aclose()
            else:
                task = asyncio.ensure_future(endpoint.answer(call, parsed))
                while not task.done() and not (call.requests and call.requests[0].num_prompt_tokens):
                    await asyncio.sleep(0.001)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            return call

        portal: Any = client.portal
        [usage] = portal.call(leave).requests
        assert usage.num_prompt_tokens > 500
        refusal = client.post("/v1/completions", json=body, headers={"authorization": f"Bearer {token}"})
        assert refusal.status_code == 429
        assert int(refusal.headers["retry-after"]) > 10


def test_what_was_never_begun_is_given_back(app_client: TestClient) -> None:
    app: Any = app_client.app
    services: Services = app.state.services
    model = services.registry.resolve("chat", "local")
    charged: list[int] = []

    class Charged(Call):
        def charge(self, num_tokens: int) -> None:
            charged.append(num_tokens)

    async def leave() -> Call:
        long = {"model": "chat", "prompt": "wind", "max_tokens": 300, "min_tokens": 300, "n": 64}
        filling = asyncio.ensure_future(dispatch(app, "/v1/completions", long, OWNER))
        while (await model.llm.engine.inspect(Engine.stats)).num_running < 64:
            await asyncio.sleep(0.001)
        call = Charged(services, OWNER, "/v1/completions", "openai")
        endpoint = ENDPOINTS["/v1/completions"]
        body = validate(endpoint.body, {"model": "chat", "prompt": "rain", "max_tokens": 5})
        waiting = asyncio.ensure_future(endpoint.answer(call, body))
        while not charged:
            await asyncio.sleep(0.001)
        waiting.cancel()
        filling.cancel()
        await asyncio.gather(waiting, filling, return_exceptions=True)
        return call

    portal: Any = app_client.portal
    call = portal.call(leave)
    assert charged[0] > 0
    assert sum(charged) == 0 == call.requests[0].num_prompt_tokens
