"""What a body may hold: looked at before anything of it is parsed, checked, encoded or kept."""

from __future__ import annotations

import gc
import json
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.server.hostile_bodies import hostile_bodies, some
from tests.server.in_process import HELLO, MISTRAL, serving
from tests.tokenizer.vocabularies import ours
from tramontane.server import body_bounds as module
from tramontane.server import body_budget
from tramontane.server.body_bounds import BodyBounds, body_bounds
from tramontane.server.body_budget import BodyBudget
from tramontane.server.endpoint import ENDPOINTS, Endpoint
from tramontane.server.errors import ApiError, as_api_error
from tramontane.server.guard import MIB, GuardPolicy
from tramontane.server.keys import KeyOptions, create_key
from tramontane.server.models import ModelRegistry
from tramontane.server.schema import base
from tramontane.server.schema.base import validate
from tramontane.server.validation import MAX_ERRORS

JSON = {"content-type": "application/json"}
CHAT = "/v1/chat/completions"
REFUSAL_CPU_S = 10.0
"""Of this process, on a machine that is busy with other things: what is refused unseen takes a hundredth of it, and
what was walked took minutes."""


class Cpu:
    """CPU seconds of this process in a block, whatever else the machine does."""

    def __enter__(self) -> Cpu:
        self._started = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.process_time() - self._started


def random_value(draw: random.Random, depth: int) -> Any:
    match draw.randrange(6 if depth else 3):
        case 0:
            return "".join(draw.choices('\\"[]{},:\n\té a', k=draw.randrange(12)))
        case 1:
            return draw.choice((None, True, -1.5e3, 7))
        case 2:
            return "x\\" * draw.randrange(4)
        case 3 | 4:
            return [random_value(draw, depth - 1) for _ in range(draw.randrange(5))]
        case _:
            return {
                random_value(draw, 0) if i else "k": random_value(draw, depth - 1) for i in range(draw.randrange(4))
            }


def structure(value: Any) -> tuple[int, int]:
    """(objects and arrays, commas between entries) of a value."""
    if not isinstance(value, dict | list):
        return 0, 0
    entries = list(value.values()) if isinstance(value, dict) else value
    inner = [structure(entry) for entry in entries]
    return 1 + sum(o for o, _ in inner), max(0, len(entries) - 1) + sum(c for _, c in inner)


@pytest.mark.parametrize("slice_bytes", [1, 2, 3, 7, 64, 65536])
def test_the_structure_of_a_body_is_counted_as_a_parser_finds_it(
    slice_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLICE_BYTES", slice_bytes)
    draw = random.Random(slice_bytes)
    for _ in range(300):
        value = random_value(draw, 4)
        body = json.dumps(json.loads(json.dumps(value)), ensure_ascii=draw.random() < 0.5).encode()
        num_objects, num_commas = structure(json.loads(body))
        bounds = BodyBounds(2**30, 2**30, max_values=num_objects + num_commas, max_objects=num_objects)
        bounds._check_structure(body)
        for fewer in ({"max_objects": num_objects - 1}, {"max_values": num_objects + num_commas - 1}):
            tight = BodyBounds(2**30, 2**30, **{"max_values": 2**30, "max_objects": 2**30} | fewer)
            with pytest.raises(ApiError, match="values"):
                tight._check_structure(body)


def test_long_texts_are_no_structure() -> None:
    text = json.dumps({"text": '{"a": [1, 2, "\\\\", 3]},' * 100_000}).encode()
    BodyBounds(2**30, 2**30, max_values=10, max_objects=2).check(text)


HUGE: dict[str, Callable[[], dict[str, Any]]] = {
    "wrong messages": lambda: {"messages": [{"role": "user", "x": 1}] * 1_200_000},
    "wrong messages of 2 MiB": lambda: {"messages": [{"role": "user", "x": 1}] * 90_000},
    "wrong messages, few enough to be checked": lambda: {"messages": [{"role": "user", "x": 1}] * 9_000},
    "right and wrong": lambda: {"messages": [HELLO[0], {"role": "user", "x": 1}] * 4_000},
    "repeated rules": lambda: {"response_format": {"type": "grammar", "grammar": 'r ::= "a" | "b"\n' * 600_000}},
    "an enum": lambda: {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"enum": ["wind"] * 4_000_000}},
        }
    },
    "a prediction": lambda: {"prediction": {"type": "content", "content": "wind " * (6 * MIB)}},
    "metadata": lambda: {"metadata": {"a": [[]] * 10_000_000}},
    "metadata of many names": lambda: {"metadata": {str(number): "x" for number in range(10_000)}},
    "biases": lambda: {"logit_bias": {f"x{number}": "y" for number in range(150_000)}},
    "biases, few enough to be checked": lambda: {"logit_bias": {f"x{number}": "y" for number in range(9_000)}},
    "a text": lambda: {"messages": [{"role": "user", "content": "wind " * (6 * MIB)}]},
    "a text of 1 MiB": lambda: {"messages": [{"role": "user", "content": "wind " * 200_000}]},
    "unknown fields": lambda: {f"wind{number}": 1 for number in range(20_000)},
    "unknown fields inside": lambda: {"messages": [HELLO[0] | {f"w{number}": 1 for number in range(20_000)}]},
    "a stop text": lambda: {"stop": "wind " * 200_000},
    "tools": lambda: {"tools": [{"type": "function", "function": {"name": "f", "x": 1}}] * 6_000},
    "chunks": lambda: {"messages": [{"role": "user", "content": [{"type": "text", "x": "a"}] * 9_000}]},
}


