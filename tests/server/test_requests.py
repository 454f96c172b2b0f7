"""What a request may hold, and the one shape of every refusal."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.server.in_process import HELLO, MISTRAL, serving
from tramontane.errors import ConfigError
from tramontane.server.auth import OWNER, Caller
from tramontane.server.dispatch import dispatch
from tramontane.server.errors import MAX_MESSAGE_CHARS

BODY: dict[str, Any] = {"model": "chat", "messages": HELLO, "max_tokens": 2}
LONG = [{"role": "user", "content": "wind " * 4000}]


def refusal(answer: Any, status: int) -> Any:
    """The body of a refusal, checked for what is the same in all of them."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    fields = {"message", "type", "param", "code"}
    assert set(body) - {"detail"} == {"object", "raw_status_code", "error", *fields}
    assert body["error"] == {name: body[name] for name in fields}
    assert body["object"] == "error"
    assert body["raw_status_code"] == status
    assert isinstance(body["message"], str)
    assert ("detail" in body) == (status == 422)
    return body


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"messages": [{"role": "wind", "content": "x"}]}, ["body", "messages", 0]),
        ({"messages": []}, ["body", "messages"]),
        ({"temperature": -1}, ["body", "temperature"]),
        ({"temperature": "0.5"}, ["body", "temperature"]),
        ({"max_tokens": -1}, ["body", "max_tokens"]),
        ({"max_tokens": 2.5}, ["body", "max_tokens"]),
        ({"max_tokens": True}, ["body", "max_tokens"]),
        ({"n": 0}, ["body", "n"]),
        ({"n": 2**63}, ["body", "n"]),
        ({"top_p": 0}, ["body", "top_p"]),
        ({"stop": [""]}, ["body", "stop", 0]),
        ({"random_seed": 1, "seed": 2}, ["body"]),
        ({"top_logprobs": 2}, ["body"]),
        ({"tool_choice": "any"}, ["body"]),
        ({"response_format": {"type": "regex"}}, ["body", "response_format"]),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
         ["body", "response_format", "json_schema", "schema"]),
        ({"prediction": {"type": "content", "content": "x"}, "n": 2}, ["body"]),
        ({"logit_bias": {"wind": 1}}, ["body"]),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(app_client: TestClient, change: dict[str, Any], place: list[Any]) -> None:
    body = refusal(app_client.post("/v1/chat/completions", json={**BODY, **change}), 422)
    assert place in [entry["loc"] for entry in body["detail"]]
    assert all({"type", "loc", "msg"} <= set(entry) for entry in body["detail"])


