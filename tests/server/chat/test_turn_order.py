"""Conversations in orders that the chat formats do not know: read where they can be, refused where that was asked."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient

from tests.server.in_process import MISTRAL
from tests.server.live import LiveServer
from tramontane.server.chat.turn_order import in_order
from tramontane.server.notes import Notes

USER = {"role": "user", "content": "What is it?"}
ANSWER = {"role": "assistant", "content": "A wind."}
SYSTEM = {"role": "system", "content": "Be brief."}
DEVELOPER = {"role": "developer", "content": "Be brief."}
CALL = {"role": "assistant", "content": None, "tool_calls": [
    {"id": "callAbcd1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}  # fmt: skip
RESULT = {"role": "tool", "tool_call_id": "callAbcd1", "content": "windy"}
EMPTY = {"role": "assistant", "content": ""}
SAID: dict[str, Any] = {"role": "user", "content": "Be brief."}

ORDERS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, str]]] = {
    "instructions after an answer": ([USER, ANSWER, SYSTEM, USER], [USER, ANSWER, SAID, USER],
                                     {"x-changed-fields": "messages.2.role"}),
    "instructions at the end": ([USER, ANSWER, DEVELOPER], [USER, ANSWER, SAID],
                                {"x-changed-fields": "messages.2.role"}),
    "instructions between a call and its result": ([USER, CALL, SYSTEM, RESULT], [USER, CALL, RESULT, SAID],
                                                   {"x-changed-fields": "messages.2, messages.2.role"}),
    "a question between a call and its result": ([USER, CALL, SAID, RESULT], [USER, CALL, RESULT, SAID],
                                                 {"x-changed-fields": "messages.2"}),
    "an empty answer": ([USER, EMPTY, USER], [USER, USER], {"x-ignored-fields": "messages.1"}),
    "an answer of nothing": ([USER, {"role": "assistant"}, USER], [USER, USER], {"x-ignored-fields": "messages.1"}),
    "an answer of no chunks": ([USER, {"role": "assistant", "content": []}], [USER],
                               {"x-ignored-fields": "messages.1"}),
    "a call first, of a conversation that was cut": ([CALL, RESULT, USER],
                                                     [{**USER, "content": ""}, CALL, RESULT, USER],
                                                     {"x-changed-fields": "messages.0"}),
    "an answer first": ([ANSWER, USER], [ANSWER, USER], {}),
    "two questions": ([USER, USER], [USER, USER], {}),
    "two answers": ([USER, ANSWER, ANSWER, USER], [USER, ANSWER, ANSWER, USER], {}),
    "a prefix in the middle": ([USER, {**ANSWER, "prefix": True}, USER], [USER, ANSWER, USER],
                               {"x-ignored-fields": "messages.1.prefix"}),
}  # fmt: skip


def ask(client: TestClient, model: str, messages: list[dict[str, Any]], **more: Any) -> Any:
    headers = more.pop("headers", {})
    body = {"model": model, "messages": messages, "max_tokens": 6, "temperature": 0, **more}
    return client.post("/v1/chat/completions", json=body, headers=headers)


def answered(answer: Any) -> tuple[Any, Any]:
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"], answer.json()["usage"]["prompt_tokens"]


@pytest.mark.parametrize("model", ["chat", "thinker", "coder"])
@pytest.mark.parametrize("order", ORDERS)
def test_any_order_is_answered_as_the_one_it_is_read_as(app_client: TestClient, model: str, order: str) -> None:
    given, expected, headers = ORDERS[order]
    answer = ask(app_client, model, given)
    assert answered(answer) == answered(ask(app_client, model, expected))
    assert {name: answer.headers.get(name) for name in headers} == headers
    if not headers:
        assert "x-changed-fields" not in answer.headers


@pytest.mark.parametrize("model", ["chat", "thinker", "coder"])
def test_an_answer_at_the_end_is_continued_without_being_repeated(app_client: TestClient, model: str) -> None:
    answer = ask(app_client, model, [USER, ANSWER])
    assert answer.headers["x-changed-fields"] == "messages.1.prefix"
    continued, num_tokens = answered(answer)
    theirs = ask(app_client, model, [USER, {**ANSWER, "prefix": True}])
    whole, as_many = answered(theirs)
    assert whole["content"] == ANSWER["content"] + continued["content"]
    assert num_tokens == as_many
    alone, _ = answered(ask(app_client, model, [ANSWER]))
    assert not alone["content"].startswith("A wind.")


def test_a_begun_format_is_continued(app_client: TestClient) -> None:
    begun = {"role": "assistant", "content": "ab"}
    pattern = {"type": "regex", "regex": "abcd"}
    assert answered(ask(app_client, "chat", [USER, begun], response_format=pattern))[0]["content"] == "cd"


def test_reasoning_is_left_out_for_models_that_have_no_place_for_it(app_client: TestClient) -> None:
    chunks = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "A wind."}]
    plain = answered(ask(app_client, "chat", [USER, ANSWER, USER]))
    for thinker in ({**ANSWER, "reasoning_content": "hm"}, {"role": "assistant", "content": chunks}):
        answer = ask(app_client, "chat", [USER, thinker, USER])
        assert answered(answer) == plain
        assert answer.headers["x-ignored-fields"] == "messages.1.thinking"
        assert "x-ignored-fields" not in ask(app_client, "thinker", [USER, thinker, USER]).headers
    only = ask(app_client, "chat", [USER, {"role": "assistant", "content": "", "reasoning_content": "hm"}, USER])
    assert only.headers["x-ignored-fields"] == "messages.1, messages.1.thinking"


def test_text_beside_calls_is_left_out_where_the_format_has_one_of_them(app_client: TestClient) -> None:
    both = {**CALL, "content": "Let me see."}
    answer = ask(app_client, "coder", [USER, both, RESULT])
    assert answered(answer) == answered(ask(app_client, "coder", [USER, CALL, RESULT]))
    assert answer.headers["x-ignored-fields"] == "messages.1.content"
    assert "x-ignored-fields" not in ask(app_client, "chat", [USER, both, RESULT]).headers


def test_mistrals_own_client_hears_of_an_order_that_its_api_refuses(app_client: TestClient) -> None:
    for messages, words in (
        ([USER, ANSWER, SYSTEM, USER], "role system cannot follow role assistant"),
        ([USER, ANSWER], "set prefix to have it continued"),
        ([ANSWER], "starts with a user or system message"),
    ):
        refused = ask(app_client, "chat", messages, headers=MISTRAL)
        assert refused.status_code == 400
        assert words in refused.json()["message"]
    assert ask(app_client, "chat", [USER, EMPTY, USER], headers=MISTRAL).status_code == 200  # as we answer ourselves
    assert ask(app_client, "chat", [EMPTY]).status_code == ask(app_client, "chat", [EMPTY], headers=MISTRAL).status_code
    assert ask(app_client, "chat", [EMPTY]).status_code == 400


def test_a_format_that_alternates_gets_turns_that_do() -> None:
    messages = [SYSTEM, SYSTEM, EMPTY | {"content": "Hello"}, USER, SYSTEM, USER, ANSWER, ANSWER]
    read = [{"tool_calls": [], "prefix": False, **m} if m["role"] == "assistant" else m for m in messages]
    notes = Notes()
    ordered = in_order(read, None, notes)
    assert [message["role"] for message in ordered] == ["system", "user", "assistant", "user", "assistant"]
    assert [chunk["text"] for chunk in ordered[3]["content"]] == ["What is it?", "Be brief.", "What is it?"]
    assert ordered[-1]["prefix"]
    assert notes.changed == {"messages.4.role", "messages.7.prefix"}


def test_openai_client_hands_an_empty_answer_back(server: LiveServer) -> None:
    turns: list[Any] = [USER]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        empty = client.chat.completions.create(model="chat", messages=turns, max_tokens=0).choices[0].message
        assert empty.content == ""
        turns += [empty, SYSTEM, USER]
        raw = client.chat.completions.with_raw_response.create(model="chat", messages=turns, max_tokens=2)
    assert raw.parse().choices[0].message.content
    assert raw.headers["x-ignored-fields"] == "messages.1"
