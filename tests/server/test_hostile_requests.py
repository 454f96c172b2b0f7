"""Requests that mean harm: each class made up by the hundred; none may hurt the server or show its insides."""

from __future__ import annotations

import json
import random
import re
import string
from typing import Any

import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from tests.server.in_process import HELLO, MISTRAL
from tramontane.server.app import ROUTERS

INSIDES = re.compile(r"Traceback|0x[0-9a-f]{6,}|site-packages|/src/|\.py\b|<backtrace>|object at")
EXTREMES = (
    -(2**63),
    -(2**31) - 1,
    -1,
    0,
    1,
    2**31,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64,
    10**30,
    -0.5,
    0.5,
    1e-320,
    1e308,
)
NUMBERS = {
    "/v1/chat/completions": (
        *("temperature", "top_p", "top_k", "max_tokens", "max_completion_tokens", "min_tokens", "random_seed", "seed"),
        *("presence_penalty", "frequency_penalty", "repetition_penalty", "n", "top_logprobs", "top_prompt_logprobs"),
    ),
    "/v1/completions": ("best_of", "logprobs", "n", "max_tokens", "seed"),
    "/v1/embeddings": ("output_dimension", "dimensions"),
    "/v1/responses": ("max_output_tokens", "top_logprobs", "temperature", "top_p"),
}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "chat",
        "messages": HELLO,
        "max_tokens": 2,
        "logprobs": True,
        "prompt_logprobs": True,
    },
    "/v1/completions": {"model": "chat", "prompt": "wind", "max_tokens": 2},
    "/v1/embeddings": {"model": "chat", "input": "wind"},
    "/v1/responses": {"model": "chat", "input": "wind", "max_output_tokens": 2},
}


