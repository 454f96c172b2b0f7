"""One route, two APIs: what Mistral's clients get and what others get."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from mistralai.client import models
from pydantic import BaseModel
from starlette.requests import Request

from tests.server.in_process import HELLO, MISTRAL, serving
from tramontane.server.dialect import dialect_of
from tramontane.server.schema.chat import (
    AssistantMessage,
    ChatRequest,
    Function,
    SystemMessage,
    Tool,
    ToolCallMessage,
    ToolMessage,
    UserMessage,
)
from tramontane.server.schema.embeddings import EmbeddingRequest
from tramontane.server.schema.fim import FimRequest

# Ids of control tokens in the small vocabulary of version 13.
THINK, END_THINK = 22, 23


def chat(client: TestClient, headers: dict[str, str], **fields: Any) -> Any:
    body = {"model": "thinker", "messages": HELLO, "max_tokens": 60, "seed": 1, "temperature": 1.0, **fields}
    answer = client.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]


def stream(client: TestClient, headers: dict[str, str], **fields: Any) -> list[Any]:
    body = {"model": "thinker", "messages": HELLO, "max_tokens": 60, "seed": 1, "temperature": 1.0, **fields}
    with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}, headers=headers) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


@pytest.fixture
def thinking(app_client: TestClient) -> dict[str, Any]:
    """Fields that make the model think first: a bias opens the thought, a grammar of the answer closes it."""
    return {"logit_bias": {str(THINK): 100, str(END_THINK): 4},
            "response_format": {"type": "regex", "regex": "[a-z]{4}"}}  # fmt: skip


def test_thoughts_are_chunks_for_mistral_and_a_field_for_others(
    app_client: TestClient, thinking: dict[str, Any]
) -> None:
    theirs = chat(app_client, MISTRAL, **thinking)["message"]
    ours = chat(app_client, {}, **thinking)["message"]
    assert [chunk["type"] for chunk in theirs["content"]] == ["thinking", "text"]
    thought = theirs["content"][0]["thinking"][0]["text"]
    assert ours["reasoning_content"] == thought
    assert ours["content"] == theirs["content"][1]["text"]
    assert len(ours["content"]) == 4

    deltas = [choice["delta"] for chunk in stream(app_client, MISTRAL, **thinking) for choice in chunk["choices"]]
    lists = [delta["content"] for delta in deltas if isinstance(delta.get("content"), list)]
    assert "".join(c["thinking"][0]["text"] for chunks in lists for c in chunks if c["type"] == "thinking") == thought
    assert lists[-1][0]["closed"] is True
    texts = [c["text"] for chunks in lists for c in chunks if c["type"] == "text"]
    texts += [delta["content"] for delta in deltas if isinstance(delta.get("content"), str)]
    assert "".join(texts) == ours["content"]

    deltas = [choice["delta"] for chunk in stream(app_client, {}, **thinking) for choice in chunk["choices"]]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == thought
    assert "".join(delta.get("content", "") for delta in deltas) == ours["content"]


def test_a_thought_can_be_handed_back_in_either_form(app_client: TestClient) -> None:
    chunks = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "Cold."}]
    again = {"role": "user", "content": "Sure?"}
    theirs = [*HELLO, {"role": "assistant", "content": chunks}, again]
    ours = [*HELLO, {"role": "assistant", "content": "Cold.", "reasoning_content": "hm"}, again]
    options: dict[str, Any] = {"max_tokens": 4, "temperature": 0}
    assert (
        chat(app_client, MISTRAL, messages=theirs, **options)["message"]["content"]
        == (chat(app_client, {}, messages=ours, **options)["message"]["content"])
    )


def test_the_end_of_the_context_has_a_name_of_its_own_for_mistral(app_client: TestClient) -> None:
    long = [{"role": "user", "content": "wind " * 900}]  # little room is left
    options: dict[str, Any] = {"model": "chat", "messages": long, "max_tokens": None, "logit_bias": {"2": -100}}
    assert chat(app_client, MISTRAL, **options)["finish_reason"] in ("model_length", "stop")
    assert chat(app_client, {}, **options)["finish_reason"] in ("length", "stop")


def test_usage_comes_with_the_last_chunk_or_in_one_of_its_own(app_client: TestClient) -> None:
    for headers in (MISTRAL, {}):
        chunks = stream(app_client, headers, max_tokens=3, n=2)
        assert ["usage" in chunk for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        assert chunks[-1]["usage"]["completion_tokens"] == 6
        chunks = stream(app_client, headers, max_tokens=3, stream_options={"include_usage": True})
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]["completion_tokens"] == 3


def test_logprobs_and_prompt_logprobs_when_streamed(app_client: TestClient) -> None:
    fields: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "prompt_logprobs": True, "max_tokens": 4}
    whole = chat(app_client, MISTRAL, **fields)
    choices = [choice for chunk in stream(app_client, MISTRAL, **fields) for choice in chunk["choices"]]
    parts = [entry for choice in choices for entry in choice.get("logprobs", {"content": []})["content"]]
    assert parts == whole["logprobs"]["content"]
    assert [c["prompt_logprobs"] for c in choices if "prompt_logprobs" in c] == [whole["prompt_logprobs"]]
    assert all(entry["logprob"] <= 0 for entry in parts)


def test_a_bias_is_honoured(app_client: TestClient) -> None:
    options: dict[str, Any] = {"model": "chat", "max_tokens": 3, "logit_bias": {"500": 100}, "logprobs": True}
    entries = chat(app_client, {}, **options)["logprobs"]["content"]
    assert [entry["token_id"] for entry in entries] == [500] * 3


def request(headers: dict[str, str]) -> Request:
    return Request({"type": "http", "headers": [(k.encode(), v.encode()) for k, v in headers.items()]})


@pytest.mark.parametrize(
    ("headers", "fields", "expected"),
    [
        ({}, (), "openai"),
        ({"user-agent": "curl/8"}, ("model", "messages"), "openai"),
        ({}, ("random_seed",), "mistral"),
        ({}, ("seed",), "openai"),
        ({}, ("seed", "safe_prompt"), "openai"),
        ({"user-agent": "mistral-client-python/3.7.0"}, (), "mistral"),
        ({"user-agent": "mistral-client-typescript/2.7.0"}, ("seed",), "mistral"),
        ({"user-agent": "ai/6.0.326 ai-sdk/provider-utils/4.0.56"}, (), "openai"),
        ({"user-agent": "ai/6.0.326 ai-sdk/provider-utils/4.0.56"}, ("safe_prompt",), "mistral"),
        ({"user-agent": "OpenAI/Python 2.0"}, ("safe_prompt",), "openai"),
        ({"user-agent": "AsyncOpenAI/Python 2.0", "x-dialect": "Mistral"}, (), "mistral"),
        ({"x-dialect": "wind"}, ("training_files",), "mistral"),
    ],
)
def test_the_dialect_is_what_a_request_shows(headers: dict[str, str], fields: tuple[str, ...], expected: str) -> None:
    assert dialect_of(request(headers), dict.fromkeys(fields, 1), "openai") == expected


def test_a_request_that_shows_neither_gets_what_the_server_is_set_to(
    checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    with serving({"chat": checkpoints["chat"]}, tmp_path, dialect="mistral") as client:
        assert "prefix" in chat(client, {}, model="chat", seed=None)["message"]
        assert "refusal" in chat(client, {}, model="chat", seed=1)["message"]


def test_no_field_that_mistrals_client_can_send_is_unknown() -> None:
    """It is held to the fields there are, so they must be all of its own."""
    pairs: tuple[tuple[type[BaseModel], type[BaseModel]], ...] = (
        *((models.ChatCompletionRequest, ChatRequest), (models.ChatCompletionStreamRequest, ChatRequest)),
        *((models.FIMCompletionRequest, FimRequest), (models.EmbeddingRequest, EmbeddingRequest)),
        *((models.AssistantMessage, AssistantMessage), (models.UserMessage, UserMessage)),
        *((models.SystemMessage, SystemMessage), (models.ToolMessage, ToolMessage)),
        *((models.ToolCall, ToolCallMessage), (models.Tool, Tool), (models.Function, Function)),
    )
    for theirs, ours in pairs:
        sent = {field.alias or name for name, field in theirs.model_fields.items()}
        assert sent <= set(ours.model_fields), theirs.__name__
