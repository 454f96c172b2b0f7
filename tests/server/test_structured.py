"""Constrained answers of a model that knows nothing: whatever it would rather say, they fit."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import jsonschema
import pytest
from fastapi.testclient import TestClient

from tests.server.in_process import HELLO
from tests.server.invalid_formats import invalid_requests

SCHEMAS: dict[str, dict[str, Any]] = {
    "object": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 6},
            "kind": {"enum": ["wind", "rain", 3, None]},
            "speeds": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3},
        },
        "required": ["name", "kind", "speeds"],
        "additionalProperties": False,
    },
    "references": {
        "$defs": {"leaf": {"type": "object", "properties": {"v": {"type": "boolean"}}, "required": ["v"],
                           "additionalProperties": False}},
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/leaf"}, "b": {"anyOf": [{"$ref": "#/$defs/leaf"}, {"type": "null"}]}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
    "array": {"type": "array", "items": {"const": "x"}, "minItems": 2, "maxItems": 2},
    "pattern": {"type": "string", "pattern": "^[a-c]{2}-[0-9]{3}$"},
    "number": {"type": "integer", "minimum": 10, "maximum": 20},
}  # fmt: skip
TOOLS = [
    {"type": "function", "function": {"name": f"look_{name}", "parameters": {
        "type": "object", "properties": {"x": schema}, "required": ["x"], "additionalProperties": False}}}
    for name, schema in SCHEMAS.items() if name != "references"
]  # fmt: skip
MODELS = ("chat", "thinker", "coder")


def chat(client: TestClient, model: str, **fields: Any) -> Any:
    body = {"model": model, "messages": HELLO, "max_tokens": 400, "temperature": 1.0, **fields}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", SCHEMAS)
def test_schema(app_client: TestClient, name: str, model: str) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": name, "schema": SCHEMAS[name], "strict": True}}
    for seed in range(4):
        choice = chat(app_client, model, response_format=wanted, seed=seed)
        assert choice["finish_reason"] == "stop"
        jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMAS[name])


@pytest.mark.parametrize("model", MODELS)
def test_forced_calls_name_a_tool_and_obey_its_schema(app_client: TestClient, model: str) -> None:
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}  # type: ignore[index]
    for seed in range(6):
        options = {"tools": TOOLS, "parallel_tool_calls": False, "seed": seed}
        choice = chat(app_client, model, tool_choice="any", **options)
        [call] = choice["message"]["tool_calls"]
        assert choice["finish_reason"] == "tool_calls"
        assert re.fullmatch("[a-zA-Z0-9]{9}", call["id"])
        jsonschema.validate(json.loads(call["function"]["arguments"]), schemas[call["function"]["name"]])
    name = "look_number"
    choice = chat(app_client, model, tool_choice={"type": "function", "function": {"name": name}}, **options)
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == [name]


@pytest.mark.parametrize("model", MODELS)
def test_parallel_calls_are_each_valid(app_client: TestClient, model: str) -> None:
    found = []
    for seed in range(6):
        options = {"tools": TOOLS[3:], "tool_choice": "required", "seed": seed, "max_tokens": 300}
        calls = chat(app_client, model, **options)["message"].get("tool_calls") or []
        found.append(len(calls))
        for call in calls:
            assert 10 <= json.loads(call["function"]["arguments"])["x"] <= 20
        assert len({call["id"] for call in calls}) == len(calls)
    assert max(found) > 1


def test_calls_are_allowed_forbidden_and_checked_once_begun(app_client: TestClient) -> None:
    """The bias makes the model open a call at once; what follows is then held to the schema."""
    opening = {"chat": 9}  # [TOOL_CALLS] in the vocabularies of the tests
    options: dict[str, Any] = {"tools": TOOLS[3:], "logit_bias": {str(opening["chat"]): 100}, "max_tokens": 60}
    [call] = chat(app_client, "chat", tool_choice="auto", parallel_tool_calls=False, **options)["message"]["tool_calls"]
    assert 10 <= json.loads(call["function"]["arguments"])["x"] <= 20
    assert "tool_calls" not in chat(app_client, "chat", tool_choice="none", **options)["message"]


def test_regex_and_grammars(app_client: TestClient) -> None:
    for model in MODELS:
        regex = {"type": "regex", "regex": r"(north|south)/[0-9]{2}\.[a-f]"}
        text = chat(app_client, model, response_format=regex)["message"]["content"]
        assert re.fullmatch(r"(north|south)/[0-9]{2}\.[a-f]", text)
    lark = {"type": "grammar", "grammar": 'start: "wind" body\nbody: /[a-z]{3}/ | "-" start\n'}
    assert re.fullmatch("(wind-)*wind[a-z]{3}", chat(app_client, "chat", response_format=lark)["message"]["content"])
    gbnf = {"type": "grammar", "grammar": 'root ::= "yes" | "no" x\nx ::= [0-9]\n'}
    assert re.fullmatch("yes|no[0-9]", chat(app_client, "chat", response_format=gbnf)["message"]["content"])


def test_a_prefix_is_part_of_what_has_to_fit(app_client: TestClient) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMAS["object"], "strict": True}}
    begun = [*HELLO, {"role": "assistant", "content": '{"name": "ab', "prefix": True}]
    content = chat(app_client, "chat", messages=begun, response_format=wanted)["message"]["content"]
    assert content.startswith('{"name": "ab')
    jsonschema.validate(json.loads(content), SCHEMAS["object"])
    wrong = [*HELLO, {"role": "assistant", "content": "Sure: ", "prefix": True}]
    body = {"model": "chat", "messages": wrong, "response_format": wanted}
    assert app_client.post("/v1/chat/completions", json=body).status_code == 400


def test_streamed_and_whole_and_each_of_n_are_the_same(app_client: TestClient) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMAS["object"], "strict": True}}
    body = {"model": "chat", "messages": HELLO, "max_tokens": 300, "n": 3, "seed": 4, "response_format": wanted}
    whole = app_client.post("/v1/chat/completions", json=body).json()["choices"]
    texts = ["", "", ""]
    with app_client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                for choice in json.loads(line[6:])["choices"]:
                    texts[choice["index"]] += choice["delta"].get("content") or ""
    assert texts == [choice["message"]["content"] for choice in whole]
    assert len(set(texts)) > 1
    for text in texts:
        jsonschema.validate(json.loads(text), SCHEMAS["object"])


IMPOSSIBLE: list[dict[str, Any]] = [
    {"type": "wind"}, {"type": 5}, {"$ref": "#"}, {"$ref": "#/$defs/none"}, {"$ref": "http://localhost/x"},
    {"not": {"type": "string"}}, {"enum": []}, {"anyOf": []}, {"minimum": 5, "maximum": 3, "type": "integer"},
    {"type": "string", "pattern": "("}, {"type": "string", "pattern": "(a" * 5_000},
    {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, {"description": "x" * 200_000},
    {"type": "array", "minItems": -1}, {"properties": []}, {"type": "string", "format": "wind"},
]  # fmt: skip
INVALID: list[dict[str, Any]] = [
    {"type": "regex", "regex": "("},
    {"type": "regex", "regex": "(" * 30_000},
    {"type": "regex", "regex": "(?=a)b"},
    {"type": "regex", "regex": "a" * 100_000},
    {"type": "grammar", "grammar": "start: ("},
    {"type": "grammar", "grammar": "nothing here"},
    {"type": "grammar", "grammar": "start: " + "(" * 30_000},
    {"type": "grammar", "grammar": "start: missing"},
    {"type": "grammar", "grammar": "x" * 500_000},
    *({"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}} for schema in IMPOSSIBLE),
]


@pytest.mark.parametrize("place", range(len(INVALID)))
def test_what_cannot_be_compiled_is_refused(app_client: TestClient, place: int) -> None:
    body = {"model": "chat", "messages": HELLO, "max_tokens": 5, "response_format": INVALID[place]}
    answer = app_client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400, answer.text
    assert len(answer.text) < 1000
    assert app_client.get("/health").json()["status"] == "ok"


def test_what_is_wrong_anywhere_in_a_format_is_refused(app_client: TestClient) -> None:
    """benchmarks/api_fuzz.py asks 5,000 of a live server."""
    for fields in itertools.islice(invalid_requests(seed=1), 200):
        answer = app_client.post("/v1/chat/completions", json={"model": "chat", "messages": HELLO, **fields})
        assert answer.status_code == 400, (fields, answer.text)
        assert len(answer.text) < 1000
    assert app_client.get("/health").json()["status"] == "ok"


def test_a_deep_schema_is_refused(app_client: TestClient) -> None:
    text = '{"type": "array", "items": ' * 5_000 + '{"type": "string"}' + "}" * 5_000
    body = (
        '{"model": "chat", "messages": [{"role": "user", "content": "x"}], "response_format": {"type": "json_schema",'
    )
    body += f'"json_schema": {{"name": "x", "schema": {text}}}}}}}'
    answer = app_client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400


def test_many_grammars_are_not_all_kept(app_client: TestClient) -> None:
    for number in range(100):
        wanted = {"type": "regex", "regex": f"a{number}"}
        chat(app_client, "chat", response_format=wanted, max_tokens=1)
    app: Any = app_client.app
    assert len(app.state.services.registry.resolve("chat", "local").grammars._compiled) <= 64
