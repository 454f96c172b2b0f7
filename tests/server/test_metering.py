"""What requests take is charged as it is computed, whoever stays to see it."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.types import Message

from tests.server.in_process import serving
from tests.server.random_disconnects import follow, tally, text
from tramontane.engine.engine import Engine
from tramontane.engine.request import Output, Usage
from tramontane.server.auth import OWNER, Caller
from tramontane.server.dispatch import dispatch
from tramontane.server.endpoint import ENDPOINTS, Call
from tramontane.server.keys import KeyOptions, create_key
from tramontane.server.request_record import RequestRecord
from tramontane.server.schema.base import validate
from tramontane.server.services import Services


def test_usage_agrees_with_the_engine_to_the_token_whenever_readers_leave(app_client: TestClient) -> None:
    app: Any = app_client.app
    portal: Any = app_client.portal
    found = portal.call(tally, app.state.services, random.Random(4), 300)
    assert found.num_records > 200  # the others were left before they began
    assert found.engine_prompt_tokens == found.charged_prompt_tokens > 1000
    assert found.engine_answer_tokens == found.charged_answer_tokens > 500


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        ("/v1/embeddings", {"input": [f"wind {number}" for number in range(30)]}),
        ("/v1/completions", {"prompt": [f"wind {number}" for number in range(9)], "max_tokens": 5}),
        ("/v1/completions", {"prompt": [f"wind {number}" for number in range(9)], "max_tokens": 5, "stream": True}),
        ("/v1/chat/moderations", {"input": [{"role": "user", "content": "wind"}]}),
    ],
)
def test_a_request_of_many_parts_is_over_when_all_of_them_are(
    app_client: TestClient, monkeypatch: pytest.MonkeyPatch, endpoint: str, body: dict[str, Any]
) -> None:
    app: Any = app_client.app
    services: Services = app.state.services
    engine = services.registry.resolve("chat", "local").llm.engine
    step, drop = engine._engine.step, engine._drop
    is_held, may_step, is_dropping, may_drop = (threading.Event() for _ in range(4))
    num_dropped = itertools.count()

    def held_step() -> list[Output]:
        if len(engine._streams) > 1:
            is_held.set()
            may_step.wait(60)
        return step()

    def held_drop(stream: Any) -> None:
        if next(num_dropped):  # the first part is left at once, the others later
            is_dropping.set()
            may_drop.wait(60)
        drop(stream)

    async def leave() -> None:
        task = asyncio.ensure_future(follow(services, endpoint, {"model": "chat", **body}, []))
        assert await asyncio.to_thread(is_held.wait, 60)
        task.cancel()
        await asyncio.sleep(0.01)
        may_step.set()
        assert await asyncio.to_thread(is_dropping.wait, 60)
        for _ in range(5):
            task.cancel()
            await asyncio.sleep(0.01)
            assert not task.done()
        may_drop.set()
        await asyncio.gather(task, return_exceptions=True)
        stats = await engine.inspect(Engine.stats)
        assert stats.num_running == stats.num_waiting == 0

    portal: Any = app_client.portal
    monkeypatch.setattr(engine._engine, "step", held_step)
    monkeypatch.setattr(engine, "_drop", held_drop)
    portal.call(leave)


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


@pytest.mark.parametrize("is_stream", [False, True])
def test_usage_shows_what_guardrails_took_as_the_record_does(app_client: TestClient, is_stream: bool) -> None:
    app: Any = app_client.app
    services: Services = app.state.services
    records: list[RequestRecord] = []
    observers = services.observers
    services.observers = (*observers, records.append)
    guardrail = {"moderation_llm_v2": {"action": "none", "custom_category_thresholds": {"selfharm": 1.0}}}
    message = {"role": "user", "content": "wind"}
    body = {"model": "chat", "messages": [message], "max_tokens": 5, "stream": is_stream, "guardrails": [guardrail]}
    try:
        answer = app_client.post("/v1/chat/completions", json=body)
    finally:
        services.observers = observers
    assert answer.status_code == 200, answer.text
    chunks = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")] or [answer.text]
    usage = json.loads(chunks[-1])["usage"]
    [record] = records
    assert usage["prompt_tokens"] == record.prompt_tokens > 100
    assert usage["completion_tokens"] == record.completion_tokens > 5
    assert usage["prompt_tokens_details"]["cached_tokens"] == record.cached_tokens


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


def test_a_stream_whose_reader_goes_before_its_first_event_ends_and_is_counted(
    app_client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its events have not begun: closing them does nothing."""
    services: Services = app_client.app.state.services  # type: ignore[attr-defined]
    usages: list[Usage] = []
    records: list[RequestRecord] = []
    begin = Call.begin

    def noted(self: Call, usage: Usage) -> None:
        usages.append(usage)
        begin(self, usage)

    monkeypatch.setattr(Call, "begin", noted)
    monkeypatch.setattr(services, "observers", [records.append])
    body = {
        "model": "chat",
        "messages": [{"role": "user", "content": "a"}],
        "max_tokens": 1500,
        "min_tokens": 1500,
        "stream": True,
    }
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"",
             "http_version": "1.1",
             "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
             "client": ("127.0.0.1", 50000), "app": app_client.app}  # fmt: skip

    async def leave() -> int:
        blocked = asyncio.Event()
        sent = iter([{"type": "http.request", "body": json.dumps(body).encode()}])

        async def receive() -> Message:
            for message in sent:
                return message
            await blocked.wait()
            await asyncio.sleep(0.05)  # the answer goes on meanwhile
            return {"type": "http.disconnect"}

        async def send(_: Message) -> None:
            blocked.set()
            await asyncio.Event().wait()  # the answer before it is not taken either

        await app_client.app(scope, receive, send)
        return records[0].completion_tokens

    assert app_client.portal is not None
    num_told = app_client.portal.call(leave)
    assert [record.status for record in records] == [499]
    assert num_told < 1500
    assert sum(usage.num_generated_tokens for usage in usages) == num_told
    model = services.registry.resolve("chat", "local")
    assert not app_client.portal.call(model.llm.engine.inspect, lambda engine: engine.has_work)
    time.sleep(0.1)
    assert sum(usage.num_generated_tokens for usage in usages) == num_told