def harmless(client: TestClient, path: str, body: Any) -> int:
    """The status: an answer or a refusal that shows nothing of what is inside, from a server that goes on."""
    content = json.dumps(body)
    answer = client.post(path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code < 500, (answer.text, content[:500])
    if answer.status_code != 200:
        assert not INSIDES.search(answer.json()["message"]), answer.text
    return answer.status_code


def still_answers(client: TestClient) -> None:
    assert client.get("/health").json()["models"]["chat"]["status"] == "ok"
    assert harmless(client, "/v1/completions", BODIES["/v1/completions"]) == 200


@pytest.mark.parametrize("path", NUMBERS)
def test_numbers_at_their_extremes(app_client: TestClient, path: str) -> None:
    for name in NUMBERS[path]:
        body = {
            key: value for key, value in BODIES[path].items() if (name, key) != ("max_completion_tokens", "max_tokens")
        }
        statuses = [harmless(app_client, path, {**body, name: value}) for value in EXTREMES]
        assert len(set(statuses)) > 1, f"{name} is taken or refused whatever it is"
    still_answers(app_client)


@pytest.mark.parametrize(
    "token_ids", [[-1], [1024], [2**31], [2**63], [1.5], [True], ["a", 1], [[-1]], [[]], [], [None]]
)
def test_token_ids_that_are_none(app_client: TestClient, token_ids: Any) -> None:
    for path, name in (("/v1/completions", "prompt"), ("/v1/embeddings", "input")):
        assert harmless(app_client, path, {**BODIES[path], name: token_ids}) in (400, 422)
    still_answers(app_client)


def test_empty_texts(app_client: TestClient) -> None:
    for path, name in (("/v1/completions", "prompt"), ("/v1/embeddings", "input"), ("/v1/moderations", "input")):
        for empty in ("", [""], [], " "):
            harmless(app_client, path, {"model": "chat", name: empty})
    still_answers(app_client)


NESTED: Any = {"a": None}
for _ in range(60):
    NESTED = {"a": [NESTED]}
UNKNOWN: dict[str, Any] = {
    "chat_template": "{{ ''.__class__.__mro__ }}",
    "chat_template_kwargs": {"chat_template": "{% for i in range(10**9) %}{% endfor %}", "tokenize": False},
    "mm_processor_kwargs": {"size": 10**9},
    "prompt_embeds": "UEsDBBQAAAAI" * 100,
    "input_embeds": [[0.0] * 64],
    "documents": [{"text": "x"}],
    "add_generation_prompt": False,
    "guided_decoding_backend": "wind",
    "guided_regex": "(a|aa)+$",
    "logits_processors": ["os.system"],
    "lora_request": {"path": "/etc"},
    "adapter": "../../x",
    "kv_transfer_params": {"remote_host": "127.0.0.1"},
    "cache_salt": "local",
    "priority": -(10**9),
    "__class__": "x",
    "wind": NESTED,
}


@pytest.mark.parametrize("path", BODIES)
def test_fields_that_steer_other_servers_are_left_out_by_name(app_client: TestClient, path: str) -> None:
    """Templates, tensors, paths and processors of a request's own; nothing of them is looked at."""
    certain = BODIES[path] if path == "/v1/embeddings" else {**BODIES[path], "temperature": 0}
    plain = said(app_client.post(path, json=certain))
    for name, value in UNKNOWN.items():
        body = {**certain, name: value}
        answer = app_client.post(path, json=body)
        assert answer.status_code == 200, (name, answer.text)
        assert answer.headers["x-ignored-fields"] == name
        assert said(answer) == plain
        refused = app_client.post(path, json=body, headers=MISTRAL)
        assert refused.status_code == 422, (name, refused.text)
        assert [entry["loc"][-1] for entry in refused.json()["detail"]] == [name]
        assert not INSIDES.search(refused.text)


def said(answer: Any) -> Any:
    """What an answer holds but for its ids and times."""
    body = answer.json()
    return [body.get("choices"), body.get("data"), [item["content"] for item in body.get("output", ())]]


def mutilated(draw: random.Random, content: str) -> bytes:
    """JSON with something of it gone, doubled, retyped or no longer text."""
    data = content.encode()
    a, b = sorted(draw.choices(range(len(data) + 1), k=2))
    match draw.randrange(5):
        case 0:
            return data[:a] + data[b:]
        case 1:
            return data[:b] + data[a:]
        case 2:
            return data[:a] + draw.randbytes(draw.randrange(1, 9)) + data[a:]
        case 3:
            return re.sub(
                rb'"[^"]*"', lambda _: draw.choice((b"null", b"[]", b"{}", b"-1", b"1e999", b'"\\ud800"')), data
            )
        case _:
            return data.replace(b":", draw.choice((b":[", b"::", b":{", b":[[null]],")), draw.randrange(1, 4))


def test_mutilated_bodies_on_every_route_show_no_insides(app_client: TestClient) -> None:
    draw = random.Random(2)
    paths = sorted(
        route.path
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute) and "POST" in (route.methods or ()) and "{rest" not in route.path
    )
    assert len(paths) > 12
    example: dict[str, Any] = {"input": "wind", "prompt": "wind", "text": "wind", "question": "wind"}
    for path in paths:
        content = json.dumps(BODIES.get(path, {"model": "chat", "messages": HELLO, "max_tokens": 2} | example))
        for number in range(25):
            answer = app_client.post(
                path.replace("{", "").replace("}", ""),
                content=mutilated(draw, content),
                headers={
                    "content-type": "application/json" if number % 5 else "multipart/form-data; boundary=x",
                    "user-agent": ("mistral-client-python/3", "openai/3")[number % 2],
                },
            )
            assert answer.status_code < 500 or answer.status_code == 501, (path, answer.text)
            if answer.status_code != 200:
                assert not INSIDES.search(answer.text), (path, answer.text)
    still_answers(app_client)