@pytest.mark.parametrize("kind", HUGE)
@pytest.mark.parametrize("headers", [JSON, JSON | MISTRAL], ids=["lenient", "strict"])
def test_a_huge_body_is_refused_before_it_is_walked(app_client: TestClient, kind: str, headers: dict[str, str]) -> None:
    content = json.dumps({"model": "chat", "messages": HELLO, "max_tokens": 1} | HUGE[kind]()).encode()
    with Cpu() as cpu:
        answer = app_client.post(CHAT, content=content, headers=headers)
    assert 400 <= answer.status_code < 500, answer.text
    assert len(answer.content) < 20_000
    assert cpu.seconds < REFUSAL_CPU_S


def test_what_is_wrong_is_looked_at_as_far_as_it_is_told(app_client: TestClient) -> None:
    messages = [{"role": "user", "x": number} for number in range(5_000)]
    answer = app_client.post(CHAT, json={"model": "chat", "messages": messages}, headers=MISTRAL)
    assert answer.status_code == 422
    assert answer.json()["message"].startswith("messages.0.")
    assert len(answer.json()["detail"]) <= MAX_ERRORS


def test_every_wrong_entry_of_an_ordinary_body_is_told(app_client: TestClient) -> None:
    for count, told in ((3, 3), (500, MAX_ERRORS), (5_000, 1)):
        messages = [HELLO[0], *[{"role": "user"}] * count]
        answer = app_client.post(CHAT, json={"model": "chat", "messages": messages}, headers=MISTRAL)
        assert answer.status_code == 422
        places = [entry["loc"] for entry in answer.json()["detail"]]
        assert places == [["body", "messages", number, "user", "content"] for number in range(1, told + 1)]


def routes_of_json() -> Iterator[str]:
    yield from sorted(ENDPOINTS)
    yield from ("/v1/batches", "/v1/batch/jobs", "/v1/fine_tuning/jobs")


def test_a_name_given_twice_is_refused_at_any_depth(app_client: TestClient) -> None:
    bodies = (
        '{"model": "a", "input": 1, "model": "chat"}',
        '{"model": "chat", "metadata": {"a": {"wind": 1, "b": 2, "wind": 3}}}',
        '{"model": "chat", "wind": [{"x": [1, {"model": 1, "\\u006dodel": 2}]}]}',
    )
    for path in routes_of_json():
        for body, name in zip(bodies, ("model", "wind", "model"), strict=True):
            answer = app_client.post(path, content=body, headers=JSON)
            assert answer.status_code == 400, (path, answer.text)
            assert f'names "{name}" twice' in answer.json()["message"]


def test_every_route_has_bounds_that_fit_it(app_client: TestClient) -> None:
    registry: ModelRegistry = app_client.app.state.services.registry  # type: ignore[attr-defined]
    policy = GuardPolicy()
    for path in ("/v1/fine_tuning/jobs", "/v1/batches", "/v1/models", "/nowhere"):
        assert body_bounds(path, policy, registry).max_bytes <= MIB
        assert app_client.post(path, content=b" " * (MIB + 1), headers=JSON).status_code == 413
    context = max(model.llm.max_text_bytes for model in registry)
    for path in ("/v1/fim/completions", CHAT):
        assert body_bounds(path, policy, registry).max_text_bytes < MIB + 8 * context
    assert body_bounds("/v1/files", policy, registry).max_bytes > policy.max_upload_bytes
    assert set(module.PROMPTS) | module.CONVERSATIONS | module.DOCUMENTS >= set(ENDPOINTS)