ONE_TOOL = [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tool_choice": "foo"}, "tool_choice: Input should be 'auto', 'none', 'any' or 'required'"),
        ({"tool_choice": {"type": "custom"}},
         "tool_choice: Input should be auto, none, any, required, or of type function or allowed_tools"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function: Field required"),
        ({"tool_choice": {"function": {"name": 3}}}, "tool_choice.function.name: Input should be a valid string"),
        ({"messages": [{"role": "wind"}]},
         "messages.0: 'wind' is not known; use one of 'system', 'user', 'assistant', 'tool'"),
        ({"messages": [{"role": "user", "content": 5}]},
         "messages.0.content: Input should be a valid string or a valid list"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text: Field required"),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages.0.content.0: Input should be an object"),
        ({"messages": [{"role": "user", "content": {"a": 1}, "user": "x", "type": "content"}]},
         "messages.0.content: Input should be a valid string or a valid list"),
        ({"stop": 5}, "stop: Input should be a valid string or a valid list"),
        ({"stop": [1]}, "stop.0: Input should be a valid string"),
        ({"response_format": "json"}, "response_format: Input should be an object"),
        ({"messages": None}, "messages: Input should be a valid list"),
        ({"messages": [{"role": "user", "content": [{"type": "input_text", "text": "x"}]}]},
         "messages.0.content.0: Input should be of type text, thinking, document_url or file"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
         "response_format.json_schema.name: Field required"),
        ({"tools": [{"type": "function", "function": {"name": "a.b"}}]},
         "tools.0.function.name: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": 5}}]}]},
         "messages.0.content.0.file.file_id: Input should be a valid string"),
        ({"n": 2, "prediction": {"content": "a"}}, "prediction is not possible with n above 1"),
    ],
)  # fmt: skip
def test_the_headline_names_what_the_client_meant(app_client: TestClient, change: dict[str, Any], message: str) -> None:
    answer = app_client.post("/v1/chat/completions", json={**BODY, "tools": ONE_TOOL, **change})
    assert refusal(answer, 422)["message"] == message


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v1/responses", {"input": 5}, "input: Input should be a valid string or a valid list"),
        ("/v1/responses", {"input": "x", "tools": [{"type": "function", "function": {"name": "f"}}]},
         "tools.0.name: Field required"),
        ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
         "input.0.content.0.text: Field required"),
        ("/v1/embeddings", {"input": {}}, "input: Input should be a valid string or a valid list"),
        ("/v1/embeddings", {"input": [1.5]},
         "input.0: Input should be a valid string or a valid integer or a valid list"),
        ("/v1/completions", {"prompt": [["a"]]}, "prompt.0.0: Input should be a valid integer"),
        ("/v1/completions", {"prompt": None}, "prompt: Input should be a valid string or a valid list"),
    ],
)  # fmt: skip
def test_the_headline_of_other_routes(app_client: TestClient, path: str, body: dict[str, Any], message: str) -> None:
    assert refusal(app_client.post(path, json={"model": "chat", **body}), 422)["message"] == message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "none"}, "Invalid model"),
        ({"messages": LONG}, "which leaves no room for an answer; shorten it"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "http://127.0.0.1/"}]}]},
         "image_url cannot be read"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "JSON"),
        ({"logit_bias": {"999999": 1}}, "no token id"),
        ({"min_tokens": 1, "response_format": {"type": "json_object"}}, "min_tokens"),
        ({"guardrails": [{"moderation_llm_v2": {"custom_category_thresholds": {"wind": 0.5}}}]}, "unknown category"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_served_is_refused_before_anything_is_sent(
    app_client: TestClient, change: dict[str, Any], words: str, stream: bool
) -> None:
    content = json.dumps({**BODY, **change, "stream": stream})
    headers = {"content-type": "application/json"}
    assert words in refusal(app_client.post("/v1/chat/completions", content=content, headers=headers), 400)["message"]


def with_text(value: Any, text: str) -> Iterator[Any]:
    """`value` with each of its fields in turn holding `text`, named `text`, and joined by 300 others of such names."""
    match value:
        case dict():
            yield {**value, text: 1}
            yield {**value, **{f"{n}{text[:200]}": 1 for n in range(300)}}
            for name, held in value.items():
                yield from ({**value, name: changed} for changed in with_text(held, text))
        case list():
            yield [text]
            yield [text[:200]] * 300
            yield from ([changed, *value[1:]] for changed in with_text(value[0], text))
        case _:
            yield text
            yield {text: text}
            yield [text]


EVERYTHING: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        **BODY,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "logit_bias": {"1": 1},
        "stop": ["x"],
        "guardrails": [{"moderation_llm_v2": {"custom_category_thresholds": {"selfharm": 0.5}}}],
    },
    "/v1/completions": {"model": "chat", "prompt": ["x"], "max_tokens": 2, "response_format": {"type": "text"}},
    "/v1/embeddings": {"model": "chat", "input": ["x"], "encoding_format": "float", "output_dtype": "float"},
    "/v1/responses": {"model": "chat", "input": [{"role": "user", "content": "x"}], "max_output_tokens": 2},
    "/v1/moderations": {"model": "none", "input": ["x"]},
    "/v1/fim/completions": {"model": "none", "prompt": "x", "suffix": "x"},
    "/v1/batch/jobs": {"endpoint": "/v1/none", "input_files": ["x"], "metadata": {"x": "x"}, "model": "chat"},
    "/v1/batches": {"endpoint": "/v1/none", "input_file_id": "x", "completion_window": "24h", "metadata": {"x": "x"}},
}


