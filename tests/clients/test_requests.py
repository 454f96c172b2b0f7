"""What clients send that are too heavy to install: requests of the form of theirs, written for this test."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server.live import LiveServer


def tools(count: int) -> list[dict[str, Any]]:
    """Functions with long descriptions, as interfaces send dozens of with every message."""
    parameters = {
        "type": "object",
        "properties": {
            "query": {"type": "string", "description": "What to look for. " * 20},
            "limit": {"type": "integer", "description": "How many to return at most."},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["query"],
    }
    return [
        {
            "type": "function",
            "function": {"name": f"tool_{n}", "description": "It searches. " * 30, "parameters": parameters},
        }
        for n in range(count)
    ]


def test_open_webui_first_message(server: LiveServer) -> None:
    """Its built-in tools make eleven thousand tokens before the user's first word; advanced parameters go along."""
    body = {
        "stream": True,
        "model": "default",
        "messages": [{"role": "user", "content": "Hello, who are you?"}],
        "tools": tools(40),
        "stream_options": {"include_usage": True},
        "max_tokens": 16,
        "min_p": 0.05,
        "top_k": 40,
        "repeat_penalty": 1.1,
        "num_ctx": 8192,
        "think": False,
        "keep_alive": "5m",
        "mirostat": 0,
    }
    with server.client() as client, client.stream("POST", "/v1/chat/completions", json=body, timeout=300) as reply:
        assert reply.status_code == 200, reply.read()
        ignored = reply.headers["x-ignored-fields"]
        events = [line.removeprefix("data: ") for line in reply.iter_lines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["usage"]["prompt_tokens"] > 4_000
    assert all(name in ignored for name in ("num_ctx", "keep_alive", "mirostat"))
    assert all(name not in ignored for name in ("min_p", "top_k"))


def test_open_webui_continue_response(server: LiveServer) -> None:
    """The answer so far comes back as the last message, without Mistral's `prefix`."""
    messages = [{"role": "user", "content": "Tell me a story."}, {"role": "assistant", "content": "Once upon a"}]
    body = {"model": "default", "messages": messages, "max_tokens": 8, "temperature": 0}
    with server.client() as client:
        reply = client.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    assert not reply.json()["choices"][0]["message"]["content"].startswith("Once upon a")


def test_open_webui_picker_shows_each_name_once(server: LiveServer) -> None:
    with server.client() as client:
        cards = client.get("/v1/models").json()["data"]
    names = [card.get("name") or card["id"] for card in cards]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("agent", ["mistral-client-python/3.7.0", "Mistral-Vibe/3.0.2"])
def test_vibe_out_of_the_box(server: LiveServer, agent: str) -> None:
    """Its own model's name, its highest reasoning, and room for an answer far beyond the context."""
    body = {
        "model": "mistral-vibe-cli-latest",
        "messages": [
            {"role": "system", "content": "You are a coding agent. " * 50},
            {"role": "user", "content": "Hello"},
        ],
        "temperature": 0.2,
        "tools": tools(10),
        "tool_choice": "auto",
        "reasoning_effort": "high",
        "max_tokens": 250_108,
        "stream": True,
        "stop": ["."],
    }
    headers = {"user-agent": agent}
    with (
        server.client() as client,
        client.stream("POST", "/v1/chat/completions", json=body, headers=headers, timeout=300) as reply,
    ):
        assert reply.status_code == 200, reply.read()
        assert "reasoning_effort" in reply.headers["x-ignored-fields"]
        assert "[DONE]" in reply.read().decode()
    with server.client() as client:
        assert client.get("/v1/connectors/bootstrap", headers=headers).status_code == 501