def test_the_longest_prompts_there_are_pass(app_client: TestClient) -> None:
    """The bounds are for what no model could read; what fills a context is told by its tokens."""
    for path, name in (("/v1/completions", "prompt"), ("/v1/embeddings", "input")):
        token_ids = [7] * 2000
        body = {"model": "chat", name: [token_ids] * 2, **({"max_tokens": 1} if name == "prompt" else {})}
        assert app_client.post(path, json=body).status_code == 200, path
    text = "é" * 900
    body = {"model": "chat", "messages": [{"role": "user", "content": text}], "max_tokens": 1}
    assert app_client.post(CHAT, content=json.dumps(body), headers=JSON).status_code == 200


@pytest.mark.parametrize("kind", ["v1", "v3", "v7-small", "v13-small"])
def test_no_text_is_fewer_tokens_than_its_bytes_by_the_longest_token(kind: str) -> None:
    tokenizer = ours(kind)
    draw = random.Random(3)
    longest = max((tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)), key=len)
    for _ in range(200):
        text = "".join(draw.choices("wind and é\n\t 漢😀" + longest.decode(errors="ignore"), k=draw.randrange(1, 400)))
        assert len(tokenizer.encode(text)) * tokenizer.max_token_bytes >= len(text.strip().encode())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "wind " * 150_000}]}),
        ("/v1/completions", {"prompt": "wind " * 150_000}),
        ("/v1/embeddings", {"input": ["a", "wind " * 150_000]}),
        ("/v1/fim/completions", {"prompt": "a", "suffix": "wind " * 150_000, "model": "coder"}),
        ("/v1/responses", {"input": "wind " * 150_000}),
        ("/v1/moderations", {"input": "wind " * 150_000}),
    ],
)
def test_a_prompt_that_cannot_fit_is_refused_before_it_is_encoded(
    app_client: TestClient, path: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in app_client.app.state.services.registry:  # type: ignore[attr-defined]

        def encoded(text: str, encode: Any = model.llm.tokenizer._encode_text) -> list[int]:
            assert len(text) < 1000, f"{len(text)} characters were encoded"
            token_ids: list[int] = encode(text)
            return token_ids

        monkeypatch.setattr(model.llm.tokenizer, "_encode_text", encoded)
    answer = app_client.post(path, json={"model": "chat"} | body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == "context_length_exceeded"


def test_long_texts_are_encoded_beside_the_event_loop(app_client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: dict[int, set[str]] = {}
    for model in app_client.app.state.services.registry:  # type: ignore[attr-defined]
        encode = type(model.llm.tokenizer)._encode_text

        def seen(self: Any, text: str, encode: Any = encode) -> list[int]:
            threads.setdefault(len(text) > 20_000, set()).add(threading.current_thread().name)
            token_ids: list[int] = encode(self, text)
            return token_ids

        monkeypatch.setattr(type(model.llm.tokenizer), "_encode_text", seen)
    long = ("wind " * 5_000)[:25_000]
    for path, body in (
        (CHAT, {"messages": HELLO, "prediction": {"type": "content", "content": long}}),
        ("/v1/fim/completions", {"model": "coder", "prompt": long, "suffix": "a"}),
        ("/v1/completions", {"prompt": [long, "a"]}),
    ):
        app_client.post(path, json={"model": "chat", "max_tokens": 1} | body)
    assert threads[True]
    assert not any(name.startswith("asyncio-portal") for name in threads[True]), threads  # the loop's own


def test_a_guardrail_that_watches_nothing_is_refused(app_client: TestClient) -> None:
    for version in ("v1", "v2"):
        guardrails = [{f"moderation_llm_{version}": {"ignore_other_categories": True}}]
        answer = app_client.post(CHAT, json={"model": "chat", "messages": HELLO, "guardrails": guardrails})
        assert answer.status_code == 400, answer.text
        assert "custom_category_thresholds" in answer.json()["message"]


@pytest.mark.parametrize("strict", [False, True])
def test_numbers_beyond_all_bounds_mean_the_most_or_are_told_so(app_client: TestClient, strict: bool) -> None:
    for name in ("max_tokens", "max_completion_tokens", "min_tokens", "top_k"):
        answer = app_client.post(
            CHAT,
            json={"model": "chat", "messages": HELLO, "max_tokens": 1, name: 2**64}
            if name == "top_k"
            else {"model": "chat", "messages": HELLO, name: 2**64},
            headers=MISTRAL if strict else {},
        )
        if answer.status_code != 200:
            assert answer.status_code == 422, answer.text
            assert "less than or equal to" in answer.json()["message"]


def test_bodies_in_flight_have_a_budget_by_owner_and_in_all() -> None:
    budget = BodyBudget(total_bytes=100, owner_bytes=60)
    with budget.held("a") as one, budget.held("a") as two, budget.held("b") as other:
        one.grow_to(50)
        with pytest.raises(ApiError) as refused:
            two.grow_to(20)
        assert refused.value.status == 429
        assert int(refused.value.headers["retry-after"]) >= 1
        other.grow_to(50)
        with budget.held("c") as third, pytest.raises(ApiError, match="server"):
            third.grow_to(1)
        one.release()
        two.grow_to(20)
        two.grow_to(20)
        assert budget.held_bytes == 70
    assert budget.held_bytes == 0
    with budget.held("a") as alone:
        alone.grow_to(1000)  # what is larger than the budget still has its turn
    assert budget.held_bytes == 0


def test_a_body_over_the_budget_is_not_read(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with serving({"chat": checkpoints["chat"]}, tmp_path, max_bodies_mib=2, max_bodies_per_owner_mib=1) as client:
        budget: BodyBudget = client.app.state.services.body_budget  # type: ignore[attr-defined]
        body = json.dumps({"model": "chat", "messages": HELLO, "max_tokens": 1, "wind": "x" * MIB}).encode()
        read: list[int] = []

        def chunks() -> Iterator[bytes]:
            for start in range(0, len(body), 65536):
                read.append(start)
                yield body[start : start + 65536]

        with budget.held("local") as other:
            other.grow_to(MIB // 2)
            answer = client.post(CHAT, content=chunks(), headers=JSON | {"content-length": str(len(body))})
            assert answer.status_code == 429
            assert "retry-after" in answer.headers
            assert not read[1:]
            assert client.post(CHAT, content=chunks(), headers=JSON).status_code == 429  # counted as it comes
        assert client.post(CHAT, content=body, headers=JSON).status_code == 200
        stream = {"model": "chat", "messages": HELLO, "max_tokens": 1, "stream": True}
        assert client.post(CHAT, json=stream).status_code == 200
        assert client.post(CHAT, json={"model": 7}).status_code == 422
        assert budget.held_bytes == 0


def test_more_keys_of_one_owner_hold_no_more(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with serving({"chat": checkpoints["chat"]}, tmp_path, max_bodies_mib=64, max_bodies_per_owner_mib=1) as client:
        services = client.app.state.services  # type: ignore[attr-defined]
        keys = [create_key(services.database, KeyOptions(owner, owner=owner))[1] for owner in ("a", "a", "b")]
        statuses = []
        file = {"file": ("a.txt", b"wind")}
        for content in ({"json": {"model": "chat", "messages": HELLO, "max_tokens": 1}}, {"files": file}):
            path = "/api/documents/text" if "files" in content else CHAT
            with services.body_budget.held("a") as share:
                share.grow_to(MIB)
                statuses += [
                    client.post(path, headers={"authorization": f"Bearer {key}"}, **content).status_code for key in keys
                ]
        assert statuses == [429, 429, 200] * 2


def test_a_stored_file_counts_while_it_is_read(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with serving({"chat": checkpoints["chat"]}, tmp_path, max_bodies_mib=2, max_bodies_per_owner_mib=1) as client:
        budget: BodyBudget = client.app.state.services.body_budget  # type: ignore[attr-defined]
        stored = client.post("/v1/files", files={"file": ("a.txt", b"wind" * 1000)}, data={"purpose": "user_data"})
        content = [{"type": "file", "file_id": stored.json()["id"]}]
        body = {"model": "chat", "messages": [{"role": "user", "content": content}], "max_tokens": 1}
        with budget.held("local") as other:
            other.grow_to(MIB - 1000)  # of which the body itself leaves enough
            assert client.post(CHAT, json=body).status_code == 429
        assert client.post(CHAT, json=body).status_code != 429
        assert budget.held_bytes == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_refused_body_is_let_go_of_at_once(app_client: TestClient, stream: bool) -> None:
    """Not when the garbage collector next looks at everything."""
    image = {"type": "image_url", "image_url": "data:image/png;base64," + "A" * MIB}
    refused = (
        {"messages": [{"role": "user", "content": [image]}]},
        {"messages": [{"role": "user", "x": 1}], "wind": ";base64," + "A" * MIB},
        {"messages": [{"role": "user", "content": "wind " * 3_000}]},
    )
    gc.collect()
    gc.disable()
    try:
        for body in refused:
            answer = app_client.post(CHAT, json={"model": "chat", "stream": stream} | body)
            assert 400 <= answer.status_code < 500
            assert len(answer.content) < 2_000
        found = [item for item in gc.get_objects() if type(item) is FrameType]
        assert not [frame for frame in found if frame.f_code is Endpoint.respond.__code__]
    finally:
        gc.enable()


def test_freed_bytes_of_large_bodies_go_back_to_the_system(
    app_client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    trimmed = threading.Event()
    monkeypatch.setattr(body_budget, "give_back_freed_memory", trimmed.set)
    monkeypatch.setattr(body_budget, "FREED_AFTER_S", 0.01)
    body = {"model": "chat", "messages": HELLO, "max_tokens": 1}
    for _ in range(2):
        assert app_client.post(CHAT, json=body | {"wind": ";base64," + "A" * 5 * MIB}).status_code == 200
        assert trimmed.wait(60)
        trimmed.clear()


def test_memory_that_is_gone_ends_a_request_alone() -> None:
    error = as_api_error(MemoryError())
    assert error.status == 503
    assert "Retry-After" in error.headers


def test_every_field_of_every_route_made_huge(app_client: TestClient) -> None:
    bodies = some(hostile_bodies(app_client.get("/openapi.json").json(), model="chat"), 120, seed=5)
    assert len({body.path for body in bodies}) > 12
    draw = random.Random(6)
    for body in bodies:
        content = body.grow(draw.choice((1000, 100_000, MIB, 4 * MIB)))
        path = body.path.replace("{", "").replace("}", "")
        with Cpu() as cpu:
            answer = app_client.request(body.method, path, content=content, headers=JSON)
        assert answer.status_code < 500 or answer.status_code == 501, (body.name, answer.text[:500])
        assert cpu.seconds < 2 * REFUSAL_CPU_S, (body.name, len(content))
    assert app_client.get("/health").json()["status"] == "ok"


LINES = {
    "a name given twice": (b'{"custom_id": "a", "body": {"model": "chat", "model": "b"}}', "'model' twice"),
    "a name given twice, deep": (b'{"body": {"messages": [{"role": "user", "role": "tool"}]}}', "'role' twice"),
    "many values": (b'{"body": {"a": [' + b"[]," * 4_000_000 + b"1]}}", "values"),
    "many names": (b'{"body": {' + b",".join(b'"%d":1' % i for i in range(1_000_000)) + b"}}", "values"),
    "one long line": (b'{"body": {"a": "' + b"wind " * (4 * MIB) + b'"}}', "longer than"),
    "an array of little": (b"[" + b"[]," * 8_000_000 + b"1]", "values"),
    "a long array": (b"[" + b'{"body": {"a": "' + b"wind " * (8 * MIB) + b'"}}]', "JSON|array"),
}


@pytest.mark.parametrize("kind", LINES)
@pytest.mark.parametrize("purpose", ["batch", "fine-tune"])
def test_lines_of_files_are_bounded_before_they_are_parsed(app_client: TestClient, kind: str, purpose: str) -> None:
    line, message = LINES[kind]
    with Cpu() as cpu:
        answer = app_client.post("/v1/files", files={"file": ("a.jsonl", line)}, data={"purpose": purpose})
    assert answer.status_code == 422, answer.text
    assert re.search(message, answer.json()["message"])
    assert cpu.seconds < REFUSAL_CPU_S


def test_long_bodies_are_checked_beside_the_event_loop(app_client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []

    def seen(*arguments: Any, **options: Any) -> Any:
        threads.append(threading.current_thread().name)
        return validate(*arguments, **options)

    monkeypatch.setattr(base, "validate", seen)
    for count in (1, 3_000):
        app_client.post(CHAT, json={"model": "chat", "messages": HELLO * count, "max_tokens": 1})
    small, long = threads
    assert long.startswith("asyncio_")  # of the loop's executor
    assert not small.startswith("asyncio_")