@pytest.mark.parametrize("path", EVERYTHING)
def test_refusals_repeat_little_of_what_was_sent(app_client: TestClient, path: str) -> None:
    num_refused = 0
    for body in with_text(EVERYTHING[path], "wind " * 40_000):
        answer = app_client.post(path, json=body)
        if answer.status_code != 200:
            num_refused += 1
            assert answer.status_code < 500
            assert len(answer.json()["message"]) <= MAX_MESSAGE_CHARS
            assert len(answer.text) < 60 * MAX_MESSAGE_CHARS, (answer.text[:300], len(answer.text))
            assert "wind " * 200 not in answer.text
    assert num_refused > 5


def test_refusals_repeat_little_of_an_address(app_client: TestClient) -> None:
    for name in ("models", "files", "batches", "batch/jobs"):
        for address in (f"/v1/{name}/{'x' * 1500}", f"/v1/{name}/x?limit={'x' * 1500}&after={'x' * 1500}"):
            answer = app_client.get(address)
            assert answer.status_code in (404, 422)
            assert len(answer.text) < 3 * MAX_MESSAGE_CHARS


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"", "application/json", 400),
        (b'{"model": NaN}', "application/json", 400),
        (b'{"temperature": Infinity}', "application/json", 400),
        (b'{"temperature": 1e999}', "application/json", 422),
        (b"\xff\xfe", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"a":' * 100_000, "application/json", 400),
        (b"[]", "application/json", 422),
        (b"null", "application/json", 422),
        (b'"x"', "application/json", 422),
        (b"{}", "text/plain", 415),
        (b"model=chat", "application/x-www-form-urlencoded", 415),
    ],
)
def test_what_is_no_json_object_is_refused(
    app_client: TestClient, content: bytes, content_type: str, status: int
) -> None:
    for path in ("/v1/chat/completions", "/v1/embeddings", "/v1/responses", "/v1/moderations"):
        refusal(app_client.post(path, content=content, headers={"content-type": content_type}), status)


def test_routes_that_are_not_there(app_client: TestClient) -> None:
    refusal(app_client.get("/v1/none"), 404)
    refusal(app_client.get("/v1/models/none"), 404)
    refusal(app_client.get("/v1/embeddings"), 405)
    refusal(app_client.post("/v1/ocr", json={}), 501)
    refusal(app_client.get("/v1/agents/x"), 501)
    refusal(app_client.get("/v1/chat/completions"), 501)  # OpenAI's lists those that were stored
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        for path in ("/v1/nowhere", "/v1/messages", "/api/chat", "/v1/audio/nowhere", "/nowhere", "/v2", "/v1"):
            body = refusal(app_client.request(method, path), 404)
            assert path in body["message"]
    assert app_client.post("/v1/models").headers["allow"] == "GET"
    for path in ("/", "/js/main.js", "/health"):
        assert "GET" in app_client.post(path).headers["allow"]
        refusal(app_client.post(path), 405)
    refusal(app_client.delete("/v1/models/chat"), 403)