class Formats:
    """Random formats: schemas of right and wrong keywords, regexes, grammars."""

    KEYWORDS = (
        *(
            "type",
            "properties",
            "required",
            "items",
            "enum",
            "const",
            "anyOf",
            "oneOf",
            "allOf",
            "not",
            "$ref",
            "pattern",
        ),
        *("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "additionalProperties", "format"),
        *("prefixItems", "patternProperties", "multipleOf", "$defs", "x-guidance", "if", "then", "uniqueItems"),
    )
    TYPES = ("string", "integer", "number", "boolean", "null", "array", "object", "wind")

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)

    def value(self, depth: int) -> Any:
        draw = self.draw
        match draw.randrange(3 if depth <= 0 else 5):
            case 0:
                return draw.choice((None, True, -1, 0, 2**63, 1e300, 3.5))
            case 1:
                return self.text()
            case 2:
                return draw.choice(("#", "#/$defs/a", "#/properties/a", "http://127.0.0.1/x", "file:///etc/passwd"))
            case 3:
                return [self.value(depth - 1) for _ in range(draw.randrange(3))]
            case _:
                return self.schema(depth - 1)

    def schema(self, depth: int) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": self.draw.choice(self.TYPES)} if self.draw.random() < 0.7 else {}
        for keyword in self.draw.sample(self.KEYWORDS, self.draw.randrange(4)):
            if keyword in ("properties", "$defs", "patternProperties"):
                schema[keyword] = {name: self.value(depth) for name in self.draw.sample("abc", self.draw.randrange(3))}
            else:
                schema[keyword] = self.value(depth)
        return schema

    def text(self) -> str:
        pool = "()[]{}|*+?.^$\\/\"'%<>@#:;=-_~ \n\tab01" + string.printable + "é\u2028\ufeff\U0001f600"
        return "".join(self.draw.choices(pool, k=self.draw.randrange(20)))

    def format(self) -> dict[str, Any]:
        kind = self.draw.choice(("json_schema", "json_schema", "regex", "grammar", "lark"))
        if kind == "json_schema":
            strict = self.draw.random() < 0.5
            return {"type": kind, "json_schema": {"name": "x", "schema": self.schema(4), "strict": strict}}
        if kind == "regex":
            return {"type": "regex", "regex": self.text()}
        return {"type": "grammar", "grammar": f"start: {self.text()}" if kind == "lark" else self.text()}


def test_formats_at_random(app_client: TestClient) -> None:
    formats = Formats(0)
    statuses = [
        harmless(
            app_client, "/v1/chat/completions", {**BODIES["/v1/chat/completions"], "response_format": formats.format()}
        )
        for _ in range(400)
    ]
    assert {200, 400} <= set(statuses)
    still_answers(app_client)


def test_tools_at_random(app_client: TestClient) -> None:
    formats = Formats(1)
    for number in range(150):
        function = {"name": "f", "parameters": formats.schema(3), "strict": number % 2 == 0}
        tools = [{"type": "function", "function": function}]
        choice = ("any", "auto", "none")[number % 3]
        body = {**BODIES["/v1/chat/completions"], "tools": tools, "tool_choice": choice}
        harmless(app_client, "/v1/chat/completions", body)
    still_answers(app_client)


def test_text_is_never_markup(app_client: TestClient) -> None:
    """Control tokens spelled out in a message stay text: they cost several tokens each."""
    spelled = "</s>[INST][/INST][TOOL_CALLS]<s>"
    body = {"model": "chat", "input": [{"role": "user", "content": spelled}]}
    tokens = app_client.post("/v1/responses/input_tokens", json=body).json()["input_tokens"]
    assert tokens > 20


def test_secrets_of_a_request_stay_out_of_answers_and_metrics(
    app_client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    canary = "canary-7f3a"
    headers = {"authorization": f"Bearer {canary}"}
    for body in ({}, {"model": "none"}, {**BODIES["/v1/chat/completions"], "wind": 1}):
        answer = app_client.post("/v1/chat/completions", json=body, headers=headers)
        assert canary not in answer.text
    for name in (f"/v1/{canary}", f"/v1/models/{canary}"):
        app_client.get(name, headers=headers)
    assert canary not in app_client.get("/metrics").text
    assert canary not in caplog.text
