"""Libraries that other people's programs call the server with: one short journey each, unpatched."""

from __future__ import annotations

import re

import pytest

from tests.clients.conftest import Journey


def test_openai_for_javascript(node: Journey) -> None:
    found = node("openai")
    assert found["chat"]["isText"]
    assert found["stream"]["isWhole"]
    assert found["tool"] == {"name": "get_weather", "keys": ["city"]}
    assert found["cut"]["finish"] == "length"
    assert not found["cut"]["content"]
    assert found["schema"]["keys"] == ["name", "age"]
    assert found["embeddings"]["count"] == 2
    assert found["responses"] == {"goesOn": True, "isKept": True}
    assert found["unknownModel"]["status"] in (400, 404)
    assert "none-such" in found["unknownModel"]["message"]
    assert found["tooLong"]["code"] == "context_length_exceeded"
    assert "maximum context length is 32768 tokens" in found["tooLong"]["message"]


def test_mistral_for_javascript(node: Journey) -> None:
    found = node("mistral")
    assert found["models"] == {"hasDefault": True, "names": True}
    assert found["chat"] == found["stream"] == found["fim"] == found["reasoning"] == {"isText": True}
    assert found["tool"]["name"] == "get_weather"
    assert found["embeddings"]["count"] == 2
    assert found["invalid"] == {"name": "HTTPValidationError", "status": 422, "detail": True}


@pytest.mark.parametrize("provider", ["responses", "chat", "compatible", "mistral"])
def test_ai_sdk(node: Journey, provider: str, ai_sdk: dict[str, dict[str, object]]) -> None:
    found = ai_sdk[provider]
    assert found["hasText"]
    assert found["second"] == "string"
    assert found["streamed"]
    assert (found["tool"], found["toolKeys"]) == ("getWeather", ["city"])
    assert found["isInteger"]
    assert re.search("maximum context length is 32768 tokens", str(found["message"]))


@pytest.fixture(scope="module")
def ai_sdk(node: Journey) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = node("ai_sdk")
    return found


def test_litellm(python: Journey) -> None:
    found = python("litellm")
    for provider in ("mistral", "openai"):
        assert isinstance(found[provider]["text"], str)
        assert found[provider]["streamed"]
        assert found[provider]["tool"] == "get_weather"
        assert found[provider]["too_long"] == "ContextWindowExceededError"
    assert isinstance(found["reasoning"], str)


def test_langchain_mistralai(python: Journey) -> None:
    found = python("langchain")
    assert found["text"]
    assert found["streamed"]
    assert (found["tool"], found["keys"]) == ("get_weather", ["city"])
    assert found["closing"]
    assert isinstance(found["age"], int)


def test_pydantic_ai(python: Journey) -> None:
    found = python("pydantic_ai")
    for name in ("mistral", "chat", "responses"):
        assert (found[name]["first"], found[name]["second"], found[name]["streamed"]) == ("str", "str", True)
    assert found["chat"]["size"]
    assert found["responses"]["size"]