@pytest.fixture(scope="module")
def strict_client(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with serving({"chat": checkpoints["chat"]}, tmp_path_factory.mktemp("strict"), strict=True) as client:
        yield client


UNKNOWN: dict[str, Any] = {
    **{"user": "x", "store": True, "verbosity": "low", "safety_identifier": "x", "max_token": 3, "cache_prompt": True},
    **{"provider": {"order": ["x"]}, "options": {"num_ctx": 4096}, "keep_alive": "5m", "think": False},
}


def test_unknown_fields_are_named_in_a_header_or_refused(app_client: TestClient, strict_client: TestClient) -> None:
    content = [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]
    tool = {"type": "function", "cache_control": {}, "function": {"name": "f", "examples": ["x"]}}
    messages = [{"role": "user", "content": content, "name": "someone", "annotations": [], "audio": None}]
    body = {**BODY, **UNKNOWN, "messages": messages, "tools": [tool], "web_search_options": None}
    nested = {"messages.name", "messages.content.cache_control", "tools.function.examples"}
    for stream in (False, True):
        answer = app_client.post("/v1/chat/completions", json={**body, "stream": stream})
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-ignored-fields"].split(", ") == sorted({*UNKNOWN, *nested})
    assert "x-ignored-fields" not in app_client.post("/v1/chat/completions", json=BODY).headers
    for client, headers in ((strict_client, {}), (app_client, MISTRAL)):
        detail = refusal(client.post("/v1/chat/completions", json=body, headers=headers), 422)["detail"]
        unknown = {entry["loc"][-1] for entry in detail if entry["type"] == "extra_forbidden"}
        assert unknown >= {*UNKNOWN, "name", "cache_control", "examples"}
        assert client.post("/v1/chat/completions", json={**BODY, "seed": 3, "max_completion_tokens": 2}).is_success


def test_a_header_repeats_little_and_no_line_ends_of_what_was_sent(app_client: TestClient) -> None:
    names = {f"{n:03}\r\nx-evil: {'ä' * 500}": 1 for n in range(300)}
    answer = app_client.post("/v1/chat/completions", json={**BODY, **names})
    assert answer.status_code == 200
    assert "x-evil" not in answer.headers
    assert answer.headers["x-ignored-fields"].startswith("000??x-evil:?")
    assert answer.headers["x-ignored-fields"].endswith("and 280 more")
    assert len(answer.headers["x-ignored-fields"]) < 1600


@pytest.mark.parametrize("change", [{"prompt_mode": "reasoning"}, {"reasoning_effort": "high"}])
def test_reasoning_is_a_hint_to_a_model_that_does_not_reason(
    app_client: TestClient, strict_client: TestClient, change: dict[str, Any]
) -> None:
    body = {**BODY, "temperature": 0}
    plain = app_client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    for headers in ({}, MISTRAL):
        answer = app_client.post("/v1/chat/completions", json={**body, **change}, headers=headers)
        assert answer.json()["choices"][0]["message"]["content"] == plain
        assert answer.headers["x-ignored-fields"] == next(iter(change))
    refused = strict_client.post("/v1/chat/completions", json={**body, **change})
    assert "does not reason" in refusal(refused, 400)["message"]
    answer = app_client.post("/v1/chat/completions", json={**body, **change, "model": "thinker"})
    assert "x-ignored-fields" not in answer.headers


def test_what_the_engine_can_do_is_done_by_the_names_of_other_engines(app_client: TestClient) -> None:
    def ask(**fields: Any) -> dict[str, Any]:
        body = {"model": "chat", "prompt": "The wind", "max_tokens": 24, "seed": 3, "temperature": 1.5, **fields}
        answer = app_client.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text
        assert "x-ignored-fields" not in answer.headers
        return dict(answer.json())

    def text(**fields: Any) -> str:
        return str(ask(**fields)["choices"][0]["text"])

    greedy = text(temperature=0)
    assert text() != greedy == text(min_p=1) == text(top_k=1)
    assert text() == text(top_k=0) == text(top_k=-1) == text(min_p=0)
    assert text(temperature=0, repeat_penalty=1.9) == text(temperature=0, repetition_penalty=1.9) != greedy
    assert ask(logit_bias={"2": 100})["usage"]["completion_tokens"] == 1  # the end of sequence
    assert ask(logit_bias={"2": 100}, ignore_eos=True)["usage"]["completion_tokens"] == 24
    stopped = ask(logit_bias={"500": 100}, stop_token_ids=[500])
    assert (stopped["choices"][0]["finish_reason"], stopped["usage"]["completion_tokens"]) == ("stop", 1)
    body = {"model": "chat", "prompt": "x"}
    refusal(app_client.post("/v1/completions", json={**body, "repeat_penalty": 2, "repetition_penalty": 1}), 422)
    refusal(app_client.post("/v1/completions", json={**body, "min_p": 2}), 422)
    refusal(app_client.post("/v1/completions", json={**body, "stop_token_ids": [10**6]}), 400)
    forced = {"response_format": {"type": "json_object"}, "ignore_eos": True}
    assert "ignore_eos" in refusal(app_client.post("/v1/chat/completions", json={**BODY, **forced}), 400)["message"]


COUNT = 1900  # tokens of a prompt, at least; the context has 2,048


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a b " * (COUNT // 2)}]}),
        ("/v1/fim/completions", {"prompt": "a b " * (COUNT // 2)}),
        ("/v1/completions", {"prompt": [5] * COUNT}),
        ("/v1/responses", {"input": "a b " * (COUNT // 2)}),
    ],
)
def test_more_tokens_than_the_context_has_are_its_rest(
    app_client: TestClient, strict_client: TestClient, path: str, body: dict[str, Any]
) -> None:
    limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
    body = {**body, "model": "chat", limit: 32_000, "temperature": 1.0}
    if path != "/v1/responses":
        body |= {"logit_bias": {"2": -100}, "seed": 1}
    answer = app_client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    usage = answer.json()["usage"]
    assert answer.headers["x-changed-fields"] == limit
    beyond = app_client.post(path, json={**body, limit: 10**30})
    assert (beyond.status_code, beyond.headers["x-changed-fields"]) == (200, limit)
    if path != "/v1/responses":
        assert usage["total_tokens"] == 2048
        assert answer.json()["choices"][0]["finish_reason"] == "length"
    if path in ("/v1/chat/completions", "/v1/fim/completions"):
        theirs = app_client.post(path, json=body, headers={"x-dialect": "mistral"})
        assert theirs.json()["choices"][0]["finish_reason"] == "model_length"
    refused = refusal(strict_client.post(path, json=body), 400)
    assert refused["code"] == "context_length_exceeded"
    assert refused["message"].startswith("This model's maximum context length is 2048 tokens, but the prompt has ")
    assert "max_tokens asks for 32000 more" in refused["message"]


def test_a_null_says_what_leaving_a_field_out_says(app_client: TestClient) -> None:
    call = {"id": "callAbcd1", "type": None, "function": {"name": "f", "arguments": None}}
    written = {
        "messages": [
            {"role": "user", "content": "hi", "name": None},
            {"role": "assistant", "content": None, "prefix": None, "tool_calls": [call]},
            {"role": "tool", "content": "1", "tool_call_id": "callAbcd1", "name": None},
        ],
        "safe_prompt": None,
        "stream_options": {"include_usage": None},
        "logprobs": False,
        "top_logprobs": 0,
        "unheard_of": None,
    }
    answer = app_client.post("/v1/chat/completions", json={**BODY, **written})
    assert answer.status_code == 200, answer.text
    assert "x-ignored-fields" not in answer.headers
    assert refusal(app_client.post("/v1/chat/completions", json={**BODY, "model": None}), 422)["param"] == "model"


def test_tools_of_other_kinds_are_left_out_and_named(app_client: TestClient, strict_client: TestClient) -> None:
    search: dict[str, Any] = {"type": "web_search"}
    body: dict[str, Any] = {**BODY, "tools": [search, *ONE_TOOL, {"type": "custom", "custom": {"name": "sh"}}]}
    answer = app_client.post("/v1/chat/completions", json={**body, "tool_choice": "required", "max_tokens": 200})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-ignored-fields"] == "tools[0].web_search, tools[2].custom"
    assert answer.json()["choices"][0]["message"]["tool_calls"]
    assert "web_search" in refusal(strict_client.post("/v1/chat/completions", json=body), 400)["message"]
    none = {**BODY, "tools": [search], "tool_choice": "any"}
    assert refusal(app_client.post("/v1/chat/completions", json=none), 400)["param"] == "tool_choice"


def test_the_rest_of_the_context_is_not_what_the_model_ends_by_itself_with(app_client: TestClient) -> None:
    model: Any = app_client.app.state.services.registry.find("chat")  # type: ignore[attr-defined]
    before = model.default_sampling
    model.default_sampling = dataclasses.replace(before, default_max_tokens=5)
    try:
        body = {"model": "chat", "prompt": [5] * 2000, "logit_bias": {"2": -100}}
        for limit, expected in ((32_000, 48), (40, 40), (None, 5)):
            answer = app_client.post("/v1/completions", json={**body, "max_tokens": limit})
            assert answer.json()["usage"]["completion_tokens"] == expected
    finally:
        model.default_sampling = before


def test_a_prompt_beyond_the_context_is_refused_in_the_words_that_clients_know(app_client: TestClient) -> None:
    bodies = (
        *(("/v1/chat/completions", {"messages": LONG}), ("/v1/completions", {"prompt": [5] * 2048})),
        *(("/v1/responses", {"input": LONG}), ("/v1/embeddings", {"input": [[5] * 2049]})),
    )
    for path, body in bodies:
        refused = refusal(app_client.post(path, json={"model": "chat", **body}), 400)
        assert refused["code"] == "context_length_exceeded", path
        assert refused["param"] in ("messages", "prompt", "input")
        assert refused["param"] in body
        assert refused["message"].startswith("This model's maximum context length is 2048 tokens, but the prompt has ")
        assert "an answer of" not in refused["message"]


@pytest.mark.parametrize("name", ["refusal", "audio", "function_call"])
def test_parts_of_earlier_answers_that_would_be_lost_are_refused(app_client: TestClient, name: str) -> None:
    turns = [*BODY["messages"], {"role": "assistant", "content": "x", name: None}, *BODY["messages"]]
    assert app_client.post("/v1/chat/completions", json={**BODY, "messages": turns}).status_code == 200
    turns[1] = {"role": "assistant", "content": "x", name: {"id": "a"}}
    detail = refusal(app_client.post("/v1/chat/completions", json={**BODY, "messages": turns}), 422)["detail"]
    assert detail[0]["loc"][-1] == name


def test_a_full_queue_is_429_and_breaks_nothing(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with serving({"chat": checkpoints["chat"]}, tmp_path, max_sequences=1, max_waiting=1) as client:
        options = {**BODY, "prompt": "x", "max_tokens": 4}
        del options["messages"]
        answer = client.post("/v1/completions", json={**options, "prompt": ["wind"] * 20})
        assert refusal(answer, 429)["type"] == "rate_limited"
        assert int(answer.headers["retry-after"]) >= 1
        assert client.post("/v1/completions", json=options).status_code == 200


def test_every_answer_has_an_id_and_metrics_count_it(app_client: TestClient) -> None:
    answer = app_client.post("/v1/chat/completions", json=BODY)
    assert answer.headers["mistral-correlation-id"] == answer.headers["x-request-id"] == answer.json()["id"]
    ids = {app_client.get(path).headers["mistral-correlation-id"] for path in ("/v1/models", "/health", "/none", "/")}
    assert len(ids) == 4
    assert app_client.get("/", headers={"host": "evil.example"}).headers["x-request-id"]
    text = app_client.get("/metrics").text
    assert 'tramontane_requests_total{endpoint="/v1/chat/completions",model="chat",status="200"}' in text
    assert 'tramontane_engine_held_pages{model="chat"} 0.0' in text
    figures = dict(re.findall(r'^tramontane_engine_(\w+)\{model="chat"\} (\S+)$', text, re.M))
    assert float(figures["touched_bytes"]) > 0 == float(figures["evictions"])


def test_cards_show_every_alias(app_client: TestClient) -> None:
    cards = {card["id"]: card for card in app_client.get("/v1/models").json()["data"]}
    assert {name: card["name"] for name, card in cards.items()} == {name: name for name in cards}
    aliases = {name: card["alias_of"] for name, card in cards.items()}
    assert set(cards["chat"]["aliases"]) == {name for name in cards if aliases[name] == "chat"}
    for name in ("devstral-small-2507", "mistral-vibe-cli-latest", "mistral-small-2506"):
        assert aliases[name] == "chat"
    assert aliases["chat"] is None
    assert cards["codestral-latest"]["capabilities"]["completion_fim"]
    assert aliases["magistral-small-latest"] == "thinker"
    assert cards["thinker"]["capabilities"]["reasoning"]
    assert cards["coder"]["capabilities"]["completion_fim"]
    one = app_client.get("/v1/models/mistral-large-latest").json()
    assert one["id"] == "mistral-large-latest"
    assert app_client.get("/v1/models", params={"model": "coder"}).json()["data"] == [cards["coder"]]


def test_dispatch_answers_as_http_does(app_client: TestClient) -> None:
    async def both() -> list[tuple[int, dict[str, Any]]]:
        app: Any = app_client.app
        return [
            await dispatch(app, "/v1/chat/completions", {**BODY, "seed": 3}, OWNER, dialect="openai"),
            await dispatch(app, "/v1/chat/completions", {**BODY, "n": 0}, OWNER),
            await dispatch(app, "/v1/chat/completions", {**BODY, "stream": True}, OWNER),
            await dispatch(app, "/v1/none", BODY, OWNER),
        ]

    portal: Any = app_client.portal
    ours, *refusals = portal.call(both)
    theirs = app_client.post("/v1/chat/completions", json={**BODY, "seed": 3}).json()
    assert ours[0] == 200
    assert ours[1]["choices"] == theirs["choices"]
    assert [status for status, _ in refusals] == [422, 400, 404]


def test_cached_prompts_are_not_shared_between_callers(app_client: TestClient) -> None:
    """What one caller has sent must not show in another's time to first token or token counts."""
    body = {**BODY, "messages": [{"role": "user", "content": "a long question about the wind " * 20}]}

    async def cached_tokens(salt: str) -> int:
        app: Any = app_client.app
        status, answer = await dispatch(app, "/v1/chat/completions", body, Caller(salt, salt, OWNER.scopes, owner=salt))
        assert status == 200
        return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])

    portal: Any = app_client.portal
    first, again, other = (portal.call(cached_tokens, salt) for salt in ("c", "c", "d"))
    assert first == other == 0
    assert again > 64


def test_a_model_may_stand_in_for_every_name(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with serving(checkpoints, tmp_path, alias=["*=coder", "gpt-4o", "writer=coder"]) as client:
        expected = {"gpt-4o": "chat", "writer": "coder", "no/such\nmodel": "coder", "thinker": "thinker"}
        for name, served in expected.items():
            for stream in (False, True):
                answer = client.post("/v1/chat/completions", json={**BODY, "model": name, "stream": stream})
                assert answer.status_code == 200, answer.text
                assert answer.headers["x-served-model"] == served
        card = client.get("/v1/models/none").json()  # clients that look a model up first find what would answer
        assert (card["id"], card["alias_of"]) == ("none", "coder")
        refusal(client.delete("/v1/models/none"), 404)
        assert "*" not in {card["id"] for card in client.get("/v1/models").json()["data"]}


@pytest.mark.parametrize("alias", ["x=none", "=chat", "chat", "chat=coder"])
def test_an_alias_that_cannot_be(checkpoints: dict[str, Path], tmp_path: Path, alias: str) -> None:
    with pytest.raises(ConfigError, match="served model"), serving(checkpoints, tmp_path, alias=[alias]):
        pass
