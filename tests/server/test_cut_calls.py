"""A tool call that the token limit cuts: a call as far as it goes, in every dialect, whole and streamed, and no control
text anywhere."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.server.in_process import HELLO, MISTRAL

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string", "maxLength": 12}, "days": {"type": "integer", "maximum": 9}},
            "required": ["place", "days"],
            "additionalProperties": False,
        },
    },
}
FORCED = {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False, "seed": 5, "temperature": 1.0}
LIMITS = (*range(1, 26, 2), 400)


def control_id(client: TestClient, model: str, name: str) -> int:
    app: Any = client.app
    return int(app.state.services.registry.resolve(model, "").llm.tokenizer.control_id(name))


def unthinking(client: TestClient, model: str) -> dict[str, Any]:
    """So that the limit cuts the call, not the thoughts before it."""
    return {"logit_bias": {str(control_id(client, model, "[THINK]")): -100}} if model == "thinker" else {}


def events(client: TestClient, path: str, body: dict[str, Any], headers: dict[str, str]) -> list[dict[str, Any]]:
    answer = client.post(path, json={**body, "stream": True}, headers=headers)
    assert answer.status_code == 200, answer.text
    lines = answer.text.splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


def added_up(chunks: list[dict[str, Any]]) -> tuple[str, list[tuple[str, str, str]], str]:
    """Content, calls (id, name, arguments) and finish_reason of a stream, as OpenAI's clients add them up."""
    content, finish = "", ""
    calls: dict[int, list[str]] = {}
    for chunk in chunks:
        choice = chunk["choices"][0]
        delta = choice["delta"]
        content += delta.get("content") or ""
        for call in delta.get("tool_calls") or ():
            known = calls.setdefault(call["index"], ["", "", ""])
            known[0] += call.get("id") or ""
            known[1] += call["function"].get("name") or ""
            known[2] += call["function"]["arguments"]
        finish = choice["finish_reason"] or finish
    return content, [(call[0], call[1], call[2]) for call in calls.values()], finish


@pytest.mark.parametrize("headers", [{}, MISTRAL], ids=["openai", "mistral"])
@pytest.mark.parametrize("model", ["chat", "thinker", "coder"])
def test_chat(app_client: TestClient, model: str, headers: dict[str, str]) -> None:
    body = {**FORCED, "model": model, "messages": HELLO, **unthinking(app_client, model)}
    longest = ""
    for limit in LIMITS:
        answer = app_client.post("/v1/chat/completions", json={**body, "max_tokens": limit}, headers=headers)
        assert answer.status_code == 200, answer.text
        choice = answer.json()["choices"][0]
        message = choice["message"]
        calls = message.get("tool_calls") or []
        assert not message["content"]
        assert "TOOL_CALLS" not in answer.text
        assert choice["finish_reason"] == ("tool_calls" if limit == 400 else "length")
        chunks = events(app_client, "/v1/chat/completions", {**body, "max_tokens": limit}, headers)
        told = [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in calls]
        assert added_up(chunks) == ("", told, choice["finish_reason"])
        if calls:
            assert "get_weather".startswith(calls[0]["function"]["name"])
            arguments = calls[0]["function"]["arguments"]
            assert arguments.startswith(longest)
            longest = arguments
    assert set(json.loads(longest)) == {"place", "days"}


@pytest.mark.parametrize("model", ["chat", "coder"])
def test_responses(app_client: TestClient, model: str) -> None:
    tool = {"type": "function", **WEATHER["function"]}  # type: ignore[dict-item]
    body = {"model": model, "input": "Weather?", "tools": [tool], "tool_choice": "required",
            "parallel_tool_calls": False, "temperature": 0}  # fmt: skip
    kinds = set()
    for limit in LIMITS:
        answer = app_client.post("/v1/responses", json={**body, "max_output_tokens": limit})
        assert answer.status_code == 200, answer.text
        response = answer.json()
        assert "TOOL_CALLS" not in answer.text
        assert {item["type"] for item in response["output"]} <= {"function_call"}
        kinds |= {(response["status"], item["status"]) for item in response["output"]}
        told = events(app_client, "/v1/responses", {**body, "max_output_tokens": limit}, {})
        streamed = told[-1]["response"]
        without_ids = [[{**item, "id": ""} for item in one["output"]] for one in (response, streamed)]
        assert without_ids[0] == without_ids[1]
        deltas = [event["delta"] for event in told if event["type"] == "response.function_call_arguments.delta"]
        assert "".join(deltas) == "".join(item["arguments"] for item in response["output"])
    assert kinds == {("incomplete", "incomplete"), ("completed", "completed")}


def test_a_call_grows_with_each_chunk_for_openai_and_comes_whole_for_mistral(app_client: TestClient) -> None:
    body = {**FORCED, "model": "chat", "messages": HELLO, "max_tokens": 400}
    for headers, expected in (({}, False), (MISTRAL, True)):
        chunks = events(app_client, "/v1/chat/completions", body, headers)
        with_calls = [chunk for chunk in chunks if chunk["choices"][0]["delta"].get("tool_calls")]
        assert (len(with_calls) == 1) == expected


def test_a_second_turn_may_hold_a_call_that_was_cut(app_client: TestClient) -> None:
    for model in ("chat", "thinker", "coder"):
        body = {**FORCED, "model": model, "messages": HELLO, "max_tokens": 20, **unthinking(app_client, model)}
        message = app_client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
        [call] = message["tool_calls"]
        turns = [*HELLO, message, {"role": "tool", "tool_call_id": call["id"], "content": "the call was cut"}]
        answer = app_client.post("/v1/chat/completions", json={"model": model, "messages": turns, "max_tokens": 2})
        assert answer.status_code == 200, answer.text


def test_calls_of_a_model_that_was_offered_no_tools_are_text(app_client: TestClient) -> None:
    bias = {str(control_id(app_client, "chat", "[TOOL_CALLS]")): 100}
    body = {"model": "chat", "messages": HELLO, "max_tokens": 8, "logit_bias": bias}
    answer = app_client.post("/v1/chat/completions", json=body)
    message = answer.json()["choices"][0]["message"]
    assert message["content"] == ""
    assert "tool_calls" not in message
